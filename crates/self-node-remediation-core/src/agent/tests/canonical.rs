//! The normal form of the explorer behaves as the state that it stands for.

use super::super::*;
use super::world::*;
use crate::verdict::Said;
use proptest::prelude::*;

/// How much closer to the boot the twin lives.
const BY: Duration = Duration::from_mins(1);

/// One step of an agent that has a twin in normal form.
pub(super) struct Seen<'a> {
    pub(super) settings: &'a Settings,
    pub(super) state: &'a State,
    pub(super) evidence: &'a Evidence,
    pub(super) now: BootInstant,
    pub(super) chance: u64,
}

fn back(at: BootInstant) -> BootInstant {
    at.minus(BY)
}

impl Seen<'_> {
    /// Lets both take the step and compares what they command; the twin after it, in normal form.
    pub(super) fn same_as(&self, twin: State) -> State {
        let own = self.plain(self.state.clone(), self.evidence.clone(), self.now);
        let now = back(self.now);
        let (twin, commands) = step(self.settings, twin, self.translated(), now, self.chance);
        let theirs: Vec<_> = commands
            .into_iter()
            .map(|command| self.comparable(command, now, Duration::ZERO))
            .collect();
        assert_eq!(own, theirs);
        twin.canonical(self.settings, now, Duration::ZERO)
    }

    fn plain(&self, state: State, evidence: Evidence, now: BootInstant) -> Vec<Command> {
        let (_, commands) = step(self.settings, state, evidence, now, self.chance);
        commands
            .into_iter()
            .map(|command| self.comparable(command, now, BY))
            .collect()
    }

    /// The evidence as the twin gets it: its numbers are 1 for what is current, its clock is behind.
    fn translated(&self) -> Evidence {
        let current = |number: u64, present: u64| u64::from(number == present);
        let said = |said: Said| match said {
            Said::Healthy { sent } => Said::Healthy { sent: back(sent) },
            Said::Unhealthy | Said::ApiError | Said::Silent => said,
        };
        match self.evidence.clone() {
            Evidence::ApiRead {
                check,
                started,
                list,
            } => Evidence::ApiRead {
                check: current(check, self.state.check.number),
                started: back(started),
                list,
            },
            Evidence::Listed { started, list } => Evidence::Listed {
                started: back(started),
                list,
            },
            Evidence::PeerAnswer {
                round,
                node,
                said: answer,
            } => Evidence::PeerAnswer {
                round: current(round, self.state.rounds.number),
                node,
                said: said(answer),
            },
            Evidence::Diagnostics { round, passed } => Evidence::Diagnostics {
                round: current(round, self.state.rounds.number),
                passed,
            },
            Evidence::Published { sequence, accepted } => Evidence::Published {
                sequence: current(sequence, self.state.announcing.sequence()),
                accepted,
            },
            Evidence::Starved { timeout, last_feed } => Evidence::Starved {
                timeout,
                last_feed: back(last_feed),
            },
            plain @ (Evidence::Tick
            | Evidence::Watched(_)
            | Evidence::WatchedGone(_)
            | Evidence::Nodes { .. }
            | Evidence::NodesFailed
            | Evidence::Opened { .. }
            | Evidence::NoWatchdog
            | Evidence::TimeoutSet { .. }
            | Evidence::Disarmed
            | Evidence::RecordFailed
            | Evidence::Terminate { .. }) => plain,
        }
    }

    /// A command without the numbers of attempts, its moments moved back.
    fn comparable(&self, command: Command, now: BootInstant, by: Duration) -> Command {
        match command {
            Command::Record(record) => {
                Command::Record(Box::new(record.canonical(self.settings, now, by)))
            }
            Command::FeedUntil(until) => Command::FeedUntil(until.minus(by)),
            Command::StartApiRead { .. } => Command::StartApiRead { check: 0 },
            Command::AskPeers {
                nodes, deadline, ..
            } => Command::AskPeers {
                round: 0,
                nodes,
                deadline: deadline.minus(by),
            },
            Command::AskNoMore { .. } => Command::AskNoMore { round: 0 },
            Command::StopAsking { .. } => Command::StopAsking { round: 0 },
            Command::RunDiagnostics { deadline, .. } => Command::RunDiagnostics {
                round: 0,
                deadline: deadline.minus(by),
            },
            Command::PublishAnnouncement { announcement, .. } => Command::PublishAnnouncement {
                sequence: 0,
                announcement,
            },
            // How many checks failed in a row is only told.
            Command::Tell(Notice::CheckFailed { .. }) => {
                Command::Tell(Notice::CheckFailed { errors: 0 })
            }
            plain @ (Command::OpenWatchdog { .. }
            | Command::SetWatchdogTimeout(_)
            | Command::Starve { .. }
            | Command::SoftwareReboot
            | Command::Disarm
            | Command::ListNodes
            | Command::PublishStoppedFeeding(_)
            | Command::Tell(_)
            | Command::Exit) => plain,
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Run(u64),
    Api(Api),
    Peers(Peer),
    Peer(usize, Peer),
    Order,
    Terminate,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn events() -> impl Strategy<Value = Vec<Event>> {
    let api = prop_oneof![Just(Api::Up), Just(Api::Down), Just(Api::Deaf)];
    let peer = || prop_oneof![3 => Just(Peer::ApiError), 2 => Just(Peer::Silent), 1 => Just(Peer::Healthy)];
    let event = prop_oneof![
        6 => (1u64..50).prop_map(Event::Run),
        3 => api.prop_map(Event::Api),
        2 => peer().prop_map(Event::Peers),
        2 => (0..NAMES.len(), peer()).prop_map(|(at, kind)| Event::Peer(at, kind)),
        1 => Just(Event::Order),
        1 => Just(Event::Terminate),
    ];
    proptest::collection::vec(event, 1..25)
}

proptest! {
    /// Whatever happens: the normal form commands the same at the same time.
    #[test]
    fn the_normal_form_behaves_as_the_state_it_stands_for(history in events()) {
        let mut world = World::with_workers(&NAMES);
        world.start();
        world.run(secs(200));
        let state = world.state.clone().unwrap();
        world.twin = Some(state.canonical(&world.settings, world.now, BY));
        for event in history {
            if world.reset_at.is_some() || world.exited {
                break;
            }
            match event {
                Event::Run(seconds) => world.run(secs(seconds)),
                Event::Api(api) => world.api = api,
                Event::Peers(kind) => world.all_peers(kind),
                Event::Peer(index, kind) => {
                    world.peers.insert(node(NAMES[index]), kind);
                }
                Event::Order => world.orders = vec![order("u1", Some("boot-1"))],
                Event::Terminate => world.give(Evidence::Terminate { successor: false, pod_deleted: true }),
            }
        }
    }
}
