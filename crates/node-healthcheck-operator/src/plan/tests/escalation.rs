//! Steps, timeouts and leases.

use super::*;

fn two_steps() -> Value {
    escalating(&[
        ("FooTemplate", "foo", 1, "2m"),
        ("BarTemplate", "bar", 2, "10m"),
    ])
}

fn sick(spec: Value) -> World {
    let mut world = World::new(spec, 3);
    world.break_node("w1");
    world.pass();
    world
}

fn timed_out(world: &World, index: usize) -> bool {
    world.entry("w1").unwrap().remediations.as_ref().unwrap()[index]
        .timed_out
        .is_some()
}

/// The timeline of the remediation contract, A.17.
#[test]
fn the_published_timeline() {
    let mut world = sick(two_steps());
    assert_eq!(world.names(), ["w1-foo"]);
    assert_eq!(world.seen.leases["w1"].duration, Some(secs(180)));
    let steps = world.run_until(at(119));
    assert!(
        steps
            .iter()
            .all(|step| matches!(step, Step::RenewLease { .. })),
        "{steps:?}"
    );
    world.now = at(120);
    let plan = world.pass();
    assert!(
        matches!(plan.steps.as_slice(), [Step::TimeOut { .. }]),
        "{:?}",
        plan.steps
    );
    assert!(timed_out(&world, 0));
    assert_eq!(plan.wake, Some(at(121)));
    world.now = at(121);
    let plan = world.pass();
    assert_eq!(creations(&plan), ["w1"]);
    assert_eq!(world.names(), ["w1-foo", "w1-bar"], "the first stays");
    assert_eq!(world.seen.leases["w1"].duration, Some(secs(660)));
    assert_eq!(
        world
            .entry("w1")
            .unwrap()
            .remediations
            .as_ref()
            .unwrap()
            .len(),
        2
    );
    world.run_until(at(121 + 600));
    assert!(timed_out(&world, 1));
    let plan = world.pass();
    assert!(plan.steps.is_empty());
    assert!(
        plan.notices
            .keys()
            .any(|topic| topic.reason == "NoTemplateLeft")
    );
    assert!(reason(&world).contains("no template is left"));
    world.heal_node("w1");
    world.pass();
    assert!(
        world.names().is_empty() && world.seen.leases.is_empty() && world.entry("w1").is_none()
    );
}

/// While a health check is paused its leases are kept; their age is no fault of the next step.
#[test]
fn a_step_after_a_long_pause_has_its_whole_time() {
    let mut world = sick(two_steps());
    Arc::make_mut(&mut world.seen.check).pause_requests = vec!["upgrade".to_owned()];
    world.run_until(at(4000));
    assert_eq!(world.names(), ["w1-foo"]);
    Arc::make_mut(&mut world.seen.check).pause_requests.clear();
    world.run_until(at(4000 + 599));
    assert_eq!(world.names(), ["w1-foo", "w1-bar"]);
    assert!(timed_out(&world, 0) && !timed_out(&world, 1));
}

/// 7.7: a template is known by its namespace, too.
#[test]
fn two_templates_of_one_name_are_two_steps() {
    let mut spec = escalating(&[
        ("FooTemplate", "foo", 1, "2m"),
        ("FooTemplate", "foo", 2, "2m"),
    ]);
    spec["escalatingRemediations"][1]["remediationTemplate"]["namespace"] = json!("elsewhere");
    let mut world = sick(spec);
    world.now = at(120);
    world.pass();
    world.now = at(121);
    let plan = world.pass();
    let [Step::Create(creation)] = plan.steps.as_slice() else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(creation.template.namespace, "elsewhere");
    let entries = world.entry("w1").unwrap().remediations.clone().unwrap();
    let timed_out: Vec<bool> = entries.iter().map(|one| one.timed_out.is_some()).collect();
    assert_eq!(timed_out, [true, false]);
}

#[test]
fn failure_ends_a_step_at_once_but_only_when_escalating() {
    let mut world = sick(two_steps());
    world.advance(5);
    world.edit_remediation("w1-foo", |one| one.succeeded = Some(Status::False));
    let plan = world.pass();
    assert!(matches!(plan.steps.as_slice(), [Step::TimeOut { .. }]));
    assert_eq!(plan.wake, Some(at(6)));

    let mut world = sick(spec());
    world.advance(5);
    world.edit_remediation("w1-foo", |one| one.succeeded = Some(Status::False));
    assert!(world.pass().steps.is_empty());
}

/// S8.
#[test]
fn a_successful_remediator_is_never_told_to_stop() {
    let mut world = sick(two_steps());
    world.edit_remediation("w1-foo", |one| one.succeeded = Some(Status::True));
    world.now = at(120);
    let plan = world.pass();
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    assert!(timed_out(&world, 0), "the next step comes all the same");
    world.now = at(121);
    assert_eq!(creations(&world.pass()), ["w1"]);
    assert!(
        world
            .seen
            .remediations
            .iter()
            .all(|one| one.timed_out.is_none())
    );
}

/// S9: as long as the annotation could not be written, nothing is recorded and no step follows.
#[test]
fn the_annotation_comes_before_the_record() {
    let mut world = sick(two_steps());
    world.now = at(130);
    let plan = world.plan();
    assert!(matches!(plan.steps.as_slice(), [Step::TimeOut { .. }]));
    let entry = &plan.status.unhealthy_nodes.as_ref().unwrap()[0];
    assert!(entry.remediations.as_ref().unwrap()[0].timed_out.is_none());
    // The annotation was written, then the process died before the status.
    world.edit_remediation("w1-foo", |one| one.timed_out = Some(at(130).to_string()));
    world.advance(60);
    let plan = world.plan();
    assert!(
        plan.steps.is_empty(),
        "neither a second annotation nor the next step"
    );
    let entry = &plan.status.unhealthy_nodes.as_ref().unwrap()[0];
    let recorded = entry.remediations.as_ref().unwrap()[0].timed_out.clone();
    assert_eq!(recorded.unwrap().0, at(130));
    world.pass();
    assert_eq!(creations(&world.pass()), ["w1"]);
}

#[test]
fn a_single_template_is_given_up_when_its_lease_is_overdue() {
    let mut world = sick(spec());
    let steps = world.run_until(at(1800));
    assert!(
        steps
            .iter()
            .all(|step| matches!(step, Step::RenewLease { .. })),
        "{steps:?}"
    );
    assert!(
        steps.len() >= 4,
        "renewed before it could run out: {}",
        steps.len()
    );
    let steps = world.run_until(at(1802));
    assert!(
        matches!(
            steps.as_slice(),
            [Step::TimeOut { .. }, Step::ReleaseLease { .. }]
        ),
        "{steps:?}"
    );
    assert!(timed_out(&world, 0));
    assert!(reason(&world).contains("did not help in time"));
    assert!(world.run_until(at(90_000)).is_empty());
    assert_eq!(world.names(), ["w1-foo"]);
}

/// S9: the lease tells that the remediation is overdue, so it outlives an annotation that could not
/// be written.
#[test]
fn an_overdue_remediation_is_told_to_stop_however_often_that_fails() {
    let mut world = sick(spec());
    world.run_until(at(1800));
    for second in 1801..1900 {
        world.now = at(second);
        let plan = world.plan();
        assert!(
            matches!(plan.steps.as_slice(), [Step::TimeOut { .. }]),
            "{:?}",
            plan.steps
        );
    }
    // A remediator that has succeeded is not told; then the record is what the lease waits for.
    world.edit_remediation("w1-foo", |one| one.succeeded = Some(Status::True));
    assert!(world.plan().steps.is_empty());
    world.pass();
    assert!(timed_out(&world, 0));
    let plan = world.pass();
    assert!(
        matches!(plan.steps.as_slice(), [Step::ReleaseLease { .. }]),
        "{:?}",
        plan.steps
    );
    assert!(world.pass().steps.is_empty());
}

#[test]
fn leases_never_run_out_while_a_remediation_is_at_work() {
    let mut world = sick(two_steps());
    for second in 1..=720 {
        world.now = at(second);
        world.pass();
        let held = &world.seen.leases["w1"];
        let end = medik8s_core::time::after(held.renewed.unwrap(), held.duration.unwrap());
        assert!(end > world.now, "at {second}");
    }
}

#[test]
fn a_lease_of_an_earlier_node_of_the_name_is_rewritten_at_once() {
    let mut world = sick(spec());
    assert!(world.plan().steps.is_empty());
    world.edit_node("w1", |node| node.uid = "reborn".to_owned());
    let plan = world.pass();
    assert!(
        matches!(plan.steps.as_slice(), [Step::RenewLease { node_uid, .. }] if node_uid == "reborn")
    );
}

#[test]
fn no_lease_is_taken_for_a_remediation_that_lost_it() {
    let mut world = sick(spec());
    world.seen.leases.clear();
    world.advance(700);
    assert!(world.pass().steps.is_empty());
}

#[test]
fn a_remediation_that_was_deleted_by_hand_is_created_again_and_starts_afresh() {
    let mut world = sick(two_steps());
    world.now = at(100);
    world.remove("w1-foo");
    assert_eq!(creations(&world.pass()), ["w1"]);
    let entries = world.entry("w1").unwrap().remediations.clone().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].started.0, at(100));
    world.now = at(219);
    assert!(
        world
            .pass()
            .steps
            .iter()
            .all(|step| matches!(step, Step::RenewLease { .. }))
    );
    world.now = at(220);
    assert!(
        world
            .pass()
            .steps
            .iter()
            .any(|step| matches!(step, Step::TimeOut { .. }))
    );
}

#[test]
fn a_step_that_timed_out_is_not_repeated_when_its_remediation_is_deleted() {
    let mut world = sick(two_steps());
    world.run_until(at(125));
    assert_eq!(world.names(), ["w1-foo", "w1-bar"]);
    world.remove("w1-foo");
    assert!(creations(&world.pass()).is_empty());
    assert_eq!(world.names(), ["w1-bar"]);
}

#[test]
fn a_relapse_waits_for_the_deletion_to_end() {
    let mut world = sick(two_steps());
    world.edit_remediation("w1-foo", |one| one.deleting_since = Some(at(1)));
    world.advance(1000);
    let plan = world.pass();
    assert!(creations(&plan).is_empty());
    assert!(
        !plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::TimeOut { .. }))
    );
    assert!(reason(&world).contains("is being deleted since"));
    world.remove("w1-foo");
    assert_eq!(creations(&world.pass()), ["w1"]);
    // The new incident has its own time, however long the old one took to end.
    let steps = world.run_until(at(1000 + 119));
    assert!(
        !steps
            .iter()
            .any(|step| matches!(step, Step::TimeOut { .. })),
        "{steps:?}"
    );
}

/// S5.
#[test]
fn soon_unhealthy_nodes_keep_what_they_have() {
    let mut world = sick(two_steps());
    // Unknown became False: another rule, whose time starts anew.
    world.now = at(119);
    world.set_ready("w1", "False", at(119));
    world.now = at(125);
    let plan = world.pass();
    assert!(
        plan.steps
            .iter()
            .all(|step| matches!(step, Step::RenewLease { .. })),
        "{:?}",
        plan.steps
    );
    assert_eq!(world.names(), ["w1-foo"]);
    assert!(world.entry("w1").is_some());
    assert!(!timed_out(&world, 0));
    world.now = at(130);
    world.pass();
    world.run_until(at(135));
    assert_eq!(world.names(), ["w1-foo", "w1-bar"]);
}

#[test]
fn entries_of_older_releases_without_a_template_name_count() {
    let mut world = sick(two_steps());
    let list = world.seen.status.unhealthy_nodes.as_mut().unwrap();
    list[0].remediations.as_mut().unwrap()[0].template_name = None;
    list[0].remediations.as_mut().unwrap()[0].timed_out = Some(stored_time(at(5)));
    world.edit_remediation("w1-foo", |one| one.timed_out = Some(at(5).to_string()));
    assert_eq!(creations(&world.pass()), ["w1"]);
    assert_eq!(world.names(), ["w1-foo", "w1-bar"]);
}
