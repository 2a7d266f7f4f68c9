use serde_json::json;

use super::*;

fn maintenance(object: serde_json::Value) -> Maintenance {
    let mut base = json!({
        "apiVersion": "nodemaintenance.medik8s.io/v1beta1", "kind": "NodeMaintenance",
        "metadata": {"name": "m", "uid": "u", "resourceVersion": "1"},
        "spec": {"nodeName": "n"},
    });
    merge(&mut base, object);
    Maintenance::read(&serde_json::from_value(base).unwrap()).unwrap()
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[test]
fn the_record_is_read_leniently() {
    let with = |value: &str| {
        maintenance(json!({"metadata": {"annotations":
            {"nodemaintenance.medik8s.io/previous-node-state": value}}}))
        .record
    };
    assert_eq!(maintenance(json!({})).record, None);
    let recorded = PreviousState {
        unschedulable: true,
        exclude_from_remediation: false,
        exclude_label: None,
    };
    assert_eq!(
        with(r#"{"unschedulable":true,"excludeFromRemediation":false}"#),
        Some(recorded.clone())
    );
    assert_eq!(
        serde_json::to_string(&recorded).unwrap(),
        r#"{"unschedulable":true,"excludeFromRemediation":false}"#
    );
    assert_eq!(with("nonsense"), Some(PreviousState::default()));
    assert_eq!(with("{}"), Some(PreviousState::default()));
}

#[test]
fn opt_ins_need_the_exact_value() {
    for (value, expected) in [("true", true), ("True", false), ("", false), ("yes", false)] {
        let read = maintenance(json!({"metadata": {"annotations": {
            "nodemaintenance.medik8s.io/restore-cordon": value,
            "nodemaintenance.medik8s.io/exclude-from-load-balancers": value,
        }}}));
        assert_eq!(
            (read.restores_cordon, read.leaves_load_balancers),
            (expected, expected)
        );
    }
}

#[test]
fn drain_orders_are_checked() {
    let orders = |drain: serde_json::Value| maintenance(json!({"spec": {"drain": drain}})).drain;
    assert_eq!(orders(json!({})).unwrap(), DrainOrders::default());
    let all = orders(
        json!({"gracePeriodSeconds": 30, "skipWaitForDeleteTimeoutSeconds": 60,
        "podSelector": {"matchLabels": {"app": "x"}}}),
    )
    .unwrap();
    assert_eq!(
        (all.grace_seconds, all.skip_wait),
        (Some(30), Some(Duration::from_mins(1)))
    );
    assert!(all.selector.is_some());
    for (drain, text) in [
        (
            json!({"gracePeriodSeconds": 0}),
            "spec.drain.gracePeriodSeconds: Invalid value: 0",
        ),
        (
            json!({"gracePeriodSeconds": -1}),
            "spec.drain.gracePeriodSeconds: Invalid value: -1",
        ),
        (
            json!({"skipWaitForDeleteTimeoutSeconds": 0}),
            "spec.drain.skipWaitForDeleteTimeoutSeconds: Invalid value: 0",
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
            "spec.drain.podSelector: \"Like\" is not a valid label selector operator",
        ),
    ] {
        let error = orders(drain).unwrap_err();
        assert!(error.starts_with(text), "{error}");
    }
}

#[test]
fn node_names() {
    for good in ["n", "node-1", "ip-10-0-0-1.eu-west-1.compute.internal"] {
        assert!(is_node_name(good), "{good}");
    }
    for bad in [
        "",
        "Node",
        "a..b",
        "-a",
        "a-",
        "a,b",
        "a=b",
        "a/b",
        &"x".repeat(254),
    ] {
        assert!(!is_node_name(bad), "{bad}");
    }
}

#[test]
fn marks_of_a_node() {
    let read =
        |object: serde_json::Value| NodeFacts::read(&serde_json::from_value(object).unwrap());
    let bare = read(json!({"metadata": {"uid": "x"}}));
    assert!(bare.is_open() && !bare.is_excluded() && !bare.is_control_plane);
    assert_eq!(bare.load_balancer_label, LoadBalancerLabel::Absent);
    let marked = read(json!({
        "metadata": {"uid": "x", "labels": {
            "remediation.medik8s.io/exclude-from-remediation": "true",
            "node.kubernetes.io/exclude-from-external-load-balancers": "node-maintenance-operator",
            "node-role.kubernetes.io/master": ""}},
        "spec": {"unschedulable": true, "taints": [
            {"key": "medik8s.io/drain", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]},
    }));
    assert!(!marked.is_open() && marked.is_excluded() && marked.is_control_plane);
    assert_eq!(marked.load_balancer_label, LoadBalancerLabel::Ours);
    let foreign = read(json!({"metadata": {"labels": {
        "node.kubernetes.io/exclude-from-external-load-balancers": "",
        "remediation.medik8s.io/exclude-from-remediation": ""}}}));
    assert_eq!(foreign.load_balancer_label, LoadBalancerLabel::Foreign);
    assert!(!foreign.is_excluded());
    let before = PreviousState::of(&foreign);
    assert_eq!(
        serde_json::to_string(&before).unwrap(),
        r#"{"unschedulable":false,"excludeFromRemediation":false,"excludeLabel":""}"#
    );
    assert_eq!(before.label().as_deref(), Some(""));
    assert_eq!(PreviousState::of(&marked).label().as_deref(), Some("true"));
}

#[test]
fn only_a_lost_lease_is_final() {
    let with = |phase: &str, count: i64| {
        maintenance(json!({"status": {"phase": phase, "errorOnLeaseCount": count}})).is_lost()
    };
    assert!(with("Failed", 4));
    assert!(!with("Failed", 3));
    assert!(!with("Running", 4));
}
