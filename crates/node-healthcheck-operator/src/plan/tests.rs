//! The plan, told as stories. Each step of a plan is carried out in memory by
//! [`crate::fixtures::World`].

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use medik8s_core::conditions::Status;
use serde_json::{Value, json};

use super::*;
use crate::check::{ResourceKind, TemplateState};
use crate::facts::{HeldLease, MachineHealthChecks, Refusal, Refused};
use crate::fixtures::{World, at, creations, escalating, noon, remediation, secs, spec, with};

mod defects;
mod escalation;
mod gates;
mod healing;
mod properties;

fn reason(world: &World) -> &str {
    world.seen.status.reason.as_deref().unwrap()
}

fn phase(world: &World) -> &str {
    world.seen.status.phase.as_deref().unwrap()
}

fn counters(world: &World) -> (i64, i64) {
    let status = &world.seen.status;
    (
        status.observed_nodes.unwrap(),
        status.healthy_nodes.unwrap(),
    )
}

fn said(plan: &Plan) -> Vec<&str> {
    plan.notices
        .values()
        .map(|notice| notice.message.as_str())
        .collect()
}

fn announced(plan: &Plan) -> Vec<&'static str> {
    plan.announcements.iter().map(|one| one.reason).collect()
}

#[test]
fn all_healthy_needs_nothing_and_settles() {
    let mut world = World::new(spec(), 3);
    let plan = world.pass();
    assert_eq!(announced(&plan), ["Enabled"]);
    assert_eq!((phase(&world), counters(&world)), ("Enabled", (3, 3)));
    assert_eq!(reason(&world), "NHC is enabled, no ongoing remediation");
    assert_eq!(world.condition(nhc::DISABLED), Some(Status::False));
    let plan = world.plan();
    assert_eq!(
        (plan.steps, plan.wake, plan.announcements.len()),
        (vec![], None, 0)
    );
    assert_eq!(
        plan.status, world.seen.status,
        "a second pass changes nothing"
    );
}

#[test]
fn a_sick_node_gets_a_remediation_at_the_moment_its_condition_expires() {
    let mut world = World::new(spec(), 3);
    world.set_ready("w2", "Unknown", noon());
    let plan = world.pass();
    assert!(plan.steps.is_empty());
    let due = at(10).checked_add(SignedDuration::from_millis(1)).unwrap();
    assert_eq!(plan.wake, Some(due));
    assert_eq!(counters(&world), (3, 2), "soon unhealthy is not healthy");
    assert!(reason(&world).contains("w2: has Ready=Unknown, which counts as unhealthy from"));
    assert!(world.entry("w2").is_none());
    world.now = due;
    let plan = world.pass();
    assert_eq!(creations(&plan), ["w2"]);
    assert_eq!((phase(&world), counters(&world)), ("Remediating", (3, 2)));
    assert!(
        reason(&world).starts_with("NHC is remediating 1 nodes; w2: is being remediated by Foo")
    );
    let entry = world.entry("w2").unwrap().remediations.as_ref().unwrap();
    assert_eq!(entry.len(), 1);
    assert_eq!(entry[0].template_name.as_deref(), Some("foo"));
    assert_eq!(entry[0].resource.kind.as_deref(), Some("Foo"));
    assert_eq!(entry[0].resource.name.as_deref(), Some("w2-foo"));
    assert_eq!(world.plan().steps, []);
}

#[test]
fn thresholds_hold_everything_back_and_say_the_numbers() {
    let mut world = World::new(spec(), 3);
    world.break_node("w1");
    world.break_node("w2");
    let plan = world.pass();
    assert!(plan.steps.is_empty());
    assert_eq!(phase(&world), "Enabled");
    assert_eq!(
        reason(&world),
        "NHC is enabled, no ongoing remediation; not remediating w1, w2: only 1 of 3 nodes are \
         healthy, at least 2 must be"
    );
    assert!(
        said(&plan)
            .iter()
            .any(|text| text.contains("is 1 and should equal or exceed 2"))
    );
    assert!(world.entry("w1").is_some(), "tracked, though held back");
    world.heal_node("w1");
    assert_eq!(creations(&world.pass()), ["w2"]);
}

#[test]
fn thresholds_by_table() {
    for (field, value, nodes, sick, allowed) in [
        ("minHealthy", json!("75%"), 10, 2, true),
        ("minHealthy", json!("75%"), 10, 3, false),
        ("minHealthy", json!("51%"), 3, 1, true),
        ("minHealthy", json!(0), 2, 2, true),
        ("minHealthy", json!("100%"), 4, 1, false),
        ("minHealthy", json!("2"), 3, 1, true),
        ("maxUnhealthy", json!("75%"), 10, 8, true),
        ("maxUnhealthy", json!("75%"), 10, 9, false),
        ("maxUnhealthy", json!(0), 4, 1, false),
        ("maxUnhealthy", json!("0%"), 4, 1, false),
        ("maxUnhealthy", json!(1), 4, 1, true),
        ("maxUnhealthy", json!(1), 4, 2, false),
        ("maxUnhealthy", json!(50), 2, 2, true),
    ] {
        let spec = with(
            spec(),
            &[("minHealthy", Value::Null), (field, value.clone())],
        );
        let mut world = World::new(spec, nodes);
        for number in 1..=sick {
            world.break_node(&format!("w{number}"));
        }
        let created = creations(&world.pass()).len();
        assert_eq!(
            created,
            if allowed { sick } else { 0 },
            "{field} {value} {nodes} {sick}"
        );
    }
}

#[test]
fn below_the_threshold_running_remediations_keep_their_lease() {
    let mut world = World::new(spec(), 3);
    world.break_node("w1");
    world.pass();
    world.break_node("w2");
    world.advance(400);
    let plan = world.pass();
    assert!(matches!(plan.steps.as_slice(), [Step::RenewLease { node, .. }] if node == "w1"));
    assert!(reason(&world).contains("not remediating w1, w2"));
}

#[test]
fn excluded_nodes_are_not_remediated() {
    let label = "remediation.medik8s.io/exclude-from-remediation".to_owned();
    for (value, created) in [("true", 0), ("", 1), ("false", 1)] {
        let mut world = World::new(spec(), 3);
        world.break_node("w1");
        world.edit_node("w1", |node| {
            node.labels.insert(label.clone(), value.to_owned());
        });
        let plan = world.plan();
        assert_eq!(creations(&plan).len(), created, "{value:?}");
        let reasons: Vec<&str> = plan.notices.keys().map(|topic| topic.reason).collect();
        match value {
            "true" => assert!(reasons.contains(&"RemediationSkipped")),
            "" => assert!(reasons.contains(&"InvalidNodeLabel")),
            _ => assert_eq!(reasons, ["DetectedUnhealthy"]),
        }
    }
}

#[test]
fn detection_is_told_until_a_remediation_exists() {
    let mut world = World::new(spec(), 3);
    world.break_node("w1");
    let text = "Node matches unhealthy condition. Node \"w1\", condition type \"Ready\", \
                condition status \"Unknown\"";
    assert_eq!(said(&world.plan()), [text]);
    world.pass();
    assert!(said(&world.plan()).is_empty());
}

#[test]
fn refusals_wait_for_their_moment_and_are_told() {
    let mut world = World::new(spec(), 3);
    world.break_node("w1");
    let template = world.seen.check.ladder[0].template.clone();
    let why = Refusal::LeaseTaken {
        holder: "node-maintenance".to_owned(),
    };
    world.seen.refusals.insert(
        "w1".to_owned(),
        Refused {
            template,
            why,
            retry_at: at(60),
            failures: 0,
        },
    );
    let plan = world.pass();
    assert_eq!((plan.steps.len(), plan.wake), (0, Some(at(60))));
    assert!(
        said(&plan)
            .iter()
            .any(|text| text.contains("held by node-maintenance"))
    );
    assert!(
        reason(&world).contains("w1: is unhealthy (Ready=Unknown) but not remediated: its node")
    );
    world.now = at(60);
    assert_eq!(creations(&world.plan()), ["w1"]);
}

#[test]
fn somebody_elses_remediation_is_left_alone() {
    let mut world = World::new(spec(), 3);
    world.break_node("w1");
    let mut other = remediation("Foo", "foo", "w1", at(-5));
    other.owners = vec![];
    world.add(other);
    let plan = world.pass();
    assert!(plan.steps.is_empty());
    assert!(reason(&world).contains("of somebody else exists already"));
    assert!(world.entry("w1").unwrap().remediations.is_none());
    world.heal_node("w1");
    assert!(world.pass().steps.is_empty());
    assert_eq!(
        counters(&world),
        (3, 3),
        "a stranger's remediation does not count"
    );
}

#[test]
fn what_an_earlier_health_check_of_the_name_left_is_waited_for() {
    let mut world = World::new(spec(), 3);
    world.break_node("w1");
    let mut other = remediation("Foo", "foo", "w1", at(-5));
    other.owners[0].uid = "old".to_owned();
    world.add(other);
    assert!(world.pass().steps.is_empty());
    assert!(reason(&world).contains("of an earlier health check is being removed"));
}

#[test]
fn old_remediations_are_reported_once() {
    let mut world = World::new(spec(), 3);
    world.break_node("w1");
    world.pass();
    let due = at(48 * 3600);
    assert!(world.plan().wake.unwrap() <= due);
    world.now = due;
    // The lease of a single template is overdue long before.
    let plan = world.pass();
    let reports = plan
        .steps
        .iter()
        .filter(|step| matches!(step, Step::ReportOld { .. }))
        .count();
    assert_eq!(reports, 1);
    world.advance(1000);
    assert!(world.pass().steps.is_empty());
}

#[test]
fn control_plane_nodes_are_remediated_one_at_a_time() {
    let mut world = World::new(with(spec(), &[("minHealthy", json!(0))]), 3);
    for name in ["w1", "w2", "w3"] {
        world.make_control_plane(name);
        world.break_node(name);
    }
    let plan = world.pass();
    assert_eq!(creations(&plan), ["w1"]);
    assert!(plan.waits_for_control_plane);
    assert!(reason(&world).contains("control plane node w1 is being remediated"));
    // Also while it is only being deleted.
    world.heal_node("w1");
    let handle = world.seen.remediations[0].name.clone();
    world.edit_remediation(&handle, |one| one.deleting_since = Some(at(1)));
    assert!(creations(&world.pass()).is_empty());
    world.remove(&handle);
    assert_eq!(creations(&world.pass()), ["w2"]);
}

/// 8.2.1 (i): only a remediation with the label says that the question was asked before.
#[test]
fn a_remediation_by_hand_opens_no_way_around_the_control_plane() {
    for label in [false, true] {
        let mut world = World::new(with(spec(), &[("minHealthy", json!(0))]), 3);
        for name in ["w1", "w2"] {
            world.make_control_plane(name);
            world.break_node(name);
        }
        let mut by_hand = remediation("Bar", "bar", "w2", at(-5));
        by_hand.owners = vec![];
        by_hand.control_plane_label = label;
        world.add(by_hand);
        let mut other = remediation("Foo", "foo", "w1", at(-5));
        other.control_plane_label = true;
        world.add(other);
        let plan = world.pass();
        let expected: &[&str] = if label { &["w2"] } else { &[] };
        assert_eq!(creations(&plan), expected, "{label}");
        assert_eq!(plan.waits_for_control_plane, !label);
    }
}

#[test]
fn the_quorum_guard_spares_a_serving_control_plane_node() {
    let rules = json!([{"type": "Custom", "status": "Bad", "duration": "1s"}]);
    for (guard, openshift, ready, created) in [
        (true, false, vec!["w1", "w2", "w3"], 1),
        (true, false, vec!["w1", "w2"], 0),
        (false, false, vec!["w1", "w2"], 1),
        (true, true, vec!["w1", "w2"], 1),
        (true, false, vec!["w2"], 1),
    ] {
        let spec = with(
            spec(),
            &[
                ("minHealthy", json!(0)),
                ("unhealthyConditions", rules.clone()),
            ],
        );
        let mut world = World::new(spec, 3);
        for name in ["w1", "w2", "w3"] {
            world.make_control_plane(name);
            if !ready.contains(&name) {
                world.set_ready(name, "False", at(-60));
            }
        }
        world.seen.cluster.guard_quorum = guard;
        world.seen.cluster.openshift = openshift;
        world.seen.control_plane.ready = ready.iter().map(|name| (*name).to_owned()).collect();
        world.edit_node("w1", |node| {
            node.conditions.push(crate::node::NodeCondition {
                type_: "Custom".to_owned(),
                status: "Bad".to_owned(),
                since: Some(at(-60)),
            });
        });
        assert_eq!(
            creations(&world.plan()).len(),
            created,
            "{guard} {openshift} {ready:?}"
        );
    }
}

#[test]
fn many_nodes_do_not_make_an_endless_reason() {
    let mut world = World::new(with(spec(), &[("minHealthy", json!(0))]), 1000);
    for number in 1..=1000 {
        world.break_node(&format!("w{number}"));
    }
    world.pass();
    assert!(reason(&world).len() < 1024, "{}", reason(&world).len());
    assert!(reason(&world).ends_with("and 996 more"));
    assert!(reason(&world).starts_with("NHC is remediating 1000 nodes"));
}
