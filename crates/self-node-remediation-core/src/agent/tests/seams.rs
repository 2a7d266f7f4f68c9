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

fn opening(can_disarm: bool) -> World {
    let mut world = World::with_workers(&["a", "b"]);
    world.can_disarm = can_disarm;
    world.settings.software_reboot = false;
    world.start();
    while world.state().watchdog != Watchdog::Opening {
        world.run(Duration::from_millis(1));
    }
    world
}

/// It may be armed by now: who exits would leave it to nobody.
#[test]
fn h07_a_device_that_is_being_opened_is_waited_for_and_closed() {
    for (can_disarm, disarmed) in [(true, 1), (false, 0)] {
        let mut world = opening(can_disarm);
        world.give(Evidence::Terminate {
            successor: false,
            pod_deleted: true,
        });
        assert!(!world.exited);
        world.run(secs(9));
        assert!(world.exited);
        assert_eq!(world.count(|command| *command == Command::Disarm), disarmed);
    }
}

/// It is opened after an announcement that says that it is not armed, and a process may end before the next one.
#[test]
fn h07_a_device_is_on_record_before_it_is_opened_and_until_it_is_closed() {
    let on_record = |world: &World| world.record.as_ref().is_some_and(Recorded::may_be_armed);
    let mut world = opening(true);
    assert!(on_record(&world) && !is_said_armed(&world));
    // The next process has no permit yet, so it opens nothing.
    let mut late = opening(true);
    late.kill();
    late.now = late.now.plus(secs(600));
    late.start();
    assert_eq!(late.state().watchdog, Watchdog::NotTried);
    assert!(on_record(&late));
    world.run(secs(60));
    world.give(Evidence::Terminate {
        successor: false,
        pod_deleted: true,
    });
    world.run(secs(9));
    assert!(world.exited && !on_record(&world));
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
    let mut world = opening(true);
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

/// A watchdog that refuses to be fed may not fire either: nobody is told to count on it (E2).
#[test]
fn a_device_that_refuses_its_feeds_speaks_no_last_words() {
    let fenced = |timeout: u64| {
        let mut world = armed();
        let (now, chance) = (world.now, 1);
        let state = world.state.take().unwrap();
        let order = Evidence::Watched(order("u1", Some("boot-1")));
        let (state, _) = step(&world.settings, state, order, now, chance);
        let starved = Evidence::Starved {
            timeout,
            last_feed: now,
        };
        let (_, commands) = step(&world.settings, state, starved, now, chance);
        commands
            .iter()
            .any(|command| matches!(command, Command::PublishStoppedFeeding(_)))
    };
    assert!(fenced(5));
    assert!(!fenced(0));
}

/// As long as an order is remembered the agent abstains about its node (H18): the end is looked for at once.
#[test]
fn the_end_of_an_order_is_read_at_once() {
    type End = fn(&mut World);
    let ends: [End; 2] = [
        |world| world.give(Evidence::WatchedGone(Uid::new("u1").unwrap())),
        |world| {
            let mut withdrawn = order("u1", Some("boot-0"));
            withdrawn.withdrawn = true;
            world.give(Evidence::Watched(withdrawn));
        },
    ];
    for end in ends {
        let mut world = armed();
        let other = order("u1", Some("boot-0"));
        world.orders.push(other.clone());
        world.give(Evidence::Watched(other));
        // Right after a check, the next one is 15 s away.
        while world.state().check.running.is_some()
            || world.state().check.next < world.now.plus(secs(14))
        {
            world.run(Duration::from_millis(20));
        }
        world.orders.clear();
        let (from, before) = (world.now, world.log.len());
        end(&mut world);
        world.run(secs(4));
        let about = |world: &World| {
            let state = world.state();
            state.knowledge.has_order_about("x", "")
        };
        assert!(!about(&world), "still remembered after 4 s");
        world.run(secs(12));
        let reads: Vec<BootInstant> = world.log[before..]
            .iter()
            .filter(|(_, command)| matches!(command, Command::StartApiRead { .. }))
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(reads.len(), 1, "one check, brought forward: {reads:?}");
        assert!(reads[0] <= from.plus(secs(2)));
    }
    // What was never an order is no reason to look.
    let mut world = armed();
    let before = world.log.len();
    let wanted = world.state().check.next;
    world.give(Evidence::WatchedGone(Uid::new("u9").unwrap()));
    let before_the_next = wanted
        .since(world.now)
        .saturating_sub(Duration::from_millis(10));
    world.run(Duration::from_millis(2500).min(before_the_next));
    assert!(
        world.log[before..]
            .iter()
            .all(|(_, command)| !matches!(command, Command::StartApiRead { .. }))
    );
}

/// Where software must not reset the machine, the watchdog's whole timeout is left for new proof.
#[test]
fn an_expired_permit_waits_for_the_watchdog_where_software_may_not_reset() {
    for software_reboot in [true, false] {
        let mut world = World::with_workers(&["a", "b"]);
        world.settings.software_reboot = software_reboot;
        world.device.as_mut().unwrap().timeout = 60;
        world.start();
        world.run(secs(60));
        world.cut();
        while world.count(|command| *command == Command::Tell(Notice::PermitExpired)) == 0 {
            world.run(secs(1));
        }
        world.run(secs(45));
        world.all_peers(Peer::Healthy);
        world.run(secs(60));
        let fenced = world.count(|command| matches!(command, Command::Tell(Notice::Fencing(_))));
        assert_eq!(fenced > 0, software_reboot);
        assert_eq!(world.reset_at.is_some(), software_reboot);
    }
}
