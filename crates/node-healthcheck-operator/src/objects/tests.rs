#![expect(clippy::needless_pass_by_value, reason = "tests build values in place")]

use super::*;
use crate::fixtures::{API, at, noon};

fn node(annotations: Value) -> Arc<NodeFacts> {
    let node: WatchedNode = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "w1", "uid": "u", "resourceVersion": "9",
            "labels": {"a": "b"}, "annotations": annotations,
            "managedFields": [{"manager": "kubelet"}]},
        "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {
            "conditions": [
                {"type": "Ready", "status": "Unknown", "reason": "r", "message": "m",
                 "lastHeartbeatTime": "2026-03-04T12:00:05Z",
                 "lastTransitionTime": "2026-03-04T12:00:00Z"},
                {"type": "Odd", "status": "True", "lastTransitionTime": null},
            ],
            "images": [{"names": ["x"], "sizeBytes": 5}],
            "nodeInfo": {"bootID": "b"},
        },
    }))
    .unwrap();
    assert_eq!(node.meta().resource_version.as_deref(), Some("9"));
    assert!(node.meta().labels.is_none() && node.meta().managed_fields.is_none());
    node.facts
}

#[test]
fn a_node_is_reduced_to_its_facts() {
    let facts = node(json!({"machine.openshift.io/machine": "ns/m"}));
    assert_eq!((facts.name.as_str(), facts.uid.as_str()), ("w1", "u"));
    assert_eq!(facts.labels["a"], "b");
    assert_eq!(facts.condition("Ready").unwrap().since, Some(noon()));
    assert_eq!(facts.condition("Odd").unwrap().since, None);
    assert_eq!(facts.machine.as_ref().unwrap().to_string(), "ns/m");
    assert!(!facts.confirmed_healthy && !facts.config_change_pending);
}

#[test]
fn annotations_that_matter() {
    assert!(
        node(json!({"remediation.medik8s.io/manually-confirmed-healthy": ""})).confirmed_healthy
    );
    let (current, desired) = (
        "machineconfiguration.openshift.io/currentConfig",
        "machineconfiguration.openshift.io/desiredConfig",
    );
    for (annotations, pending) in [
        (json!({current: "a", desired: "a"}), false),
        (json!({current: "a", desired: "b"}), true),
        (json!({desired: "b"}), true),
        (json!({current: "a", desired: ""}), false),
        (json!({current: "a"}), false),
    ] {
        assert_eq!(
            node(annotations.clone()).config_change_pending,
            pending,
            "{annotations}"
        );
    }
}

#[test]
fn a_node_without_status_is_read() {
    let node: WatchedNode =
        serde_json::from_value(json!({"metadata": {"name": "w1"}, "status": null})).unwrap();
    assert!(node.facts.conditions.is_empty());
}

fn object(metadata: Value, status: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": API, "kind": "Foo", "metadata": metadata,
        "spec": {"large": "x".repeat(1000)}, "status": status,
    }))
    .unwrap()
}

#[test]
fn a_remediation_keeps_its_facts_when_pruned() {
    let mut object = object(
        json!({
            "name": "w1-x", "namespace": "ns", "uid": "u", "resourceVersion": "4",
            "creationTimestamp": "2026-03-04T12:00:00Z",
            "deletionTimestamp": "2026-03-04T12:00:30Z",
            "finalizers": ["f"],
            "labels": {"remediation.medik8s.io/isControlPlaneNode": ""},
            "annotations": {
                "remediation.medik8s.io/node-name": "w1",
                "remediation.medik8s.io/template-name": "foo",
                "remediation.medik8s.io/nhc-timed-out": "2026-03-04T12:00:20Z",
                "remediation.medik8s.io/healthy-delay": "2026-03-04T12:00:21Z",
                "nodehealthcheck.medik8s.io/old-remediation-cr-flag": "flagon",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
            "ownerReferences": [{"apiVersion": "a/v1", "kind": "K", "name": "n", "uid": "o"}],
        }),
        json!({"other": 1, "conditions": [
            {"type": "Succeeded", "status": "False"},
            {"type": "PermanentNodeDeletionExpected", "status": "True"},
        ]}),
    );
    let kind = ResourceKind::new(API, "Foo");
    let before = remediation(&kind, &object.metadata, &object.data);
    prune_remediation(&mut object);
    let after = remediation(&kind, &object.metadata, &object.data);
    assert_eq!(before, after);
    assert!(!object.data.to_string().contains("xxx"));
    assert_eq!(
        (after.created, after.deleting_since),
        (noon(), Some(at(30)))
    );
    assert!(after.control_plane_label && after.reported_old && after.node_deletion_expected);
    assert_eq!(after.succeeded, Some(Status::False));
    assert_eq!(after.owners[0].uid, "o");
    assert_eq!(after.node(), "w1");
}

#[test]
fn conditions_of_strange_shape_are_none() {
    for status in [
        json!(null),
        json!(1),
        json!({"conditions": "x"}),
        json!({"conditions": [1, {}]}),
    ] {
        let object = object(json!({"name": "x"}), status);
        let facts = remediation(
            &ResourceKind::new(API, "Foo"),
            &object.metadata,
            &object.data,
        );
        assert_eq!(facts.succeeded, None);
        assert_eq!((facts.node(), facts.created), ("x", Timestamp::UNIX_EPOCH));
    }
}

#[test]
fn a_template_keeps_its_facts_when_pruned() {
    for (spec, usable) in [
        (json!({"template": {"spec": {"a": 1}}}), true),
        (json!({}), false),
        (json!(null), false),
    ] {
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": API, "kind": "FooTemplate",
            "metadata": {"name": "t", "annotations":
                {"remediation.medik8s.io/multiple-templates-support": "true"}},
            "spec": spec,
        }))
        .unwrap();
        let before = template(&object);
        assert_eq!(
            before,
            TemplateFacts {
                usable,
                multiple: true
            }
        );
        prune_template(&mut object);
        assert_eq!(template(&object), before);
    }
}

#[test]
fn annotation_patches_name_the_incarnation() {
    assert_eq!(
        annotations_patch("u", Some("7"), &[("a", Some("x")), ("b", None)]),
        json!({"metadata": {"uid": "u", "resourceVersion": "7", "annotations": {"a": "x", "b": null}}})
    );
    assert_eq!(
        annotations_patch("u", None, &[("b", None)]),
        json!({"metadata": {"uid": "u", "annotations": {"b": null}}})
    );
}
