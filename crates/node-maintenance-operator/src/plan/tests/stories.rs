//! The timelines of section 17, and the rows of 5.2 to 5.4 and 8, one by one.

use super::{
    world::{Holder, Trouble, World},
    *,
};
use crate::facts::PreviousState;

mod leases;

fn with_pods(count: usize) -> World {
    let mut world = World::new();
    world.pods = (0..count).map(|n| format!("p{n}")).collect();
    world
}

fn error(world: &World, name: &str) -> String {
    world
        .get(name)
        .status
        .last_error
        .clone()
        .unwrap_or_default()
}

/// A maintenance with its node drained.
fn maintained() -> World {
    let mut world = with_pods(1);
    world.create("m");
    world.reconcile();
    world.evict_one();
    world.reconcile();
    assert_eq!(world.get("m").phase(), Phase::Succeeded);
    world.steps.clear();
    world
}

/// The kinds of the steps so far.
fn kinds(world: &World) -> Vec<&'static str> {
    world
        .steps
        .iter()
        .map(|step| match step {
            Step::AddFinalizer { .. } => "finalizer",
            Step::CountPods => "count",
            Step::ReadNode => "read",
            Step::RequestLease { .. } => "lease",
            Step::CheckQuorum => "quorum",
            Step::Record { .. } => "record",
            Step::EnterNode { .. } => "enter",
            Step::StartDrain { .. } => "drain",
            Step::StopDrain => "stop",
            Step::FinishDrain { .. } => "finish",
            Step::WriteStatus { .. } => "status",
            Step::Tell { .. } => "tell",
            Step::LeaveNode { .. } => "leave",
            Step::ReleaseLease => "release",
            Step::HandOver { .. } => "hand over",
            Step::DropRecord { .. } => "drop record",
            Step::RemoveFinalizer { .. } => "unfinalize",
        })
        .collect()
}

#[test]
fn a_normal_worker() {
    let mut world = with_pods(3);
    world.create("m");
    world.reconcile();
    assert_eq!(
        kinds(&world),
        [
            "finalizer",
            "count",
            "status",
            "lease",
            "record",
            "enter",
            "drain"
        ]
    );
    let status = &world.get("m").status;
    assert_eq!(
        (status.total_pods, status.eviction_pods),
        (Some(3), Some(3))
    );
    assert_eq!(
        (world.get("m").phase(), status.drain_progress),
        (Phase::Running, None)
    );
    world.evict_one();
    world.pass_time(2);
    world.reconcile();
    assert_eq!(world.get("m").status.drain_progress, Some(33));
    world.evict_one();
    world.evict_one();
    world.reconcile();
    assert_eq!(world.get("m").phase(), Phase::Succeeded);
    assert_eq!(world.get("m").status.drain_progress, Some(100));
    assert_eq!(
        (world.told("Succeeded"), world.told(nmo::EVENT_BEGIN)),
        (1, 1)
    );
    world.delete("m");
    world.steps.clear();
    world.reconcile();
    assert_eq!(kinds(&world), ["leave", "release", "unfinalize"]);
    assert_eq!(
        (
            world.told(nmo::EVENT_UNCORDON),
            world.told(nmo::EVENT_REMOVED)
        ),
        (1, 1)
    );
    assert_eq!(world.node.as_ref().unwrap(), &bare_node("node-0"));
    assert_eq!(world.holder, Holder::Nobody);
}

#[test]
fn steady_state_only_renews_the_lease() {
    let mut world = maintained();
    world.run_for(2 * 3600);
    assert_eq!(kinds(&world), ["lease"; 4], "once in half an hour");
    assert_eq!(world.told("Succeeded"), 1);
}

#[test]
fn a_new_reason_after_success_is_acknowledged_once() {
    let mut world = maintained();
    world.maintenances[0].generation = Some(2);
    world.run_for(60);
    assert_eq!(kinds(&world), ["status"]);
    let status = &world.get("m").status;
    assert_eq!(status.observed_generation, Some(2));
    let conditions = status.conditions.as_ref().unwrap();
    assert_eq!(conditions[0].observed_generation, Some(2));
    assert_eq!(conditions[0].status, "True");
}

#[test]
fn statuses_are_at_most_one_in_two_seconds_while_pods_go() {
    let mut world = with_pods(50);
    world.create("m");
    world.reconcile();
    world.steps.clear();
    for _ in 0..40 {
        world.evict_one();
        world.now += jiff::SignedDuration::from_millis(100);
        world.reconcile();
    }
    assert_eq!(kinds(&world), ["status", "status"]);
}

#[test]
fn pods_that_appear_after_success_stay() {
    let mut world = maintained();
    world.pods.insert("node-debugger".to_owned());
    world.run_for(60);
    assert_eq!(kinds(&world), Vec::<&str>::new());
    assert_eq!(world.get("m").phase(), Phase::Succeeded);
}

#[test]
fn an_uncordon_by_hand_is_undone_and_the_node_drained_again() {
    let mut world = maintained();
    world.node().is_unschedulable = false;
    world.pods.insert("scheduled".to_owned());
    world.pass_time(100);
    world.reconcile();
    assert_eq!(kinds(&world), ["lease", "enter", "drain", "status"]);
    assert_eq!(world.get("m").phase(), Phase::Running);
    world.evict_one();
    world.reconcile();
    assert_eq!(world.get("m").phase(), Phase::Succeeded);
}

#[test]
fn an_uncordon_in_the_middle_of_a_drain_begins_it_anew() {
    let mut world = World::new();
    world.create("m");
    world.pods.insert("a".to_owned());
    world.reconcile();
    world.steps.clear();
    world.node().is_unschedulable = false;
    world.pass_time(10);
    world.reconcile();
    assert_eq!(kinds(&world), ["lease", "stop", "enter", "drain"]);
}

#[test]
fn a_label_removed_by_hand_comes_back_without_a_drain() {
    let mut world = maintained();
    world.node().exclude_label = None;
    world.pods.insert("node-debugger".to_owned());
    world.pass_time(100);
    world.reconcile();
    assert_eq!(kinds(&world), ["lease", "enter"]);
}

#[test]
fn a_missing_node_fails_once_and_is_waited_for() {
    let mut world = World::new();
    world.delete_node();
    world.create("m");
    world.run_for(3600);
    assert_eq!((world.told(nmo::EVENT_BEGIN), world.told("Failed")), (1, 1));
    assert_eq!(error(&world, "m"), "nodes \"n\" not found");
    assert_eq!((world.get("m").phase(), world.wake), (Phase::Failed, None));
    world.register_node();
    world.run_for(10);
    assert_eq!(world.get("m").phase(), Phase::Succeeded);
}

#[test]
fn a_node_that_goes_and_comes_back_is_put_into_maintenance_again() {
    let mut world = maintained();
    world.delete_node();
    world.run_for(100);
    assert_eq!(
        (world.get("m").phase(), world.told("Failed")),
        (Phase::Failed, 1)
    );
    world.register_node();
    world.pods.insert("early".to_owned());
    world.steps.clear();
    world.reconcile();
    assert_eq!(kinds(&world), ["lease", "status", "enter", "drain"]);
    world.evict_one();
    world.reconcile();
    assert_eq!(world.get("m").phase(), Phase::Succeeded);
}

#[test]
fn a_maintenance_can_be_deleted_while_its_node_is_gone() {
    let mut world = maintained();
    world.delete_node();
    world.reconcile();
    world.delete("m");
    world.reconcile();
    assert!(world.maintenances.is_empty());
    assert_eq!(
        (
            world.told(nmo::EVENT_UNCORDON),
            world.told(nmo::EVENT_REMOVED)
        ),
        (0, 1)
    );
}

#[test]
fn the_older_of_two_counts_and_the_other_takes_over() {
    let mut world = with_pods(1);
    world.node().exclude_label = Some(excluded());
    world.had_label = true;
    world.create("a");
    world.pass_time(1);
    world.create("b");
    world.reconcile();
    world.evict_one();
    world.reconcile();
    assert_eq!(world.get("a").phase(), Phase::Succeeded);
    let b = world.get("b");
    assert_eq!(
        (b.phase(), b.has_finalizer, &b.record),
        (Phase::Failed, false, &None)
    );
    assert_eq!(
        error(&world, "b"),
        "invalid nodeName, a NodeMaintenance for node n already exists"
    );
    assert_eq!(world.told("Failed"), 1);
    world.delete("a");
    world.reconcile();
    assert_eq!(world.maintenances.len(), 1);
    assert!(
        world.node().is_unschedulable,
        "MUST NOT uncordon under the other"
    );
    assert_eq!(world.told(nmo::EVENT_UNCORDON), 0);
    let b = world.get("b");
    assert_eq!(b.phase(), Phase::Succeeded);
    let before = PreviousState {
        unschedulable: false,
        exclude_from_remediation: true,
        exclude_label: None,
    };
    assert_eq!(
        b.record,
        Some(before),
        "what the node was like is handed over"
    );
    world.delete("b");
    world.reconcile();
    let node = world.node.as_ref().unwrap();
    assert!(!node.is_unschedulable && node.is_excluded());
}

#[test]
fn a_label_of_that_name_with_another_value_comes_back() {
    let mut world = with_pods(1);
    let before = Some("false".to_owned());
    world.node().exclude_label.clone_from(&before);
    world.create("m");
    world.reconcile();
    assert!(world.node().is_excluded());
    world.delete("m");
    world.reconcile();
    assert_eq!(world.node().exclude_label, before);
    assert!(world.maintenances.is_empty());
}

#[test]
fn deleting_a_refused_duplicate_changes_nothing() {
    let mut world = maintained();
    world.pass_time(1);
    world.create("z");
    world.reconcile();
    world.steps.clear();
    world.delete("z");
    world.reconcile();
    assert_eq!(kinds(&world), Vec::<&str>::new());
    assert!(world.node().is_unschedulable);
}

#[test]
fn what_an_ended_maintenance_remembers_is_not_taken_over() {
    let mut world = maintained();
    let mut kept = world.get("m").clone();
    world.delete("m");
    world.reconcile();
    (kept.is_deleting, kept.has_finalizer) = (true, false);
    world.maintenances.push(kept);
    world.node().is_unschedulable = true;
    world.create("n");
    world.reconcile();
    let record = world.get("n").record.as_ref().expect("a record");
    assert!(record.unschedulable, "the node was cordoned since");
}

#[test]
fn must_not_recordon_while_another_finalizer_keeps_the_object() {
    let mut world = maintained();
    let mut kept = world.get("m").clone();
    world.delete("m");
    world.reconcile();
    (kept.is_deleting, kept.has_finalizer) = (true, false);
    world.maintenances.push(kept);
    world.steps.clear();
    world.run_for(100);
    assert_eq!(kinds(&world), Vec::<&str>::new());
    assert_eq!(world.node.as_ref().unwrap(), &bare_node("node-0"));
}

#[test]
fn a_drain_is_stopped_before_the_node_is_handed_back() {
    let mut world = with_pods(5);
    world.create("m");
    world.reconcile();
    world.steps.clear();
    world.delete("m");
    world.reconcile();
    assert_eq!(kinds(&world), ["stop", "leave", "release", "unfinalize"]);
}

#[test]
fn a_drain_whose_object_vanished_is_stopped() {
    let mut world = with_pods(5);
    world.create("m");
    world.reconcile();
    world.maintenances.clear();
    world.steps.clear();
    world.reconcile();
    assert_eq!(kinds(&world), ["stop"]);
}

#[test]
fn a_cordon_that_was_there_before_is_kept_only_on_order() {
    for (restores, expected) in [(false, false), (true, true)] {
        let mut world = World::new();
        world.node().is_unschedulable = true;
        world.node().has_unschedulable_taint = true;
        world.create("m");
        world.maintenances[0].restores_cordon = restores;
        world.reconcile();
        world.delete("m");
        world.reconcile();
        let node = world.node.as_ref().unwrap();
        assert_eq!(
            (node.is_unschedulable, node.has_unschedulable_taint),
            (expected, expected)
        );
        assert!(!node.has_drain_taint);
    }
}

#[test]
fn objects_of_the_original_are_taken_over_in_any_phase() {
    for phase in ["Running", "Succeeded"] {
        let mut world = with_pods(2);
        world.create("m");
        world.maintenances[0].has_finalizer = true;
        world.maintenances[0].status.phase = Some(phase.to_owned());
        world.maintenances[0].status.total_pods = Some(9);
        world.maintenances[0].status.eviction_pods = Some(4);
        world.maintenances[0].status.last_error = Some("left by the original".to_owned());
        let node = world.node();
        (
            node.is_unschedulable,
            node.has_drain_taint,
            node.has_unschedulable_taint,
        ) = (true, true, true);
        node.exclude_label = Some(excluded());
        world.holder = Holder::Us;
        world.reconcile();
        while !world.pods.is_empty() {
            world.evict_one();
        }
        world.reconcile();
        assert_eq!(world.get("m").phase(), Phase::Succeeded, "{phase}");
        assert_eq!(world.told(nmo::EVENT_BEGIN), 0, "{phase}");
        assert_eq!(
            world.get("m").status.total_pods,
            Some(9),
            "not counted again"
        );
        assert_eq!(error(&world, "m"), "");
        assert_eq!(world.get("m").record, Some(PreviousState::default()));
        world.delete("m");
        world.reconcile();
        assert_eq!(world.node.as_ref().unwrap(), &bare_node("node-0"));
    }
}

#[test]
fn a_missing_node_of_the_original_is_not_told_again() {
    let mut world = World::new();
    world.delete_node();
    world.create("m");
    world.maintenances[0].has_finalizer = true;
    world.maintenances[0].status.phase = Some("Failed".to_owned());
    world.maintenances[0].status.last_error = Some("nodes \"n\" not found".to_owned());
    world.run_for(60);
    assert_eq!(world.told("Failed"), 0);
}

#[test]
fn etcd_is_asked_before_a_control_plane_node_of_openshift_is_touched() {
    let mut world = World::new();
    world.is_openshift = Some(true);
    world.quorum = false;
    world.node().is_control_plane = true;
    world.create("m");
    world.run_for(150);
    assert_eq!(
        kinds(&world)
            .iter()
            .filter(|kind| **kind == "quorum")
            .count(),
        3,
        "every minute"
    );
    assert!(error(&world, "m").contains("will violate etcd quorum"));
    assert!(!world.node().is_unschedulable);
    assert_eq!(world.get("m").record, None);
    world.quorum = true;
    world.run_for(60);
    assert_eq!(world.get("m").phase(), Phase::Succeeded);
    world.quorum = false;
    world.node().is_unschedulable = false;
    world.run_for(60);
    assert!(
        world.node().is_unschedulable,
        "not asked once it is in maintenance"
    );
}

#[test]
fn an_unknown_kind_of_cluster_is_waited_for_only_for_control_plane_nodes() {
    let mut world = World::new();
    world.is_openshift = None;
    world.create("m");
    world.reconcile();
    assert_eq!(world.get("m").phase(), Phase::Succeeded);
    let mut world = World::new();
    world.is_openshift = None;
    world.node().is_control_plane = true;
    world.create("m");
    world.run_for(5);
    assert!(!world.node().is_unschedulable);
    world.is_openshift = Some(false);
    world.run_for(5);
    assert!(world.node().is_unschedulable);
}

#[test]
fn load_balancers_are_left_only_on_order_and_only_our_label_goes() {
    let label = |world: &World| world.node.as_ref().unwrap().load_balancer_label;
    let mut world = maintained();
    assert_eq!(label(&world), LoadBalancerLabel::Absent);
    world.maintenances[0].leaves_load_balancers = true;
    let seen = world.seen(&std::collections::BTreeSet::new(), None);
    let next = next(&seen, world.now);
    assert!(
        matches!(
            next,
            Next::Do(Step::EnterNode {
                leaves_load_balancers: true,
                ..
            })
        ),
        "{next:?}"
    );
    world.node().load_balancer_label = LoadBalancerLabel::Foreign;
    world.reconcile();
    assert_eq!(
        kinds(&world),
        Vec::<&str>::new(),
        "somebody else's label is enough"
    );
}

#[test]
fn orders_that_cannot_be_read_stop_the_drain_but_not_the_maintenance() {
    let mut world = with_pods(2);
    world.create("m");
    world.maintenances[0].drain = Err("spec.drain.podSelector: bad".to_owned());
    world.run_for(60);
    assert_eq!(error(&world, "m"), "spec.drain.podSelector: bad");
    assert!(world.drain.is_none());
    world.maintenances[0].drain = Ok(crate::facts::DrainOrders::default());
    world.run_for(1);
    assert!(world.drain.is_some() && world.node().is_unschedulable);
}

#[test]
fn changed_orders_start_the_drain_anew() {
    let mut world = with_pods(2);
    world.create("m");
    world.reconcile();
    world.steps.clear();
    let orders = crate::facts::DrainOrders {
        grace_seconds: Some(5),
        ..crate::facts::DrainOrders::default()
    };
    world.maintenances[0].drain = Ok(orders);
    world.reconcile();
    assert_eq!(
        kinds(&world),
        ["stop", "lease", "drain"][..]
            .iter()
            .filter(|kind| **kind != "lease")
            .copied()
            .collect::<Vec<_>>()
    );
    assert_eq!(world.drain.as_ref().unwrap().1.grace_seconds, Some(5));
}

#[test]
fn what_the_node_was_like_survives_refused_duplicates_that_vanish() {
    let mut world = with_pods(1);
    world.node().exclude_label = Some(excluded());
    world.had_label = true;
    world.create("a");
    world.reconcile();
    world.pass_time(1);
    world.create("b");
    world.reconcile();
    world.steal();
    world.run_for(120);
    assert_eq!(world.get("a").phase(), Phase::Failed);
    assert!(world.node().has_drain_taint, "b names it still");
    world.delete("b");
    world.reconcile();
    world.delete("a");
    world.reconcile();
    assert!(world.maintenances.is_empty());
    assert!(!world.node().has_drain_taint && world.node().is_excluded());
}
