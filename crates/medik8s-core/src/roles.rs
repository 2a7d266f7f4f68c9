//! What a node is for, told by its labels. Only the presence of a role label counts, never its
//! value.

use std::collections::BTreeMap;

use medik8s_api::names::kubernetes::{
    CONTROL_PLANE_ROLE_LABEL, MASTER_ROLE_LABEL, WORKER_ROLE_LABEL,
};

/// Labels of a node, as its metadata holds them.
pub type Labels = BTreeMap<String, String>;

/// Whether the node belongs to the control plane (remediation contract, B.2).
pub fn is_control_plane(labels: Option<&Labels>) -> bool {
    has(labels, CONTROL_PLANE_ROLE_LABEL) || has(labels, MASTER_ROLE_LABEL)
}

/// Whether the node is a worker: it says so, or it says nothing (SelfNodeRemediation, section
/// 15.1).
///
/// Plain clusters do not label their workers. Manager and agents must agree on this, since the
/// manager's bound counts the peers that an agent asks.
pub fn is_worker(labels: Option<&Labels>) -> bool {
    has(labels, WORKER_ROLE_LABEL) || !is_control_plane(labels)
}

fn has(labels: Option<&Labels>, key: &str) -> bool {
    labels.is_some_and(|labels| labels.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_by_label() {
        const WORKER: &str = "node-role.kubernetes.io/worker";
        const MASTER: &str = "node-role.kubernetes.io/master";
        const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
        for (keys, control_plane, worker) in [
            (&[][..], false, true),
            (&["zone"], false, true),
            (&[WORKER], false, true),
            (&[MASTER], true, false),
            (&[CONTROL_PLANE], true, false),
            (&[CONTROL_PLANE, WORKER], true, true),
            (&[MASTER, CONTROL_PLANE], true, false),
        ] {
            for value in ["", "true", "false"] {
                let labels: Labels = keys
                    .iter()
                    .map(|key| ((*key).to_owned(), value.to_owned()))
                    .collect();
                assert_eq!(is_control_plane(Some(&labels)), control_plane, "{labels:?}");
                assert_eq!(is_worker(Some(&labels)), worker, "{labels:?}");
            }
        }
        assert!(is_worker(None) && !is_control_plane(None));
    }
}
