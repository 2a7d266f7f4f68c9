//! What the manager may do, and why. `xtask` generates the Roles from this table.
//!
//! Remediators bring their own rules: ClusterRoles with the label
//! `rbac.ext-remediation/aggregate-to-ext-remediation=true` are aggregated into the ClusterRole
//! `node-healthcheck-operator-aggregation`, which is bound to the manager by a manifest. So the
//! manager needs no write access to RBAC objects, with which it could make itself anything.

use medik8s_api::names::nhc;
use medik8s_runtime::metrics::client_ca;
use medik8s_runtime::rbac::{
    CLIENT_CA, EVENTS, LEADER_LEASE, METRICS_AUTH, NODE_LEASES, Rule, RuleSet, TLS_PROFILE,
    UNTESTED_WEBHOOK_SECRET, Untested, VALIDATING_CONFIGURATIONS, WEBHOOK_SECRET,
    WEBHOOK_SECRET_CREATE,
};

use crate::setup::CONSOLE_PLUGIN;

/// Name of our ValidatingWebhookConfiguration in plain manifests.
pub const WEBHOOK_CONFIGURATION: &str = "node-healthcheck-validating-webhook-configuration";

const HEALTH_CHECKS: &[Rule] = &[
    Rule::new(
        &["remediation.medik8s.io"],
        &["nodehealthchecks"],
        &["get", "list", "watch"],
        "reads what it is asked to watch",
    ),
    Rule::new(
        &["remediation.medik8s.io"],
        &["nodehealthchecks/status"],
        &["patch"],
        "reports what it sees and does",
    ),
];

const NODES: &[Rule] = &[Rule::new(
    &[""],
    &["nodes"],
    &["get", "list", "watch", "patch"],
    "judges nodes, and takes a person's confirmation off a node when it has served its purpose",
)];

/// `list` is beyond what operators in general need: a leader that starts looks once for leases that
/// an earlier one left.
const OWN_NODE_LEASES: &[Rule] = &[Rule::new(
    &["coordination.k8s.io"],
    &["leases"],
    &["list"],
    "finds node leases that an earlier leader left",
)];

const KINDS: &[Rule] = &[Rule::new(
    &["apiextensions.k8s.io"],
    &["customresourcedefinitions"],
    &["list", "watch"],
    "notices template kinds that are installed or removed later",
)];

const OPENSHIFT: &[Rule] = &[
    Rule::new(
        &["config.openshift.io"],
        &["clusterversions", "featuregates"],
        &["list", "watch"],
        "OpenShift: upgrades, feature gates",
    ),
    Rule::new(
        &["config.openshift.io"],
        &["infrastructures"],
        &["get"],
        "OpenShift: topology of the control plane",
    ),
    Rule::new(
        &["machine.openshift.io"],
        &["machines"],
        &["get", "list", "watch"],
        "OpenShift: the Machine of a node owns its remediation",
    ),
    Rule::new(
        &["machine.openshift.io"],
        &["machinehealthchecks"],
        &["get", "list", "watch"],
        "OpenShift: does not remediate what a MachineHealthCheck remediates",
    ),
    Rule::new(
        &["machine.openshift.io"],
        &["machinehealthchecks/status"],
        &["patch"],
        "OpenShift: reports on MachineHealthChecks, where a feature gate leaves them to us",
    ),
];

/// etcd's guard. Cluster-wide, since a Role for a namespace that only OpenShift has cannot be part
/// of manifests for all clusters; only single lists of that namespace are made.
const ETCD: &[Rule] = &[
    Rule::new(
        &["policy"],
        &["poddisruptionbudgets"],
        &["list"],
        "OpenShift: asks whether etcd can do without one more member",
    ),
    Rule::new(
        &[""],
        &["pods"],
        &["list"],
        "OpenShift: asks whether the node's etcd member is alive",
    ),
];

/// On OpenShift the manager tells monitoring and the console about itself. What is in its own
/// namespace is permitted by a Role there, also the label of that Namespace.
const OWN_SETUP: &[Rule] = &[
    Rule::new(
        &[""],
        &["namespaces"],
        &["patch"],
        "OpenShift: labels its own namespace for monitoring",
    ),
    Rule::new(
        &["monitoring.coreos.com"],
        &["servicemonitors"],
        &["get", "create", "update"],
        "OpenShift: tells Prometheus where its metrics are",
    ),
    Rule::new(
        &[""],
        &["pods"],
        &["get"],
        "OpenShift: finds the Deployment that owns its ServiceMonitor",
    ),
    Rule::new(
        &["apps"],
        &["replicasets"],
        &["get"],
        "OpenShift: finds the Deployment that owns its ServiceMonitor",
    ),
];

/// The name of an object that is created is not known to RBAC.
const CONSOLE: &[Rule] = &[
    Rule::new(
        &["console.openshift.io"],
        &["consoleplugins"],
        &["create"],
        "OpenShift: offers its page to the console",
    ),
    Rule::new(
        &["console.openshift.io"],
        &["consoleplugins"],
        &["get", "update"],
        "OpenShift: keeps its page in the console",
    )
    .named(&[CONSOLE_PLUGIN]),
];

const OWN_WEBHOOK: &[Rule] = &[VALIDATING_CONFIGURATIONS.named(&[WEBHOOK_CONFIGURATION])];

/// The Secret with the webhook's own certificate.
pub const WEBHOOK_CERTIFICATE: &str = "node-healthcheck-webhook-certificate";

const OWN_SECRET: &[Rule] = &[
    WEBHOOK_SECRET_CREATE,
    WEBHOOK_SECRET.named(&[WEBHOOK_CERTIFICATE]),
];

/// What the manager may do besides where OLM installs it: a bundle cannot hold the binding of the
/// aggregating role, since it does not know the namespace it is installed in. Limited to that one
/// role and binding.
pub const UNDER_OLM: &[Rule] = &[
    Rule::new(
        &["rbac.authorization.k8s.io"],
        &["clusterroles"],
        &["get", "bind"],
        "gives itself what remediators grant by label, and nothing else",
    )
    .named(&[nhc::AGGREGATION_ROLE]),
    Rule::new(
        &["rbac.authorization.k8s.io"],
        &["clusterrolebindings"],
        &["create", "patch"],
        "gives itself what remediators grant by label, and nothing else",
    )
    .named(&[nhc::AGGREGATION_ROLE]),
];

const UNTESTED: &[Untested] = &[Untested::new(
    &["rbac.authorization.k8s.io"],
    &["clusterroles"],
    &["bind"],
    "asked for by the API server when the binding is made (the suite olm), which is no request of its own",
)];

/// The permissions of the manager.
pub fn rules() -> RuleSet {
    RuleSet {
        cluster: &[
            HEALTH_CHECKS,
            NODES,
            NODE_LEASES,
            OWN_NODE_LEASES,
            EVENTS,
            KINDS,
            OPENSHIFT,
            TLS_PROFILE,
            ETCD,
            CONSOLE,
            METRICS_AUTH,
            OWN_WEBHOOK,
        ],
        own_namespace: &[LEADER_LEASE, OWN_SECRET, OWN_SETUP],
        namespaces: &[(client_ca::NAMESPACE, &[CLIENT_CA])],
        untested: &[UNTESTED_WEBHOOK_SECRET, UNTESTED],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> impl Iterator<Item = &'static Rule> {
        rules().cluster.iter().flat_map(|table| table.iter())
    }

    fn may(verb: &str, group: &str, resource: &str) -> bool {
        cluster().any(|rule| {
            rule.verbs.contains(&verb)
                && rule.api_groups.contains(&group)
                && rule.resources.contains(&resource)
        })
    }

    /// The original's role lacked both: confirmations could not be taken off nodes, and all events
    /// of installations without OLM were lost.
    #[test]
    fn defect_11_nodes_and_events_everywhere_may_be_written() {
        assert!(may("patch", "", "nodes"));
        assert!(may("create", "", "events") && may("patch", "", "events"));
    }

    /// The original watches all Leases (every heartbeat of every kubelet), Pods, ReplicaSets and
    /// Deployments of the cluster. What may not be watched cannot be cached.
    #[test]
    fn defect_14_no_cache_of_the_whole_cluster_is_possible() {
        for (group, resource) in [
            ("coordination.k8s.io", "leases"),
            ("", "pods"),
            ("apps", "replicasets"),
            ("apps", "deployments"),
            ("policy", "poddisruptionbudgets"),
        ] {
            assert!(!may("watch", group, resource), "{resource}");
        }
    }

    /// The original may do everything with ClusterRoles and their bindings, and so make itself
    /// anything.
    #[test]
    fn defect_15_no_rights_can_be_granted() {
        let all = rules();
        let namespaced = all.namespaces.iter().flat_map(|(_, tables)| tables.iter());
        let tables = all
            .cluster
            .iter()
            .chain(all.own_namespace)
            .chain(namespaced);
        for rule in tables.flat_map(|table| table.iter()) {
            assert!(
                !rule.api_groups.contains(&"rbac.authorization.k8s.io"),
                "{rule:?}"
            );
            for wild in [rule.api_groups, rule.resources, rule.verbs] {
                assert!(!wild.contains(&"*"), "{rule:?}");
            }
            for verb in ["escalate", "bind", "impersonate"] {
                assert!(!rule.verbs.contains(&verb), "{rule:?}");
            }
        }
        // Under OLM it binds one role to itself, which it cannot change.
        for rule in UNDER_OLM {
            assert_eq!(rule.resource_names, [nhc::AGGREGATION_ROLE], "{rule:?}");
            assert!(!rule.verbs.contains(&"escalate"), "{rule:?}");
            let roles = rule.resources.contains(&"clusterroles");
            let writes = ["create", "update", "patch", "delete"];
            let may_write = writes.iter().any(|verb| rule.verbs.contains(verb));
            assert!(!(roles && may_write), "{rule:?}");
        }
    }
}
