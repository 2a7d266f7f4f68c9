//! One input being worked on: the agent's decisions, and what its commands do to the machine.

use std::time::Duration;

use self_node_remediation_core::agent::{
    Announcing, Command, Evidence, InForce, Listed, Notice, Settings, State, next_wake, step,
};
use self_node_remediation_core::permit::Permit;
use self_node_remediation_core::time::BootInstant;
use self_node_remediation_core::verdict::Said;

use super::{Asked, Host, Input, Machine, Pace, Process, Word};
use crate::rules::Rule;
use crate::view::{NOW, TICK, View, list, node, uptime};

/// A random number for which every jittered pause is the whole pause.
const CHANCE: u64 = 2622;

/// One input being worked on.
pub(super) struct Run<'a> {
    pub(super) machine: &'a Machine,
    pub(super) settings: Settings,
    pub(super) now: BootInstant,
    pub(super) told: Vec<String>,
    pub(super) host: &'a mut Host,
}

impl Run<'_> {
    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Tick { kill } => self.tick(kill),
            Input::Read { index, view } => self.read(index, view),
            Input::Nodes { list } => self.nodes(list),
            Input::Announced { accepted } => {
                self.host.asked.announcement = None;
                // There is one announcement under way at most, and it is the present one.
                self.give(Evidence::Published {
                    sequence: 1,
                    accepted,
                });
            }
            Input::WordsSent => self.host.asked.words = None,
            Input::Answer { peer, word } => self.answer(peer, word),
            Input::Kill => self.kill(),
            Input::Start => self.start(),
            Input::Pace(pace) => {
                if let Some(process) = &mut self.host.process {
                    process.pace = pace;
                }
                if pace == Pace::Runs {
                    self.give(Evidence::Tick);
                }
            }
            Input::Terminate { successor } => {
                if self.machine.broken == Some(Rule::DisarmsFreely) && !successor {
                    self.host.device.running = false;
                    self.host.device.open = false;
                    self.host.process = None;
                    self.host.asked = Asked::default();
                } else {
                    self.give(Evidence::Terminate {
                        successor,
                        pod_deleted: !successor,
                    });
                }
            }
            Input::Boot => *self.host = Host::booted(self.machine, self.host.boot + 1),
            Input::Watched(view) => self.give(Evidence::Watched(view.object())),
            Input::PodsStart => self.host.pods = true,
        }
    }

    fn tick(&mut self, kill: bool) {
        let end = NOW.plus(TICK);
        loop {
            let wake = match &self.host.process {
                Some(process) if process.pace == Pace::Runs => {
                    next_wake(&self.settings, &process.state, self.now)
                }
                Some(_) | None => end,
            };
            self.now = wake.min(end);
            self.feed();
            if kill && self.now == end {
                self.kill();
            }
            if self.check_watchdog() {
                return;
            }
            if wake > end || !self.host.decides() {
                break;
            }
            self.give(Evidence::Tick);
            if self.now == end {
                break;
            }
        }
        // A read whose check is long over is of no interest to the model any more.
        let now = self.now;
        self.host
            .asked
            .reads
            .retain(|(_, started)| now.since(*started) <= TICK * 3);
        let one_peer = self.settings.timing.one_peer();
        if now.since(self.host.asked.since) > one_peer {
            self.host.asked.peers = 0;
        }
    }

    /// The feeder's thread: it feeds without pause while it may.
    fn feed(&mut self) {
        let Some(process) = &self.host.process else {
            return;
        };
        if process.pace == Pace::Frozen || process.starved || !self.host.device.open {
            return;
        }
        let until = if self.machine.broken == Some(Rule::FeedsForEver) {
            self.now
        } else {
            self.now.min(process.feed_until)
        };
        let device = &mut self.host.device;
        device.last_ping = device.last_ping.max(until);
    }

    fn check_watchdog(&mut self) -> bool {
        let device = self.host.device;
        let fires = device.last_ping.plus(Duration::from_secs(device.timeout));
        if device.running && fires <= self.now {
            self.reset("its watchdog resets it");
            return true;
        }
        false
    }

    fn reset(&mut self, how: &str) {
        self.told.push(how.to_owned());
        let boot = self.host.boot;
        *self.host = Host::booted(self.machine, boot);
        self.host.up = false;
    }

    /// The process ends without a word: the device is closed, which pings (H12).
    fn kill(&mut self) {
        self.feed();
        self.host.process = None;
        let words = self.host.asked.words.take();
        self.host.asked = Asked {
            words,
            ..Asked::default()
        };
        let device = &mut self.host.device;
        if device.open {
            device.open = false;
            device.last_ping = device.last_ping.max(self.now);
        }
    }

    fn start(&mut self) {
        let mut record = self.host.record.clone();
        if self.machine.broken == Some(Rule::FreshPermitAtStart)
            && let Some(record) = &mut record
        {
            record.permit = fresh_permit();
        }
        let state = State::restore(&self.settings, record, self.now);
        self.host.process = Some(Process {
            state,
            pace: Pace::Runs,
            feed_until: BootInstant::ZERO,
            starved: false,
        });
        if self.machine.broken == Some(Rule::OpensWithoutPermit) && self.host.device.running {
            self.host.device.open = true;
            self.host.device.last_ping = self.now;
        }
        let knows_its_table = self.host.record.is_some() && self.machine.lists.len() == 1;
        self.give(Evidence::Tick);
        if knows_its_table && self.host.asked.nodes {
            // The table is that of the record. When it is listed again makes no difference as long as it is the same.
            self.nodes(0);
        }
    }

    fn nodes(&mut self, list: u8) {
        self.host.asked.nodes = false;
        self.host.list = list;
        let listed = &self.machine.lists[usize::from(list)];
        // A list after a change is asked for again two minutes later. It may as well come at once: then no timer runs.
        let times = if self.machine.lists.len() > 1 { 2 } else { 1 };
        for _ in 0..times {
            self.give(Evidence::Nodes {
                nodes: listed.nodes.clone(),
                stamp: listed.stamp,
                announced: None,
            });
        }
    }

    fn read(&mut self, index: u8, view: Option<View>) {
        let index = usize::from(index);
        if index >= self.host.asked.reads.len() {
            return;
        }
        let (current, started) = self.host.asked.reads.remove(index);
        let mut view = view;
        if self.machine.broken == Some(Rule::DeletionEndsOrder) {
            view = view.filter(|view| !view.deleting);
        }
        let wrong = self.machine.broken == Some(Rule::BelievesWallClock);
        if wrong && let Some(view) = &mut view {
            view.boot = 0;
        }
        let listed = Listed {
            remediations: list(view),
            uptime: uptime(wrong),
        };
        self.give(Evidence::ApiRead {
            check: u64::from(current),
            started,
            list: Some(listed),
        });
    }

    fn answer(&mut self, peer: u8, word: Word) {
        let said = match word {
            Word::Healthy => Said::Healthy {
                sent: self.host.asked.since,
            },
            Word::Unhealthy => Said::Unhealthy,
            Word::ApiError => Said::ApiError,
            Word::Silent => Said::Silent,
        };
        self.host.asked.peers &= !(1 << peer);
        for (index, name) in (0u8..).zip(&self.machine.peers) {
            let counts_too = said == Said::ApiError
                && match self.machine.broken {
                    Some(Rule::AnyApiErrorCounts) => true,
                    Some(Rule::NewTableCounts) => !self.is_in_table(name, Announcing::pending),
                    Some(Rule::OldTableCounts) => !self.is_in_table(name, Announcing::in_force),
                    Some(_) | None => false,
                };
            if index == peer || counts_too {
                self.give(Evidence::PeerAnswer {
                    round: 1,
                    node: node(name),
                    said,
                });
            }
        }
    }

    /// Whether a worker is in this one of the two tables that count while one is being announced; otherwise there is one.
    fn is_in_table(&self, name: &str, table: impl Fn(&Announcing) -> Option<&InForce>) -> bool {
        let announcing = self.host.state().map(State::announcing);
        announcing
            .and_then(|announcing| table(announcing).or_else(|| announcing.in_force()))
            .is_some_and(|value| value.table.workers.contains(&node(name)))
    }

    fn give(&mut self, evidence: Evidence) {
        let mut queue = vec![evidence];
        while !queue.is_empty() && self.host.process.is_some() {
            let evidence = queue.remove(0);
            let Some(process) = &mut self.host.process else {
                return;
            };
            let state = process.state.clone();
            let (state, commands) = step(&self.settings, state, evidence, self.now, CHANCE);
            process.state = state;
            for command in commands {
                self.carry_out(command, &mut queue);
            }
            // Numbers of attempts: the present one is 1.
            if let Some(process) = &mut self.host.process {
                let state = process.state.clone();
                process.state = state.canonical(&self.settings, self.now, Duration::ZERO);
            }
        }
    }

    fn carry_out(&mut self, command: Command, queue: &mut Vec<Evidence>) {
        let now = self.now;
        match command {
            Command::Record(record) => self.host.record = Some(*record),
            Command::FeedUntil(until) => {
                self.feed();
                if let Some(process) = &mut self.host.process {
                    process.feed_until = until;
                }
                self.feed();
            }
            Command::OpenWatchdog { set_timeout } => {
                let device = &mut self.host.device;
                device.running = true;
                device.open = true;
                device.last_ping = now;
                if let Some(timeout) = set_timeout {
                    device.timeout = timeout.max(self.machine.least);
                }
                let timeout = device.timeout;
                queue.push(Evidence::Opened {
                    timeout,
                    can_disarm: self.machine.can_disarm,
                });
            }
            Command::SetWatchdogTimeout(timeout) => {
                let device = &mut self.host.device;
                device.timeout = timeout.max(self.machine.least);
                device.last_ping = now;
                queue.push(Evidence::TimeoutSet {
                    timeout: device.timeout,
                });
            }
            Command::Starve { shorten } => {
                self.feed();
                if let Some(process) = &mut self.host.process {
                    process.starved = true;
                }
                let device = &mut self.host.device;
                if shorten {
                    device.timeout = device.timeout.min(self.machine.least);
                    device.last_ping = now;
                }
                queue.push(Evidence::Starved {
                    timeout: device.timeout,
                    last_feed: device.last_ping,
                });
            }
            Command::SoftwareReboot => {
                if self.machine.software_works {
                    self.reset("it is reset by software");
                }
            }
            Command::Disarm => {
                self.told.push("stops its watchdog".to_owned());
                let device = &mut self.host.device;
                device.running = false;
                device.open = false;
                queue.push(Evidence::Disarmed);
            }
            Command::StartApiRead { .. } => {
                for (current, _) in &mut self.host.asked.reads {
                    *current = false;
                }
                self.host.asked.reads.push((true, now));
            }
            Command::ListNodes => self.host.asked.nodes = true,
            Command::AskPeers { nodes, .. } => {
                self.host.asked.since = now;
                self.host.asked.peers = (0u8..)
                    .zip(&self.machine.peers)
                    .filter(|(_, name)| nodes.contains(&node(name)))
                    .fold(0, |bits, (index, _)| bits | 1 << index);
            }
            // Whoever was asked may answer; here that is all of them, or as many as do.
            Command::AskNoMore { .. } => {}
            Command::StopAsking { .. } => self.host.asked.peers = 0,
            Command::RunDiagnostics { .. } => {
                queue.push(Evidence::Diagnostics {
                    round: 1,
                    passed: true,
                });
            }
            Command::PublishAnnouncement { announcement, .. } => {
                self.host.asked.announcement = Some(announcement);
            }
            Command::PublishStoppedFeeding(words) => self.host.asked.words = Some(words),
            Command::Tell(notice) => self.tell(&notice),
            Command::Exit => {
                self.told.push("its agent ends".to_owned());
                self.kill();
            }
        }
    }

    fn tell(&mut self, notice: &Notice) {
        let text = match notice {
            Notice::Fencing(_) => "it fences itself: feeding ends for good",
            Notice::PermitExpired => "its permit is over: it is not fed any more",
            Notice::ControlPlaneOutage => "most of its peers have no API: its permit is renewed",
            Notice::PeerSaysHealthy => "its permit is renewed",
            Notice::Armed { .. } => "its watchdog is open",
            Notice::CheckFailed { .. }
            | Notice::Asking { .. }
            | Notice::ContactRegained
            | Notice::RoundUndecided { .. }
            | Notice::NoWatchdog
            | Notice::CannotReboot { .. }
            | Notice::NoElectorate => return,
        };
        self.told.push(text.to_owned());
    }
}

/// The permit of a process that believes to have read the API just now.
fn fresh_permit() -> Permit {
    let now = u64::try_from(NOW.since_boot().as_nanos()).unwrap_or_default();
    let value = serde_json::json!({"direct": now, "outage": null, "recorded": null});
    serde_json::from_value(value).unwrap_or_default()
}
