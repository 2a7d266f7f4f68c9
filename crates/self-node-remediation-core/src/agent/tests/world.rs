//! The world of one agent: API server, peers, watchdog, state folder, process. Nothing in it decides anything.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::super::*;
use super::canonical;
use crate::announcement::Announcement;
use crate::budget::{Limits, Timing};
use crate::ids::{BootId, NodeName, Uid};
use crate::order::{Own, Phase, Target, Uptime};
use crate::table::{ListedNode, Role};
use crate::time::BootInstant;

/// What a peer does when asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A live list has nothing for us.
    Healthy,
    Unhealthy,
    /// Knows of an order and needs longer for its list than others for "API error".
    UnhealthyLate,
    ApiError,
    Silent,
}

/// What happens to requests to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Up,
    Down,
    /// Takes effect, but the answer is lost.
    Deaf,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Device {
    pub(super) timeout: u64,
    pub(super) least: u64,
    pub(super) last_ping: BootInstant,
    pub(super) running: bool,
    pub(super) open: bool,
}

/// Something that happens later.
#[derive(Debug, Clone)]
enum Due {
    Evidence(Evidence),
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one switch of the test world"
)]
pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) state: Option<State>,
    /// The same agent in its normal form, if it is to be compared.
    pub(super) twin: Option<State>,
    pub(super) now: BootInstant,
    pub(super) api: Api,
    pub(super) orders: Vec<Remediation>,
    pub(super) nodes: Vec<ListedNode>,
    pub(super) peers: BTreeMap<NodeName, Peer>,
    pub(super) device: Option<Device>,
    pub(super) can_disarm: bool,
    pub(super) diagnostics: bool,
    pub(super) record: Option<Recorded>,
    pub(super) run_is_writable: bool,
    recorded: bool,
    /// When the rules were asked last: what they want to be woken for is later than that.
    stepped: BootInstant,
    /// The annotation of our Node.
    pub(super) announced: Option<Announcement>,
    pub(super) last_words: Option<StoppedFeeding>,
    pub(super) feed_until: BootInstant,
    starved: bool,
    pub(super) reset_at: Option<BootInstant>,
    pub(super) exited: bool,
    pub(super) log: Vec<(BootInstant, Command)>,
    due: Vec<(BootInstant, u64, Due)>,
    sequence: u64,
    chance: u64,
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn at(seconds: u64) -> BootInstant {
    BootInstant::at(secs(seconds))
}

pub(super) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(super) fn wall(now: BootInstant) -> Timestamp {
    Timestamp::from_second(1_700_000_000)
        .unwrap()
        .checked_add(now.since_boot())
        .unwrap()
}

pub(super) fn settings() -> Settings {
    Settings {
        own: Own {
            node: node("x"),
            boot: BootId::new("boot-1").unwrap(),
        },
        timing: Timing::new(Limits {
            api_check_interval: secs(15),
            api_server_timeout: secs(5),
            max_api_error_threshold: 3,
            peer_dial_timeout: secs(5),
            peer_request_timeout: secs(7),
        })
        .unwrap(),
        min_peers: 1,
        software_reboot: true,
        watchdog_timeout: None,
        peer_update_interval: secs(900),
    }
}

pub(super) fn listed(name: &str, role: Role) -> ListedNode {
    ListedNode {
        name: node(name),
        role,
        created: Some(Timestamp::from_second(1_600_000_000).unwrap()),
    }
}

pub(super) const WORKER: Role = Role {
    control_plane: false,
    worker: true,
};
pub(super) const MASTER: Role = Role {
    control_plane: true,
    worker: false,
};

/// An order of this manager for a boot of node x.
pub(super) fn order(uid: &str, boot: Option<&str>) -> Remediation {
    Remediation {
        namespace: "ns".to_owned(),
        name: "x".to_owned(),
        uid: Uid::new(uid).unwrap(),
        target: Target::Node(node("x")),
        phase: Phase::PreRebootCompleted,
        finalizer: true,
        withdrawn: false,
        deleting: false,
        timed_out: false,
        boot: boot.and_then(BootId::new),
        created: Some(Timestamp::from_second(1_700_000_000).unwrap()),
    }
}

impl World {
    /// A worker `x` with these worker peers, a watchdog of 10 s, and an API server that answers.
    pub(super) fn with_workers(peers: &[&str]) -> Self {
        let mut nodes = vec![listed("x", WORKER)];
        nodes.extend(peers.iter().map(|name| listed(name, WORKER)));
        Self::new(settings(), nodes)
    }

    pub(super) fn new(settings: Settings, nodes: Vec<ListedNode>) -> Self {
        Self {
            settings,
            state: None,
            twin: None,
            now: at(100),
            api: Api::Up,
            orders: Vec::new(),
            peers: nodes
                .iter()
                .map(|node| (node.name.clone(), Peer::Healthy))
                .collect(),
            nodes,
            device: Some(Device {
                timeout: 10,
                least: 5,
                last_ping: BootInstant::ZERO,
                running: false,
                open: false,
            }),
            can_disarm: true,
            diagnostics: true,
            record: None,
            run_is_writable: true,
            recorded: true,
            stepped: BootInstant::ZERO,
            announced: None,
            last_words: None,
            feed_until: BootInstant::ZERO,
            starved: false,
            reset_at: None,
            exited: false,
            log: Vec::new(),
            due: Vec::new(),
            sequence: 0,
            chance: 7,
        }
    }

    /// Starts a process on what `/run` holds.
    pub(super) fn start(&mut self) {
        assert!(self.state.is_none());
        self.exited = false;
        self.starved = false;
        self.feed_until = BootInstant::ZERO;
        self.state = Some(State::restore(
            &self.settings,
            self.record.clone(),
            self.now,
        ));
        self.give(Evidence::Tick);
    }

    /// The process dies: the device is closed without the magic character, which pings (H12).
    pub(super) fn kill(&mut self) {
        self.feed();
        self.state = None;
        self.due.clear();
        if let Some(device) = &mut self.device
            && device.open
        {
            device.open = false;
            device.last_ping = self.now;
        }
    }

    pub(super) fn give(&mut self, evidence: Evidence) {
        let Some(state) = self.state.take() else {
            return;
        };
        self.chance = mix(self.chance);
        self.stepped = self.now;
        if let Some(twin) = self.twin.take() {
            let seen = canonical::Seen {
                settings: &self.settings,
                state: &state,
                evidence: &evidence,
                now: self.now,
                chance: self.chance,
            };
            self.twin = Some(seen.same_as(twin));
        }
        let (state, commands) = step(&self.settings, state, evidence, self.now, self.chance);
        self.state = Some(state);
        for command in commands {
            self.log.push((self.now, command.clone()));
            self.carry_out(command);
        }
    }

    fn later(&mut self, after: Duration, evidence: Evidence) {
        self.sequence += 1;
        self.due
            .push((self.now.plus(after), self.sequence, Due::Evidence(evidence)));
    }

    fn carry_out(&mut self, command: Command) {
        let soon = Duration::from_millis(20);
        match command {
            Command::Record(record) => {
                if self.run_is_writable {
                    self.record = Some(*record);
                    self.recorded = true;
                } else {
                    // The agent hears of it a second later, and publishes nothing until it has been recorded.
                    self.recorded = false;
                    self.later(secs(1), Evidence::RecordFailed);
                }
            }
            Command::FeedUntil(until) => {
                self.feed();
                self.feed_until = until;
                self.feed();
            }
            Command::OpenWatchdog { set_timeout } => {
                assert!(self.now < self.feed_until, "opening counts as feeding");
                let now = self.now;
                match &mut self.device {
                    Some(device) => {
                        if !device.running {
                            device.running = true;
                        }
                        if let Some(timeout) = set_timeout {
                            device.timeout = timeout.max(device.least);
                        }
                        device.open = true;
                        device.last_ping = now;
                        let timeout = device.timeout;
                        let can_disarm = self.can_disarm;
                        self.later(
                            soon,
                            Evidence::Opened {
                                timeout,
                                can_disarm,
                            },
                        );
                    }
                    None => self.later(soon, Evidence::NoWatchdog),
                }
            }
            Command::SetWatchdogTimeout(wanted) => {
                let device = self.device.as_mut().unwrap();
                assert!(self.now < self.feed_until, "setting the timeout pings");
                device.timeout = wanted.max(device.least);
                device.last_ping = self.now;
                let timeout = device.timeout;
                self.later(soon, Evidence::TimeoutSet { timeout });
            }
            Command::Starve { shorten } => {
                self.feed();
                self.starved = true;
                let device = self.device.as_mut().unwrap();
                if shorten {
                    assert!(self.now < self.feed_until, "setting the timeout pings");
                    device.timeout = device.timeout.min(device.least.max(5));
                    device.last_ping = self.now;
                }
                let (timeout, last_feed) = (device.timeout, device.last_ping);
                self.later(soon, Evidence::Starved { timeout, last_feed });
            }
            Command::SoftwareReboot => {
                self.reset_at.get_or_insert(self.now);
            }
            Command::Disarm => {
                let device = self.device.as_mut().unwrap();
                assert!(!self.starved, "a node that fences itself is never disarmed");
                device.running = false;
                device.open = false;
                self.later(soon, Evidence::Disarmed);
            }
            Command::StartApiRead { check } => {
                let started = self.now;
                let list = (self.api == Api::Up).then(|| self.list());
                let after = if list.is_some() {
                    soon
                } else {
                    self.settings.timing.api_server_timeout()
                };
                self.later(
                    after,
                    Evidence::ApiRead {
                        check,
                        started,
                        list,
                    },
                );
            }
            Command::ListNodes => {
                if self.api == Api::Up {
                    let evidence = Evidence::Nodes {
                        nodes: self.nodes.clone(),
                        stamp: wall(self.now),
                        announced: self.announced.as_ref().map(ToString::to_string),
                    };
                    self.later(soon, evidence);
                } else {
                    self.later(secs(5), Evidence::NodesFailed);
                }
            }
            Command::AskPeers { round, nodes, .. } => {
                for name in nodes {
                    let (after, said) = match self.peers.get(&name) {
                        Some(Peer::Healthy) => (soon, Said::Healthy { sent: self.now }),
                        Some(Peer::Unhealthy) => (soon, Said::Unhealthy),
                        Some(Peer::UnhealthyLate) => (secs(6), Said::Unhealthy),
                        Some(Peer::ApiError) => (secs(5), Said::ApiError),
                        Some(Peer::Silent) | None => (secs(5), Said::Silent),
                    };
                    self.later(
                        after,
                        Evidence::PeerAnswer {
                            round,
                            node: name,
                            said,
                        },
                    );
                }
            }
            Command::RunDiagnostics { round, .. } => {
                let passed = self.diagnostics;
                self.later(secs(1), Evidence::Diagnostics { round, passed });
            }
            Command::PublishAnnouncement {
                sequence,
                announcement,
            } => {
                if !self.recorded {
                    return;
                }
                if self.api != Api::Down {
                    self.announced = Some(announcement);
                }
                let accepted = self.api == Api::Up;
                self.later(soon, Evidence::Published { sequence, accepted });
            }
            Command::PublishStoppedFeeding(words) => {
                assert!(self.starved, "last words while something feeds");
                if self.recorded && self.api != Api::Down {
                    self.last_words = Some(words);
                }
            }
            Command::Exit => self.exited = true,
            Command::Tell(_) | Command::AskNoMore { .. } | Command::StopAsking { .. } => {}
        }
    }

    pub(super) fn list(&self) -> Listed {
        Listed {
            remediations: self.orders.clone(),
            uptime: Uptime {
                wall: wall(self.now),
                up: self.now.since_boot(),
            },
        }
    }

    /// The feeder thread: it feeds without pause while it may.
    fn feed(&mut self) {
        let until = self.now.min(self.feed_until);
        if let Some(device) = &mut self.device
            && device.open
            && !self.starved
        {
            device.last_ping = device.last_ping.max(until);
        }
    }

    fn check_watchdog(&mut self) {
        if let Some(device) = &self.device
            && device.running
        {
            let fires = device.last_ping.plus(secs(device.timeout));
            if self.now >= fires {
                self.reset_at.get_or_insert(fires);
            }
        }
    }

    /// Lets time pass. `hung`: the decision loop does not run, the feeder does.
    fn pass(&mut self, duration: Duration, hung: bool) {
        let end = self.now.plus(duration);
        while self.reset_at.is_none() && !self.exited {
            self.due.sort_by_key(|(at, sequence, _)| (*at, *sequence));
            let wake = self
                .state
                .as_ref()
                .map_or(end, |state| next_wake(&self.settings, state, self.stepped));
            let next = if hung {
                end
            } else {
                self.due.first().map_or(wake, |due| due.0.min(wake))
            };
            if next > end {
                break;
            }
            // The watchdog is looked at every second, whatever the agent does.
            let next = next.min(self.now.plus(secs(1)));
            self.now = next.max(self.now);
            self.feed();
            self.check_watchdog();
            if hung {
                if self.now >= end {
                    return;
                }
                continue;
            }
            if self.due.first().is_some_and(|due| due.0 <= self.now) {
                let (_, _, Due::Evidence(evidence)) = self.due.remove(0);
                self.give(evidence);
            } else if wake <= self.now {
                self.give(Evidence::Tick);
            }
            if self.now >= end {
                break;
            }
        }
        if self.reset_at.is_none() && !self.exited {
            self.now = end;
            self.feed();
            self.check_watchdog();
        }
    }

    pub(super) fn run(&mut self, duration: Duration) {
        self.pass(duration, false);
    }

    pub(super) fn hang(&mut self, duration: Duration) {
        self.pass(duration, true);
    }

    /// The loop goes on after it hung: its timer is overdue.
    pub(super) fn resume(&mut self) {
        if self.reset_at.is_none() {
            self.give(Evidence::Tick);
        }
    }

    /// Nobody answers any more.
    pub(super) fn cut(&mut self) {
        self.api = Api::Down;
        for peer in self.peers.values_mut() {
            *peer = Peer::Silent;
        }
    }

    pub(super) fn all_peers(&mut self, kind: Peer) {
        for peer in self.peers.values_mut() {
            *peer = kind;
        }
    }

    pub(super) fn state(&self) -> &State {
        self.state.as_ref().unwrap()
    }

    /// When the command was given last.
    pub(super) fn last(&self, wanted: impl Fn(&Command) -> bool) -> Option<BootInstant> {
        self.log
            .iter()
            .rev()
            .find(|(_, command)| wanted(command))
            .map(|(at, _)| *at)
    }

    pub(super) fn count(&self, wanted: impl Fn(&Command) -> bool) -> usize {
        self.log
            .iter()
            .filter(|(_, command)| wanted(command))
            .count()
    }
}

#[test]
fn a_healthy_node_arms_itself_and_stays_up() {
    let mut world = World::with_workers(&["a", "b"]);
    world.start();
    world.run(secs(5));
    let announced = world.announced.clone().unwrap();
    assert_eq!(
        announced.to_string(),
        format!(
            "boot=boot-1 armed=true wd=10 bound=90 workers=2 cp=0 stamp={}",
            announced.stamp
        )
    );
    world.run(secs(3600));
    assert_eq!(world.reset_at, None);
    // One read per check interval, and nothing else but the node lists.
    let reads = world.count(|command| matches!(command, Command::StartApiRead { .. }));
    assert!((235..=245).contains(&reads), "{reads} reads in an hour");
    assert_eq!(
        world.count(|command| matches!(command, Command::AskPeers { .. })),
        0
    );
    assert!(world.count(|command| matches!(command, Command::PublishAnnouncement { .. })) <= 3);
}
