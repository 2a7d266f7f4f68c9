use proptest::prelude::*;

use super::*;
use crate::ids::Uid;
use crate::order::{Phase, Target};
use crate::table::Role;

mod before_and_after;

const WORKER: Role = Role {
    control_plane: false,
    worker: true,
};
const MASTER: Role = Role {
    control_plane: true,
    worker: false,
};

/// Spoils one condition.
type Spoil = fn(&mut Node);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn boot(text: &str) -> BootId {
    BootId::new(text).unwrap()
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn announcement() -> Announcement {
    Announcement {
        boot: boot("b1"),
        armed: true,
        wd: 10,
        bound: Some(90),
        workers: 3,
        cp: 0,
        stamp: at(-1000),
    }
}

/// A node that is cut off: its kubelet was heard in boot b1 last.
fn node() -> Node {
    Node {
        name: name("x"),
        ready: Status::Unknown,
        kubelet_boot: Some(boot("b1")),
        announced: Some(announcement()),
        reboot_capable: true,
        published_watchdog: Some(secs(10)),
        last_words: None,
        control_plane: false,
        agent: AgentPods::Ours,
    }
}

fn order() -> Remediation {
    Remediation {
        namespace: "ns".to_owned(),
        name: "x".to_owned(),
        uid: Uid::new("u1").unwrap(),
        target: Target::Node(name("x")),
        phase: Phase::PreRebootCompleted,
        finalizer: true,
        withdrawn: false,
        deleting: false,
        timed_out: false,
        boot: Some(boot("b1")),
        created: Some(at(-60)),
    }
}

fn peer(text: &str, role: Role) -> Peer {
    Peer {
        listed: ListedNode {
            name: name(text),
            role,
            created: Some(at(-10_000)),
        },
        our_agent: true,
    }
}

fn peers() -> Vec<Peer> {
    ["x", "a", "b", "c"]
        .into_iter()
        .map(|text| peer(text, WORKER))
        .collect()
}

fn times() -> OrderTimes {
    OrderTimes {
        bound: Some(90),
        wd: Some(10),
        quorum: Some(at(3)),
        ..OrderTimes::begin(Uid::new("u1").unwrap(), boot("b1"), at(1))
    }
}

/// A manager's view, to be varied.
#[derive(Clone)]
struct View {
    remediation: Remediation,
    assumed: Option<Timestamp>,
    times: Option<OrderTimes>,
    node: Node,
    peers: Vec<Peer>,
    acknowledged: BTreeSet<NodeName>,
    asked: bool,
    storm: bool,
    calm_since: Timestamp,
    watched_since: Timestamp,
    guard_wait: Duration,
    kubelet_seen: Option<Timestamp>,
}

fn view() -> View {
    View {
        remediation: order(),
        assumed: Some(at(130)),
        times: Some(times()),
        node: node(),
        peers: peers(),
        acknowledged: BTreeSet::new(),
        asked: true,
        storm: false,
        calm_since: at(1),
        watched_since: at(1),
        guard_wait: secs(180),
        kubelet_seen: None,
    }
}

impl View {
    fn decide(&self, now: i64) -> Decision {
        let seen = Seen {
            remediation: &self.remediation,
            assumed_rebooted: self.assumed,
            times: self.times.as_ref(),
            node: &self.node,
            peers: &self.peers,
            acknowledged: &self.acknowledged,
            asked: self.asked,
            storm: self.storm,
            calm_since: self.calm_since,
            watched_since: self.watched_since,
            guard_wait: self.guard_wait,
            kubelet_seen: self.kubelet_seen,
        };
        let decision = decide(&seen, at(now)).unwrap();
        let by_guard = matches!(
            decision,
            Decision::Hold(Hold::Storm)
                | Decision::Release(By::GuardedTime)
                | Decision::Wait {
                    by: By::GuardedTime,
                    ..
                }
        );
        // What the guard decides by was looked at only if it is needed.
        assert!(!by_guard || needs_guard(&self.node, &self.peers));
        decision
    }
}

fn released(decision: &Decision) -> Option<By> {
    match decision {
        Decision::Release(by) => Some(*by),
        Decision::Record(_)
        | Decision::Adopt(_)
        | Decision::Cancel
        | Decision::Ask(_)
        | Decision::Wait { .. }
        | Decision::Hold(_) => None,
    }
}

#[test]
fn freed_by_time_exactly_when_both_times_have_passed() {
    // t_k + span + 2 Wd + 10 = 3 + 120 = 123 < timeAssumedRebooted.
    let wait = Decision::Wait {
        until: at(130),
        by: By::Time,
    };
    assert_eq!(view().decide(129), wait);
    assert_eq!(view().decide(130), Decision::Release(By::Time));
    // A late quorum postpones.
    let mut late = view();
    late.times.as_mut().unwrap().quorum = Some(at(60));
    assert_eq!(
        late.decide(179),
        Decision::Wait {
            until: at(180),
            by: By::Time
        }
    );
    assert_eq!(late.decide(180), Decision::Release(By::Time));
}

#[test]
fn h08_the_times_begin_when_the_order_is_known_to_be_in_place() {
    let mut fresh = view();
    fresh.times = None;
    let Decision::Record(times) = fresh.decide(7) else {
        panic!("something else")
    };
    assert_eq!(times.seen, at(7));
    assert_eq!((times.bound, times.wd), (Some(90), Some(10)));
    assert_eq!(
        (times.quorum, times.words, times.released),
        (None, None, None)
    );

    // However long the order's own time is over.
    assert_eq!(released(&fresh.decide(100_000)), None);
}

#[test]
fn h05_without_quorum_no_time_frees() {
    let mut waiting = view();
    waiting.times.as_mut().unwrap().quorum = None;
    for acknowledged in [&[][..], &["a"], &["x", "z", "a"]] {
        waiting.acknowledged = acknowledged.iter().map(|text| name(text)).collect();
        let Decision::Hold(Hold::Quorum(quorum)) = waiting.decide(1_000_000) else {
            panic!("something else")
        };
        assert_eq!((quorum.workers.table, quorum.workers.needed()), (3, 2));
    }
    waiting.asked = false;
    let Decision::Ask(quorum) = waiting.decide(5) else {
        panic!("something else")
    };
    assert_eq!(quorum.workers.open().count(), 2);
    waiting.acknowledged = ["a", "b"].into_iter().map(name).collect();
    let Decision::Record(times) = waiting.decide(5) else {
        panic!("something else")
    };
    assert_eq!(times.quorum, Some(at(5)));
}

#[test]
fn h16_the_quorum_is_over_the_announced_table() {
    let mut waiting = view();
    waiting.times.as_mut().unwrap().quorum = None;
    waiting.acknowledged = ["a", "b", "c"].into_iter().map(name).collect();
    // Seven names announced, three present: no cap.
    waiting.node.announced.as_mut().unwrap().workers = 7;
    assert!(matches!(waiting.decide(5), Decision::Hold(Hold::Quorum(_))));
    // A member that was too young at the stamp does not count.
    waiting.node.announced.as_mut().unwrap().workers = 3;
    for peer in &mut waiting.peers {
        peer.listed.created = Some(at(-1030));
    }
    assert!(matches!(waiting.decide(5), Decision::Hold(Hold::Quorum(_))));
    // A control-plane node needs both of its tables.
    let mut waiting = view();
    waiting.times.as_mut().unwrap().quorum = None;
    waiting.peers.extend([peer("m", MASTER), peer("n", MASTER)]);
    waiting.node.announced.as_mut().unwrap().cp = 2;
    waiting.acknowledged = ["a", "b"].into_iter().map(name).collect();
    assert!(matches!(waiting.decide(5), Decision::Hold(Hold::Quorum(_))));
    waiting.acknowledged.insert(name("m"));
    assert!(matches!(waiting.decide(5), Decision::Record(_)));
}

#[test]
fn h13_another_boot_is_never_freed_by_time() {
    let mut kubelet = view();
    kubelet.node.kubelet_boot = Some(boot("b2"));
    let mut agent = view();
    agent.node.announced.as_mut().unwrap().boot = boot("b2");
    for view in [kubelet, agent] {
        for now in [5, 1_000_000] {
            assert_eq!(view.decide(now), Decision::Release(By::Reboot));
        }
    }
}

#[test]
fn h13_the_commit_needs_an_armed_bound_announcement_of_the_recorded_boot() {
    let spoils: [(Spoil, Hold); 4] = [
        (
            |node| node.announced.as_mut().unwrap().armed = false,
            Hold::NotArmed,
        ),
        (
            |node| node.announced.as_mut().unwrap().bound = None,
            Hold::NoBound,
        ),
        (|node| node.announced = None, Hold::NoAnnouncement),
        (|node| node.kubelet_boot = None, Hold::NoBootId),
    ];
    for (spoil, hold) in spoils {
        let mut view = view();
        spoil(&mut view.node);
        assert_eq!(view.decide(1_000_000), Decision::Hold(hold));
    }
}

#[test]
fn a_larger_announcement_is_used_from_then_on() {
    for (bound, wd) in [(120, 10), (90, 60), (120, 60)] {
        let mut longer = view();
        longer.node.announced.as_mut().unwrap().bound = Some(bound);
        longer.node.announced.as_mut().unwrap().wd = wd;
        let Decision::Record(times) = longer.decide(1000) else {
            panic!("not recorded")
        };
        assert_eq!((times.bound, times.wd), (Some(bound), Some(wd)));
        longer.times = Some(times);
        let until = 3 + i64::try_from(bound + 2 * wd + 10).unwrap();
        let until = until.max(130);
        assert_eq!(
            longer.decide(until - 1),
            Decision::Wait {
                until: at(until),
                by: By::Time
            }
        );
        assert_eq!(longer.decide(until), Decision::Release(By::Time));
    }
    // A smaller one shortens nothing.
    let mut shorter = view();
    shorter.node.announced.as_mut().unwrap().bound = Some(10);
    assert_eq!(
        shorter.decide(129),
        Decision::Wait {
            until: at(130),
            by: By::Time
        }
    );
}

#[test]
fn h17_a_node_without_bound_is_never_freed_by_time() {
    let mut unbound = view();
    unbound.node.announced.as_mut().unwrap().bound = None;
    unbound.node.announced.as_mut().unwrap().workers = 0;
    assert_eq!(
        unbound.decide(i64::from(i32::MAX)),
        Decision::Hold(Hold::NoBound)
    );
    // minPeers 0 and nobody else: W3 fences, no quorum is needed.
    let mut alone = view();
    alone.times.as_mut().unwrap().quorum = None;
    alone.node.announced.as_mut().unwrap().workers = 0;
    alone.peers = vec![peer("x", WORKER)];
    assert!(matches!(alone.decide(5), Decision::Record(times) if times.quorum == Some(at(5))));
}

#[test]
fn last_words_release_after_twice_the_timeout() {
    let mut sick = view();
    sick.node.last_words = Some(StoppedFeeding {
        boot: boot("b1"),
        timeout: 5,
    });
    // The quorum plays no part in it.
    sick.times.as_mut().unwrap().quorum = None;
    let Decision::Record(times) = sick.decide(10) else {
        panic!("first sight not recorded")
    };
    assert_eq!(times.words, Some(at(10)));
    sick.times = Some(times);
    assert_eq!(
        sick.decide(21),
        Decision::Wait {
            until: at(22),
            by: By::LastWords
        }
    );
    assert_eq!(sick.decide(22), Decision::Release(By::LastWords));
    // Another manager saw them first: its clock may be ahead of this one's.
    sick.watched_since = at(11);
    assert_eq!(
        sick.decide(22),
        Decision::Wait {
            until: at(27),
            by: By::LastWords
        }
    );
    sick.watched_since = at(1);
    // Of an earlier boot they say nothing.
    sick.node.last_words = Some(StoppedFeeding {
        boot: boot("b0"),
        timeout: 5,
    });
    assert_eq!(released(&sick.decide(1000)), None);
    // And a returned node is E1.
    sick.node.last_words = Some(StoppedFeeding {
        boot: boot("b1"),
        timeout: 5,
    });
    sick.node.kubelet_boot = Some(boot("b2"));
    assert_eq!(sick.decide(22), Decision::Release(By::Reboot));
}

#[test]
fn last_words_wait_does_not_hide_the_questions() {
    let mut sick = view();
    sick.node.last_words = Some(StoppedFeeding {
        boot: boot("b1"),
        timeout: 60,
    });
    sick.times.as_mut().unwrap().words = Some(at(5));
    sick.times.as_mut().unwrap().quorum = None;
    sick.asked = false;
    assert!(matches!(sick.decide(6), Decision::Ask(_)));
    sick.asked = true;
    assert_eq!(
        sick.decide(6),
        Decision::Wait {
            until: at(127),
            by: By::LastWords
        }
    );
}

#[test]
fn h06_a_deleted_order_is_cancelled_only_on_a_ready_node_of_the_same_boot() {
    let mut deleted = view();
    deleted.remediation.deleting = true;
    assert_eq!(
        deleted.decide(20),
        Decision::Wait {
            until: at(130),
            by: By::Time
        }
    );
    assert_eq!(deleted.decide(130), Decision::Release(By::Time));
    deleted.node.ready = Status::True;
    assert_eq!(deleted.decide(20), Decision::Cancel);
    deleted.node.kubelet_boot = Some(boot("b2"));
    assert_eq!(deleted.decide(20), Decision::Release(By::Reboot));
}

#[test]
fn an_old_agent_is_guarded_against_storms() {
    let mut old = view();
    old.node.agent = AgentPods::Old;
    assert_eq!(
        old.decide(180),
        Decision::Wait {
            until: at(181),
            by: By::GuardedTime
        }
    );
    assert_eq!(old.decide(181), Decision::Release(By::GuardedTime));
    // However late it is; and the same words each time, or telling them would never end.
    old.storm = true;
    old.calm_since = at(900);
    assert_eq!(old.decide(900), Decision::Hold(Hold::Storm));
    old.storm = false;
    old.calm_since = at(100);
    assert_eq!(
        old.decide(181),
        Decision::Wait {
            until: at(280),
            by: By::GuardedTime
        }
    );
    // Its announcement is a remainder of a newer version, and no proof of a reboot.
    old.node.announced.as_mut().unwrap().boot = boot("b9");
    assert_eq!(
        old.decide(181),
        Decision::Wait {
            until: at(280),
            by: By::GuardedTime
        }
    );
    // Deleted: it takes that for the end of the order.
    old.remediation.deleting = true;
    assert_eq!(
        old.decide(1_000_000),
        Decision::Hold(Hold::OldAgentAndDeleted)
    );
    old.node.kubelet_boot = Some(boot("b2"));
    assert_eq!(old.decide(5), Decision::Release(By::Reboot));
}

/// The pod of the agent is gone and its announcement with it: nobody says what the agent does, so it is not taken for
/// one of an earlier version, whose behaviour is known.
#[test]
fn an_order_given_on_an_announcement_is_never_guarded_like_an_old_agents() {
    let mut view = view();
    view.node.agent = AgentPods::None;
    view.node.announced = None;
    assert_eq!(view.decide(10_000), Decision::Hold(Hold::NoAnnouncement));
    // Ordered without one: the pod of an old agent may be gone.
    let times = view.times.as_mut().unwrap();
    (times.bound, times.wd) = (None, None);
    assert_eq!(released(&view.decide(10_000)), Some(By::GuardedTime));
}

#[test]
fn a_majority_of_old_agents_cannot_acknowledge() {
    let mut mixed = view();
    mixed.times.as_mut().unwrap().quorum = None;
    mixed.peers[1].our_agent = false;
    assert!(
        matches!(mixed.decide(500), Decision::Hold(Hold::Quorum(_))),
        "one of three"
    );
    // Then nobody has to look at all the others again and again.
    assert!(!needs_guard(&mixed.node, &mixed.peers));
    mixed.peers[2].our_agent = false;
    assert_eq!(
        mixed.decide(180),
        Decision::Wait {
            until: at(181),
            by: By::GuardedTime
        }
    );
    assert_eq!(mixed.decide(181), Decision::Release(By::GuardedTime));
    // The commit check counts here as well.
    mixed.node.announced.as_mut().unwrap().armed = false;
    assert_eq!(mixed.decide(181), Decision::Hold(Hold::NotArmed));
}

#[test]
fn storms_are_more_than_half_of_the_others() {
    for (workers, sick, storm) in [
        (0, 0, false),
        (1, 0, false),
        (1, 1, true),
        (2, 1, false),
        (2, 2, true),
        (3, 1, false),
        (3, 2, true),
    ] {
        assert_eq!(
            Others { workers, sick }.is_storm(),
            storm,
            "{sick}/{workers}"
        );
    }
}

#[test]
fn an_order_of_an_old_manager_is_adopted_only_if_the_kubelet_was_silent_since() {
    let mut old = view();
    old.remediation.boot = None;
    old.times = None;
    for (heard, adopted) in [
        (None, false),
        (Some(-61), true),
        (Some(-60), false),
        (Some(5), false),
    ] {
        old.kubelet_seen = heard.map(at);
        let expected = if adopted {
            Decision::Adopt(boot("b1"))
        } else {
            Decision::Hold(Hold::NoRecordedBoot)
        };
        assert_eq!(old.decide(1_000_000), expected, "{heard:?}");
    }
}

#[test]
fn a_deleted_order_of_an_old_manager_is_cancelled_on_a_ready_node() {
    let mut old = view();
    old.remediation.boot = None;
    old.remediation.deleting = true;
    let held = Decision::Hold(Hold::NoRecordedBoot);
    assert_eq!(old.decide(20), held, "a silent node may still be running");
    old.node.ready = Status::True;
    assert_eq!(old.decide(20), Decision::Cancel);
}

#[test]
fn an_order_without_time_holds() {
    let mut untimed = view();
    untimed.assumed = None;
    assert_eq!(untimed.decide(1_000_000), Decision::Hold(Hold::NoTime));
}

proptest! {
    /// Whatever is varied, a release by time keeps every single condition.
    #[test]
    fn a_release_by_time_keeps_all_conditions(
        now in 0i64..400,
        assumed in proptest::option::of(0i64..300),
        seen in 0i64..100,
        quorum in proptest::option::of(0i64..200),
        armed: bool,
        bound in proptest::option::of(1u64..150),
        wd in 0u64..70,
        used in (proptest::option::of(1u64..150), proptest::option::of(0u64..70)),
        kubelet in proptest::option::of(prop_oneof![3 => Just("b1"), 1 => Just("b2")]),
        agent_boot in prop_oneof![3 => Just("b1"), 1 => Just("b2")],
        ready in prop_oneof![Just(Status::True), Just(Status::False), Just(Status::Unknown)],
        deleting: bool,
        table in 0u32..6,
        acknowledged in proptest::collection::btree_set(prop_oneof![Just("a"), Just("b"), Just("c")], 0..3),
    ) {
        let mut varied = view();
        varied.assumed = assumed.map(at);
        varied.times = Some(OrderTimes {
            seen: at(seen),
            quorum: quorum.map(at),
            bound: used.0,
            wd: used.1,
            ..times()
        });
        let announced = varied.node.announced.as_mut().unwrap();
        (announced.armed, announced.bound, announced.wd, announced.workers) = (armed, bound, wd, table);
        announced.boot = boot(agent_boot);
        varied.node.kubelet_boot = kubelet.map(boot);
        varied.node.ready = ready;
        varied.remediation.deleting = deleting;
        varied.acknowledged = acknowledged.into_iter().map(name).collect();
        match varied.decide(now) {
            Decision::Release(By::Time) => {
                let bound = bound.expect("bound");
                prop_assert!(armed && kubelet == Some("b1") && agent_boot == "b1");
                prop_assert!(now >= assumed.expect("time"));
                prop_assert!(now >= quorum.expect("quorum") + i64::try_from(bound + 2 * wd + 10).unwrap());
                prop_assert!(used.0.unwrap_or(0) >= bound && used.1.unwrap_or(0) >= wd);
                prop_assert!(!(deleting && ready == Status::True));
            }
            Decision::Release(By::Reboot) => {
                prop_assert!(kubelet == Some("b2") || agent_boot == "b2");
            }
            Decision::Release(By::GuardedTime | By::LastWords) => prop_assert!(false, "no such evidence"),
            Decision::Record(recorded) => {
                // What is recorded only ever grows, and a quorum is never made up.
                prop_assert!(recorded.bound >= used.0 && recorded.wd >= used.1);
                if quorum.is_none() && recorded.quorum.is_some() {
                    prop_assert!(varied.acknowledged.len() >= (table as usize).div_ceil(2));
                    prop_assert!(recorded.quorum >= Some(at(seen)));
                }
            }
            Decision::Cancel => prop_assert!(deleting && ready == Status::True),
            Decision::Ask(_) | Decision::Wait { .. } | Decision::Hold(_) | Decision::Adopt(_) => {}
        }
    }
}
