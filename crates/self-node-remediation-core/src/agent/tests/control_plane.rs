//! Control-plane nodes (section 17 as overruled).

use super::super::*;
use super::world::*;
use crate::table::Role;

fn world(masters: &[&str], workers: &[&str]) -> World {
    let mut nodes = vec![listed("x", MASTER)];
    nodes.extend(masters.iter().map(|name| listed(name, MASTER)));
    nodes.extend(workers.iter().map(|name| listed(name, WORKER)));
    let mut world = World::new(settings(), nodes);
    world.start();
    world.run(secs(60));
    world
}

#[test]
fn it_announces_both_electorates() {
    let world = world(&["m1", "m2"], &["a"]);
    let said = world.announced.unwrap();
    assert_eq!((said.workers, said.cp, said.bound), (1, 2, Some(90)));
}

#[test]
fn an_etcd_outage_with_the_workers_switched_off_resets_no_control_plane_node() {
    let mut world = world(&["m1", "m2"], &["a", "b"]);
    world.cut();
    for name in ["m1", "m2"] {
        world.peers.insert(node(name), Peer::ApiError);
    }
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
}

#[test]
fn reaching_a_control_plane_peer_extends_nothing() {
    // canReach: one of two control-plane peers answers "API error".
    let mut world = world(&["m1", "m2"], &["a", "b"]);
    let t_ok = world.state().last_direct_proof().unwrap();
    world.cut();
    world.peers.insert(node("m1"), Peer::ApiError);
    world.run(secs(600));
    assert!(world.reset_at.unwrap() <= t_ok.plus(secs(90 + 10)));
}

#[test]
fn failed_diagnostics_extend_nothing() {
    let mut world = world(&["m1", "m2"], &["a", "b"]);
    let t_ok = world.state().last_direct_proof().unwrap();
    world.api = Api::Down;
    world.all_peers(Peer::ApiError);
    world.diagnostics = false;
    world.run(secs(600));
    let reset = world.reset_at.unwrap();
    assert!(reset > t_ok.plus(secs(90)) && reset <= t_ok.plus(secs(90 + 10)));
}

#[test]
fn control_plane_peers_are_asked_below_the_threshold() {
    let mut world = world(&["m1"], &["a"]);
    world.cut();
    world.peers.insert(node("m1"), Peer::Unhealthy);
    world.run(secs(25));
    assert_eq!(world.state().fencing(), Some(&Reason::PeerSaysUnhealthy));
    for (_, command) in &world.log {
        if let Command::AskPeers { nodes, .. } = command {
            assert_eq!(nodes, &[node("m1")], "workers are not asked yet");
        }
    }
}

#[test]
fn a_single_node_cluster_never_fences_itself() {
    let mut world = World::new(
        settings(),
        vec![listed(
            "x",
            Role {
                control_plane: true,
                worker: true,
            },
        )],
    );
    world.start();
    world.run(secs(60));
    assert_eq!(world.announced.as_ref().map(|said| said.bound), Some(None));
    world.cut();
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
}

#[test]
fn compact_nodes_ask_each_name_once() {
    let both = Role {
        control_plane: true,
        worker: true,
    };
    let mut world = World::new(
        settings(),
        vec![listed("x", both), listed("m1", both), listed("m2", both)],
    );
    world.start();
    world.run(secs(60));
    world.api = Api::Down;
    world.all_peers(Peer::ApiError);
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
    for (_, command) in &world.log {
        if let Command::AskPeers { nodes, .. } = command {
            assert_eq!(nodes.len(), 2);
        }
    }
    world.cut();
    world.run(secs(300));
    assert!(world.reset_at.is_some());
}
