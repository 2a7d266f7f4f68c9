//! Between the rules and their effects: what happens while a command is under way.

use super::super::*;
use super::world::*;
use crate::announcement::Announcement;

fn armed() -> World {
    let mut world = World::with_workers(&["a", "b"]);
    world.start();
    world.run(secs(60));
    world
}

fn opening() -> World {
    let mut world = World::with_workers(&["a", "b"]);
    world.settings.software_reboot = false;
    world.start();
    while world.state().watchdog != Watchdog::Opening {
        world.run(Duration::from_millis(1));
    }
    world
}

fn announcements(world: &World, from: usize) -> Vec<(BootInstant, Announcement)> {
    world.log[from..]
        .iter()
        .filter_map(|(at, command)| {
            let Command::PublishAnnouncement { announcement, .. } = command else {
                return None;
            };
            Some((*at, announcement.clone()))
        })
        .collect()
}

fn is_said_armed(world: &World) -> bool {
    world.announced.as_ref().is_some_and(|said| said.armed)
}

#[test]
fn a_node_that_fences_itself_never_says_that_it_is_disarmed() {
    let mut world = armed();
    world.device.as_mut().unwrap().timeout = 60;
    world.orders.push(order("u1", Some("boot-1")));
    world.give(Evidence::Watched(order("u1", Some("boot-1"))));
    world.give(Evidence::Terminate {
        successor: false,
        pod_deleted: true,
    });
    world.run(secs(5));
    assert!(is_said_armed(&world));
}

#[test]
fn a_node_with_an_order_about_it_never_says_that_it_is_disarmed() {
    let mut world = armed();
    world.give(Evidence::Watched(order("u1", Some("boot-0"))));
    world.give(Evidence::Terminate {
        successor: false,
        pod_deleted: true,
    });
    assert!(is_said_armed(&world));
}

/// Until the device has answered, the longer timeout stays announced (H2).
#[test]
fn h02_the_timeout_that_was_asked_for_stays_announced() {
    let mut world = armed();
    world.kill();
    world.settings.watchdog_timeout = Some(60);
    world.start();
    let from = world.log.len();
    let asked = |world: &World| {
        world
            .last(|command| matches!(command, Command::SetWatchdogTimeout(60)))
            .is_some()
    };
    for _ in 0..40_000 {
        world.run(Duration::from_millis(5));
        if asked(&world) {
            world.give(Evidence::Tick);
            break;
        }
    }
    assert!(asked(&world), "the device was never asked");
    world.run(secs(3));
    let said = announcements(&world, from);
    assert!(
        said.iter()
            .skip_while(|(_, said)| said.wd != 60)
            .all(|(_, said)| said.wd == 60),
        "{said:?}"
    );
}

/// What may be announced binds as much as what is announced for certain (H7).
#[test]
fn h07_a_device_is_not_opened_with_more_than_may_be_announced() {
    let mut world = World::with_workers(&["a", "b"]);
    world.start();
    while !matches!(world.state().watchdog, Watchdog::Armed { .. }) {
        world.run(Duration::from_millis(1));
    }
    assert!(
        is_said_armed(&world),
        "the patch is on its way, its answer is not there yet"
    );
    world.kill();
    world.settings.watchdog_timeout = Some(60);
    world.cut();
    world.start();
    world.run(secs(5));
    assert!(world.device.unwrap().timeout <= 10);
}

#[test]
fn fencing_takes_the_permit_back_from_whoever_opens_the_device() {
    let mut world = opening();
    world.give(Evidence::Watched(order("u1", Some("boot-1"))));
    assert!(world.feed_until <= world.now);
}

/// A write of unknown outcome may land late, also for the next process (H7).
#[test]
fn h07_a_restart_remembers_that_a_write_may_still_land() {
    let mut world = armed();
    world.api = Api::Deaf;
    world.nodes.push(listed("c", WORKER));
    world.give(Evidence::Nodes {
        nodes: world.nodes.clone(),
        stamp: wall(world.now),
        announced: world.announced.as_ref().map(ToString::to_string),
    });
    world.run(secs(1));
    let unknown = world.now;
    world.kill();
    world.api = Api::Up;
    world.settings.watchdog_timeout = Some(60);
    let from = world.log.len();
    world.start();
    world.run(secs(200));
    let said = announcements(&world, from);
    assert!(
        said.iter().any(|(_, said)| said.wd == 60),
        "it never came: {said:?}"
    );
    assert!(
        said.iter()
            .all(|(at, said)| said.wd == 10 || *at >= unknown.plus(secs(59))),
        "{said:?}"
    );
}
