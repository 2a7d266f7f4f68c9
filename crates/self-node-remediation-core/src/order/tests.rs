use serde_json::{Value, json};

use super::*;

fn parse(value: Value) -> Remediation {
    Remediation::parse(&serde_json::from_value::<SelfNodeRemediation>(value).unwrap()).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "literals are given")]
fn object(metadata: Value, status: Value) -> Value {
    let mut base = json!({"name": "x", "namespace": "ns", "uid": "u1"});
    base.as_object_mut()
        .unwrap()
        .extend(metadata.as_object().unwrap().clone());
    json!({
        "apiVersion": "self-node-remediation.medik8s.io/v1alpha1",
        "kind": "SelfNodeRemediation",
        "metadata": base,
        "status": status,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "literals are given")]
fn ordered(extra: Value) -> Value {
    let mut metadata = json!({
        "finalizers": ["self-node-remediation.medik8s.io/snr-finalizer"],
        "annotations": {"self-node-remediation.medik8s.io/boot-id": "b1"},
    });
    metadata
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    metadata
}

const PHASE: &str = "Pre-Reboot-Completed";

fn conditions(processing: &str, succeeded: &str) -> Value {
    let one = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "R", "message": "",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    json!([one("Processing", processing), one("Succeeded", succeeded)])
}

fn own() -> Own {
    Own {
        node: NodeName::new("x").unwrap(),
        boot: BootId::new("b1").unwrap(),
    }
}

fn uptime(up: u64) -> Uptime {
    Uptime {
        wall: "2026-01-01T01:00:00Z".parse().unwrap(),
        up: std::time::Duration::from_secs(up),
    }
}

#[test]
fn phases_that_are_orders() {
    for (phase, ordered_phase) in [
        (Value::Null, false),
        (json!(""), false),
        (json!("Fencing-Started"), false),
        (json!("Pre-Reboot-Completed"), true),
        (json!("Reboot-Completed"), true),
        (json!("Fencing-Completed"), true),
        (json!("Something"), false),
    ] {
        let parsed = parse(object(ordered(json!({})), json!({"phase": phase})));
        assert_eq!(parsed.is_order(), ordered_phase, "{phase}");
        assert_eq!(parsed.is_order_for(&own().boot), ordered_phase);
    }
}

#[test]
fn h06_neither_deletion_nor_the_health_checker_ends_an_order() {
    let timed_out = json!({
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "annotations": {
            "self-node-remediation.medik8s.io/boot-id": "b1",
            "remediation.medik8s.io/nhc-timed-out": "2026-01-01T00:00:00Z",
        },
    });
    let parsed = parse(object(ordered(timed_out), json!({"phase": PHASE})));
    assert!(parsed.deleting && parsed.timed_out);
    assert!(parsed.is_order());
}

#[test]
fn only_the_manager_ends_an_order() {
    for (processing, succeeded, order) in [
        ("True", "Unknown", true),
        ("False", "True", true),
        ("False", "False", false),
        ("True", "False", true),
        ("False", "Unknown", true),
    ] {
        let status = json!({"phase": PHASE, "conditions": conditions(processing, succeeded)});
        let parsed = parse(object(ordered(json!({})), status));
        assert_eq!(parsed.is_order(), order, "{processing} {succeeded}");
    }
    let cancelled = parse(object(
        ordered(json!({"finalizers": []})),
        json!({"phase": PHASE}),
    ));
    assert!(!cancelled.is_order());
}

#[test]
fn an_object_that_no_server_stored_is_none() {
    let mut value = object(json!({}), json!({}));
    value["metadata"].as_object_mut().unwrap().remove("uid");
    let object: SelfNodeRemediation = serde_json::from_value(value).unwrap();
    assert_eq!(Remediation::parse(&object), None);
}

fn owners(kinds: &[(&str, &str)]) -> Value {
    let owner = |(version, kind): &(&str, &str)| json!({"apiVersion": version, "kind": kind, "name": "owner", "uid": "o"});
    json!({"ownerReferences": kinds.iter().map(owner).collect::<Vec<_>>()})
}

#[test]
fn the_node_of_a_remediation() {
    const MACHINE: (&str, &str) = ("machine.openshift.io/v1beta1", "Machine");
    const NHC: (&str, &str) = ("remediation.medik8s.io/v1alpha1", "NodeHealthCheck");
    let node = |value: Value| parse(object(value, json!({}))).target;
    let named = |name: &str| Target::Node(NodeName::new(name).unwrap());
    let annotated =
        |value: &str| json!({"annotations": {"remediation.medik8s.io/node-name": value}});
    assert_eq!(node(json!({})), named("x"));
    assert_eq!(node(annotated("y")), named("y"));
    assert_eq!(
        node(annotated("")),
        Target::Nobody,
        "never the name of another node"
    );
    assert_eq!(node(owners(&[NHC, MACHINE])), named("x"));
    let machine = node(owners(&[MACHINE]));
    assert_eq!(machine.node(), None);
    assert_eq!(machine.matches("x", ""), Match::Unknown);
    assert_eq!(machine.matches("x", "owner"), Match::Yes);
    let unknown = node(owners(&[("example.com/v1", "Machine")]));
    assert_eq!(unknown.matches("x", "owner"), Match::Unknown);
    // Once the order is given, its target does not move.
    let mut recorded = owners(&[MACHINE]);
    recorded["annotations"] = json!({ORDERED_NODE_ANNOTATION: "z"});
    assert_eq!(node(recorded), named("z"));
}

#[test]
fn a_machine_is_resolved_by_what_was_looked_up() {
    let owned = parse(object(
        owners(&[("machine.openshift.io/v1beta1", "Machine")]),
        json!({}),
    ));
    let key = (
        "machine.openshift.io".to_owned(),
        "ns".to_owned(),
        "owner".to_owned(),
    );
    let node = NodeName::new("y").unwrap();
    let resolved = owned.resolved(&BTreeMap::from([(key, node)]));
    assert_eq!(resolved.target.matches("y", ""), Match::Yes);
    assert_eq!(resolved.target.matches("x", ""), Match::No);
}

#[test]
fn an_order_for_this_boot_is_one_whatever_it_is_called() {
    // A boot ID names one boot of one machine: an order whose Machine cannot be looked up is understood all the same.
    let mut metadata = ordered(owners(&[("machine.openshift.io/v1beta1", "Machine")]));
    metadata["name"] = json!("some-machine");
    let found = [parse(object(metadata, json!({"phase": PHASE})))];
    let reading = read(&own(), &found, BootInstant::ZERO, true, uptime(1));
    assert_eq!(reading, Reading::Order(Uid::new("u1").unwrap()));
}

#[test]
fn h11_another_boots_order_is_done_only_when_this_boot_is_announced() {
    let metadata =
        ordered(json!({"annotations": {"self-node-remediation.medik8s.io/boot-id": "b0"}}));
    let found = [parse(object(metadata, json!({"phase": PHASE})))];
    let read = |announced| read(&own(), &found, BootInstant::ZERO, announced, uptime(1));
    assert_eq!(read(false), Reading::DoneButUnannounced);
    assert!(matches!(read(true), Reading::NoOrder(_)));
}

#[test]
fn an_order_without_boot_follows_the_uptime_rule() {
    let metadata = ordered(json!({
        "annotations": {}, "creationTimestamp": "2026-01-01T00:59:00Z",
    }));
    let found = [parse(object(metadata, json!({"phase": PHASE})))];
    // The remediation is 60 s old.
    for (up, announced, expected) in [
        (59, true, Some(false)),
        (59, false, None),
        (60, true, Some(true)),
        (61, true, Some(true)),
        (100_000, false, Some(true)),
    ] {
        let is_order = match read(&own(), &found, BootInstant::ZERO, announced, uptime(up)) {
            Reading::Order(_) => Some(true),
            Reading::NoOrder(_) => Some(false),
            Reading::DoneButUnannounced => None,
        };
        assert_eq!(is_order, expected, "up {up} s, announced {announced}");
    }
}

#[test]
fn orders_for_others_and_withdrawn_ones_are_none() {
    let other = ordered(json!({
        "name": "y", "annotations": {"self-node-remediation.medik8s.io/boot-id": "b9"},
    }));
    let found = [
        parse(object(other, json!({"phase": PHASE}))),
        parse(object(
            ordered(json!({})),
            json!({"phase": PHASE, "conditions": conditions("False", "False")}),
        )),
        parse(object(ordered(json!({})), json!({}))),
    ];
    let started = BootInstant::at(std::time::Duration::from_secs(7));
    let Reading::NoOrder(proof) = read(&own(), &found, started, false, uptime(1)) else {
        panic!("something else")
    };
    assert_eq!(proof.started(), started);
}
