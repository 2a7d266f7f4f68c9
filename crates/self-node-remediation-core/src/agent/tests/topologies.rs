//! Small clusters: what happens to one node that is dead, cut off, or without API like everybody else, by the rules of
//! agent and manager together. The README has this table.

use std::collections::BTreeSet;

use medik8s_core::conditions::Status;

use super::super::*;
use super::world::*;
use crate::release::{self, AgentPods, By, Decision, Hold, OrderTimes, Peer as Asked, Seen};
use crate::table::Role;

const BOTH: Role = Role {
    control_plane: true,
    worker: true,
};

/// The other nodes, of which `dead` do not answer.
fn cluster(role: Role, others: &[Role]) -> World {
    let mut nodes = vec![listed("x", role)];
    for (number, role) in others.iter().enumerate() {
        nodes.push(listed(&format!("n{number}"), *role));
    }
    let mut settings = settings();
    // A fresh install.
    settings.watchdog_timeout = Some(20);
    let mut world = World::new(settings, nodes);
    world.device.as_mut().unwrap().timeout = 60;
    world.start();
    world.run(secs(300));
    world
}

/// How long after the order the manager frees the workload of `x`, if all others but `dead` of them acknowledge.
#[expect(
    clippy::unwrap_in_result,
    reason = "an error of the fixture ends the test"
)]
fn freed(world: &World, dead: usize) -> Result<u64, Hold> {
    let announced = world.announced.clone().unwrap();
    let node = release::Node {
        name: node("x"),
        ready: Status::Unknown,
        kubelet_boot: Some(announced.boot.clone()),
        announced: Some(announced.clone()),
        reboot_capable: true,
        published_watchdog: None,
        last_words: None,
        control_plane: false,
        agent: AgentPods::Ours,
    };
    let peers: Vec<Asked> = world
        .nodes
        .iter()
        .map(|listed| Asked {
            listed: listed.clone(),
            our_agent: true,
        })
        .collect();
    let acknowledged: BTreeSet<NodeName> = world
        .nodes
        .iter()
        .map(|listed| listed.name.clone())
        .filter(|name| name.as_str() != "x")
        .skip(dead)
        .collect();
    let terms = release::terms(&node, &world.settings.timing, &[], 3, None)
        .unwrap()
        .unwrap();
    let begin = wall(world.now);
    let order = order("u1", Some("boot-1"));
    let mut times = OrderTimes::begin(order.uid.clone(), announced.boot.clone(), begin)
        .with_bound(Some(&announced));
    for second in 0..1_000 {
        let now = wall(world.now.plus(secs(second)));
        loop {
            let seen = Seen {
                remediation: &order,
                assumed_rebooted: Some(begin.checked_add(terms.wait).unwrap()),
                times: Some(&times),
                node: &node,
                peers: &peers,
                acknowledged: &acknowledged,
                asked: true,
                storm: false,
                calm_since: begin,
                watched_since: begin,
                guard_wait: terms.wait,
                kubelet_seen: None,
            };
            match release::decide(&seen, now).unwrap() {
                Decision::Record(recorded) => times = recorded,
                Decision::Release(By::Time) => return Ok(second),
                Decision::Wait { .. } => break,
                Decision::Hold(hold) => return Err(hold),
                other @ (Decision::Release(_)
                | Decision::Adopt(_)
                | Decision::Cancel
                | Decision::Ask(_)) => panic!("{other:?}"),
            }
        }
    }
    panic!("neither freed nor held");
}

/// How long after the cut the node is reset.
fn reset_when_cut(role: Role, others: &[Role]) -> Option<u64> {
    let mut world = cluster(role, others);
    let cut = world.now;
    world.cut();
    world.run(secs(1_000));
    Some(world.reset_at?.since(cut).as_secs())
}

/// Whether a node is reset when nobody has the API and `dead` others are silent.
fn reset_in_an_outage(role: Role, others: &[Role], dead: usize) -> bool {
    let mut world = cluster(role, others);
    world.api = Api::Down;
    world.all_peers(Peer::ApiError);
    for number in 0..dead {
        world
            .peers
            .insert(node(&format!("n{number}")), Peer::Silent);
    }
    world.run(secs(1_000));
    world.reset_at.is_some()
}

/// What is told about one node of a cluster.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// Seconds after the order, or why it is held.
    freed: Result<u64, &'static str>,
    /// The same if one other node is lost as well.
    freed_with_another_lost: Result<u64, &'static str>,
    /// It resets itself when it is cut off.
    resets_when_cut: bool,
    /// It resets itself in an outage of the API for all.
    resets_in_an_outage: bool,
    /// The same if one other node is lost as well.
    resets_in_an_outage_with_another_lost: bool,
}

fn row(role: Role, others: &[Role]) -> Row {
    let world = cluster(role, others);
    let named = |freed: Result<u64, Hold>| {
        freed.map_err(|hold| match hold {
            Hold::NoBound => "no electorate",
            Hold::Quorum(_) => "no quorum",
            other @ (Hold::NotArmed
            | Hold::NoAnnouncement
            | Hold::NoBootId
            | Hold::Storm
            | Hold::NoTime
            | Hold::NoRecordedBoot
            | Hold::OldAgentAndDeleted) => panic!("{other:?}"),
        })
    };
    let cut = reset_when_cut(role, others);
    let freed_at = named(freed(&world, 0));
    // Whoever is freed by time has been reset before that; whoever cannot fence itself is never freed by time.
    assert_eq!(cut.is_some(), freed_at.is_ok(), "{role:?} {others:?}");
    if let (Some(cut), Ok(freed_at)) = (cut, freed_at) {
        assert!(
            cut < freed_at,
            "reset after {cut} s, freed after {freed_at} s"
        );
    }
    Row {
        freed: freed_at,
        freed_with_another_lost: named(freed(&world, 1)),
        resets_when_cut: cut.is_some(),
        resets_in_an_outage: reset_in_an_outage(role, others, 0),
        resets_in_an_outage_with_another_lost: reset_in_an_outage(role, others, 1),
    }
}

fn many(role: Role, count: usize, more: &[Role]) -> Vec<Role> {
    let mut all = vec![role; count];
    all.extend(more);
    all
}

/// Freed by time, whoever else is lost.
const SAFE: Row = Row {
    freed: Ok(140),
    freed_with_another_lost: Ok(140),
    resets_when_cut: true,
    resets_in_an_outage: false,
    resets_in_an_outage_with_another_lost: false,
};
/// Too few workers to decide by.
const HELD: Row = Row {
    freed: Err("no electorate"),
    freed_with_another_lost: Err("no electorate"),
    resets_when_cut: false,
    ..SAFE
};

#[test]
fn one_node() {
    assert_eq!(row(BOTH, &[]), HELD);
}

#[test]
fn two_workers() {
    // The other worker is the whole electorate.
    let pair = Row {
        freed_with_another_lost: Err("no quorum"),
        resets_in_an_outage_with_another_lost: true,
        ..SAFE
    };
    assert_eq!(row(WORKER, &[WORKER]), pair);
    assert_eq!(row(WORKER, &[WORKER, MASTER]), pair);
    // The control-plane node knows two workers, and no other control-plane node.
    let master = Row {
        resets_in_an_outage_with_another_lost: true,
        ..SAFE
    };
    assert_eq!(row(MASTER, &[WORKER, WORKER]), master);
}

#[test]
fn three_compact_nodes() {
    let compact = Row {
        resets_in_an_outage_with_another_lost: true,
        ..SAFE
    };
    assert_eq!(row(BOTH, &[BOTH, BOTH]), compact);
}

#[test]
fn three_control_plane_nodes_and_one_worker() {
    assert_eq!(row(WORKER, &many(MASTER, 3, &[])), HELD);
    let lost_worker = Row {
        freed_with_another_lost: Err("no quorum"),
        ..SAFE
    };
    assert_eq!(
        row(MASTER, &many(WORKER, 1, &[MASTER, MASTER])),
        lost_worker
    );
}

#[test]
fn three_control_plane_nodes_and_two_workers() {
    let worker = Row {
        freed_with_another_lost: Err("no quorum"),
        resets_in_an_outage_with_another_lost: true,
        ..SAFE
    };
    assert_eq!(row(WORKER, &many(WORKER, 1, &[MASTER; 3])), worker);
    assert_eq!(row(MASTER, &many(WORKER, 2, &[MASTER; 2])), SAFE);
}

#[test]
fn three_control_plane_nodes_and_three_workers() {
    let worker = Row {
        resets_in_an_outage_with_another_lost: true,
        ..SAFE
    };
    assert_eq!(row(WORKER, &many(WORKER, 2, &[MASTER; 3])), worker);
    assert_eq!(row(MASTER, &many(WORKER, 3, &[MASTER; 2])), SAFE);
}

/// From four workers on, the loss of one more changes nothing.
#[test]
fn four_workers() {
    assert_eq!(row(WORKER, &[WORKER; 3]), SAFE);
}
