//! Defects of the original that must not come back: section 18 of the specification, as far as the
//! plan decides them. Each test fails on the defective behaviour.

use super::*;

fn sick(spec: Value) -> World {
    let mut world = World::new(spec, 3);
    world.break_node("w1");
    world.pass();
    world
}

#[test]
fn defect_01_two_templates_of_one_kind_have_two_entries() {
    let mut world = sick(escalating(&[
        ("FooTemplate", "one", 1, "1m"),
        ("FooTemplate", "two", 2, "1m"),
    ]));
    world.run_until(at(62));
    assert_eq!(world.names(), ["w1-one", "w1-two"]);
    let names: Vec<_> = world
        .entry("w1")
        .unwrap()
        .remediations
        .iter()
        .flatten()
        .map(|entry| {
            (
                entry.template_name.clone().unwrap(),
                entry.timed_out.is_some(),
            )
        })
        .collect();
    assert_eq!(names, [("one".to_owned(), true), ("two".to_owned(), false)]);
    world.run_until(at(130));
    assert!(
        world
            .seen
            .remediations
            .iter()
            .all(|one| one.timed_out.is_some()),
        "the second ends too"
    );
}

#[test]
fn defect_02_nothing_overwrites_the_earliest_wake_up() {
    // w1 becomes unhealthy in 5 s; w2 was refused and has no wake-up of its own before.
    let mut world = World::new(spec(), 5);
    world.set_ready("w1", "Unknown", at(-5));
    world.break_node("w2");
    let template = world.seen.check.ladder[0].template.clone();
    let why = Refusal::AlreadyThere("x".to_owned());
    world.seen.refusals.insert(
        "w2".to_owned(),
        Refused {
            template,
            why,
            retry_at: at(60),
            failures: 0,
        },
    );
    let wake = world.pass().wake.unwrap();
    assert_eq!(
        wake,
        at(5).checked_add(SignedDuration::from_millis(1)).unwrap()
    );
    // A moment in the past asks for the near future, not for never and not for at once.
    let mut draft = Draft::new(&world.seen, world.now);
    draft.wake_at(at(-10));
    assert_eq!(draft.wake, Some(at(1)));
}

#[test]
fn defect_03_a_healthy_delay_survives_a_failed_write() {
    let mut world = sick(with(spec(), &[("healthyDelay", json!("30s"))]));
    world.heal_node("w1");
    // The annotation is not written, pass after pass.
    for second in 0..100 {
        world.now = at(second);
        let plan = world.plan();
        assert!(
            matches!(plan.steps.as_slice(), [Step::StartHealthyDelay { .. }]),
            "{:?}",
            plan.steps
        );
    }
    world.edit_remediation("w1-foo", |one| {
        one.healthy_delay = Some("nonsense".to_owned());
    });
    assert!(matches!(
        world.plan().steps.as_slice(),
        [Step::StartHealthyDelay { .. }]
    ));
}

#[test]
fn defect_03_a_healthy_delay_starts_anew_after_a_relapse() {
    for relapse in ["matching", "soon"] {
        let mut world = sick(with(spec(), &[("healthyDelay", json!("30s"))]));
        world.heal_node("w1");
        world.pass();
        world.advance(20);
        if relapse == "matching" {
            world.break_node("w1");
        } else {
            world.set_ready("w1", "Unknown", world.now);
        }
        let plan = world.pass();
        assert!(
            plan.steps
                .iter()
                .any(|step| matches!(step, Step::ClearHealthyDelay { .. }))
        );
        let entry = world.entry("w1").unwrap();
        assert_eq!(
            (entry.healthy_delayed, &entry.conditions_healthy_timestamp),
            (None, &None)
        );
        world.advance(5);
        world.heal_node("w1");
        let healed = world.now;
        world.run_until(healed.checked_add(SignedDuration::from_secs(29)).unwrap());
        assert_eq!(world.names(), ["w1-foo"], "{relapse}");
        world.advance(1);
        world.pass();
        assert!(world.names().is_empty(), "{relapse}");
    }
}

#[test]
fn defect_04_entries_of_vanished_nodes_are_pruned() {
    // The node vanished before a remediation existed.
    let mut world = World::new(with(spec(), &[("minHealthy", json!("100%"))]), 3);
    world.break_node("w1");
    world.pass();
    assert!(world.entry("w1").is_some());
    world.seen.nodes.retain(|node| node.name != "w1");
    world.pass();
    assert!(world.entry("w1").is_none());
    // The remediator deleted its own object, and the node is gone.
    let mut world = sick(spec());
    world.seen.nodes.retain(|node| node.name != "w1");
    world.remove("w1-foo");
    world.pass();
    assert!(world.entry("w1").is_none());
    assert_eq!(phase(&world), "Enabled");
}

#[test]
fn defect_04_entries_of_vanished_remediations_are_pruned() {
    for (gate, timed_out, served, kept) in [
        (true, false, true, 0),
        (true, true, true, 1),
        (true, true, false, 0),
        (true, false, false, 0),
        (false, true, false, 0),
    ] {
        let mut world = sick(spec());
        if timed_out {
            world.edit_remediation("w1-foo", |one| one.timed_out = Some(at(5).to_string()));
            world.pass();
        }
        world.remove("w1-foo");
        let template = world.seen.check.ladder[0].template.clone();
        if !served {
            world.seen.missing_kinds.insert(template.remediation_kind());
        }
        if gate {
            let why = "its operator is gone".to_owned();
            world
                .seen
                .templates
                .insert(template, TemplateState::NotFound(why));
        } else {
            world.break_node("w2");
            world.break_node("w3");
        }
        let plan = world.plan();
        let entries = plan.status.unhealthy_nodes.unwrap_or_default();
        let entry = entries.iter().find(|entry| entry.name == "w1").unwrap();
        let count = entry.remediations.as_ref().map_or(0, Vec::len);
        assert_eq!(count, kept, "gate {gate}, {timed_out}, {served}");
    }
    // As long as its kind cannot be seen, it may be there.
    let mut world = sick(spec());
    world.remove("w1-foo");
    let kind = world.seen.check.ladder[0].template.remediation_kind();
    world
        .seen
        .unknown_kinds
        .insert(kind, "no answer".to_owned());
    let entries = world.plan().status.unhealthy_nodes.unwrap();
    assert_eq!(entries[0].remediations.as_ref().map(Vec::len), Some(1));
}

#[test]
fn defect_05_one_node_in_trouble_does_not_stop_the_others() {
    let mut world = World::new(with(spec(), &[("minHealthy", json!(0))]), 4);
    for name in ["w1", "w2", "w3"] {
        world.break_node(name);
    }
    let template = world.seen.check.ladder[0].template.clone();
    let why = Refusal::Failed("could not create Foo w1".to_owned());
    world.seen.refusals.insert(
        "w1".to_owned(),
        Refused {
            template,
            why,
            retry_at: at(30),
            failures: 0,
        },
    );
    assert_eq!(creations(&world.pass()), ["w2", "w3"]);
}

#[test]
fn defect_06_an_unsorted_list_of_steps_causes_no_writes() {
    let world = sick(escalating(&[
        ("BTemplate", "b", 9, "1m"),
        ("ATemplate", "a", 1, "1m"),
    ]));
    let stored = world.seen.status.clone();
    for _ in 0..3 {
        assert_eq!(world.plan().status, stored);
    }
    assert_eq!(world.names(), ["w1-a"]);
}

#[test]
fn defect_08_a_storm_ends_without_a_new_failure() {
    let storm = with(
        spec(),
        &[
            ("minHealthy", json!(2)),
            ("stormCooldownDuration", json!("30s")),
        ],
    );
    let mut world = World::new(storm.clone(), 3);
    world.break_node("w1");
    world.break_node("w2");
    assert_eq!(
        announced(&world.pass()),
        ["StormRecoveryStarted", "Enabled"]
    );
    assert_eq!(world.condition(nhc::STORM_ACTIVE), Some(Status::True));
    // Everything recovers; no node is unhealthy any more.
    world.advance(10);
    world.heal_node("w1");
    world.heal_node("w2");
    let plan = world.pass();
    assert_eq!(announced(&plan), ["StormRecoveryCooldownStarted"]);
    assert_eq!(plan.wake, Some(at(40)));
    world.now = at(40);
    assert_eq!(announced(&world.pass()), ["StormRecoveryEnded"]);
    assert_eq!(world.condition(nhc::STORM_ACTIVE), Some(Status::False));
    assert_eq!(
        world.condition(nhc::STORM_COOLDOWN_ACTIVE),
        Some(Status::False)
    );
    // The next single failure is not delayed.
    world.advance(1000);
    world.break_node("w3");
    assert_eq!(creations(&world.pass()), ["w3"]);

    // And switching the feature off in a storm ends it.
    let mut world = World::new(storm, 3);
    world.break_node("w1");
    world.break_node("w2");
    world.pass();
    world.heal_node("w2");
    world.set_spec(with(spec(), &[("minHealthy", json!(2))]));
    assert_eq!(creations(&world.pass()), ["w1"]);
    assert_eq!(world.condition(nhc::STORM_ACTIVE), Some(Status::False));
}

#[test]
fn the_published_example_of_a_storm() {
    let storm = with(
        spec(),
        &[
            ("minHealthy", json!(11)),
            ("stormCooldownDuration", json!("30s")),
        ],
    );
    let mut world = World::new(storm, 20);
    for number in 1..=5 {
        world.break_node(&format!("w{number}"));
    }
    assert_eq!(creations(&world.pass()).len(), 5);
    for number in 6..=10 {
        world.break_node(&format!("w{number}"));
    }
    let plan = world.pass();
    assert!(creations(&plan).is_empty() && announced(&plan) == ["StormRecoveryStarted"]);
    world.heal_node("w9");
    world.heal_node("w10");
    let plan = world.pass();
    assert!(creations(&plan).is_empty() && announced(&plan) == ["StormRecoveryCooldownStarted"]);
    assert!(reason(&world).contains("storm recovery until 2026-03-04T12:00:30Z"));
    world.now = at(29);
    assert!(creations(&world.pass()).is_empty());
    world.now = at(30);
    let plan = world.pass();
    assert_eq!(creations(&plan), ["w6", "w7", "w8"]);
    assert_eq!(announced(&plan), ["StormRecoveryEnded"]);
}

#[test]
fn defect_09_a_plan_counts_the_control_plane_nodes_of_all_health_checks() {
    let mut world = World::new(spec(), 3);
    world.make_control_plane("w1");
    world.break_node("w1");
    // Another health check, with another kind, remediates a node that this one does not select.
    world
        .seen
        .control_plane
        .remediated
        .insert("cp-9".to_owned(), true);
    let plan = world.pass();
    assert!(creations(&plan).is_empty());
    assert!(plan.waits_for_control_plane);
    assert!(reason(&world).contains("control plane node cp-9 is being remediated"));
    // Workers are not concerned.
    world.break_node("w2");
    world.heal_node("w1");
    assert_eq!(creations(&world.pass()), ["w2"]);
}

#[test]
fn defect_12_a_maximum_above_the_number_of_nodes_blocks_nothing() {
    let spec = with(
        spec(),
        &[("minHealthy", Value::Null), ("maxUnhealthy", json!(10))],
    );
    let mut world = World::new(spec, 2);
    world.break_node("w1");
    world.break_node("w2");
    assert_eq!(creations(&world.pass()).len(), 2);
}

#[test]
fn defect_13_an_invalid_template_is_looked_at_again() {
    let mut world = World::new(spec(), 3);
    let template = world.seen.check.ladder[0].template.clone();
    world.seen.templates.insert(
        template,
        TemplateState::Invalid("no spec.template".to_owned()),
    );
    assert_eq!(world.pass().wake, Some(at(60)));
}

#[test]
fn kinds_are_compared_with_their_group() {
    let mut world = sick(spec());
    let mut stranger = remediation("Foo", "foo", "w2", at(-5));
    stranger.kind = ResourceKind::new("other.example.com/v1", "Foo");
    world.add(stranger);
    world.break_node("w2");
    world
        .seen
        .nodes
        .push(Arc::new(crate::fixtures::node("w4", "True", at(-1))));
    world
        .seen
        .nodes
        .push(Arc::new(crate::fixtures::node("w5", "True", at(-1))));
    assert_eq!(creations(&world.pass()), ["w2"]);
}

#[test]
fn a_printed_time_has_no_fraction() {
    let time: Timestamp = "2026-03-04T12:00:00.123456Z".parse().unwrap();
    assert_eq!(format!("{time:.0}"), "2026-03-04T12:00:00Z");
}
