//! What the manager may do, with the reason beside each rule.
//!
//! Secrets, ConfigMaps and Leases only in the own namespace; nothing may be created or deleted
//! that is not named here. The agents have an account of their own.

use medik8s_api::names::snr;
use medik8s_runtime::rbac::{self, Rule, RuleSet, Untested};

use crate::install::rotation;

const GROUP: &[&str] = &["self-node-remediation.medik8s.io"];

const REMEDIATIONS: &[Rule] = &[
    Rule::new(
        GROUP,
        &["selfnoderemediations"],
        &["get", "list", "watch", "patch"],
        "carries out remediations in every namespace; finalizer and boot ID are written on them",
    ),
    Rule::new(
        GROUP,
        &["selfnoderemediations/status"],
        &["patch"],
        "writes phase, conditions and the time from which the node counts as rebooted",
    ),
    Rule::new(
        GROUP,
        &["selfnoderemediationtemplates"],
        &["get", "list", "watch", "create", "patch"],
        "creates the default templates and marks templates as usable several times",
    ),
    Rule::new(
        GROUP,
        &["selfnoderemediationconfigs"],
        &["get", "list", "watch", "create"],
        "reads the configuration and creates the default one",
    ),
    Rule::new(
        GROUP,
        &["selfnoderemediationconfigs/finalizers"],
        &["update"],
        "owns the DaemonSet through the configuration (blockOwnerDeletion)",
    ),
];

const WORKLOAD: &[Rule] = &[
    Rule::new(
        &[""],
        &["nodes"],
        &["get", "list", "watch", "patch"],
        "reads boot IDs and announcements, adds and removes its own taints",
    ),
    Rule::new(
        &[""],
        &["pods"],
        &["get", "list", "delete"],
        "finds the agents and deletes the pods of a node that is proven off",
    ),
    Rule::new(
        &["storage.k8s.io"],
        &["volumeattachments"],
        &["list"],
        "waits until the volumes of an out-of-service node are detached",
    ),
    Rule::new(
        &["discovery.k8s.io"],
        &["endpointslices"],
        &["list"],
        "finds the addresses of the agents, to have orders acknowledged",
    ),
    Rule::new(
        &["coordination.k8s.io"],
        &["leases"],
        &["get", "list"],
        "sees whether other nodes are alive while a node runs an agent that announces nothing",
    ),
    Rule::new(
        &["machine.openshift.io", "cluster.x-k8s.io"],
        &["machines"],
        &["get"],
        "finds the node of a remediation that is owned by a Machine",
    ),
];

const INSTALL: &[Rule] = &[
    Rule::new(
        &["apps"],
        &["daemonsets"],
        &["get", "list", "watch", "create", "patch", "delete"],
        "runs the agents",
    ),
    Rule::new(
        &[""],
        &["services"],
        &["create", "patch"],
        "keeps the headless Service by which agents find each other",
    ),
    Rule::new(
        &[""],
        &["secrets"],
        &["create"],
        "makes the certificates with which agents and manager authenticate to each other",
    ),
    Rule::new(
        &[""],
        &["secrets"],
        &["get", "delete"],
        "reads and replaces the certificates of the agents",
    )
    .named(&[
        snr::CERTIFICATES_SECRET,
        rotation::BOTH_SECRET,
        rotation::NEXT_SECRET,
    ]),
];

const WEBHOOKS: &[Rule] = &[
    rbac::VALIDATING_CONFIGURATIONS
        .named(&["self-node-remediation-validating-webhook-configuration"]),
    rbac::MUTATING_CONFIGURATIONS.named(&["self-node-remediation-mutating-webhook-configuration"]),
];

/// The Secret with the webhook's own certificate.
pub const WEBHOOK_CERTIFICATE: &str = "self-node-remediation-webhook-certificate";

const OWN_SECRET: &[Rule] = &[
    rbac::WEBHOOK_SECRET_CREATE,
    rbac::WEBHOOK_SECRET.named(&[WEBHOOK_CERTIFICATE]),
];

/// What the manager may do besides where OLM installs it: a bundle cannot hold the policy that keeps
/// the agents to their own Node. Limited to that one policy.
pub const UNDER_OLM: &[Rule] = &[
    Rule::new(
        &["admissionregistration.k8s.io"],
        &[
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
        ],
        &["create", "patch"],
        "keeps each agent to its own Node",
    )
    .named(&[snr::AGENT_POLICY]),
    Rule::new(
        &["rbac.authorization.k8s.io"],
        &["clusterroles"],
        &["get"],
        "has that policy go with the installation",
    )
    .named(&[snr::EXT_REMEDIATION_ROLE]),
];

const UNTESTED: &[Untested] = &[
    Untested::new(
        GROUP,
        &["selfnoderemediationconfigs/finalizers"],
        &["update"],
        "asked for by an admission plugin (on in OpenShift and in the tests) when the DaemonSet is made, \
         which is no request of its own",
    ),
    Untested::new(
        &["machine.openshift.io", "cluster.x-k8s.io"],
        &["machines"],
        &["get"],
        "remediations that a MachineHealthCheck created are named after Machines",
    ),
    Untested::new(
        &[""],
        &["pods"],
        &["get"],
        "after a deletion that met another pod of the same name, sees which one is there",
    ),
    Untested::new(
        &["apps"],
        &["daemonsets"],
        &["get", "delete"],
        "makes a DaemonSet anew whose immutable fields are those of an old release of the original",
    ),
];

/// All rules of the manager's account.
pub fn rules() -> RuleSet {
    RuleSet {
        cluster: &[
            REMEDIATIONS,
            WORKLOAD,
            rbac::EVENTS,
            rbac::METRICS_AUTH,
            WEBHOOKS,
        ],
        own_namespace: &[INSTALL, rbac::LEADER_LEASE, OWN_SECRET],
        namespaces: &[],
        untested: &[rbac::UNTESTED_WEBHOOK_SECRET, UNTESTED],
    }
}
