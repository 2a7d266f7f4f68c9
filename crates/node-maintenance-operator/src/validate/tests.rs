use serde_json::json;

use super::*;

fn object(name: &str, node: &str) -> NodeMaintenance {
    serde_json::from_value(json!({
        "apiVersion": "nodemaintenance.medik8s.io/v1beta1", "kind": "NodeMaintenance",
        "metadata": {"name": name}, "spec": {"nodeName": node},
    }))
    .unwrap()
}

fn with(patch: impl FnOnce(&mut NodeMaintenance)) -> NodeMaintenance {
    let mut new = object("m", "n");
    patch(&mut new);
    new
}

#[test]
fn texts_are_those_of_the_original() {
    assert_eq!(
        missing_node_text("n"),
        "invalid nodeName, no node with name n found"
    );
    assert_eq!(
        duplicate_text("n"),
        "invalid nodeName, a NodeMaintenance for node n already exists"
    );
    assert_eq!(
        quorum_text("n"),
        "can not put master/control-plane node into maintenance at this moment, disrupting node n \
         will violate etcd quorum"
    );
}

#[test]
fn a_node_has_one_maintenance_even_while_that_is_deleted() {
    let mut deleted = object("a", "n");
    deleted.metadata.deletion_timestamp = Some(medik8s_core::time::whole_second(
        jiff::Timestamp::UNIX_EPOCH,
    ));
    assert!(no_duplicate("n", [&object("a", "other")]).is_ok());
    for existing in [object("a", "n"), deleted] {
        let denied = no_duplicate("n", [&object("b", "other"), &existing]).unwrap_err();
        assert_eq!(denied.denial(), Some(duplicate_text("n").as_str()));
    }
}

#[test]
fn the_node_name_is_immutable() {
    let verdict = update(Some(&object("m", "n")), &object("m", "o"));
    assert_eq!(
        verdict.denial(),
        Some("updating spec.NodeName isn't allowed")
    );
    assert!(
        update(None, &object("m", "o")).is_allowed(),
        "repair is possible"
    );
}

#[test]
fn everything_else_may_change() {
    let old = object("m", "n");
    let new = with(|new| {
        new.spec.reason = Some("other".to_owned());
        new.metadata.finalizers = Some(vec![]);
        new.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    });
    assert_eq!(update(Some(&old), &new), Verdict::allow());
}

#[test]
fn drain_orders_are_judged_when_they_change() {
    let bad = with(|new| {
        new.spec.drain = Some(medik8s_api::node_maintenance::NodeMaintenanceDrain {
            grace_period_seconds: Some(0),
            ..Default::default()
        });
    });
    let text = "spec.drain.gracePeriodSeconds: Invalid value: 0: must be between 1 and 4294967295";
    assert_eq!(update(Some(&object("m", "n")), &bad).denial(), Some(text));
    assert_eq!(drain_orders(&bad).unwrap_err().denial(), Some(text));
    assert!(
        update(Some(&bad), &bad).is_allowed(),
        "what was admitted somehow can still get and lose its finalizer"
    );
}

#[test]
fn opt_ins_without_effect_are_pointed_out() {
    let new = with(|new| {
        new.metadata.annotations =
            Some([(nmo::RESTORE_CORDON_ANNOTATION.to_owned(), "yes".to_owned())].into());
    });
    let verdict = create(&new, None);
    assert!(verdict.is_allowed());
    assert!(
        verdict.warnings()[0].contains("restore-cordon"),
        "{verdict:?}"
    );
}

#[test]
fn outside_openshift_a_second_control_plane_node_is_worth_a_warning() {
    let facts = |ready: &str, role: &str| {
        NodeFacts::read(
            &serde_json::from_value(json!({
                "metadata": {"labels": {role: ""}},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap(),
        )
    };
    let control_plane = "node-role.kubernetes.io/control-plane";
    let (fine, down) = (
        facts("True", control_plane),
        facts("Unknown", control_plane),
    );
    let worker = facts("False", "node-role.kubernetes.io/worker");
    let warn = |others: &[(&str, &NodeFacts)], busy: &[&str]| {
        control_plane_warning("a", others.iter().copied(), &busy.iter().copied().collect())
    };
    assert_eq!(
        warn(&[("a", &down), ("b", &fine), ("w", &worker)], &["w"]),
        None
    );
    let text = warn(&[("b", &down), ("c", &fine)], &["c"]).unwrap();
    assert!(text.contains("b (not Ready), c (in maintenance)"), "{text}");
}
