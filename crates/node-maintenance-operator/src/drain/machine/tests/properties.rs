//! Any order of events: the rules of section 14 that the drain alone must keep.

use std::collections::BTreeMap;

use super::*;

/// What the API server would know of the pods, driven by the test.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Appears {
        name: u8,
        incarnation: u8,
        kind: u8,
    },
    /// Is bound to the node before it is cordoned; the watch has not said so yet.
    IsBound {
        name: u8,
        incarnation: u8,
    },
    /// The watch catches up.
    IsShown,
    Vanishes {
        name: u8,
    },
    Terminates {
        name: u8,
    },
    Answers {
        pick: u8,
        answer: u8,
    },
    FindsDaemonSet {
        name: u8,
        state: u8,
    },
    SeesBudgets {
        allowed: i32,
    },
    LosesBudgets,
    Lists,
    Passes {
        seconds: u8,
    },
    Begins,
    Cancels,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        6 => (0u8..6, 0u8..3, 0u8..6)
            .prop_map(|(name, incarnation, kind)| Happening::Appears { name, incarnation, kind }),
        2 => (0u8..6, 0u8..3)
            .prop_map(|(name, incarnation)| Happening::IsBound { name, incarnation }),
        1 => Just(Happening::IsShown),
        3 => (0u8..6).prop_map(|name| Happening::Vanishes { name }),
        3 => (0u8..6).prop_map(|name| Happening::Terminates { name }),
        8 => (any::<u8>(), 0u8..7).prop_map(|(pick, answer)| Happening::Answers { pick, answer }),
        3 => (0u8..3, 0u8..3).prop_map(|(name, state)| Happening::FindsDaemonSet { name, state }),
        3 => (0i32..3).prop_map(|allowed| Happening::SeesBudgets { allowed }),
        1 => Just(Happening::LosesBudgets),
        3 => Just(Happening::Lists),
        6 => (1u8..40).prop_map(|seconds| Happening::Passes { seconds }),
        3 => Just(Happening::Begins),
        1 => Just(Happening::Cancels),
    ];
    proptest::collection::vec(one, 1..120)
}

fn make(name: u8, incarnation: u8, kind: u8) -> PodFacts {
    let base = pod("ns", &format!("p{name}"), &format!("p{name}-{incarnation}"));
    match kind {
        0 => PodFacts {
            is_mirror: true,
            ..base
        },
        1..=3 => PodFacts {
            controller: Controller::DaemonSet(Key::new("ns", format!("ds{}", kind - 1))),
            ..base
        },
        4 => PodFacts {
            is_finished: true,
            ..base
        },
        _ => base,
    }
}

fn answers(which: u8) -> Answer {
    let text = "text".to_owned();
    match which {
        0 => Answer::Accepted,
        1 => Answer::Gone,
        2 => Answer::Contested,
        3 => not_now(),
        4 => Answer::NamespaceTerminating,
        5 => Answer::Refused { code: 500, text },
        _ => Answer::Unreachable { text },
    }
}

fn states(which: u8) -> DaemonSet {
    match which {
        0 => DaemonSet::Exists,
        1 => DaemonSet::Missing,
        _ => DaemonSet::Unreadable("no".to_owned()),
    }
}

/// The world beside the machine.
struct World {
    machine: Machine,
    now: Timestamp,
    pods: BTreeMap<Key, PodFacts>,
    /// There, but not shown yet.
    unseen: Vec<PodFacts>,
    daemon_sets: BTreeMap<Key, DaemonSet>,
    open: Vec<(Key, Uid)>,
    has_begun: bool,
    is_cancelled: bool,
    is_listed: bool,
    limit: usize,
}

impl World {
    fn feed(&mut self, event: Event) {
        if event == Event::Begin {
            self.has_begun = true;
        }
        if event == Event::Cancel {
            self.is_cancelled = true;
        }
        if matches!(event, Event::Listed(_)) {
            self.is_listed = true;
        }
        let commands = self.machine.step(event, self.now);
        for command in commands {
            match command {
                Command::Evict(eviction) => self.check_eviction(eviction),
                Command::FindDaemonSet(_) | Command::WatchBudgets(_) => assert!(!self.is_cancelled),
                Command::ForgetBudgets(_) | Command::Relist => {}
            }
        }
        self.check_completion();
    }

    /// MUST NOT 2, 3 and 4.
    fn check_eviction(&mut self, eviction: Eviction) {
        assert!(self.has_begun, "evicted before it was allowed");
        assert!(!self.is_cancelled, "evicted after cancellation");
        assert_eq!(
            eviction.grace_seconds, None,
            "grace period changed without an order"
        );
        let pod = self
            .pods
            .get(&eviction.key)
            .expect("evicted a pod that is not there");
        assert_eq!(
            pod.uid, eviction.uid,
            "evicted another incarnation than the one last seen"
        );
        assert!(!pod.is_mirror, "evicted a mirror pod");
        assert!(pod.terminating.is_none(), "evicted a terminating pod again");
        if let Controller::DaemonSet(owner) = &pod.controller
            && !pod.is_finished
        {
            assert_eq!(
                self.daemon_sets.get(owner),
                Some(&DaemonSet::Missing),
                "evicted a pod whose DaemonSet exists or is undecided"
            );
        }
        let one = (eviction.key, eviction.uid);
        assert!(!self.open.contains(&one), "evicted twice at the same time");
        self.open.push(one);
        assert!(
            self.open.len() <= self.limit,
            "too many evictions at the same time"
        );
    }

    /// MUST NOT 10.
    fn check_completion(&self) {
        let must_go = |pod: &&PodFacts| {
            let owner = match &pod.controller {
                Controller::DaemonSet(owner) if !pod.is_finished => self.daemon_sets.get(owner),
                Controller::DaemonSet(_) | Controller::None | Controller::Other => {
                    Some(&DaemonSet::Missing)
                }
            };
            !pod.is_mirror && owner != Some(&DaemonSet::Exists)
        };
        if self.machine.is_complete() {
            assert!(self.is_listed, "complete without a list");
            let there = self.pods.values().chain(&self.unseen);
            let left: Vec<&PodFacts> = there.filter(must_go).collect();
            assert!(left.is_empty(), "complete while {left:?} is there");
            assert!(
                self.open.is_empty(),
                "complete while an eviction is under way"
            );
        }
    }

    fn live(&mut self, happening: Happening) {
        match happening {
            Happening::Appears {
                name,
                incarnation,
                kind,
            } => {
                let new = make(name, incarnation, kind);
                if self.unseen.iter().any(|pod| pod.key == new.key) {
                    return;
                }
                // Incarnations only move on, and what terminates never comes back.
                if self.pods.get(&new.key).is_some_and(|old| {
                    old.uid > new.uid || (old.uid == new.uid && old.terminating.is_some())
                }) {
                    return;
                }
                self.pods.insert(new.key.clone(), new.clone());
                self.feed(Event::Applied(new));
            }
            Happening::IsBound { name, incarnation } => {
                let new = make(name, incarnation, 5);
                let is_known = self.pods.contains_key(&new.key)
                    || self.unseen.iter().any(|pod| pod.key == new.key);
                if !self.has_begun && !is_known {
                    self.unseen.push(new);
                }
            }
            Happening::IsShown => {
                for pod in std::mem::take(&mut self.unseen) {
                    self.pods.insert(pod.key.clone(), pod.clone());
                    self.feed(Event::Applied(pod));
                }
            }
            Happening::Vanishes { name } => {
                if let Some(old) = self.pods.remove(&Key::new("ns", format!("p{name}"))) {
                    self.feed(Event::Deleted(old.key, old.uid));
                }
            }
            Happening::Terminates { name } => {
                let now = self.now;
                if let Some(old) = self.pods.get_mut(&Key::new("ns", format!("p{name}"))) {
                    old.terminating = Some(Termination {
                        since: now,
                        deadline: now,
                    });
                    let pod = old.clone();
                    self.feed(Event::Applied(pod));
                }
            }
            Happening::Answers { pick, answer } => {
                if !self.open.is_empty() {
                    let (key, uid) = self.open.remove(usize::from(pick) % self.open.len());
                    self.feed(Event::Answered(key, uid, answers(answer)));
                }
            }
            Happening::FindsDaemonSet { name, state } => {
                let key = Key::new("ns", format!("ds{name}"));
                self.daemon_sets.insert(key.clone(), states(state));
                self.feed(Event::FoundDaemonSet(key, states(state)));
            }
            Happening::SeesBudgets { allowed } => {
                let budgets = (0..6)
                    .map(|n| budget("b", &format!("p{n}"), allowed))
                    .collect();
                self.feed(Event::Budgets("ns".to_owned(), budgets));
            }
            Happening::LosesBudgets => self.feed(Event::BudgetsUnknown("ns".to_owned())),
            Happening::Lists => {
                for pod in std::mem::take(&mut self.unseen) {
                    self.pods.insert(pod.key.clone(), pod);
                }
                let pods = self.pods.values().cloned().collect();
                self.feed(Event::Listed(pods));
            }
            Happening::Passes { seconds } => {
                self.now = after(self.now, Duration::from_secs(u64::from(seconds)));
                self.feed(Event::Tick);
            }
            Happening::Begins => self.feed(Event::Begin),
            Happening::Cancels => self.feed(Event::Cancel),
        }
    }
}

proptest! {
    #[test]
    fn must_not_evict_what_it_may_not_and_must_not_claim_success_early(
        story in happenings(), limit in 1usize..4,
    ) {
        let mut world = World {
            machine: Machine::new(Options { limit, ..Options::default() }),
            now: at(0),
            pods: BTreeMap::new(),
            unseen: Vec::new(),
            daemon_sets: BTreeMap::new(),
            open: Vec::new(),
            has_begun: false,
            is_cancelled: false,
            is_listed: false,
            limit,
        };
        for happening in story {
            world.live(happening);
        }
    }

    /// Whatever happened: when the server accepts everything and pods go, the drain ends, in a
    /// bounded number of steps.
    #[test]
    fn every_drain_ends_once_nothing_stands_in_its_way(story in happenings(), limit in 1usize..4) {
        let mut world = World {
            machine: Machine::new(Options { limit, ..Options::default() }),
            now: at(0),
            pods: BTreeMap::new(),
            unseen: Vec::new(),
            daemon_sets: BTreeMap::new(),
            open: Vec::new(),
            has_begun: false,
            is_cancelled: false,
            is_listed: false,
            limit,
        };
        for happening in story {
            if !matches!(happening, Happening::Cancels) {
                world.live(happening);
            }
        }
        for name in 0..3 {
            world.live(Happening::FindsDaemonSet { name, state: 0 });
        }
        world.live(Happening::Begins);
        for _ in 0..40 {
            while let Some((key, uid)) = world.open.pop() {
                world.feed(Event::Answered(key.clone(), uid.clone(), Answer::Accepted));
                if world.pods.get(&key).is_some_and(|pod| pod.uid == uid) {
                    world.pods.remove(&key);
                }
                world.feed(Event::Deleted(key, uid));
            }
            let leaving: Vec<u8> = (0..6)
                .filter(|n| {
                    world.pods.get(&Key::new("ns", format!("p{n}")))
                        .is_some_and(|pod| pod.terminating.is_some())
                })
                .collect();
            for name in leaving {
                world.live(Happening::Vanishes { name });
            }
            world.live(Happening::Lists);
            if world.machine.is_complete() {
                break;
            }
            world.live(Happening::Passes { seconds: 10 });
        }
        prop_assert!(world.machine.is_complete(), "{:?}", world.machine.report());
    }

    /// The texts hold nothing that changes while nothing happens.
    #[test]
    fn reports_are_stable(story in happenings()) {
        let mut machine = Machine::new(Options::default());
        machine.step(Event::Begin, at(0));
        for happening in story {
            if let Happening::Appears { name, incarnation, kind } = happening {
                machine.step(Event::Applied(make(name, incarnation, kind)), at(0));
            }
        }
        let before = machine.report();
        machine.step(Event::Tick, at(1));
        machine.step(Event::Tick, at(29));
        prop_assert_eq!(before, machine.report());
    }
}
