//! What the agents' service account may do.
//!
//! It is another account than the manager's: agents run on every node, so whoever breaks out of one
//! node gets these rights. They can read remediations but not write them, and patch Nodes because
//! RBAC cannot say "only the own one".

use medik8s_runtime::rbac::{self, Rule, RuleSet, Untested};

const CLUSTER: &[Rule] = &[
    Rule::new(
        &["self-node-remediation.medik8s.io"],
        &["selfnoderemediations"],
        &["list", "watch"],
        "finds out whether this node, or a node that a peer asks about, is ordered to reboot",
    ),
    Rule::new(
        &[""],
        &["nodes"],
        &["get", "list", "patch"],
        "makes the peer table, and announces in annotations of the own Node what its bound is",
    ),
    Rule::new(
        &["machine.openshift.io", "cluster.x-k8s.io"],
        &["machines"],
        &["get"],
        "looks up the node of a remediation that is owned by a Machine",
    ),
    Rule::new(
        &["security.openshift.io"],
        &["securitycontextconstraints"],
        &["use"],
        "OpenShift: may run privileged, which reaching the node's watchdog takes",
    )
    .named(&["privileged"]),
];

const OWN_NAMESPACE: &[Rule] = &[
    Rule::new(
        &["discovery.k8s.io"],
        &["endpointslices"],
        &["list", "watch"],
        "finds the agents of other nodes",
    ),
    Rule::new(
        &[""],
        &["pods"],
        &["get", "list"],
        "sees whether the own pod is being deleted, and finds other agents where their Service is missing",
    ),
];

const UNTESTED: &[Untested] = &[
    Untested::new(
        &["machine.openshift.io", "cluster.x-k8s.io"],
        &["machines"],
        &["get"],
        "remediations that a MachineHealthCheck created are named after Machines",
    ),
    Untested::new(
        &[""],
        &["events"],
        &["patch"],
        "counts an event that comes again, which an agent has no reason for in a suite",
    ),
    Untested::new(
        &["security.openshift.io"],
        &["securitycontextconstraints"],
        &["use"],
        "asked for by OpenShift when the agents' pods are made",
    ),
];

/// The agents' rules.
pub const RULES: RuleSet = RuleSet {
    cluster: &[CLUSTER, rbac::EVENTS, rbac::METRICS_AUTH],
    own_namespace: &[OWN_NAMESPACE],
    namespaces: &[],
    untested: &[UNTESTED],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_nodes_and_events_is_written() {
        let all = RULES
            .cluster
            .iter()
            .chain(RULES.own_namespace)
            .copied()
            .flatten();
        for rule in all {
            let reads = |verb: &&str| ["get", "list", "watch"].contains(verb);
            if rule.verbs.iter().all(reads) {
                continue;
            }
            if rule.verbs == ["use"] {
                continue;
            }
            let known = ["nodes", "events", "tokenreviews", "subjectaccessreviews"];
            assert!(
                rule.resources.iter().all(|name| known.contains(name)),
                "{rule:?}"
            );
            assert!(!rule.verbs.contains(&"delete") && !rule.verbs.contains(&"update"));
        }
    }

    #[test]
    fn nodes_are_never_watched() {
        let all = RULES
            .cluster
            .iter()
            .chain(RULES.own_namespace)
            .copied()
            .flatten();
        for rule in all.filter(|rule| rule.resources.contains(&"nodes")) {
            assert!(!rule.verbs.contains(&"watch"), "n agents watching n nodes");
        }
    }
}
