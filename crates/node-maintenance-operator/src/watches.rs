//! Which changes wake which node. Pure.

use std::collections::BTreeSet;

use medik8s_api::NodeMaintenance;

use crate::facts::NodeFacts;

/// The nodes to look at after a NodeMaintenance changed: none if only its status did, since that is
/// this operator's own doing.
pub fn woken_by(old: Option<&NodeMaintenance>, new: Option<&NodeMaintenance>) -> BTreeSet<String> {
    if let (Some(old), Some(new)) = (old, new)
        && !is_news(old, new)
    {
        return BTreeSet::new();
    }
    [old, new]
        .into_iter()
        .flatten()
        .map(|object| object.spec.node_name.clone())
        .collect()
}

fn is_news(old: &NodeMaintenance, new: &NodeMaintenance) -> bool {
    let (old, new) = (&old.metadata, &new.metadata);
    old.uid != new.uid
        || old.generation != new.generation
        || old.deletion_timestamp != new.deletion_timestamp
        || old.finalizers != new.finalizers
        || old.annotations != new.annotations
}

/// Whether a change of a node matters: it appeared or vanished, its marks or its readiness changed.
/// Heartbeats do not matter.
pub fn node_matters(old: Option<&NodeFacts>, new: Option<&NodeFacts>) -> bool {
    old != new
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(patch: impl FnOnce(&mut serde_json::Value)) -> NodeMaintenance {
        let mut value = json!({
            "apiVersion": "nodemaintenance.medik8s.io/v1beta1", "kind": "NodeMaintenance",
            "metadata": {"name": "m", "uid": "u", "resourceVersion": "1", "generation": 1},
            "spec": {"nodeName": "n"},
        });
        patch(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn wakes(patch: impl FnOnce(&mut serde_json::Value)) -> bool {
        !woken_by(Some(&object(|_| {})), Some(&object(patch))).is_empty()
    }

    #[test]
    fn own_status_writes_wake_nobody() {
        assert!(!wakes(|object| {
            object["metadata"]["resourceVersion"] = json!("2");
            object["status"] = json!({"phase": "Running"});
        }));
    }

    #[test]
    fn everything_else_wakes_the_node() {
        assert!(wakes(|object| object["metadata"]["generation"] = json!(2)));
        assert!(wakes(|object| object["metadata"]["uid"] = json!("other")));
        assert!(wakes(
            |object| object["metadata"]["finalizers"] = json!(["x"])
        ));
        assert!(wakes(
            |object| object["metadata"]["annotations"] = json!({"a": "b"})
        ));
        assert!(wakes(|object| {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }));
        let one = object(|_| {});
        let n = BTreeSet::from(["n".to_owned()]);
        assert_eq!(woken_by(None, Some(&one)), n);
        assert_eq!(woken_by(Some(&one), None), n, "the final deletion is told");
    }

    #[test]
    fn only_marks_and_readiness_of_a_node_matter() {
        let read =
            |object: serde_json::Value| NodeFacts::read(&serde_json::from_value(object).unwrap());
        let quiet = read(json!({"metadata": {"uid": "x", "resourceVersion": "1"}}));
        let heartbeat = read(json!({"metadata": {"uid": "x", "resourceVersion": "2",
            "annotations": {"a": "b"}}, "status": {"images": [{"names": ["i"]}]}}));
        let cordoned = read(json!({"metadata": {"uid": "x"}, "spec": {"unschedulable": true}}));
        assert!(!node_matters(Some(&quiet), Some(&heartbeat)));
        assert!(node_matters(Some(&quiet), Some(&cordoned)));
        assert!(node_matters(None, Some(&quiet)) && node_matters(Some(&quiet), None));
    }
}
