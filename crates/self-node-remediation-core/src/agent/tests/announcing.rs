//! Announce, read, act.

use super::super::*;
use super::world::*;
use crate::budget::Limits;
use crate::table::{Electorate, members};

fn armed(settings: Settings, peers: &[&str]) -> World {
    let mut nodes = vec![listed("x", WORKER)];
    nodes.extend(peers.iter().map(|name| listed(name, WORKER)));
    let mut world = World::new(settings, nodes);
    world.start();
    world.run(secs(60));
    world
}

#[test]
fn h02_the_device_is_opened_before_its_timeout_is_announced() {
    let mut world = World::with_workers(&["a"]);
    world.device.as_mut().unwrap().timeout = 60;
    world.start();
    world.run(secs(10));
    assert_eq!(world.announced.as_ref().map(|said| said.wd), Some(60));
    for (_, command) in &world.log {
        if let Command::PublishAnnouncement { announcement, .. } = command {
            assert!(
                !announcement.armed || announcement.wd == 60,
                "{announcement}"
            );
        }
    }
}

#[test]
fn a_configured_timeout_is_set_and_its_read_back_announced() {
    let mut world = World::with_workers(&["a"]);
    world.device.as_mut().unwrap().timeout = 60;
    world.device.as_mut().unwrap().least = 25;
    world.settings.watchdog_timeout = Some(20);
    world.start();
    world.run(secs(10));
    assert_eq!(world.announced.as_ref().map(|said| said.wd), Some(25));
}

#[test]
fn h02_a_longer_timeout_is_announced_before_it_is_set() {
    let mut world = armed(settings(), &["a"]);
    world.kill();
    world.settings.watchdog_timeout = Some(60);
    world.start();
    let before = world.log.len();
    world.run(secs(60));
    let log: Vec<&Command> = world.log[before..]
        .iter()
        .map(|(_, command)| command)
        .collect();
    let position =
        |wanted: &dyn Fn(&Command) -> bool| log.iter().position(|command| wanted(command)).unwrap();
    let announced = position(
        &|command| matches!(command, Command::PublishAnnouncement { announcement, .. } if announcement.wd == 60),
    );
    let set = position(&|command| matches!(command, Command::SetWatchdogTimeout(60)));
    let reads = log[announced..set]
        .iter()
        .filter(|command| matches!(command, Command::StartApiRead { .. }));
    assert!(announced < set && reads.count() >= 1, "announce, read, act");
    assert_eq!(world.device.unwrap().timeout, 60);
}

#[test]
fn h02_a_longer_timeout_is_not_set_while_its_announcement_is_open() {
    for api in [Api::Down, Api::Deaf] {
        let mut world = armed(settings(), &["a"]);
        world.all_peers(Peer::ApiError);
        world.kill();
        world.settings.watchdog_timeout = Some(60);
        world.api = api;
        world.start();
        world.run(secs(600));
        assert_eq!(world.device.unwrap().timeout, 10, "{api:?}");
    }
}

#[test]
fn a_shorter_timeout_is_set_first() {
    let mut world = World::with_workers(&["a"]);
    world.device.as_mut().unwrap().timeout = 60;
    world.start();
    world.run(secs(60));
    world.kill();
    world.settings.watchdog_timeout = Some(20);
    world.start();
    world.run(secs(10));
    assert_eq!(world.device.unwrap().timeout, 20);
    assert_eq!(world.announced.as_ref().map(|said| said.wd), Some(20));
}

#[test]
fn a_device_that_turns_out_slower_than_announced_cuts_the_permit() {
    let mut world = armed(settings(), &["a"]);
    let t_ok = world.state().last_direct_proof().unwrap();
    world.kill();
    world.device.as_mut().unwrap().timeout = 30;
    world.cut();
    world.start();
    world.run(secs(300));
    // Announced: reset by t_ok + 90 + 2 x 10. With 30 s twice, feeding ends 40 s earlier.
    assert!(world.reset_at.unwrap() <= t_ok.plus(secs(90 + 2 * 10)));
}

fn limits(interval: u64) -> Timing {
    Timing::new(Limits {
        api_check_interval: secs(interval),
        api_server_timeout: secs(5),
        max_api_error_threshold: 3,
        peer_dial_timeout: secs(5),
        peer_request_timeout: secs(7),
    })
    .unwrap()
}

#[test]
fn a_longer_span_is_used_only_after_announcement_and_read() {
    let mut world = armed(settings(), &["a"]);
    let t_ok = world.state().last_direct_proof().unwrap();
    world.kill();
    world.settings.timing = limits(25);
    // The first read proves something, but the longer span cannot be announced any more.
    world.start();
    world.run(Duration::from_millis(30));
    let proof = world.state().last_direct_proof().unwrap();
    assert!(proof > t_ok);
    assert_eq!(world.state().feed_until(), Some(proof.plus(secs(90))));
    world.run(secs(60));
    assert_eq!(
        world.announced.as_ref().and_then(|said| said.bound),
        Some(120)
    );
    let proof = world.state().last_direct_proof().unwrap();
    assert_eq!(world.state().feed_until(), Some(proof.plus(secs(120))));
}

#[test]
fn a_longer_span_stays_unused_while_the_outcome_is_unknown() {
    let mut world = armed(settings(), &["a"]);
    world.kill();
    world.settings.timing = limits(25);
    world.run_is_writable = true;
    world.start();
    world.api = Api::Deaf;
    world.run(secs(10));
    let proof = world.state().last_direct_proof().unwrap();
    assert!(world.state().feed_until().unwrap() <= proof.plus(secs(90)));
}

#[test]
fn a_shorter_span_is_used_first() {
    let mut world = armed(settings(), &["a"]);
    world.kill();
    world.settings.timing = limits(5);
    world.start();
    let proof = world.state().last_direct_proof().unwrap();
    assert_eq!(
        world.state().feed_until(),
        Some(proof.plus(secs(60))),
        "before it is announced"
    );
}

#[test]
fn h16_while_a_table_is_announced_both_majorities_are_needed() {
    let mut world = armed(settings(), &["a", "b", "c"]);
    // Two new workers; the patch gets through, its answer does not.
    for name in ["d", "e", "f", "g"] {
        world.nodes.push(listed(name, WORKER));
    }
    world.kill();
    world.start();
    world.run(Duration::from_millis(30));
    world.api = Api::Deaf;
    world.run(secs(5));
    assert!(world.state().announcing().pending().is_some());
    let t_ok = world.state().last_direct_proof().unwrap();
    // A majority of the old table (a, b) and no majority of the new one (2 of 7).
    for name in ["c", "d", "e", "f", "g"] {
        world.peers.insert(node(name), Peer::Silent);
    }
    for name in ["a", "b"] {
        world.peers.insert(node(name), Peer::ApiError);
    }
    world.run(secs(300));
    assert!(world.reset_at.unwrap() <= t_ok.plus(secs(90 + 10)));
}

#[test]
fn h16_a_majority_of_the_new_table_alone_is_none_either() {
    let mut world = armed(settings(), &["a", "b", "c"]);
    world.nodes.retain(|known| known.name == node("x"));
    for name in ["d", "e", "f"] {
        world.nodes.push(listed(name, WORKER));
        world.peers.insert(node(name), Peer::ApiError);
    }
    world.kill();
    world.start();
    world.run(Duration::from_millis(30));
    world.api = Api::Deaf;
    world.run(secs(5));
    let t_ok = world.state().last_direct_proof().unwrap();
    for name in ["a", "b", "c"] {
        world.peers.insert(node(name), Peer::Silent);
    }
    world.run(secs(300));
    assert!(world.reset_at.unwrap() <= t_ok.plus(secs(90 + 10)));
}

#[test]
fn a_new_table_comes_in_force_by_announcement_and_read() {
    let mut world = armed(settings(), &["a"]);
    world.nodes.push(listed("b", WORKER));
    world.peers.insert(node("b"), Peer::Healthy);
    world.run(secs(1000));
    assert_eq!(world.announced.as_ref().map(|said| said.workers), Some(2));
    assert!(world.state().announcing().pending().is_none());
    assert_eq!(
        world
            .state()
            .announcing()
            .in_force()
            .unwrap()
            .table
            .workers
            .len(),
        2
    );
}

#[test]
fn a_young_member_is_stamped_again_when_it_is_old_enough() {
    let mut world = World::with_workers(&["a"]);
    world.nodes[1].created = Some(wall(world.now));
    world.start();
    world.run(secs(30));
    let first = world.announced.clone().unwrap().stamp;
    world.run(secs(180));
    let second = world.announced.clone().unwrap().stamp;
    assert!(second > first);
    assert!(
        second
            >= wall(at(100))
                .checked_add(jiff::SignedDuration::from_secs(60))
                .unwrap()
    );
    world.run(secs(3600));
    assert_eq!(
        world.announced.clone().unwrap().stamp,
        second,
        "and then left alone"
    );
}

#[test]
fn the_pending_value_is_recorded_before_it_is_sent() {
    let mut world = armed(settings(), &["a"]);
    world.run_is_writable = false;
    let before = world.announced.clone();
    world.nodes.push(listed("b", WORKER));
    world.run(secs(1000));
    assert_eq!(world.announced, before, "what is not recorded is not sent");
    world.run_is_writable = true;
    world.run(secs(60));
    assert_eq!(world.announced.as_ref().map(|said| said.workers), Some(2));
}

#[test]
fn a_node_that_was_created_anew_is_announced_again() {
    let mut world = armed(settings(), &["a"]);
    world.announced = None;
    world.run(secs(1000));
    assert!(
        world
            .announced
            .as_ref()
            .is_some_and(|announced| announced.armed)
    );
}

#[test]
fn h17_leaving_no_electorate_needs_proof_in_hand() {
    let mut world = armed(settings(), &[]);
    assert_eq!(world.announced.as_ref().map(|said| said.bound), Some(None));
    world.nodes.push(listed("a", WORKER));
    world.peers.insert(node("a"), Peer::Healthy);
    world.run(secs(1000));
    assert_eq!(
        world.announced.as_ref().map(|said| said.bound),
        Some(Some(90))
    );
    assert_eq!(world.reset_at, None);
    // And back: until the read after the acceptance, the old bound holds.
    world.nodes.retain(|known| known.name == node("x"));
    world.run(secs(1000));
    assert_eq!(world.announced.as_ref().map(|said| said.bound), Some(None));
    world.cut();
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
}

#[test]
fn h17_no_electorate_holds_only_when_it_is_in_force() {
    let mut world = armed(settings(), &["a"]);
    world.nodes.retain(|known| known.name == node("x"));
    world.kill();
    world.start();
    world.run(Duration::from_millis(30));
    world.api = Api::Deaf;
    world.run(secs(2));
    let t_ok = world.state().last_direct_proof().unwrap();
    world.cut();
    world.run(secs(300));
    assert!(
        world.reset_at.unwrap() <= t_ok.plus(secs(90 + 10)),
        "the manager may still count on it"
    );
}

#[test]
fn a_different_announcement_waits_for_one_of_unknown_outcome() {
    let mut world = armed(settings(), &["a"]);
    world.api = Api::Deaf;
    world.nodes.push(listed("b", WORKER));
    world.give(Evidence::Nodes {
        nodes: world.nodes.clone(),
        stamp: wall(world.now),
        announced: world.announced.as_ref().map(ToString::to_string),
    });
    world.run(secs(1));
    let unknown = world.now;
    world.api = Api::Up;
    world.run(secs(20));
    world.nodes.push(listed("c", WORKER));
    world.give(Evidence::Nodes {
        nodes: world.nodes.clone(),
        stamp: wall(world.now),
        announced: world.announced.as_ref().map(ToString::to_string),
    });
    world.run(secs(300));
    let sent = world.last(|command| matches!(command, Command::PublishAnnouncement { announcement, .. } if announcement.workers == 3));
    assert!(sent.unwrap() >= unknown.plus(secs(59)));
}

/// A change is announced, and once more two minutes later; then the interval passes (section 5).
#[test]
fn where_nodes_come_and_go_all_the_time_an_interval_has_two_announcements() {
    let mut world = armed(settings(), &["a"]);
    let sent = |world: &World| {
        world.count(|command| matches!(command, Command::PublishAnnouncement { .. }))
    };
    let before = sent(&world);
    let hours = 4;
    for minute in 0..hours * 60 {
        world.nodes.push(listed(&format!("n{minute}"), WORKER));
        world.run(secs(60));
    }
    let intervals = usize::try_from(hours).unwrap() * 3600 / 900;
    let sent = sent(&world) - before;
    // An interval is shorter by its jitter, at most.
    assert!((intervals..3 * intervals).contains(&sent), "{sent}");
}

/// A wave of new nodes that the list after a change finds too young: a node that is lost before they are counted would be
/// held, so they are not left for a whole interval.
#[test]
fn nodes_that_are_too_young_to_be_half_of_the_table_are_counted_soon() {
    let mut world = armed(settings(), &["a", "b"]);
    world.nodes.push(listed("c", WORKER));
    world.run(secs(1000));
    let begin = world.now;
    // The list that follows that change is due within two minutes; they join just before it.
    world.nodes.push(listed("d", WORKER));
    let lists = |world: &World| world.count(|command| *command == Command::ListNodes);
    let seen = lists(&world);
    while lists(&world) == seen {
        world.run(secs(1));
    }
    let created = wall(world.now.plus(secs(100)));
    for name in ["e", "f", "g", "h", "i", "j"] {
        world.nodes.push(ListedNode {
            created: Some(created),
            ..listed(name, WORKER)
        });
    }
    world.run(secs(400));
    assert!(world.now < begin.plus(secs(1500)));
    let said = world.announced.clone().unwrap();
    assert_eq!(said.workers, 10);
    let counted = members(&world.nodes, &node("x"), Electorate::Workers, said.stamp);
    assert!(counted.len() >= 5, "{counted:?}");
}
