//! What the operator may do, with the reason beside each rule.
//!
//! Everything but its own lease and certificate is in the ClusterRole: the operator must work when
//! it is installed with plain kubectl as well as by OLM.

use medik8s_runtime::rbac::{self, Rule, RuleSet};

/// Name of the ValidatingWebhookConfiguration.
pub const WEBHOOK_CONFIGURATION: &str =
    "node-maintenance-operator-validating-webhook-configuration";

const MAINTENANCES: &[Rule] = &[
    Rule::new(
        &["nodemaintenance.medik8s.io"],
        &["nodemaintenances"],
        &["list", "watch", "patch"],
        "carries out maintenances; finalizer and the state of the node before are written on them",
    ),
    Rule::new(
        &["nodemaintenance.medik8s.io"],
        &["nodemaintenances/status"],
        &["patch"],
        "writes phase, progress and what stands in the way",
    ),
];

const NODES: &[Rule] = &[
    Rule::new(
        &[""],
        &["nodes"],
        &["get", "list", "watch", "patch"],
        "watches the nodes in maintenance; cordons, taints and labels them and takes that back",
    ),
    Rule::new(
        &[""],
        &["pods"],
        &["list", "watch"],
        "finds the pods of a node and waits until they are gone; never deletes one",
    ),
    Rule::new(
        &[""],
        &["pods/eviction"],
        &["create"],
        "evicts pods, which respects every PodDisruptionBudget",
    ),
    Rule::new(
        &["apps"],
        &["daemonsets"],
        &["get"],
        "tells pods that a DaemonSet would put back from orphans",
    ),
    Rule::new(
        &["policy"],
        &["poddisruptionbudgets"],
        &["list", "watch"],
        "says which budget blocks a pod and notices when it opens; etcd guard of OpenShift",
    ),
];

const WEBHOOKS: &[Rule] = &[rbac::VALIDATING_CONFIGURATIONS.named(&[WEBHOOK_CONFIGURATION])];

/// The Secret with the webhook's own certificate.
pub const WEBHOOK_CERTIFICATE: &str = "node-maintenance-operator-webhook-server-cert";

const OWN_SECRET: &[Rule] = &[
    rbac::WEBHOOK_SECRET_CREATE,
    rbac::WEBHOOK_SECRET.named(&[WEBHOOK_CERTIFICATE]),
];

/// The rules of the operator's service account.
pub const fn rules() -> RuleSet {
    RuleSet {
        cluster: &[
            MAINTENANCES,
            NODES,
            rbac::NODE_LEASES,
            rbac::EVENTS,
            rbac::METRICS_AUTH,
            WEBHOOKS,
        ],
        own_namespace: &[rbac::LEADER_LEASE, OWN_SECRET],
        namespaces: &[],
        untested: &[rbac::UNTESTED_WEBHOOK_SECRET],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(group: &str, resource: &str, verb: &str) -> bool {
        rules().cluster.iter().copied().flatten().any(|rule| {
            rule.api_groups.contains(&group)
                && rule.resources.contains(&resource)
                && rule.verbs.contains(&verb)
        })
    }

    #[test]
    fn must_not_be_able_to_delete_or_force() {
        for resource in ["pods", "nodes", "nodemaintenances"] {
            for verb in ["delete", "deletecollection", "*"] {
                assert!(!grants("", resource, verb), "{verb} {resource}");
                assert!(!grants("nodemaintenance.medik8s.io", resource, verb));
            }
        }
        for rule in rules().cluster.iter().copied().flatten() {
            for list in [rule.api_groups, rule.resources, rule.verbs] {
                assert!(!list.contains(&"*"), "{rule:?}");
            }
        }
        assert!(
            !grants("", "secrets", "get"),
            "secrets only in the own namespace"
        );
    }

    #[test]
    fn can_do_what_the_code_does() {
        for (group, resource, verb) in [
            ("", "pods/eviction", "create"),
            ("", "nodes", "patch"),
            ("policy", "poddisruptionbudgets", "watch"),
            ("apps", "daemonsets", "get"),
            ("coordination.k8s.io", "leases", "delete"),
            ("", "namespaces", "create"),
            ("", "events", "create"),
        ] {
            assert!(grants(group, resource, verb), "{verb} {group}/{resource}");
        }
    }
}
