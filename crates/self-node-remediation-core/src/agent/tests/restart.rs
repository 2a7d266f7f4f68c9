//! What a new process makes of what the old one left.

use super::super::*;
use super::world::*;

fn armed() -> World {
    let mut world = World::with_workers(&["a", "b"]);
    world.start();
    world.run(secs(60));
    world
}

#[test]
fn h07_a_restart_does_not_count_from_zero() {
    for after in [1, 30, 60, 85, 89] {
        let mut world = armed();
        let t_ok = world.state().last_direct_proof().unwrap();
        world.cut();
        world.run(secs(after));
        world.kill();
        world.start();
        world.run(secs(300));
        let reset = world.reset_at.unwrap();
        assert!(
            reset <= t_ok.plus(secs(90 + 2 * 10)),
            "killed after {after} s: {}",
            reset.since(t_ok).as_secs()
        );
    }
}

#[test]
fn h12_after_the_permit_a_restart_opens_nothing() {
    let mut world = armed();
    world.device.as_mut().unwrap().timeout = 60;
    let t_ok = world.state().last_direct_proof().unwrap();
    world.cut();
    world.run(t_ok.plus(secs(95)).since(world.now));
    let opened = world.count(|command| matches!(command, Command::OpenWatchdog { .. }));
    for _ in 0..5 {
        world.kill();
        world.start();
        world.run(secs(1));
    }
    assert_eq!(
        world.count(|command| matches!(command, Command::OpenWatchdog { .. })),
        opened
    );
}

#[test]
fn h07_fencing_survives_a_restart() {
    let mut world = armed();
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(16));
    assert!(world.record.as_ref().unwrap().fencing.is_some());
    world.kill();
    // The order is gone, everything looks fine: it is too late all the same.
    world.orders.clear();
    world.start();
    world.run(secs(3));
    assert_eq!(
        world.count(|command| matches!(command, Command::OpenWatchdog { .. })),
        1
    );
    world.run(secs(60));
    assert!(world.reset_at.is_some());
}

#[test]
fn fencing_is_recorded_before_the_last_words() {
    let mut world = armed();
    world.run_is_writable = false;
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(20));
    assert!(world.state().fencing().is_some());
    assert_eq!(world.last_words, None, "not recorded, so not said");
    assert!(world.reset_at.is_some() || world.now < at(200));
}

#[test]
fn a_restart_during_an_outage_asks_at_once_and_stays_up() {
    let mut world = armed();
    world.api = Api::Down;
    world.all_peers(Peer::ApiError);
    world.run(secs(40));
    world.kill();
    let asked = world.count(|command| matches!(command, Command::AskPeers { .. }));
    world.start();
    world.run(secs(2));
    assert!(world.count(|command| matches!(command, Command::AskPeers { .. })) > asked);
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
}

#[test]
fn a_restart_in_the_middle_of_an_outage_keeps_the_base_of_the_majority() {
    let mut world = armed();
    world.api = Api::Down;
    world.all_peers(Peer::ApiError);
    world.run(secs(400));
    let until = world.state().feed_until().unwrap();
    world.kill();
    world.start();
    assert_eq!(
        world.state().feed_until(),
        Some(until),
        "the recorded permit, never more"
    );
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
}

#[test]
fn a_record_of_another_boot_or_version_is_no_contact() {
    for spoil in [
        |record: &mut Recorded| record.boot = crate::ids::BootId::new("boot-0").unwrap(),
        |record: &mut Recorded| record.version += 1,
    ] {
        let mut world = armed();
        world.kill();
        spoil(world.record.as_mut().unwrap());
        world.cut();
        world.start();
        assert!(!world.state().has_contact());
        assert_eq!(world.state().feed_until(), None);
    }
}

#[test]
fn the_record_survives_its_text_form() {
    let mut world = armed();
    world.orders.push(order("u1", Some("boot-0")));
    world.run(secs(30));
    let record = world.record.unwrap();
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap(), record);
}

#[test]
fn a_rolled_out_process_leaves_the_watchdog_armed() {
    let mut world = armed();
    world.give(Evidence::Terminate {
        successor: true,
        pod_deleted: true,
    });
    assert!(world.exited);
    assert_eq!(world.count(|command| *command == Command::Disarm), 0);
    world.kill();
    world.start();
    world.run(secs(600));
    assert_eq!(world.reset_at, None);
}

#[test]
fn h07_without_successor_it_disarms_by_announcement_only() {
    let mut world = armed();
    world.give(Evidence::Terminate {
        successor: false,
        pod_deleted: true,
    });
    assert!(!world.exited);
    world.run(secs(5));
    assert!(world.exited);
    assert_eq!(world.announced.as_ref().map(|said| said.armed), Some(false));
    let disarm = world.last(|command| *command == Command::Disarm).unwrap();
    let read = world
        .last(|command| matches!(command, Command::StartApiRead { .. }))
        .unwrap();
    let announced = world
        .last(|command| matches!(command, Command::PublishAnnouncement { .. }))
        .unwrap();
    assert!(announced < read && read < disarm, "announce, read, act");
}

#[test]
fn h07_it_never_disarms_when_something_is_in_doubt() {
    // Own pod not deleted; API gone; order known; nowayout.
    for (deleted, api, ordered, can_disarm) in [
        (false, Api::Up, false, true),
        (true, Api::Down, false, true),
        (true, Api::Deaf, false, true),
        (true, Api::Up, true, true),
        (true, Api::Up, false, false),
    ] {
        let mut world = World::with_workers(&["a", "b"]);
        world.can_disarm = can_disarm;
        world.start();
        world.run(secs(60));
        world.api = api;
        if ordered {
            world.give(Evidence::Watched(order("u1", Some("boot-0"))));
        }
        world.give(Evidence::Terminate {
            successor: false,
            pod_deleted: deleted,
        });
        world.run(secs(9));
        assert!(world.exited, "{deleted} {api:?} {ordered} {can_disarm}");
        assert_eq!(world.count(|command| *command == Command::Disarm), 0);
        assert!(world.device.unwrap().running);
    }
}

#[test]
fn h07_an_order_between_announcement_and_read_stops_the_disarming() {
    let mut world = armed();
    world.give(Evidence::Terminate {
        successor: false,
        pod_deleted: true,
    });
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(8));
    assert_eq!(world.count(|command| *command == Command::Disarm), 0);
    assert!(world.state().fencing().is_some());
    assert!(!world.exited, "the device stays open");
}

#[test]
fn a_fencing_process_does_not_end() {
    let mut world = armed();
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(16));
    world.give(Evidence::Terminate {
        successor: true,
        pod_deleted: true,
    });
    assert!(!world.exited);
}
