//! The agent's decisions: `step(state, evidence) -> (state, commands)`.
//!
//! # Purpose
//! Everything the agent decides is decided here; its effects carry out [`Command`]s and report [`Evidence`]. The same
//! function runs in the agent, in the model explorer and in the simulation.
//!
//! # Protocol
//! * The loop calls [`step`] for each piece of evidence and at [`next_wake`]. `chance` is a fresh random number.
//! * Commands are carried out in their order; those that reach outside report their outcome as evidence later.
//!   [`Command::Record`] is carried out at once, by an atomic rename under `/run`. If it fails, every
//!   [`Command::PublishAnnouncement`] and [`Command::PublishStoppedFeeding`] is left out until a record has succeeded,
//!   in the same batch and in later ones: both may only follow what is recorded. After a pause, so that trying again
//!   does not turn without one, [`Evidence::RecordFailed`] is reported.
//! * A process begins with [`State::restore`] once it holds the lock of the state folder.
//!
//! # Guarantees
//! * **Announce, read, act** ([`Announcing`]): whatever lengthens the bound is announced first, then a list that was
//!   asked for after the acceptance must show no order, and only then it is used. What shortens it is used first.
//! * Fencing, once begun, never ends (H7): no command after [`Command::Starve`] feeds or opens.
//! * Before the first successful read of this boot nothing is opened and nothing fenced for isolation.
//! * Below maxApiErrorThreshold only a peer that knows of a remediation, or the order itself, fences.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::announcement::{Announcement, StoppedFeeding};
use crate::budget::Timing;
use crate::ids::{NodeName, Uid};
use crate::knowledge::Knowledge;
use crate::order::{self, Own, Reading, Remediation, Uptime};
use crate::peer_server::Standing;
use crate::permit::{Permit, Proof, Terms, feed_until};
use crate::table::{ListedNode, Role, Table, mix};
use crate::time::BootInstant;
use crate::verdict::{Answers, Said};

mod announcing;
mod canonical;
mod check;
mod ending;
mod fencing;
mod nodes;
mod notice;
mod record;
mod rounds;
#[cfg(test)]
mod tests;
mod wake;
mod watchdog;

pub use announcing::{Announcing, InForce};
pub(crate) use canonical::Shift;
pub use notice::{Notice, Reason};
pub use record::{RECORD_VERSION, Recorded, RecordedFencing};
pub use wake::next_wake;

/// What does not change while the process lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Node and boot.
    pub own: Own,
    /// Time limits.
    pub timing: Timing,
    /// minPeersForRemediation.
    pub min_peers: u32,
    /// isSoftwareRebootEnabled.
    pub software_reboot: bool,
    /// watchdogTimeout in seconds, if it is to be set.
    pub watchdog_timeout: Option<u64>,
    /// peerUpdateInterval.
    pub peer_update_interval: Duration,
}

/// Something that was observed, or the outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Time has passed.
    Tick,
    /// Outcome of [`Command::StartApiRead`]: a consistent list of all pages of all SelfNodeRemediations.
    ApiRead {
        /// Number of the check.
        check: u64,
        /// When the first request was sent.
        started: BootInstant,
        /// The list; `None` on any error, refusal or timeout.
        list: Option<Listed>,
    },
    /// Another complete consistent list, made for a peer.
    Listed {
        /// When the first request was sent.
        started: BootInstant,
        /// The list.
        list: Listed,
    },
    /// A remediation, as a watch showed it.
    Watched(Remediation),
    /// A watch shows this remediation gone. That proves nothing, but it is a reason to look.
    WatchedGone(Uid),
    /// Outcome of [`Command::ListNodes`]: all nodes, metadata only.
    Nodes {
        /// All nodes.
        nodes: Vec<ListedNode>,
        /// The server's date of the answer.
        stamp: jiff::Timestamp,
        /// The announcement that our own Node carries now.
        announced: Option<String>,
    },
    /// [`Command::ListNodes`] failed.
    NodesFailed,
    /// A peer answered or will not answer.
    PeerAnswer {
        /// Number of the round.
        round: u64,
        /// The peer.
        node: NodeName,
        /// What it said.
        said: Said,
    },
    /// Outcome of [`Command::RunDiagnostics`].
    Diagnostics {
        /// Number of the round.
        round: u64,
        /// Endpoint not lost, and the kubelet answers.
        passed: bool,
    },
    /// Outcome of [`Command::PublishAnnouncement`].
    Published {
        /// Number of the attempt.
        sequence: u64,
        /// Whether the API server said that it has taken the patch. Anything else may or may not have taken effect.
        accepted: bool,
    },
    /// The watchdog is open and fed, and this is its timeout, as read back.
    Opened {
        /// In seconds.
        timeout: u64,
        /// Whether a magic close would stop it (no nowayout).
        can_disarm: bool,
    },
    /// No usable watchdog, or it broke.
    NoWatchdog,
    /// Outcome of [`Command::SetWatchdogTimeout`], read back.
    TimeoutSet {
        /// In seconds.
        timeout: u64,
    },
    /// Outcome of [`Command::Starve`]: nothing feeds any more.
    Starved {
        /// The timeout that runs now, in seconds, as read back. 0: the device did not take its last feeds or does not
        /// tell its timeout, so nobody may count on its reset (no last words).
        timeout: u64,
        /// When it was fed last.
        last_feed: BootInstant,
    },
    /// [`Command::Disarm`] is done: the device was closed by the magic character.
    Disarmed,
    /// A [`Command::Record`] failed.
    RecordFailed,
    /// The process is asked to end.
    Terminate {
        /// A successor waits for the lock.
        successor: bool,
        /// A live read showed that our own pod is being deleted.
        pod_deleted: bool,
    },
}

/// A complete consistent list and the clocks when it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// All remediations.
    pub remediations: Vec<Remediation>,
    /// For remediations that record no boot ID.
    pub uptime: Uptime,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write the state folder.
    Record(Box<Recorded>),
    /// The feeder may feed before this moment. Replaces what was said before.
    FeedUntil(BootInstant),
    /// Open and start the watchdog. Only with a valid permit: opening counts as feeding.
    OpenWatchdog {
        /// Set this timeout (seconds) and read it back.
        set_timeout: Option<u64>,
    },
    /// Set this timeout (seconds) on the open watchdog.
    SetWatchdogTimeout(u64),
    /// Stop feeding for good, keeping the device open.
    Starve {
        /// First set the smallest timeout of at least 5 s that the driver takes (this pings: the permit is valid).
        shorten: bool,
    },
    /// Reset the machine by software, without sync or unmount.
    SoftwareReboot,
    /// Close the watchdog by the magic character.
    Disarm,
    /// Read the API: consistent (no resourceVersion), all pages, within apiServerTimeout.
    StartApiRead {
        /// Number of the check.
        check: u64,
    },
    /// List all nodes, metadata only.
    ListNodes,
    /// Ask these peers, in this order, at most 256 at a time; report each.
    AskPeers {
        /// Number of the round.
        round: u64,
        /// Whom, shuffled.
        nodes: Vec<NodeName>,
        /// When all must have been reported.
        deadline: BootInstant,
    },
    /// Nobody else needs to be asked in a round; who was asked may still answer.
    AskNoMore {
        /// Number of the round.
        round: u64,
    },
    /// The answers of a round are no longer needed.
    StopAsking {
        /// Number of the round.
        round: u64,
    },
    /// Probe endpoint and kubelet, in at most 5 s each.
    RunDiagnostics {
        /// Number of the round.
        round: u64,
        /// When the outcome must be there.
        deadline: BootInstant,
    },
    /// Patch our own Node with the announcement and the annotations that go with it.
    PublishAnnouncement {
        /// Number of the attempt.
        sequence: u64,
        /// What to announce.
        announcement: Announcement,
    },
    /// Patch our own Node with the last words, within 2 s.
    PublishStoppedFeeding(StoppedFeeding),
    /// Tell people.
    Tell(Notice),
    /// End the process, leaving an open watchdog armed.
    Exit,
}

/// What the agent knows and has decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    contact: bool,
    role: Option<Role>,
    errors: u32,
    last_probe: Option<Probe>,
    permit: Permit,
    knowledge: Knowledge,
    announcing: Announcing,
    watchdog: Watchdog,
    /// In this boot the device was, or is being, opened by this process or another, and not closed properly since.
    device: bool,
    fencing: Option<Fencing>,
    check: Check,
    rounds: Rounds,
    nodes: Nodes,
    ending: Option<Ending>,
    recorded: Option<Box<Recorded>>,
    feed_until: Option<BootInstant>,
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Probe {
    ended: BootInstant,
    succeeded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Watchdog {
    NotTried,
    Opening,
    Armed {
        timeout: u64,
        can_disarm: bool,
        wish: Wish,
    },
    Absent,
    Disarming,
    Disarmed,
}

/// What became of the wish for another timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wish {
    /// The device was not asked yet.
    Open,
    /// The device was asked to take this and has not answered.
    Asked(u64),
    /// The device has answered, or there is nothing to ask.
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Fencing {
    reason: Reason,
    since: BootInstant,
    /// When software resets the machine; where it must not, when the watchdog has failed.
    software_at: BootInstant,
    last_words: LastWords,
    told_cannot: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LastWords {
    No,
    AfterStarving,
    Due { timeout: u64 },
    Sent { timeout: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Check {
    number: u64,
    running: Option<BootInstant>,
    next: BootInstant,
    /// A read that was started after this moment is waited for.
    wanted_after: Option<BootInstant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Rounds {
    number: u64,
    current: Option<Round>,
    /// Start of the last full round.
    last_full: Option<BootInstant>,
    /// Not before this, unless it is the last chance.
    next: BootInstant,
    /// The process started with an old proof: ask without waiting for failed checks.
    at_once: bool,
    control_plane_due: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Round {
    started: BootInstant,
    deadline: BootInstant,
    full: bool,
    asked: BTreeSet<NodeName>,
    answers: Answers,
    api_errors: usize,
    least_majority: usize,
    diagnostics: Option<bool>,
    needs_diagnostics: bool,
    told_outage: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Nodes {
    /// Whether the role is that of this process' own start.
    role_read: bool,
    next: BootInstant,
    running: Option<BootInstant>,
    latest: Option<Arc<Table>>,
    /// The next list is the one that follows a change.
    follows_change: bool,
}

/// What people were told, so that they are told once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Told {
    expired: bool,
    no_electorate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ending {
    deadline: BootInstant,
    disarm: bool,
}

impl State {
    /// How this agent stands towards peers that ask it. `standing_by` is for processes without a state.
    pub fn standing(&self, settings: &Settings, now: BootInstant) -> Standing {
        let recent = settings.timing.check_period();
        let own_probe_failed = self
            .last_probe
            .is_some_and(|probe| !probe.succeeded && now.since(probe.ended) <= recent);
        Standing {
            standing_by: false,
            contact: self.contact,
            own_probe_failed,
        }
    }

    /// What it remembers of orders. A change by a live list goes through [`Evidence::Listed`], which records it.
    pub const fn knowledge(&mut self) -> &mut Knowledge {
        &mut self.knowledge
    }

    /// When the latest direct proof of "no order" began.
    pub const fn last_direct_proof(&self) -> Option<BootInstant> {
        self.permit.direct()
    }

    /// Until when the watchdog may be fed, as last commanded.
    pub const fn feed_until(&self) -> Option<BootInstant> {
        self.feed_until
    }

    /// Failed checks in a row.
    pub const fn errors(&self) -> u32 {
        self.errors
    }

    /// Whether a read has succeeded in this boot.
    pub const fn has_contact(&self) -> bool {
        self.contact
    }

    /// Why the node is fencing itself, if it is.
    pub fn fencing(&self) -> Option<&Reason> {
        self.fencing.as_ref().map(|fencing| &fencing.reason)
    }

    /// Timeout of the armed watchdog in seconds.
    pub const fn armed_timeout(&self) -> Option<u64> {
        match self.watchdog {
            Watchdog::Armed { timeout, .. } => Some(timeout),
            Watchdog::NotTried
            | Watchdog::Opening
            | Watchdog::Absent
            | Watchdog::Disarming
            | Watchdog::Disarmed => None,
        }
    }

    /// The tables and the bound that are announced.
    pub const fn announcing(&self) -> &Announcing {
        &self.announcing
    }

    /// The role that decides which peers count.
    pub const fn role(&self) -> Option<Role> {
        self.role
    }
}

/// What follows from the state alone; used by the steps and by [`next_wake`].
impl State {
    /// What limits the proofs now.
    fn terms(&self, settings: &Settings) -> Terms {
        let mut terms = self
            .announcing
            .terms(settings.timing.span(), self.armed_timeout());
        terms.triggered = self.fencing.is_some();
        terms
    }

    /// Until when the watchdog may be fed. Nothing is permitted before the first announcement of this boot is in force:
    /// the Node may still carry a shorter bound that a process before this one announced.
    fn limit(&self, settings: &Settings, now: BootInstant) -> Option<BootInstant> {
        self.announcing.in_force()?;
        feed_until(&self.permit, self.terms(settings), now)
    }

    /// V without (d): until when proofs reach.
    fn proved_until(&self, settings: &Settings, now: BootInstant) -> Option<BootInstant> {
        let terms = Terms {
            no_electorate: None,
            triggered: false,
            ..self.terms(settings)
        };
        feed_until(&self.permit, terms, now)
    }
}

/// Takes in one piece of evidence and decides what to do.
pub fn step(
    settings: &Settings,
    state: State,
    evidence: Evidence,
    now: BootInstant,
    chance: u64,
) -> (State, Vec<Command>) {
    let mut step = Step {
        settings,
        state,
        now,
        chance,
        first: Vec::new(),
        rest: Vec::new(),
    };
    step.absorb(evidence);
    step.drive();
    step.finish()
}

/// One step in the making. The modules below add what belongs to them.
struct Step<'a> {
    settings: &'a Settings,
    state: State,
    now: BootInstant,
    chance: u64,
    /// What stops or permits feeding: before anything is recorded.
    first: Vec<Command>,
    /// What may only follow the record.
    rest: Vec<Command>,
}

impl Step<'_> {
    fn absorb(&mut self, evidence: Evidence) {
        match evidence {
            Evidence::Tick => {}
            Evidence::RecordFailed => self.record_failed(),
            Evidence::ApiRead {
                check,
                started,
                list,
            } => {
                self.check_ended(check, started, list.is_some());
                if let Some(list) = list {
                    self.judge(started, &list);
                }
            }
            Evidence::Listed { started, list } => self.judge(started, &list),
            Evidence::Watched(remediation) => self.watched(&remediation),
            Evidence::WatchedGone(uid) => {
                if self.state.knowledge.holds(&uid) {
                    self.check_soon();
                }
            }
            Evidence::Nodes {
                nodes,
                stamp,
                announced,
            } => {
                self.nodes_listed(&nodes, stamp, announced.as_deref());
            }
            Evidence::NodesFailed => self.nodes_failed(),
            Evidence::PeerAnswer { round, node, said } => self.peer_answered(round, node, said),
            Evidence::Diagnostics { round, passed } => self.diagnosed(round, passed),
            Evidence::Published { sequence, accepted } => self.published(sequence, accepted),
            Evidence::Opened {
                timeout,
                can_disarm,
            } => self.opened(timeout, can_disarm),
            Evidence::NoWatchdog => self.no_watchdog(),
            Evidence::TimeoutSet { timeout } => self.timeout_set(timeout),
            Evidence::Starved { timeout, last_feed } => self.starved(timeout, last_feed),
            Evidence::Disarmed => self.disarmed(),
            Evidence::Terminate {
                successor,
                pod_deleted,
            } => {
                self.terminate(successor, pod_deleted);
            }
        }
    }

    /// Judges a complete consistent list.
    fn judge(&mut self, started: BootInstant, list: &Listed) {
        let state = &mut self.state;
        state.contact = true;
        state
            .knowledge
            .take_list(&list.remediations, started, self.now);
        let announced = state.announcing.spoke_for_this_boot_before(started);
        let own = &self.settings.own;
        match order::read(own, &list.remediations, started, announced, list.uptime) {
            Reading::Order(uid) => self.fence(Reason::Ordered(uid)),
            Reading::DoneButUnannounced => {}
            Reading::NoOrder(proof) => {
                state.permit.extend(Proof::ApiRead(proof));
                state.rounds.at_once = false;
                if state.errors > 0 {
                    state.errors = 0;
                    self.rest.push(Command::Tell(Notice::ContactRegained));
                }
                self.no_order_read(started);
            }
        }
    }

    fn watched(&mut self, remediation: &Remediation) {
        if !remediation.is_order() && self.state.knowledge.holds(&remediation.uid) {
            self.check_soon();
        }
        self.state.knowledge.see(remediation, self.now);
        if remediation.is_order_for(&self.settings.own.boot) {
            self.fence(Reason::Ordered(remediation.uid.clone()));
        }
    }

    fn drive(&mut self) {
        self.drive_check();
        if self.state.fencing.is_none() {
            self.drive_nodes();
            self.drive_announcing();
            self.drive_rounds();
            self.drive_expiry();
        }
        self.update_feeding();
        if self.state.fencing.is_some() {
            self.drive_fencing();
        } else {
            self.drive_watchdog();
            self.drive_ending();
        }
    }

    fn limit(&self) -> Option<BootInstant> {
        self.state.limit(self.settings, self.now)
    }

    fn update_feeding(&mut self) {
        let limit = self.limit();
        if limit != self.state.feed_until {
            self.state.feed_until = limit;
            match (limit, self.state.watchdog) {
                (Some(until), _) => self.first.push(Command::FeedUntil(until)),
                // The feeder needs the permit until it has shortened the timeout; Command::Starve ends it then.
                (None, Watchdog::Armed { .. }) => {}
                // A device that is being opened in this moment must not be fed by whoever opens it.
                (
                    None,
                    Watchdog::NotTried
                    | Watchdog::Opening
                    | Watchdog::Absent
                    | Watchdog::Disarming
                    | Watchdog::Disarmed,
                ) => self.first.push(Command::FeedUntil(BootInstant::ZERO)),
            }
        }
    }

    fn has_permit(&self) -> bool {
        self.limit().is_some_and(|until| self.now < until)
    }

    /// Between three quarters and all of `duration`, by chance.
    fn jittered(&self, duration: Duration) -> Duration {
        let share = u32::try_from(mix(self.chance) % 1001).unwrap_or_default();
        let quarter = duration / 4;
        duration
            .saturating_sub(quarter)
            .saturating_add(quarter / 1000 * share)
    }

    fn finish(mut self) -> (State, Vec<Command>) {
        let record = self.to_record();
        let mut commands = self.first;
        if self.state.recorded.as_deref() != Some(&record) {
            let record = Box::new(record);
            self.state.recorded = Some(record.clone());
            commands.push(Command::Record(record));
        }
        commands.append(&mut self.rest);
        (self.state, commands)
    }
}
