//! The searches: with all rules nothing may be found; with one rule broken, the way to two copies must be.

use crate::effects::Effects;
use crate::liveness;
use crate::outage::Outage;
use crate::rules::Rule;
use crate::search::{Model, search};
use crate::setup::{Fault, Others, Setup};
use crate::story::{self, Line};
use crate::world::World;

/// What is searched through.
#[derive(Debug, Clone)]
pub enum Space {
    /// One order, its node, peers and manager.
    Order(Box<Setup>),
    /// An outage of the API server.
    Outage {
        /// How many agents there are.
        agents: usize,
        /// How many of them die and start again.
        deaths: u64,
        /// One of them remembers an order that is gone.
        old_memory: bool,
    },
    /// Late writes.
    Effects,
}

/// One search.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// What is searched through.
    pub space: Space,
    /// The rule that does not hold.
    pub broken: Option<Rule>,
    /// At most so many states.
    pub most: usize,
    /// Every reachable state must be among them.
    pub whole: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Transitions tried.
    pub transitions: u64,
    /// Actions on the longest of the shortest ways.
    pub depth: u32,
    /// Whether every reachable state was seen.
    pub closed: bool,
    /// States from which x was cut off for good, to see whether it is freed.
    pub lives: u64,
    /// The broken promise, and how it came to it.
    pub violation: Option<(String, Vec<Line>)>,
}

impl Report {
    /// Whether it is as it must be.
    pub fn passed(&self, case: &Case) -> bool {
        self.violation.is_some() == case.broken.is_some() && (self.closed || !case.whole)
    }
}

impl Case {
    fn of(setup: Setup, most: usize) -> Self {
        Self {
            name: setup.name.to_owned(),
            broken: setup.broken(),
            space: Space::Order(Box::new(setup)),
            most,
            whole: false,
        }
    }

    /// Every reachable state must be seen.
    fn whole(self) -> Self {
        Self {
            whole: true,
            ..self
        }
    }

    fn outage(agents: usize, deaths: u64, old_memory: bool, most: usize) -> Self {
        let memory = if old_memory {
            ", an old order remembered"
        } else {
            ""
        };
        Self {
            name: format!("outage for all, {agents} agents, {deaths} deaths{memory}"),
            space: Space::Outage {
                agents,
                deaths,
                old_memory,
            },
            broken: None,
            most,
            whole: false,
        }
    }

    /// Searches.
    pub fn run(&self) -> Report {
        match &self.space {
            Space::Order(setup) => {
                let mut world = World::new((**setup).clone());
                let mut lives = 0;
                let sampled = self.broken.is_none();
                let outcome = search(&mut world, self.most, |world, state| {
                    if !sampled || !liveness::is_sampled(state) {
                        return None;
                    }
                    lives += 1;
                    liveness::check(world, state)
                });
                let violation = outcome.violation.map(|(text, way)| {
                    let lines = story::of_world(&mut world, &way);
                    (text, lines)
                });
                Report {
                    states: outcome.states,
                    transitions: outcome.transitions,
                    depth: outcome.depth,
                    closed: outcome.closed,
                    lives,
                    violation,
                }
            }
            Space::Outage {
                agents,
                deaths,
                old_memory,
            } => {
                let mut model = Outage::new(*agents, *deaths, *old_memory, self.broken);
                self.report(&mut model, story::of_outage)
            }
            Space::Effects => self.report(&mut Effects::new(self.broken), story::of_effects),
        }
    }

    fn report<M: Model>(
        &self,
        model: &mut M,
        story: impl Fn(&mut M, &[M::Action]) -> Vec<Line>,
    ) -> Report {
        let outcome = search(model, self.most, |_, _| None);
        Report {
            states: outcome.states,
            transitions: outcome.transitions,
            depth: outcome.depth,
            closed: outcome.closed,
            lives: 0,
            violation: outcome.violation.map(|(text, way)| {
                let lines = story(model, &way);
                (text, lines)
            }),
        }
    }
}

/// A worker is removed; its agent still runs.
const SHRINKS: [Others; 2] = [Others::before(&["a", "b"]), Others::now(&["b"])];
/// A worker is added.
const GROWS: [Others; 2] = [Others::before(&["a"]), Others::now(&["a", "b"])];
/// A worker is replaced.
const SWAPS: [Others; 2] = [Others::before(&["a"]), Others::now(&["b"])];
/// A worker is added, and is too young to be counted at first.
const AGES: [Others; 3] = [
    Others::before(&["a"]),
    Others::at_first(&["a", "b"]),
    Others::now(&["a", "b"]),
];
/// A worker is added, and another one removed.
const GROWS_AND_SHRINKS: [Others; 3] = [
    Others::before(&["a"]),
    Others::now(&["a", "b"]),
    Others::now(&["b"]),
];

/// Changes of the nodes, and nothing that goes wrong but the network.
fn changes() -> Vec<Case> {
    [
        ("a worker is added", &GROWS[..]),
        ("a worker is removed", &SHRINKS),
        ("a worker is replaced", &SWAPS),
    ]
    .into_iter()
    .map(|(name, lists)| Case::of(Setup::changing(name, lists), 3_000_000).whole())
    .collect()
}

/// One search per broken rule.
pub fn broken() -> Vec<Case> {
    let world = |rule: Rule, setup: Setup| {
        let mut case = Case::of(setup.without(rule), 20_000_000);
        case.name = format!("{} broken", rule.hole());
        case
    };
    let other = |rule: Rule, space: Space| Case {
        name: format!("{} broken", rule.hole()),
        space,
        broken: Some(rule),
        most: 5_000_000,
        whole: false,
    };
    let one = || Setup::workers("", 1);
    let two = || Setup::workers("", 2);
    vec![
        world(Rule::FeedsForEver, one().fault(Fault::Hang, 1)),
        world(Rule::WatchdogAnnouncedAsZero, one()),
        world(Rule::LocalApiCounts, one()),
        world(Rule::AnyApiErrorCounts, two()),
        world(Rule::NoQuorum, one()),
        world(Rule::NoMemory, one()),
        world(Rule::DeletionEndsOrder, one().fault(Fault::Delete, 1)),
        world(Rule::FreshPermitAtStart, one().fault(Fault::Kill, 1)),
        world(Rule::DisarmsFreely, one().fault(Fault::Remove, 1)),
        world(Rule::CountedFromComputing, one().fault(Fault::Late, 8)),
        other(Rule::DeletesByName, Space::Effects),
        other(Rule::OverwritesTaints, Space::Effects),
        world(Rule::BelievesWallClock, one()),
        world(Rule::WatchdogCountedOnce, one().fault(Fault::Kill, 1)),
        world(Rule::OpensWithoutPermit, one().fault(Fault::Kill, 2)),
        world(Rule::NoBootCheck, one().fault(Fault::Return, 1)),
        world(Rule::ForceAfterReboot, one().fault(Fault::Return, 1)),
        world(
            Rule::AcknowledgedByName,
            one()
                .fault(Fault::Delete, 1)
                .fault(Fault::CreateAgain, 1)
                .fault(Fault::SlowList, 1),
        ),
        world(Rule::SlowReadClears, one().fault(Fault::SlowList, 1)),
        world(
            Rule::SpeaksBeforeFirstRead,
            one().fault(Fault::PeerReboot, 1),
        ),
        world(Rule::QuorumOfPresentNodes, Setup::other_table("")),
        world(Rule::NewTableCounts, Setup::changing("", &SHRINKS)),
        world(Rule::OldTableCounts, Setup::changing("", &GROWS)),
        world(Rule::FreedWithoutBound, Setup::alone("")),
        other(
            Rule::MemorySpeaks,
            Space::Outage {
                agents: 4,
                deaths: 0,
                old_memory: true,
            },
        ),
    ]
}

/// All rules as they are, in the space that every change searches.
pub fn small() -> Vec<Case> {
    let most = 700_000;
    let one = |name| Setup::workers(name, 1);
    let mut cases = vec![
        Case::of(one("1 peer, the network only"), most),
        Case::of(one("1 peer, one death").fault(Fault::Kill, 1), most),
        Case::of(
            one("1 peer, a hang and a death")
                .fault(Fault::Hang, 1)
                .fault(Fault::Kill, 1),
            most,
        ),
        Case::of(
            one("1 peer, reset and return").fault(Fault::Return, 1),
            most,
        ),
        Case::of(one("1 peer, pod removed").fault(Fault::Remove, 1), most),
        Case::of(
            one("1 peer, deletion, second order, slow list")
                .fault(Fault::Delete, 1)
                .fault(Fault::CreateAgain, 1)
                .fault(Fault::SlowList, 1),
            most,
        ),
        Case::of(Setup::workers("2 peers, the network only", 2), most),
        Case::of(Setup::other_table("another table than the manager's"), most),
        Case::of(Setup::alone("no other worker"), most),
        Case::outage(3, 1, false, most),
        Case::outage(4, 0, true, most),
        effects(),
    ];
    cases.extend(changes());
    cases
}

fn effects() -> Case {
    Case {
        name: "late writes of a manager that lost the Lease".to_owned(),
        space: Space::Effects,
        broken: None,
        most: 1_000_000,
        whole: true,
    }
}

/// All rules as they are, with every fault of the model. Searches of the whole space go on to their end, the others up to
/// `most` states.
pub fn full(most: usize) -> Vec<Case> {
    let mut cases = vec![effects()];
    cases.extend(changes());
    for peers in 1..=3u8 {
        let setup = |name: &str| {
            let name = format!("{peers} peers, {name}");
            // A handful of names that live as long as the program.
            Setup::workers(Box::leak(name.into_boxed_str()), peers)
        };
        cases.extend([
            Case::of(setup("the network only"), most),
            Case::of(
                setup("two deaths, a hang")
                    .fault(Fault::Kill, 2)
                    .fault(Fault::Hang, 1),
                most,
            ),
            Case::of(
                setup("a frozen agent, a death")
                    .fault(Fault::Freeze, 1)
                    .fault(Fault::Kill, 1),
                most,
            ),
            Case::of(
                setup("reset and return, a death")
                    .fault(Fault::Return, 1)
                    .fault(Fault::Kill, 1),
                most,
            ),
            Case::of(setup("two returns").fault(Fault::Return, 2), most),
            Case::of(
                setup("pod removed, return, a lost announcement")
                    .fault(Fault::Remove, 1)
                    .fault(Fault::Return, 1)
                    .fault(Fault::LostAnnouncement, 1),
                most,
            ),
            Case::of(
                setup("two roll-outs, a death")
                    .fault(Fault::RollOut, 2)
                    .fault(Fault::Kill, 1),
                most,
            ),
            Case::of(
                setup("deletion, second order, slow list, peer's reboot")
                    .fault(Fault::Delete, 1)
                    .fault(Fault::CreateAgain, 1)
                    .fault(Fault::SlowList, 1)
                    .fault(Fault::PeerReboot, 1),
                most,
            ),
            Case::of(
                setup("late write, two peer reboots, new manager, slow list")
                    .fault(Fault::Late, 6)
                    .fault(Fault::PeerReboot, 2)
                    .fault(Fault::NewManager, 1)
                    .fault(Fault::SlowList, 1),
                most,
            ),
            Case::of(
                setup("watchdog of 20 s, two deaths")
                    .watchdog(20)
                    .fault(Fault::Kill, 2),
                most,
            ),
            Case::of(
                setup("clocks of x lose the whole reserve, a death")
                    .with_reserve()
                    .fault(Fault::SlowClock, 1)
                    .fault(Fault::Kill, 1),
                most,
            ),
        ]);
    }
    cases.extend([
        Case::of(
            Setup::control_plane("control-plane node, a death").fault(Fault::Kill, 1),
            most,
        ),
        Case::of(
            Setup::other_table("another table than the manager's, death, return")
                .fault(Fault::Kill, 1)
                .fault(Fault::Return, 1),
            most,
        ),
        Case::of(
            Setup::changing("a worker is added, death", &GROWS).fault(Fault::Kill, 1),
            most,
        ),
        Case::of(
            Setup::changing("a worker is removed, return", &SHRINKS).fault(Fault::Return, 1),
            most,
        ),
        Case::of(
            Setup::changing("a worker is replaced, a lost announcement", &SWAPS)
                .fault(Fault::LostAnnouncement, 1),
            most.max(6_000_000),
        )
        .whole(),
        Case::of(
            Setup::changing("a worker is added, too young at first", &AGES),
            most.max(20_000_000),
        )
        .whole(),
        Case::of(
            Setup::changing("a worker is added, then one removed", &GROWS_AND_SHRINKS),
            most.max(20_000_000),
        )
        .whole(),
        Case::of(
            Setup::alone("no other worker, death, return")
                .fault(Fault::Kill, 1)
                .fault(Fault::Return, 1),
            most,
        ),
        Case::outage(2, 1, false, most),
        Case::outage(3, 0, false, most),
        Case::outage(3, 2, false, most),
        Case::outage(4, 1, false, most),
        Case::outage(4, 1, true, most),
    ]);
    cases
}
