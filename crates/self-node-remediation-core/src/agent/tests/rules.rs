//! What the agent does when it loses its API server, its peers, or gets an order.

use super::super::*;
use super::world::*;
use crate::order::Target;
use crate::time::BootInstant;

fn rebooted(world: &World) -> BootInstant {
    world.reset_at.expect("the node was not reset")
}

/// A world that is armed and has just read the API.
fn armed(peers: &[&str]) -> World {
    let mut world = World::with_workers(peers);
    world.start();
    world.run(secs(60));
    assert!(
        world
            .announced
            .as_ref()
            .is_some_and(|announced| announced.armed)
    );
    world
}

#[test]
fn a_cut_off_node_is_reset_within_span_and_timeout_but_not_before_n_checks() {
    for offset in 0..20 {
        let mut world = armed(&["a", "b", "c"]);
        world.run(secs(offset));
        let t_ok = world.state().last_direct_proof().unwrap();
        world.cut();
        world.run(secs(300));
        let reset = rebooted(&world);
        assert!(
            reset <= t_ok.plus(secs(90 + 10)),
            "offset {offset}: {}",
            reset.since(t_ok).as_secs()
        );
        assert!(reset > t_ok.plus(secs(90)), "the whole span is used");
        assert!(world.count(|command| matches!(command, Command::AskPeers { .. })) >= 2);
        assert_eq!(world.last_words, None);
    }
}

#[test]
fn an_order_is_carried_out_at_once_with_last_words() {
    let mut world = armed(&["a"]);
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(16));
    let words = world.last_words.clone().unwrap();
    assert_eq!(words.to_string(), "boot-1/5");
    let starved = world
        .last(|command| matches!(command, Command::Starve { .. }))
        .unwrap();
    world.run(secs(60));
    assert!(rebooted(&world) <= starved.plus(secs(6)));
}

#[test]
fn a_watched_order_needs_no_read() {
    let mut world = armed(&["a"]);
    world.give(Evidence::Watched(order("u1", Some("boot-1"))));
    assert!(world.state().fencing().is_some());
}

#[test]
fn an_order_for_another_boot_or_node_is_none() {
    let mut world = armed(&["a"]);
    world.orders.push(order("u1", Some("boot-0")));
    let mut other = order("u2", Some("boot-9"));
    other.target = Target::Node(node("a"));
    world.orders.push(other);
    world.run(secs(300));
    assert_eq!(world.reset_at, None);
    assert_eq!(world.state().fencing(), None);
}

#[test]
fn h01_a_hung_loop_is_starved() {
    let mut world = armed(&["a"]);
    let t_ok = world.state().last_direct_proof().unwrap();
    world.hang(secs(300));
    assert!(rebooted(&world) <= t_ok.plus(secs(90 + 10)));
}

#[test]
fn h04_a_minority_of_api_errors_keeps_nobody_up() {
    let mut world = armed(&["a", "b", "c", "d"]);
    let t_ok = world.state().last_direct_proof().unwrap();
    world.cut();
    // Two of four are no strict majority, however often they answer.
    for name in ["a", "b"] {
        world.peers.insert(node(name), Peer::ApiError);
    }
    world.run(secs(600));
    assert!(rebooted(&world) <= t_ok.plus(secs(90 + 10)));
}

#[test]
fn w6_an_outage_for_all_resets_nobody() {
    let mut world = armed(&["a", "b", "c"]);
    world.api = Api::Down;
    world.all_peers(Peer::ApiError);
    world.peers.insert(node("c"), Peer::Silent);
    world.run(secs(7200));
    assert_eq!(world.reset_at, None);
    // Repeated only N(I + A) after the last majority, not at each failed check.
    let rounds = world.count(|command| matches!(command, Command::AskPeers { .. }));
    assert!(
        (100..=125).contains(&rounds),
        "{rounds} rounds in two hours"
    );
}

#[test]
fn w6_a_majority_need_not_hear_the_others() {
    let mut world = armed(&["a", "b", "c", "d", "e"]);
    world.api = Api::Down;
    world.all_peers(Peer::ApiError);
    world.run(secs(600));
    let outages = world.count(|command| *command == Command::Tell(Notice::ControlPlaneOutage));
    let enough = world.count(|command| matches!(command, Command::AskNoMore { .. }));
    assert!(outages > 0);
    assert_eq!(
        enough, outages,
        "in each round with its majority, the third of five"
    );
    assert_eq!(world.reset_at, None);
}

#[test]
fn w6_a_majority_does_not_drown_who_knows_of_an_order() {
    let mut world = armed(&["a", "b", "c", "d", "e"]);
    world.api = Api::Down;
    world.all_peers(Peer::ApiError);
    world.peers.insert(node("e"), Peer::UnhealthyLate);
    world.run(secs(600));
    assert!(world.reset_at.is_some(), "fenced by the fifth answer");
}

#[test]
fn w6_a_restart_of_the_peers_during_an_outage_costs_nothing() {
    // G - (C + Rq) = 18 s: the last round before V can still be decided.
    for begin in 0..80 {
        let mut world = armed(&["a", "b"]);
        world.api = Api::Down;
        world.all_peers(Peer::ApiError);
        world.run(secs(200 + begin));
        world.all_peers(Peer::Silent);
        world.run(secs(17));
        world.all_peers(Peer::ApiError);
        world.run(secs(300));
        assert_eq!(world.reset_at, None, "restart {begin} s into the cycle");
        let expired = world.count(|command| *command == Command::Tell(Notice::PermitExpired));
        assert_eq!(
            expired, 0,
            "restart {begin} s into the cycle: not even for a moment"
        );
    }
}

#[test]
fn w4_one_healthy_peer_is_enough() {
    let mut world = armed(&["a", "b", "c"]);
    world.cut();
    world.peers.insert(node("b"), Peer::Healthy);
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
}

#[test]
fn w5_a_peer_that_knows_a_remediation_fences() {
    let mut world = armed(&["a", "b"]);
    world.api = Api::Down;
    world.all_peers(Peer::Unhealthy);
    world.run(secs(70));
    assert_eq!(world.state().fencing(), Some(&Reason::PeerSaysUnhealthy));
    assert!(world.count(|command| matches!(command, Command::AskPeers { .. })) == 1);
}

#[test]
fn peers_are_not_asked_below_the_threshold() {
    let mut world = armed(&["a"]);
    world.api = Api::Down;
    world.all_peers(Peer::Unhealthy);
    world.run(secs(30));
    world.api = Api::Up;
    world.run(secs(120));
    assert_eq!(
        world.count(|command| matches!(command, Command::AskPeers { .. })),
        0
    );
    assert_eq!(world.reset_at, None);
}

#[test]
fn new_proof_before_the_reset_resumes_the_feeding() {
    let mut world = World::with_workers(&["a"]);
    world.device.as_mut().unwrap().timeout = 60;
    world.start();
    world.run(secs(60));
    let t_ok = world.state().last_direct_proof().unwrap();
    world.cut();
    world.run(t_ok.plus(secs(95)).since(world.now));
    assert_eq!(
        world.count(|command| *command == Command::Tell(Notice::PermitExpired)),
        1
    );
    world.api = Api::Up;
    world.run(secs(600));
    assert_eq!(world.reset_at, None);
    assert_eq!(world.state().fencing(), None);
}

#[test]
fn software_resets_what_the_watchdog_does_not() {
    // A driver that accepts everything and does nothing.
    let mut world = armed(&["a"]);
    world.device.as_mut().unwrap().running = false;
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(60));
    let starved = world
        .last(|command| matches!(command, Command::Starve { .. }))
        .unwrap();
    assert!(rebooted(&world) <= starved.plus(secs(11)));

    let mut world = World::with_workers(&["a"]);
    world.device.as_mut().unwrap().timeout = 60;
    world.start();
    world.run(secs(60));
    world.device.as_mut().unwrap().running = false;
    world.cut();
    world.run(secs(1));
    let t_ok = world.state().last_direct_proof().unwrap();
    world.run(secs(300));
    assert!(rebooted(&world) <= t_ok.plus(secs(90 + 30 + 1)));
}

#[test]
fn without_watchdog_software_resets_at_v() {
    let mut world = World::with_workers(&["a"]);
    world.device = None;
    world.start();
    world.run(secs(60));
    assert_eq!(
        world.announced.as_ref().map(|said| (said.armed, said.wd)),
        Some((true, 0))
    );
    let t_ok = world.state().last_direct_proof().unwrap();
    world.cut();
    world.run(secs(300));
    assert_eq!(rebooted(&world), t_ok.plus(secs(90)));
}

#[test]
fn disabled_means_disabled() {
    let mut world = World::with_workers(&["a"]);
    world.settings.software_reboot = false;
    world.device = None;
    world.start();
    world.run(secs(60));
    assert_eq!(world.announced.as_ref().map(|said| said.armed), Some(false));
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(30));
    world.cut();
    world.run(secs(600));
    assert_eq!(world.reset_at, None);
    assert_eq!(
        world.count(|command| *command == Command::SoftwareReboot),
        0
    );
    assert_eq!(
        world.count(|command| matches!(
            command,
            Command::Tell(Notice::CannotReboot {
                watchdog_failed: false
            })
        )),
        1
    );
}

/// When a watchdog that does not fire is told of, where software must not reset the node.
fn told_of_a_dead_watchdog(restarted: bool) -> Vec<Duration> {
    let mut world = World::with_workers(&["a"]);
    world.settings.software_reboot = false;
    let device = world.device.as_mut().unwrap();
    (device.timeout, device.least) = (60, 60);
    world.start();
    world.run(secs(120));
    world.device.as_mut().unwrap().running = false;
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(20));
    if restarted {
        world.kill();
        world.start();
    }
    world.run(secs(600));
    assert_eq!(
        world.count(|command| *command == Command::SoftwareReboot),
        0
    );
    let starved = world
        .log
        .iter()
        .find(|(_, command)| matches!(command, Command::Starve { .. }))
        .map(|(at, _)| *at)
        .unwrap();
    let told = |wanted| {
        let all = world.log.iter();
        all.filter(move |(_, command)| {
            matches!(command, Command::Tell(Notice::CannotReboot { watchdog_failed }) if *watchdog_failed == wanted)
        })
    };
    assert_eq!(told(false).count(), 0, "there is a watchdog");
    told(true).map(|(at, _)| at.since(starved)).collect()
}

#[test]
fn a_watchdog_that_does_not_fire_is_told_of_once_it_should_have() {
    let [told] = told_of_a_dead_watchdog(false)[..] else {
        panic!("once");
    };
    assert!(told > secs(60) && told < secs(70), "{told:?}");
    // A process that ends pings once more.
    let [told] = told_of_a_dead_watchdog(true)[..] else {
        panic!("once");
    };
    assert!(told > secs(75) && told < secs(90), "{told:?}");
}

#[test]
fn before_the_first_contact_nothing_is_opened_and_nobody_is_fenced() {
    let mut world = World::with_workers(&["a"]);
    world.cut();
    world.start();
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
    for (_, command) in &world.log {
        assert!(
            matches!(
                command,
                Command::StartApiRead { .. }
                    | Command::ListNodes
                    | Command::Record(_)
                    | Command::Tell(Notice::CheckFailed { .. })
            ),
            "{command:?}"
        );
    }
}

#[test]
fn a_list_that_fails_is_no_contact() {
    // H3: whatever else answers, only the complete list counts.
    let mut world = World::with_workers(&["a"]);
    world.api = Api::Down;
    world.start();
    world.run(secs(100));
    assert!(!world.state().has_contact());
    assert_eq!(world.state().feed_until(), None);
}

#[test]
fn h11_done_in_another_boot_counts_only_after_the_announcement() {
    let mut world = World::with_workers(&["a"]);
    world.orders.push(order("u1", Some("boot-0")));
    // The API answers reads, but our patches do not come through.
    world.start();
    world.api = Api::Up;
    let mut blocked = World::with_workers(&["a"]);
    blocked.orders = world.orders.clone();
    blocked.run_is_writable = false;
    blocked.start();
    blocked.run(secs(600));
    assert!(blocked.state().has_contact());
    assert_eq!(
        blocked.state().last_direct_proof(),
        None,
        "no proof without announcement"
    );
    assert_eq!(
        blocked.count(|command| matches!(command, Command::OpenWatchdog { .. })),
        0
    );

    world.run(secs(30));
    assert!(
        world
            .announced
            .as_ref()
            .is_some_and(|announced| announced.armed)
    );
    assert!(world.state().last_direct_proof().is_some());
}

#[test]
fn an_order_without_boot_id_follows_the_uptime_rule() {
    let mut world = armed(&["a"]);
    // Created after this boot began: not carried out yet.
    let mut later = order("u1", None);
    later.created = Some(wall(world.now));
    world.orders = vec![later];
    world.run(secs(20));
    assert!(world.state().fencing().is_some());

    let mut world = armed(&["a"]);
    let mut earlier = order("u1", None);
    earlier.created = Some(
        wall(BootInstant::ZERO)
            .checked_sub(jiff::SignedDuration::from_secs(60))
            .unwrap(),
    );
    world.orders = vec![earlier];
    world.run(secs(300));
    assert_eq!(world.state().fencing(), None);
    assert_eq!(world.reset_at, None);
}

#[test]
fn h17_too_few_peers_never_fence_for_isolation() {
    let mut world = World::with_workers(&[]);
    world.start();
    world.run(secs(60));
    assert_eq!(
        world
            .announced
            .as_ref()
            .map(|said| (said.armed, said.bound)),
        Some((true, None))
    );
    world.cut();
    world.run(secs(7200));
    assert_eq!(world.reset_at, None);
    // An order is carried out all the same.
    world.api = Api::Up;
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(60));
    assert!(world.reset_at.is_some());
}

#[test]
fn h17_with_no_electorate_a_hung_loop_is_still_starved() {
    let mut world = World::with_workers(&[]);
    world.start();
    world.run(secs(60));
    let hung = world.now;
    world.hang(secs(300));
    assert!(rebooted(&world) <= hung.plus(secs(90 + 10)));
}

#[test]
fn w3_a_single_worker_fences_itself_only_where_that_is_wanted() {
    let mut world = World::with_workers(&[]);
    world.settings.min_peers = 0;
    world.start();
    world.run(secs(60));
    assert_eq!(
        world
            .announced
            .as_ref()
            .map(|said| (said.workers, said.bound)),
        Some((0, Some(90)))
    );
    let t_ok = world.state().last_direct_proof().unwrap();
    world.cut();
    world.run(secs(300));
    assert!(rebooted(&world) <= t_ok.plus(secs(90 + 10)));
}

#[test]
fn an_order_that_is_read_after_the_permit_has_no_last_words() {
    // Shortening the timeout would ping, and nothing says how long ago the last feed was.
    let mut world = World::with_workers(&["a"]);
    world.device.as_mut().unwrap().timeout = 60;
    world.start();
    world.run(secs(60));
    let t_ok = world.state().last_direct_proof().unwrap();
    world.cut();
    world.run(t_ok.plus(secs(95)).since(world.now));
    world.api = Api::Up;
    world.orders.push(order("u1", Some("boot-1")));
    world.run(secs(20));
    assert!(world.state().fencing().is_some());
    assert_eq!(
        world.count(|command| *command == Command::Starve { shorten: false }),
        1
    );
    assert_eq!(world.last_words, None);
}

#[test]
fn a_process_that_stood_still_is_not_isolated() {
    // Without watchdog only software resets the node, and no check has failed.
    let mut world = World::with_workers(&["a"]);
    world.device = None;
    world.start();
    world.run(secs(60));
    world.hang(secs(300));
    world.resume();
    world.run(secs(600));
    assert_eq!(world.reset_at, None);
}
