use proptest::prelude::*;

use super::*;
use crate::taints::{DRAIN, OUT_OF_SERVICE, UNSCHEDULABLE};

const LABEL: &str = "remediation.medik8s.io/exclude-from-remediation";

fn node(value: Value) -> Node {
    serde_json::from_value(value).unwrap()
}

/// What the API server makes of the patch.
fn apply(node: &Node, patch: &Patch) -> Option<Node> {
    let mut document = serde_json::to_value(node).unwrap();
    json_patch::patch(&mut document, patch).ok()?;
    Some(serde_json::from_value(document).unwrap())
}

fn enter(node: &Node) -> Option<Patch> {
    NodeEdit::of(node)
        .set_label(LABEL, "true")
        .add_taints(&[DRAIN.taint(), UNSCHEDULABLE.taint()])
        .cordon()
        .patch()
        .unwrap()
}

fn leave(node: &Node) -> Option<Patch> {
    NodeEdit::of(node)
        .remove_label(LABEL)
        .remove_taints(&[DRAIN, UNSCHEDULABLE])
        .uncordon()
        .patch()
        .unwrap()
}

#[test]
fn entering_maintenance_is_one_guarded_patch() {
    let bare = node(json!({"metadata": {"name": "n", "resourceVersion": "7"}, "spec": {}}));
    assert_eq!(
        serde_json::to_value(enter(&bare).unwrap()).unwrap(),
        json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
            {"op": "add", "path": "/metadata/labels", "value": {}},
            {"op": "add", "value": "true",
             "path": "/metadata/labels/remediation.medik8s.io~1exclude-from-remediation"},
            {"op": "add", "path": "/spec/taints", "value": [
                {"key": "medik8s.io/drain", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            ]},
            {"op": "add", "path": "/spec/unschedulable", "value": true},
        ])
    );
}

#[test]
fn a_node_changed_in_between_is_left_alone() {
    let read = node(json!({"metadata": {"name": "n", "resourceVersion": "7"}, "spec": {}}));
    let patch = enter(&read).unwrap();
    let stored = node(json!({
        "metadata": {"name": "n", "resourceVersion": "8"},
        "spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]},
    }));
    assert_eq!(apply(&stored, &patch), None);
}

#[test]
fn no_change_gives_no_patch() {
    let read = node(json!({"metadata": {"resourceVersion": "7"}, "spec": {}}));
    assert_eq!(leave(&read), None);
    let entered = apply(&read, &enter(&read).unwrap()).unwrap();
    assert_eq!(enter(&entered), None);
}

#[test]
fn a_node_without_resource_version_is_refused() {
    let made_up = node(json!({"metadata": {"name": "n"}}));
    assert_eq!(
        NodeEdit::of(&made_up).cordon().patch(),
        Err(NoResourceVersion)
    );
}

#[test]
fn annotations_are_set_and_removed() {
    let read = node(json!({
        "metadata": {"resourceVersion": "7", "annotations": {"a/b~c": "1", "other": "2"}},
        "spec": {},
    }));
    let patch = NodeEdit::of(&read)
        .remove_annotation("a/b~c")
        .remove_annotation("absent")
        .set_annotation("new", "3")
        .set_annotation("other", "2")
        .patch()
        .unwrap()
        .unwrap();
    let after = apply(&read, &patch).unwrap();
    let expected = [("new", "3"), ("other", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(after.metadata.annotations, Some(BTreeMap::from(expected)));
}

fn nodes() -> impl Strategy<Value = Node> {
    let ours = [DRAIN, UNSCHEDULABLE, OUT_OF_SERVICE]
        .map(TaintId::taint)
        .to_vec();
    let foreign = Taint {
        key: "node.kubernetes.io/unreachable".to_owned(),
        effect: "NoExecute".to_owned(),
        value: Some("x".to_owned()),
        time_added: None,
    };
    let all: Vec<Taint> = ours.into_iter().chain([foreign]).collect();
    (
        prop::option::of(prop::sample::subsequence(all, 0..=4).prop_shuffle()),
        prop::option::of(any::<bool>()),
        prop::option::of(prop::sample::subsequence(vec![LABEL, "zone"], 0..=2)),
    )
        .prop_map(|(taints, unschedulable, labels)| {
            let mut node =
                node(json!({"metadata": {"name": "n", "resourceVersion": "7"}, "spec": {}}));
            let spec = node.spec.as_mut().unwrap();
            spec.taints = taints;
            spec.unschedulable = unschedulable;
            node.metadata.labels = labels.map(|labels| {
                labels
                    .into_iter()
                    .map(|key| (key.to_owned(), "true".to_owned()))
                    .collect()
            });
            node
        })
}

/// What does not belong to maintenance.
fn rest(node: &Node) -> (Vec<Taint>, Vec<String>) {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    (
        taints::without(taints::of(node), &[DRAIN, UNSCHEDULABLE]),
        labels.into_keys().filter(|key| key != LABEL).collect(),
    )
}

proptest! {
    #[test]
    fn enter_and_leave_touch_only_what_is_ours(before in nodes()) {
        let entered = match enter(&before) {
            Some(patch) => apply(&before, &patch).unwrap(),
            None => before.clone(),
        };
        prop_assert!(is_unschedulable(&entered));
        prop_assert!(taints::has(&entered, DRAIN) && taints::has(&entered, UNSCHEDULABLE));
        prop_assert_eq!(&entered.metadata.labels.as_ref().unwrap()[LABEL], "true");
        prop_assert_eq!(rest(&entered), rest(&before));

        let left = apply(&entered, &leave(&entered).unwrap()).unwrap();
        prop_assert!(!is_unschedulable(&left));
        prop_assert!(!taints::has(&left, DRAIN) && !taints::has(&left, UNSCHEDULABLE));
        prop_assert!(!left.metadata.labels.as_ref().unwrap().contains_key(LABEL));
        prop_assert_eq!(rest(&left), rest(&before));
        prop_assert_eq!(leave(&left), None);
    }
}
