//! Nodes that recover, leave or vanish.

use super::*;

fn remediated(spec: Value) -> World {
    let mut world = World::new(spec, 3);
    world.break_node("w1");
    world.pass();
    assert_eq!(world.names(), ["w1-foo"]);
    world.advance(10);
    world
}

#[test]
fn a_recovered_node_is_let_go() {
    let mut world = remediated(spec());
    world.heal_node("w1");
    let plan = world.pass();
    assert!(
        matches!(
            plan.steps.as_slice(),
            [
                Step::Delete {
                    cause: Removal::Recovered,
                    ..
                },
                Step::ReleaseLease { .. }
            ]
        ),
        "{:?}",
        plan.steps
    );
    assert_eq!((phase(&world), counters(&world)), ("Enabled", (3, 3)));
    assert!(world.entry("w1").is_none());
}

#[test]
fn a_node_is_healthy_again_only_when_its_remediation_is_gone() {
    let mut world = remediated(spec());
    world.heal_node("w1");
    world.edit_remediation("w1-foo", |one| one.deleting_since = Some(at(10)));
    let plan = world.pass();
    assert!(plan.steps.is_empty(), "the lease stays too");
    assert_eq!((phase(&world), counters(&world)), ("Remediating", (3, 2)));
    assert_eq!(
        world
            .entry("w1")
            .unwrap()
            .conditions_healthy_timestamp
            .clone()
            .unwrap()
            .0,
        at(10)
    );
    assert_eq!(plan.wake, Some(at(20)));
    assert!(
        reason(&world)
            .contains("w1: Foo remediators/w1-foo is being deleted since 2026-03-04T12:00:10Z")
    );
    world.now = at(20);
    let plan = world.pass();
    assert!(matches!(
        plan.standings["w1"],
        Standing::AwaitingDeletion { overdue: true, .. }
    ));
    assert_eq!(plan.wake, Some(at(330)), "only its lease is to be renewed");
    world.remove("w1-foo");
    let plan = world.pass();
    assert_eq!(
        plan.steps,
        [Step::ReleaseLease {
            node: "w1".to_owned()
        }]
    );
    assert_eq!(counters(&world), (3, 3));
}

#[test]
fn healthy_delay_is_counted_from_recovery() {
    let mut world = remediated(with(spec(), &[("healthyDelay", json!("30s"))]));
    world.heal_node("w1");
    let plan = world.pass();
    assert!(matches!(
        plan.steps.as_slice(),
        [Step::StartHealthyDelay { .. }]
    ));
    assert_eq!(world.entry("w1").unwrap().healthy_delayed, Some(true));
    assert_eq!(plan.wake, Some(at(40)));
    assert!(
        reason(&world)
            .contains("w1: is healthy again, its remediation is kept until 2026-03-04T12:00:40Z")
    );
    world.now = at(39);
    assert!(world.pass().steps.is_empty());
    world.now = at(40);
    world.pass();
    assert!(world.names().is_empty());
}

#[test]
fn a_person_can_end_the_delay() {
    for delay in ["30s", "-1s"] {
        let mut world = remediated(with(spec(), &[("healthyDelay", json!(delay))]));
        world.heal_node("w1");
        world.pass();
        world.run_until(at(35));
        assert_eq!(world.names(), ["w1-foo"], "{delay}");
        assert_eq!(
            world.entry("w1").unwrap().healthy_delayed,
            Some(true),
            "{delay}"
        );
        world.edit_node("w1", |node| node.confirmed_healthy = true);
        let plan = world.pass();
        assert!(
            matches!(
                plan.steps.as_slice(),
                [
                    Step::Delete { .. },
                    Step::DropConfirmation { .. },
                    Step::ReleaseLease { .. }
                ]
            ),
            "{:?}",
            plan.steps
        );
        assert_eq!(counters(&world), (3, 3));
    }
}

#[test]
fn a_negative_delay_never_ends_by_itself() {
    let mut world = remediated(with(spec(), &[("healthyDelay", json!("-1s"))]));
    world.heal_node("w1");
    assert!(world.run_until(at(1_000_000)).is_empty());
    assert_eq!(world.names(), ["w1-foo"]);
    assert!(reason(&world).contains(
        "until the node is annotated with remediation.medik8s.io/manually-confirmed-healthy"
    ));
}

#[test]
fn a_confirmation_outlives_the_health_checks_that_do_not_need_it() {
    let mut world = World::new(spec(), 3);
    world.edit_node("w1", |node| node.confirmed_healthy = true);
    let mut other = remediation("Foo", "foo", "w1", at(-5));
    other.owners = vec![];
    world.add(other);
    assert!(world.pass().steps.is_empty());
    world.remove("w1-foo");
    assert_eq!(
        world.pass().steps,
        [Step::DropConfirmation {
            node: "w1".to_owned()
        }]
    );
}

#[test]
fn nodes_that_are_gone_or_left_take_their_remediation_along() {
    for (exists, cause) in [(false, Removal::NodeGone), (true, Removal::LeftSelector)] {
        let mut world = remediated(spec());
        world.seen.nodes.retain(|node| node.name != "w1");
        if exists {
            world.seen.unselected.insert("w1".to_owned());
        }
        let plan = world.pass();
        assert_eq!(plan.steps.len(), 2, "{:?}", plan.steps);
        assert!(plan.steps.contains(&Step::ReleaseLease {
            node: "w1".to_owned()
        }));
        assert!(
            plan.steps
                .iter()
                .any(|step| matches!(step, Step::Delete { cause: found, .. } if *found == cause))
        );
        assert!(world.entry("w1").is_none());
        assert_eq!((phase(&world), counters(&world)), ("Enabled", (2, 2)));
    }
}

#[test]
fn a_node_that_is_replaced_as_part_of_the_cure_is_waited_for() {
    let mut world = remediated(spec());
    world.seen.nodes.retain(|node| node.name != "w1");
    world.edit_remediation("w1-foo", |one| one.node_deletion_expected = true);
    assert!(world.pass().steps.is_empty());
    assert_eq!(world.names(), ["w1-foo"]);
    assert!(world.entry("w1").is_some());
    world.edit_remediation("w1-foo", |one| one.succeeded = Some(Status::True));
    world.pass();
    assert!(world.names().is_empty());
    assert!(world.entry("w1").is_none());
}

#[test]
fn leases_that_an_earlier_process_left_are_given_back() {
    let mut world = World::new(spec(), 3);
    let held = HeldLease {
        node_uid: None,
        acquired: Some(at(-99)),
        renewed: Some(at(-99)),
        duration: Some(secs(660)),
    };
    world.seen.leases.insert("w2".to_owned(), held.clone());
    world.seen.leases.insert("vanished".to_owned(), held);
    world.pass();
    assert!(world.seen.leases.is_empty());
}

/// The remediation was created, then the process died before it wrote the status.
#[test]
fn what_the_status_does_not_know_is_taken_over() {
    let mut world = remediated(spec());
    world.seen.status = NodeHealthCheckStatus::default();
    assert!(world.pass().steps.is_empty());
    assert_eq!(
        world.entry("w1").unwrap().remediations.as_ref().unwrap()[0]
            .started
            .0,
        noon()
    );
    world.seen.status = NodeHealthCheckStatus::default();
    world.heal_node("w1");
    world.pass();
    assert!(world.names().is_empty() && world.seen.leases.is_empty());
}

/// While a remediator still cleans up, the node may be power-cycled: nobody else gets its lease.
#[test]
fn the_lease_of_a_node_is_kept_until_its_remediation_is_gone() {
    for gone in [false, true] {
        let mut world = remediated(spec());
        world.edit_remediation("w1-foo", |one| one.deleting_since = Some(noon()));
        if gone {
            world.seen.nodes.retain(|node| node.name != "w1");
        } else {
            world.heal_node("w1");
        }
        world.run_until(at(3600));
        let held = &world.seen.leases["w1"];
        if !gone {
            let end = held
                .renewed
                .unwrap()
                .checked_add(held.duration.unwrap())
                .unwrap();
            assert!(end > world.now, "it does not run out");
        }
        world.remove("w1-foo");
        world.pass();
        assert!(world.seen.leases.is_empty());
    }
}
