use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::drain::{budget::tests::budget, filter::tests::pod, pod::Controller};

mod budgets;
mod properties;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn leaving(pod: PodFacts, since: i64, grace: i64) -> PodFacts {
    let deadline = at(since) + SignedDuration::from_secs(grace);
    PodFacts {
        terminating: Some(Termination {
            since: at(since),
            deadline,
        }),
        ..pod
    }
}

fn of_daemon_set(name: &str, daemon_set: &str) -> PodFacts {
    let controller = Controller::DaemonSet(Key::new("ns", daemon_set));
    PodFacts {
        controller,
        ..pod("ns", name, name)
    }
}

fn begun(options: Options, pods: Vec<PodFacts>) -> (Machine, Vec<Command>) {
    let mut machine = Machine::new(options);
    let mut commands = machine.step(Event::Begin, at(0));
    commands.extend(machine.step(Event::Listed(pods), at(0)));
    (machine, commands)
}

fn evicted(commands: &[Command]) -> Vec<String> {
    commands
        .iter()
        .filter_map(|command| match command {
            Command::Evict(eviction) => Some(eviction.key.name.clone()),
            Command::FindDaemonSet(_)
            | Command::WatchBudgets(_)
            | Command::ForgetBudgets(_)
            | Command::Relist => None,
        })
        .collect()
}

fn answer(machine: &mut Machine, name: &str, answer: Answer, now: i64) -> Vec<Command> {
    machine.step(
        Event::Answered(Key::new("ns", name), Uid(name.to_owned()), answer),
        at(now),
    )
}

fn not_now() -> Answer {
    Answer::NotNow {
        retry_after: None,
        text: "not now".to_owned(),
    }
}

fn gone(machine: &mut Machine, name: &str, now: i64) -> Vec<Command> {
    machine.step(
        Event::Deleted(Key::new("ns", name), Uid(name.to_owned())),
        at(now),
    )
}

#[test]
fn nothing_is_evicted_before_the_drain_begins() {
    let mut machine = Machine::new(Options::default());
    let commands = machine.step(Event::Listed(vec![pod("ns", "a", "a")]), at(0));
    assert_eq!(commands, []);
    assert_eq!(evicted(&machine.step(Event::Begin, at(1))), ["a"]);
}

#[test]
fn the_eviction_names_the_listed_incarnation() {
    let options = Options {
        grace_seconds: Some(7),
        ..Options::default()
    };
    let (_, commands) = begun(options, vec![pod("ns", "a", "uid-1")]);
    let expected = Eviction {
        key: Key::new("ns", "a"),
        uid: Uid("uid-1".to_owned()),
        grace_seconds: Some(7),
        notes: Notes::default(),
    };
    assert_eq!(commands, [Command::Evict(expected)]);
    let (_, commands) = begun(Options::default(), vec![pod("ns", "a", "uid-1")]);
    assert!(matches!(&commands[..], [Command::Evict(e)] if e.grace_seconds.is_none()));
}

#[test]
fn completion_waits_until_the_object_is_gone() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    answer(&mut machine, "a", Answer::Accepted, 1);
    assert!(!machine.is_complete());
    machine.step(Event::Applied(leaving(pod("ns", "a", "a"), 1, 30)), at(1));
    assert!(!machine.is_complete(), "a deletionTimestamp is not enough");
    gone(&mut machine, "a", 31);
    assert!(machine.is_complete());
    assert_eq!(machine.wake_at(), None);
}

#[test]
fn not_even_a_404_completes_what_the_list_still_shows() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    answer(&mut machine, "a", Answer::Gone, 1);
    assert!(!machine.is_complete());
    machine.step(Event::Listed(vec![]), at(2));
    assert!(machine.is_complete());
}

#[test]
fn an_empty_node_is_complete_only_once_listed() {
    let mut machine = Machine::new(Options::default());
    machine.step(Event::Begin, at(0));
    assert!(!machine.is_complete());
    machine.step(Event::Listed(vec![]), at(0));
    assert!(machine.is_complete());
}

#[test]
fn a_list_from_before_the_beginning_starts_a_drain_but_does_not_complete_it() {
    let prepared = |pods: Vec<PodFacts>| {
        let mut machine = Machine::new(Options::default());
        machine.step(Event::Listed(pods), at(0));
        machine
    };
    // Nothing was there when the node was still open: something may have come since.
    let mut machine = prepared(vec![]);
    assert_eq!(machine.step(Event::Begin, at(1)), [Command::Relist]);
    assert!(!machine.is_complete());
    let commands = machine.step(Event::Listed(vec![pod("ns", "late", "late")]), at(1));
    assert_eq!(evicted(&commands), ["late"]);
    answer(&mut machine, "late", Answer::Accepted, 2);
    gone(&mut machine, "late", 2);
    assert!(machine.is_complete());

    let mut machine = prepared(vec![pod("ns", "a", "a")]);
    assert_eq!(evicted(&machine.step(Event::Begin, at(1))), ["a"]);
    answer(&mut machine, "a", Answer::Accepted, 2);
    assert_eq!(gone(&mut machine, "a", 2), [Command::Relist]);
    assert_eq!(machine.step(Event::Tick, at(3)), [], "once");
    assert!(!machine.is_complete());
    machine.step(Event::Listed(vec![]), at(3));
    assert!(machine.is_complete());
}

#[test]
fn terminating_pods_are_waited_for_and_never_evicted_again() {
    let (mut machine, commands) = begun(
        Options::default(),
        vec![leaving(pod("ns", "a", "a"), -10, 80)],
    );
    assert_eq!(commands, []);
    for now in [10, 31, 36, 70, 200] {
        assert_eq!(
            evicted(&machine.step(Event::Tick, at(now))),
            Vec::<String>::new()
        );
    }
    assert!(!machine.is_complete());
    let summary = machine.report().summary;
    assert!(
        summary[0].contains("ns/a: terminating since"),
        "{summary:?}"
    );
}

#[test]
fn another_incarnation_is_another_pod() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    let commands = machine.step(Event::Applied(pod("ns", "a", "b")), at(1));
    assert!(
        matches!(&commands[..], [Command::Evict(e)] if e.uid == Uid("b".to_owned())),
        "{commands:?}"
    );
    // The answer and the end of the first one do not concern the second.
    answer(&mut machine, "a", Answer::Accepted, 2);
    gone(&mut machine, "a", 2);
    assert_eq!(machine.report().pending, [Key::new("ns", "a")]);
}

#[test]
fn a_contested_pod_is_listed_again_before_success() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    let commands = answer(&mut machine, "a", Answer::Contested, 1);
    assert_eq!(commands, [Command::Relist]);
    gone(&mut machine, "a", 1);
    assert!(!machine.is_complete(), "the list is still to come");
    machine.step(Event::Listed(vec![]), at(2));
    assert!(machine.is_complete());
}

#[test]
fn pods_of_daemon_sets_wait_for_the_answer() {
    let pods = vec![
        of_daemon_set("a", "x"),
        of_daemon_set("b", "x"),
        of_daemon_set("c", "y"),
    ];
    let (mut machine, commands) = begun(Options::default(), pods);
    assert_eq!(
        commands,
        [
            Command::FindDaemonSet(Key::new("ns", "x")),
            Command::FindDaemonSet(Key::new("ns", "y"))
        ],
        "one question for each DaemonSet"
    );
    assert!(!machine.is_complete());
    let found = |name: &str, state| Event::FoundDaemonSet(Key::new("ns", name), state);
    assert_eq!(machine.step(found("x", DaemonSet::Exists), at(1)), []);
    assert_eq!(
        evicted(&machine.step(found("y", DaemonSet::Missing), at(1))),
        ["c"]
    );
    answer(&mut machine, "c", Answer::Accepted, 1);
    gone(&mut machine, "c", 2);
    assert!(machine.is_complete());
}

#[test]
fn undecided_pods_are_never_evicted_and_asked_about_each_round() {
    let (mut machine, _) = begun(Options::default(), vec![of_daemon_set("a", "x")]);
    let unreadable = Event::FoundDaemonSet(
        Key::new("ns", "x"),
        DaemonSet::Unreadable("timeout".to_owned()),
    );
    assert_eq!(machine.step(unreadable.clone(), at(1)), []);
    assert_eq!(machine.step(Event::Tick, at(29)), []);
    assert_eq!(machine.step(Event::Tick, at(30)), []);
    let report = machine.report();
    assert!(!report.is_complete && report.rounds == 1);
    assert!(report.summary[0].contains("DaemonSet ns/x could not be read: timeout"));
    assert_eq!(
        machine.step(Event::Tick, at(35)),
        [Command::FindDaemonSet(Key::new("ns", "x"))]
    );
    machine.step(
        Event::FoundDaemonSet(Key::new("ns", "x"), DaemonSet::Exists),
        at(36),
    );
    assert!(machine.is_complete());
}

#[test]
fn a_known_daemon_set_is_not_asked_for_in_each_round() {
    let pods = vec![
        of_daemon_set("a", "x"),
        leaving(pod("ns", "b", "b"), 0, 1000),
    ];
    let (mut machine, _) = begun(Options::default(), pods);
    machine.step(
        Event::FoundDaemonSet(Key::new("ns", "x"), DaemonSet::Exists),
        at(1),
    );
    let mut asked = 0;
    for now in 2..700 {
        for command in machine.step(Event::Tick, at(now)) {
            assert_eq!(command, Command::FindDaemonSet(Key::new("ns", "x")));
            machine.step(
                Event::FoundDaemonSet(Key::new("ns", "x"), DaemonSet::Exists),
                at(now),
            );
            asked += 1;
        }
    }
    assert_eq!(asked, 2, "every five minutes");
}

#[test]
fn at_most_the_limit_is_under_way() {
    let pods: Vec<PodFacts> = (0..10)
        .map(|n| {
            let name = format!("p{n}");
            pod("ns", &name, &name)
        })
        .collect();
    let (mut machine, commands) = begun(
        Options {
            limit: 3,
            ..Options::default()
        },
        pods,
    );
    assert_eq!(evicted(&commands), ["p0", "p1", "p2"]);
    assert_eq!(
        evicted(&answer(&mut machine, "p1", Answer::Accepted, 1)),
        ["p3"]
    );
    assert_eq!(evicted(&answer(&mut machine, "p0", not_now(), 1)), ["p4"]);
    // The pod vanishing does not free the slot; the answer does.
    assert_eq!(evicted(&gone(&mut machine, "p2", 1)), Vec::<String>::new());
    assert_eq!(
        evicted(&answer(&mut machine, "p2", Answer::Gone, 1)),
        ["p5"]
    );
}

#[test]
fn more_may_be_under_way_the_longer_the_server_takes() {
    let pods: Vec<PodFacts> = (0..90)
        .map(|n| pod("ns", &format!("p{n:02}"), &format!("p{n:02}")))
        .collect();
    let (mut machine, commands) = begun(Options::default(), pods);
    let mut open = evicted(&commands).len();
    assert_eq!(open, FIRST);
    // Nothing is answered: each wake lets one more go, up to the limit.
    while let Some(wake) = machine.wake_at().filter(|wake| *wake < at(8)) {
        let more = evicted(&machine.step(Event::Tick, wake)).len();
        assert_eq!(more, 1, "at {wake} with {open}");
        open += more;
    }
    assert_eq!(open, LIMIT);
}

#[test]
fn the_operators_own_pod_does_not_wait_for_the_window_while_others_are_left() {
    let mut pods: Vec<PodFacts> = (0..FIRST)
        .map(|n| pod("ns", &format!("p{n:02}"), &format!("p{n:02}")))
        .collect();
    pods.push(pod("ns", "own", "own"));
    let options = Options {
        own_pod: Some(Key::new("ns", "own")),
        ..Options::default()
    };
    let (machine, commands) = begun(options, pods);
    assert_eq!(evicted(&commands).len(), FIRST);
    assert_eq!(machine.wake_at(), Some(at(30)), "nothing to do before");
}

#[test]
fn a_node_takes_no_more_than_its_share() {
    let pods: Vec<PodFacts> = (0..20)
        .map(|n| pod("ns", &format!("p{n:02}"), &format!("p{n:02}")))
        .collect();
    let mut machine = Machine::new(Options::default());
    machine.set_share(5);
    machine.step(Event::Begin, at(0));
    assert_eq!(evicted(&machine.step(Event::Listed(pods), at(0))).len(), 5);
    assert_eq!(evicted(&machine.step(Event::Tick, at(9))).len(), 0);
    machine.set_share(7);
    assert_eq!(evicted(&machine.step(Event::Tick, at(9))).len(), 2);
}

#[test]
fn a_refusal_blocks_one_pod_only_and_is_retried() {
    let (mut machine, _) = begun(
        Options::default(),
        vec![pod("ns", "a", "a"), pod("ns", "b", "b")],
    );
    answer(&mut machine, "b", Answer::Accepted, 1);
    let commands = answer(&mut machine, "a", not_now(), 1);
    assert_eq!(commands, [Command::WatchBudgets("ns".to_owned())]);
    let retry = machine.wake_at().unwrap();
    assert!(retry >= at(6) && retry <= at(7), "{retry}");
    assert_eq!(evicted(&machine.step(Event::Tick, retry)), ["a"]);
    // The refusals of one pod count from the first.
    answer(&mut machine, "a", not_now(), 7);
    assert_eq!(machine.report().blocked[0].since, at(1));
}

#[test]
fn the_servers_wait_is_respected() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    let wait = Some(Duration::from_secs(20));
    answer(
        &mut machine,
        "a",
        Answer::NotNow {
            retry_after: wait,
            text: String::new(),
        },
        0,
    );
    assert_eq!(
        evicted(&machine.step(Event::Tick, at(19))),
        Vec::<String>::new()
    );
    assert_eq!(evicted(&machine.step(Event::Tick, at(25))), ["a"]);
}

#[test]
fn a_pod_that_finishes_while_blocked_goes_at_once() {
    // A virtual machine: its webhook answers 429 until the live migration has ended.
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    answer(&mut machine, "a", not_now(), 0);
    assert_eq!(
        evicted(&machine.step(Event::Tick, at(2))),
        Vec::<String>::new()
    );
    let finished = PodFacts {
        is_finished: true,
        ..pod("ns", "a", "a")
    };
    assert_eq!(
        evicted(&machine.step(Event::Applied(finished), at(2))),
        ["a"]
    );
}

#[test]
fn errors_stop_a_pod_until_the_next_round() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    let text = "found more than one PodDisruptionBudget".to_owned();
    answer(&mut machine, "a", Answer::Refused { code: 500, text }, 1);
    for now in 2..35 {
        assert_eq!(
            evicted(&machine.step(Event::Tick, at(now))),
            Vec::<String>::new()
        );
    }
    assert_eq!(
        machine.report().summary,
        [
            "ns/a: eviction failed (500): found more than one PodDisruptionBudget \
          since 2027-01-15T08:00:01Z"
        ]
    );
    assert_eq!(evicted(&machine.step(Event::Tick, at(35))), ["a"]);
}

#[test]
fn a_pod_that_is_refused_in_each_round_is_blocked_since_the_first() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    for round in 0..3 {
        let text = "no".to_owned();
        let now = 1 + 35 * round;
        answer(&mut machine, "a", Answer::Refused { code: 500, text }, now);
        let blocked = &machine.report().blocked[0];
        assert_eq!(blocked.since, at(1), "round {round}");
        assert_eq!(blocked.why, "eviction failed (500): no");
        machine.step(Event::Tick, at(30 + 35 * round));
        assert_eq!(
            evicted(&machine.step(Event::Tick, at(35 + 35 * round))),
            ["a"]
        );
        assert_eq!(machine.report().blocked.len(), 1, "while it is tried again");
    }
}

#[test]
fn a_clock_that_is_set_back_stalls_nothing() {
    let (mut machine, _) = begun(
        Options::default(),
        vec![pod("ns", "a", "a"), leaving(pod("ns", "b", "b"), 0, 80)],
    );
    answer(&mut machine, "a", not_now(), 1);
    let hour = 3600;
    machine.step(Event::Tick, at(2 - hour));
    assert_eq!(machine.report().blocked[0].since, at(2 - hour));
    assert_eq!(evicted(&machine.step(Event::Tick, at(8 - hour))), ["a"]);
    machine.step(Event::Tick, at(31 - hour));
    assert_eq!(machine.report().rounds, 1);
    machine.step(Event::Tick, at(10 - 2 * hour));
    machine.step(Event::Tick, at(16 - 2 * hour));
    machine.step(Event::Tick, at(46 - 2 * hour));
    assert_eq!(machine.report().rounds, 2);
}

#[test]
fn an_accepted_pod_that_does_not_terminate_is_asked_again_next_round() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    answer(&mut machine, "a", Answer::Accepted, 1);
    assert_eq!(
        evicted(&machine.step(Event::Tick, at(30))),
        Vec::<String>::new()
    );
    assert_eq!(evicted(&machine.step(Event::Tick, at(35))), ["a"]);
}

#[test]
fn a_terminating_namespace_is_waited_for() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    let commands = answer(&mut machine, "a", Answer::NamespaceTerminating, 0);
    assert_eq!(commands, [], "no budget is to blame");
    assert_eq!(
        machine.report().blocked[0].why,
        "its namespace is terminating"
    );
    assert_eq!(evicted(&machine.step(Event::Tick, at(7))), ["a"]);
    machine.step(Event::Applied(leaving(pod("ns", "a", "a"), 8, 30)), at(8));
    assert_eq!(
        evicted(&machine.step(Event::Tick, at(36))),
        Vec::<String>::new()
    );
}

#[test]
fn the_operators_own_pod_goes_last() {
    let own = Some(Key::new("ns", "own"));
    let pods = vec![
        pod("ns", "own", "own"),
        pod("ns", "z1", "z1"),
        pod("ns", "z2", "z2"),
    ];
    let (mut machine, commands) = begun(
        Options {
            own_pod: own,
            ..Options::default()
        },
        pods,
    );
    assert_eq!(evicted(&commands), ["z1", "z2"]);
    assert_eq!(
        evicted(&answer(&mut machine, "z1", not_now(), 1)),
        Vec::<String>::new()
    );
    answer(&mut machine, "z2", Answer::Accepted, 1);
    assert_eq!(evicted(&machine.step(Event::Tick, at(7))), ["z1"]);
    assert_eq!(
        evicted(&answer(&mut machine, "z1", Answer::Accepted, 8)),
        ["own"]
    );
}

#[test]
fn a_cancelled_drain_asks_for_nothing_any_more() {
    let pods = vec![
        pod("ns", "a", "a"),
        pod("ns", "b", "b"),
        of_daemon_set("c", "x"),
    ];
    let (mut machine, _) = begun(
        Options {
            limit: 1,
            ..Options::default()
        },
        pods,
    );
    answer(&mut machine, "a", not_now(), 1);
    let commands = machine.step(Event::Cancel, at(1));
    assert_eq!(commands, [Command::ForgetBudgets("ns".to_owned())]);
    for event in [
        Event::Answered(Key::new("ns", "b"), Uid("b".to_owned()), not_now()),
        Event::Applied(pod("ns", "d", "d")),
        Event::Begin,
        Event::Tick,
        Event::FoundDaemonSet(Key::new("ns", "x"), DaemonSet::Missing),
    ] {
        assert_eq!(machine.step(event, at(100)), []);
    }
    assert_eq!(machine.wake_at(), None);
}

#[test]
fn pods_that_appear_during_the_drain_go_too() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    assert_eq!(
        evicted(&machine.step(Event::Applied(pod("ns", "late", "l")), at(3))),
        ["late"]
    );
}

#[test]
fn only_selected_pods_go() {
    let selector = selector::parse(
        &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
            match_labels: Some(BTreeMap::from([("app".to_owned(), "b".to_owned())])),
            match_expressions: None,
        },
    )
    .unwrap();
    let options = Options {
        selector: Some(selector),
        ..Options::default()
    };
    let (mut machine, commands) = begun(options, vec![pod("ns", "a", "a"), pod("ns", "b", "b")]);
    assert_eq!(evicted(&commands), ["b"]);
    answer(&mut machine, "b", Answer::Accepted, 1);
    gone(&mut machine, "b", 1);
    assert!(machine.is_complete());
}

#[test]
fn a_pod_stuck_in_termination_is_let_go_only_on_order() {
    let stuck = || vec![leaving(pod("ns", "a", "a"), 0, 30)];
    let (mut patient, _) = begun(Options::default(), stuck());
    patient.step(Event::Tick, at(100_000));
    assert!(!patient.is_complete());
    let skip_wait = Some(Duration::from_mins(1));
    let (mut machine, _) = begun(
        Options {
            skip_wait,
            ..Options::default()
        },
        stuck(),
    );
    machine.step(Event::Tick, at(89));
    assert!(!machine.is_complete());
    assert!(machine.wake_at().is_some_and(|wake| wake <= at(90)));
    machine.step(Event::Tick, at(90));
    assert!(machine.is_complete());
    assert_eq!(machine.report().pending, []);
}

#[test]
fn a_round_ends_after_30_s_and_the_next_begins_5_s_later() {
    let (mut machine, _) = begun(
        Options::default(),
        vec![leaving(pod("ns", "a", "a"), 0, 80)],
    );
    assert_eq!(machine.wake_at(), Some(at(30)));
    machine.step(Event::Tick, at(30));
    let report = machine.report();
    assert_eq!((report.rounds, report.paused_until), (1, Some(at(35))));
    assert_eq!(machine.wake_at(), Some(at(35)));
    machine.step(Event::Tick, at(35));
    assert_eq!(machine.wake_at(), Some(at(65)));
}

#[test]
fn the_summary_of_a_round_names_nobody_who_is_gone_by_now() {
    let stuck = |name: &str| leaving(pod("ns", name, name), 0, 80);
    let (mut machine, _) = begun(Options::default(), vec![stuck("a"), stuck("b")]);
    machine.step(Event::Tick, at(30));
    assert_eq!(machine.report().summary.len(), 2);
    gone(&mut machine, "a", 31);
    let summary = machine.report().summary;
    assert!(
        matches!(&summary[..], [line] if line.starts_with("ns/b: ")),
        "{summary:?}"
    );
}

#[test]
fn the_words_name_pod_and_budget() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    answer(&mut machine, "a", not_now(), 0);
    machine.step(
        Event::Budgets("ns".to_owned(), vec![budget("b", "a", 0)]),
        at(1),
    );
    machine.step(Event::Tick, at(30));
    assert_eq!(
        machine.report().summary,
        [
            "ns/a: blocked by PodDisruptionBudget b (0 disruptions allowed, 2 healthy, 2 required) \
          since 2027-01-15T08:00:00Z"
        ]
    );
    machine.step(Event::BudgetsUnknown("ns".to_owned()), at(31));
    assert_eq!(
        machine.report().blocked[0].why,
        "eviction refused for now: not now"
    );
}
