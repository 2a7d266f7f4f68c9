//! The machine of a node: its agent with the production decisions, its watchdog, its `/run`.
//!
//! Every moment is counted from a fixed present ([`NOW`]); when time passes, everything moves back. What the agent asks
//! for outside of the machine stays under way until the model decides what becomes of it.

use std::time::Duration;

use jiff::Timestamp;
use self_node_remediation_core::agent::{Recorded, Settings, State};
use self_node_remediation_core::announcement::{Announcement, StoppedFeeding};
use self_node_remediation_core::table::{ListedNode, Role};
use self_node_remediation_core::time::BootInstant;

use crate::rules::Rule;
use crate::view::{NOW, TICK, boot_id};

mod input;
mod run;

pub use input::{Input, Word};
use run::Run;

/// What does not change about a machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The agent's settings, in boot 1.
    pub settings: Settings,
    /// What kind of node it is.
    pub role: Role,
    /// Names of its peers, by number.
    pub peers: Vec<&'static str>,
    /// The node lists that it gets, in the order in which they become true.
    pub lists: Vec<NodeList>,
    /// The watchdog's timeout in seconds.
    pub watchdog: u64,
    /// The shortest timeout that the driver takes.
    pub least: u64,
    /// Whether a magic close stops the watchdog.
    pub can_disarm: bool,
    /// Whether a reset by software works. If not, only the watchdog resets.
    pub software_works: bool,
    /// The rule that does not hold.
    pub broken: Option<Rule>,
}

/// All nodes, as the API server lists them from some moment on.
#[derive(Debug, Clone)]
pub struct NodeList {
    /// The nodes, x among them.
    pub nodes: Vec<ListedNode>,
    /// The server's time of the list.
    pub stamp: Timestamp,
}

/// The machine now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Number of the boot.
    pub boot: u8,
    /// Not reset since.
    pub up: bool,
    /// The containers of the workload may run.
    pub pods: bool,
    /// The node list that its agent got last, by number.
    pub list: u8,
    process: Option<Process>,
    record: Option<Recorded>,
    device: Device,
    /// What the agent has asked for.
    pub asked: Asked,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    state: State,
    pace: Pace,
    feed_until: BootInstant,
    starved: bool,
}

/// How the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// As it should be.
    Runs,
    /// Its decision loop hangs; the feeder's thread runs.
    LoopHangs,
    /// All of it stands still.
    Frozen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Device {
    running: bool,
    open: bool,
    timeout: u64,
    last_ping: BootInstant,
}

/// What is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Reads: whether it is the present check's, and when it started.
    pub reads: Vec<(bool, BootInstant)>,
    /// A node list.
    pub nodes: bool,
    /// Peers that have not answered, as bits, and since when.
    pub peers: u8,
    /// When they were asked.
    pub since: BootInstant,
    /// An announcement.
    pub announcement: Option<Announcement>,
    /// Last words.
    pub words: Option<StoppedFeeding>,
}

impl Host {
    /// A machine in this boot, on which nothing runs yet.
    pub fn booted(machine: &Machine, boot: u8) -> Self {
        Self {
            boot,
            up: true,
            pods: false,
            list: 0,
            process: None,
            record: None,
            device: Device {
                running: false,
                open: false,
                timeout: machine.watchdog,
                last_ping: BootInstant::ZERO,
            },
            asked: Asked::default(),
        }
    }

    /// How its agent is, if there is one.
    pub fn pace(&self) -> Option<Pace> {
        self.process.as_ref().map(|process| process.pace)
    }

    /// Whether its agent runs and its loop turns.
    pub fn decides(&self) -> bool {
        self.pace() == Some(Pace::Runs)
    }

    /// Whether the watchdog counts.
    pub const fn armed(&self) -> bool {
        self.device.running
    }

    /// The agent.
    pub fn state(&self) -> Option<&State> {
        self.process.as_ref().map(|process| &process.state)
    }

    /// The agent, to be asked.
    pub fn state_mut(&mut self) -> Option<&mut State> {
        self.process.as_mut().map(|process| &mut process.state)
    }

    /// What becomes of it, and what people are told.
    pub fn after(mut self, machine: &Machine, input: Input) -> (Self, Vec<String>) {
        let mut run = Run {
            machine,
            settings: settings_of(machine, self.boot),
            now: NOW,
            told: Vec::new(),
            host: &mut self,
        };
        run.take(input);
        let told = std::mem::take(&mut run.told);
        let by = if matches!(input, Input::Tick { .. }) {
            TICK
        } else {
            Duration::ZERO
        };
        let now = NOW.plus(by);
        let settings = run.settings;
        self.canonical(&settings, now, by);
        (self, told)
    }

    fn canonical(&mut self, settings: &Settings, now: BootInstant, by: Duration) {
        let back = |at: &mut BootInstant| *at = at.minus(by);
        back(&mut self.device.last_ping);
        if !self.device.running {
            self.device.last_ping = BootInstant::ZERO;
        }
        self.asked
            .reads
            .iter_mut()
            .for_each(|(_, started)| back(started));
        if self.asked.peers == 0 {
            self.asked.since = BootInstant::ZERO;
        }
        back(&mut self.asked.since);
        if let Some(process) = &mut self.process {
            process.feed_until = process.feed_until.minus(by);
            if process.feed_until <= NOW {
                process.feed_until = BootInstant::ZERO;
            }
            process.state = process.state.clone().canonical(settings, now, by);
        }
        self.record = self
            .record
            .take()
            .map(|record| record.canonical(settings, now, by));
    }
}

fn settings_of(machine: &Machine, boot: u8) -> Settings {
    let mut settings = machine.settings.clone();
    settings.own.boot = boot_id(boot);
    settings
}
