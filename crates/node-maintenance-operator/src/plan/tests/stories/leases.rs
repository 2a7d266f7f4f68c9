//! Leases that somebody else holds, takes away or keeps us from renewing.

use super::*;

#[test]
fn a_lease_of_somebody_else_is_waited_for() {
    let mut world = with_pods(1);
    world.steal();
    world.create("m");
    world.run_for(60);
    assert_eq!(
        world.node.as_ref().unwrap(),
        &bare_node("node-0"),
        "untouched"
    );
    let m = world.get("m");
    assert_eq!(
        (m.phase(), m.lease_failures(), &m.record),
        (Phase::Running, 0, &None)
    );
    assert!(error(&world, "m").contains("failed to obtain a lease that is not owned by us"));
    let asked = kinds(&world)
        .iter()
        .filter(|kind| **kind == "lease")
        .count();
    assert_eq!(asked, 7, "every 10 s");
    world.holder = Holder::Nobody;
    world.run_for(10);
    assert!(world.drain.is_some());
    assert_eq!(error(&world, "m"), "");
}

#[test]
fn deleting_what_only_waited_touches_neither_node_nor_lease() {
    let mut world = with_pods(1);
    world.steal();
    world.node().is_unschedulable = true;
    world.create("m");
    world.run_for(20);
    world.delete("m");
    world.reconcile();
    assert!(world.maintenances.is_empty());
    assert!(
        world.node().is_unschedulable,
        "the cordon belongs to somebody else"
    );
    assert_eq!(
        (world.told(nmo::EVENT_UNCORDON), world.holder),
        (0, Holder::Other)
    );
}

#[test]
fn a_stolen_lease_stops_the_drain_and_hands_back_after_more_than_30_s() {
    let mut world = with_pods(4);
    world.create("m");
    world.reconcile();
    world.evict_one();
    world.pass_time(1);
    world.steal();
    let stolen = world.now;
    world.run_for(35);
    assert!(world.drain.is_none(), "evictions stop");
    assert!(error(&world, "m").contains("failed to extend a lease that used to be owned by us"));
    while world.get("m").phase() != Phase::Failed {
        assert!(world.node().has_drain_taint || world.get("m").lease_failures() > 3);
        world.run_for(1);
    }
    assert!(world.now.as_second() - stolen.as_second() > 30);
    assert_eq!(world.node.as_ref().unwrap(), &bare_node("node-0"));
    assert_eq!(
        error(&world, "m"),
        "maintenance failed: lease could not be extended after 4 attempts"
    );
    assert_eq!((world.told("Failed"), &world.holder), (1, &Holder::Other));
    assert_eq!(world.get("m").record, None);
    // Terminal, whatever happens to the lease.
    world.steps.clear();
    world.holder = Holder::Nobody;
    world.die();
    world.run_for(3600);
    assert_eq!(kinds(&world), Vec::<&str>::new());
    // Its new holder cordons the node; deleting the object must not undo that.
    world.node().is_unschedulable = true;
    world.delete("m");
    world.reconcile();
    assert!(world.maintenances.is_empty() && world.node().is_unschedulable);
}

#[test]
fn a_clock_that_is_set_back_stalls_nothing() {
    let mut world = with_pods(1);
    world.steal();
    world.create("m");
    world.run_for(15);
    world.pass_time(-3600);
    world.holder = Holder::Nobody;
    world.run_for(10);
    assert!(world.drain.is_some(), "the wait for the lease");
    world.pass_time(-3600);
    world.pods.insert("p1".to_owned());
    world.steps.clear();
    world.reconcile();
    assert!(kinds(&world).contains(&"status"), "{:?}", kinds(&world));
}

#[test]
fn a_lease_that_comes_back_before_the_fifth_look_costs_nothing() {
    let mut world = with_pods(4);
    world.create("m");
    world.reconcile();
    world.steal();
    world.run_for(60);
    assert_eq!(world.get("m").lease_failures(), 3);
    world.holder = Holder::Nobody;
    world.run_for(10);
    assert_eq!(world.get("m").lease_failures(), 0);
    assert!(world.drain.is_some());
    assert_eq!((world.told("Failed"), error(&world, "m").as_str()), (0, ""));
}

#[test]
fn a_stolen_lease_is_noticed_also_when_nothing_was_evicted_yet() {
    let mut world = with_pods(2);
    world.create("m");
    world.reconcile();
    assert_eq!(world.get("m").status.drain_progress, None);
    world.steal();
    world.run_for(120);
    assert_eq!(world.get("m").phase(), Phase::Failed);
    assert_eq!(
        world.node.as_ref().unwrap(),
        &bare_node("node-0"),
        "not stranded"
    );
}

#[test]
fn must_not_hand_back_because_of_api_errors() {
    let mut world = with_pods(2);
    world.create("m");
    world.reconcile();
    for _ in 0..50 {
        world.memory.lease = crate::facts::LeaseView::Unchecked;
        world.trouble = Trouble::FailAfter(0);
        world.run_for(5);
        world.pass_time(30);
        assert_ne!(world.get("m").phase(), Phase::Failed);
        assert!(world.node().has_drain_taint);
    }
    world.run_for(20);
    assert_eq!(world.get("m").lease_failures(), 0);
}

#[test]
fn a_lease_that_cannot_be_renewed_stops_the_drain_when_it_ends() {
    let mut world = with_pods(2);
    world.create("m");
    world.reconcile();
    assert!(world.drain.is_some());
    for minute in 1..70 {
        world.pass_time(60);
        world.trouble = Trouble::FailAfter(u8::from(minute == 60));
        world.reconcile();
        assert_eq!(world.drain.is_some(), minute < 60, "minute {minute}");
    }
    assert!(world.node().has_drain_taint, "the node is not handed back");
    world.trouble = Trouble::None;
    world.reconcile();
    assert!(world.drain.is_some());
}

#[test]
fn a_restart_must_not_shorten_the_time_before_handing_back() {
    let mut world = with_pods(2);
    world.create("m");
    world.reconcile();
    world.steal();
    world.pass_time(36);
    let noticed = world.now;
    while world.get("m").phase() != Phase::Failed {
        world.die();
        world.reconcile();
        world.pass_time(1);
    }
    assert!(
        world.now.as_second() - noticed.as_second() > 27,
        "{}",
        world.now
    );
}
