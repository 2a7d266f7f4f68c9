//! The drain of one node as a state machine without I/O.
//!
//! ```text
//!              DaemonSet asked        Begin, a free slot          201
//!  Unclassified ------------> Due ------------------> Posting ---------> Accepted
//!       |  ^                   ^                        |  |                |
//!       v  | next round        |  retry time, or        |  | 4xx, 5xx       | deletionTimestamp
//!   Undecided                  |  the budget opened     |  v                v
//!                              +------- Blocked <-------+ Refused        Leaving ----> (object gone)
//!                              +------------------------------ next round   |
//!                                                                           v skip-wait, opt-in
//!   Stays: DaemonSet, mirror, not selected                                LetGo
//! ```
//!
//! A pod leaves the machine only when the LIST or WATCH says that this incarnation is gone. What an
//! eviction answers decides about the next request, never about completion.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use medik8s_core::{
    selector::{self, Selector},
    time::{after, elapsed},
};

use super::{
    answer::Answer,
    budget::Budget,
    filter::{Class, DaemonSet, Notes, classify},
    pod::{Key, PodFacts, Termination, Uid},
};

mod budgets;
mod duty;
mod report;
mod time;

#[cfg(test)]
mod tests;

use duty::{Block, Blocker, Duty, Entry, next_duty};
pub use report::{BlockedPod, Report};

/// How long one round lasts before its summary becomes the maintenance's last error.
pub const ROUND: Duration = Duration::from_secs(30);

/// The pause after a round before what failed in it is tried again.
pub const PAUSE: Duration = Duration::from_secs(5);

/// How long the answer about a DaemonSet is trusted.
const DAEMON_SET_TRUST: Duration = Duration::from_mins(5);

/// How many evictions may be under way at the same time.
pub const LIMIT: usize = 50;

/// How many of one node may be under way at first. Each needs a connection, with its handshake and
/// its memory; a quick server is kept busy by these.
const FIRST: usize = 16;

/// Another one may be under way after each time of this length, for servers (or their webhooks) that
/// take long to answer.
const GROWTH: Duration = Duration::from_millis(200);

/// What the user and the process say about a drain.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Grace period for every pod instead of its own (`spec.drain.gracePeriodSeconds`).
    pub grace_seconds: Option<u32>,
    /// Only these pods are evicted (`spec.drain.podSelector`).
    pub selector: Option<Selector>,
    /// Pods that should have ended this long ago are not waited for
    /// (`spec.drain.skipWaitForDeleteTimeoutSeconds`).
    pub skip_wait: Option<Duration>,
    /// The pod this operator runs in: evicted last.
    pub own_pod: Option<Key>,
    /// How many evictions may be under way at the same time.
    pub limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grace_seconds: None,
            selector: None,
            skip_wait: None,
            own_pod: None,
            limit: LIMIT,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A complete list of the pods bound to the node.
    Listed(Vec<PodFacts>),
    /// The watch showed a pod.
    Applied(PodFacts),
    /// The watch showed that a pod is gone.
    Deleted(Key, Uid),
    /// A DaemonSet was looked for.
    FoundDaemonSet(Key, DaemonSet),
    /// An eviction was answered.
    Answered(Key, Uid, Answer),
    /// The budgets of a namespace, all of them.
    Budgets(String, Vec<Budget>),
    /// The budgets of a namespace are not known (any more).
    BudgetsUnknown(String),
    /// Evicting is allowed from now on.
    Begin,
    /// Evicting is forbidden from now on, for good.
    Cancel,
    /// Time has passed.
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask for this eviction. Exactly one [`Event::Answered`] must follow.
    Evict(Eviction),
    /// Look for this DaemonSet. One [`Event::FoundDaemonSet`] must follow.
    FindDaemonSet(Key),
    /// Watch the budgets of this namespace.
    WatchBudgets(String),
    /// Stop watching them.
    ForgetBudgets(String),
    /// List the pods again: the watch alone cannot tell what is true.
    Relist,
}

/// One eviction to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// The pod.
    pub key: Key,
    /// The incarnation that was listed: the precondition of the request.
    pub uid: Uid,
    /// Grace period if the user ordered one; else the pod's own counts.
    pub grace_seconds: Option<u32>,
    /// What is lost by it.
    pub notes: Notes,
}

/// The current round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    NotBegun,
    Until(Timestamp),
    PausedUntil(Timestamp),
    Cancelled,
}

/// An answer about a DaemonSet and when it was asked for; `None` while the question is open.
#[derive(Debug, Clone, PartialEq)]
struct Memo {
    asked: Timestamp,
    is_open: bool,
}

/// The drain of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    options: Options,
    pods: BTreeMap<Key, Entry>,
    /// Evictions without an answer yet, also of pods that are gone meanwhile.
    posting: BTreeSet<Uid>,
    daemon_sets: BTreeMap<Key, DaemonSet>,
    memos: BTreeMap<Key, Memo>,
    /// Budgets of the namespaces that are watched; `None` until they are known.
    budgets: BTreeMap<String, Option<Vec<Budget>>>,
    is_listed: bool,
    /// Whether the pods were listed after [`Event::Begin`]. An older list may miss a pod that was
    /// bound to the node just before it was cordoned.
    is_current: bool,
    relist: Relist,
    round: Round,
    /// When evicting was allowed.
    begun: Option<Timestamp>,
    /// This node's share of the evictions that the process may have under way.
    share: usize,
    rounds: u32,
    /// What was unfinished when the latest round ended.
    summary: Vec<(Key, String)>,
    /// Whether an eviction was asked for.
    has_evicted: bool,
    /// The latest time it was told.
    latest: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relist {
    No,
    Wanted,
    Ordered,
}

impl Machine {
    /// A drain that knows no pods and must not evict yet.
    pub const fn new(options: Options) -> Self {
        Self {
            options,
            pods: BTreeMap::new(),
            posting: BTreeSet::new(),
            daemon_sets: BTreeMap::new(),
            memos: BTreeMap::new(),
            budgets: BTreeMap::new(),
            is_listed: false,
            is_current: false,
            relist: Relist::No,
            round: Round::NotBegun,
            begun: None,
            share: usize::MAX,
            rounds: 0,
            summary: Vec::new(),
            has_evicted: false,
            latest: Timestamp::MIN,
        }
    }

    /// Takes in what happened and says what to do now.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        self.take(event, now);
        self.settle(now)
    }

    /// Takes in what happened; [`Machine::settle`] says what to do about it. Events that come
    /// together are taken one by one and settled once.
    pub fn take(&mut self, event: Event, now: Timestamp) {
        self.heed(now);
        match event {
            Event::Listed(pods) => self.on_list(pods),
            Event::Applied(pod) => self.on_pod(pod),
            Event::Deleted(key, uid) => {
                if self
                    .pods
                    .get(&key)
                    .is_some_and(|entry| entry.pod.uid == uid)
                {
                    self.pods.remove(&key);
                }
            }
            Event::FoundDaemonSet(key, found) => self.on_daemon_set(&key, found),
            Event::Answered(key, uid, answer) => self.on_answer(&key, &uid, answer, now),
            Event::Budgets(namespace, budgets) => self.on_budgets(&namespace, budgets, now),
            Event::BudgetsUnknown(namespace) => {
                if let Some(known) = self.budgets.get_mut(&namespace) {
                    *known = None;
                }
            }
            Event::Begin => {
                if self.round == Round::NotBegun {
                    self.round = Round::Until(after(now, ROUND));
                    self.begun = Some(now);
                }
            }
            Event::Cancel => self.round = Round::Cancelled,
            Event::Tick => {}
        }
    }

    /// When [`Event::Tick`] is due at the latest; `None` if only events matter.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let round = match self.round {
            Round::Until(end) => (!self.is_complete()).then_some(end),
            Round::PausedUntil(end) => Some(end),
            Round::NotBegun => None,
            Round::Cancelled => return None,
        };
        let pods = self.pods.values().filter_map(|entry| match &entry.duty {
            Duty::Blocked(block) => Some(block.retry_at),
            Duty::Leaving(termination) => self.let_go_at(*termination),
            Duty::Stays(_)
            | Duty::Unclassified
            | Duty::Undecided { .. }
            | Duty::Due(_)
            | Duty::Posting(_)
            | Duty::Accepted
            | Duty::LetGo
            | Duty::Refused(_) => None,
        });
        pods.chain(round).chain(self.grows_at()).min()
    }

    /// Whether every pod that has to go is gone, as the API server says in a list that was asked
    /// for after the node was cordoned, and in the watch from there on.
    pub fn is_complete(&self) -> bool {
        self.is_current && self.relist == Relist::No && self.seems_complete()
    }

    /// Whether nothing that is known is left to do. What is known may be older than the cordon.
    fn seems_complete(&self) -> bool {
        self.is_listed && self.posting.is_empty() && self.pods.values().all(Entry::is_settled)
    }

    const fn has_begun(&self) -> bool {
        match self.round {
            Round::Until(_) | Round::PausedUntil(_) => true,
            Round::NotBegun | Round::Cancelled => false,
        }
    }

    fn let_go_at(&self, termination: Termination) -> Option<Timestamp> {
        self.options
            .skip_wait
            .map(|wait| after(termination.deadline, wait))
    }

    fn on_list(&mut self, pods: Vec<PodFacts>) {
        self.is_listed = true;
        // Every list but that of the preparation is asked for after the beginning.
        self.is_current = self.has_begun();
        self.relist = Relist::No;
        let listed: BTreeMap<&Key, &Uid> = pods.iter().map(|pod| (&pod.key, &pod.uid)).collect();
        self.pods
            .retain(|key, entry| listed.get(key) == Some(&&entry.pod.uid));
        for pod in pods {
            self.on_pod(pod);
        }
    }

    fn on_pod(&mut self, pod: PodFacts) {
        let selected = self
            .options
            .selector
            .as_ref()
            .is_none_or(|chosen| selector::selects(chosen, Some(&pod.labels)));
        let class = classify(&pod, selected, &self.daemon_sets);
        let before = self
            .pods
            .remove(&pod.key)
            .filter(|entry| entry.pod.uid == pod.uid);
        let has_just_finished =
            pod.is_finished && before.as_ref().is_some_and(|entry| !entry.pod.is_finished);
        let before = before.map_or(Duty::Unclassified, |entry| entry.duty);
        let notes = match &class {
            Class::Goes(notes) => *notes,
            Class::Stays(_) | Class::Ask(_) | Class::Undecided { .. } => Notes::default(),
        };
        let mut duty = next_duty(before, class, pod.terminating);
        if let Duty::Blocked(block) = &mut duty
            && has_just_finished
        {
            // A live migration has ended, or the pod's work: nothing is left to protect.
            block.hurry(block.at);
        }
        self.pods
            .insert(pod.key.clone(), Entry { pod, duty, notes });
    }

    fn on_daemon_set(&mut self, key: &Key, found: DaemonSet) {
        if let Some(memo) = self.memos.get_mut(key) {
            memo.is_open = false;
        }
        self.daemon_sets.insert(key.clone(), found);
        let concerned: Vec<PodFacts> = self
            .pods
            .values()
            .filter(|entry| entry.belongs_to(key))
            .map(|entry| entry.pod.clone())
            .collect();
        for pod in concerned {
            self.on_pod(pod);
        }
    }

    fn on_answer(&mut self, key: &Key, uid: &Uid, answer: Answer, now: Timestamp) {
        if !self.posting.remove(uid) {
            return;
        }
        let contested = answer == Answer::Contested;
        let explained = self.is_explained(key);
        let Some(entry) = self.pods.get_mut(key).filter(|entry| entry.pod.uid == *uid) else {
            return;
        };
        // `Due` if it stopped and started to be a pod that goes while the request was under way.
        let (Duty::Posting(before) | Duty::Due(before)) = &mut entry.duty else {
            return;
        };
        let before = before.take();
        let block = |by: Blocker, asked: Option<Duration>, explained: bool| {
            Duty::Blocked(Block::again(
                before.as_ref(),
                by,
                now,
                asked,
                explained,
                uid,
            ))
        };
        entry.duty = match answer {
            // That the object is gone is for the watch to say.
            Answer::Accepted | Answer::Gone => Duty::Accepted,
            Answer::NotNow { retry_after, text } => {
                block(Blocker::NotNow(text), retry_after, explained)
            }
            Answer::NamespaceTerminating => block(Blocker::NamespaceTerminating, None, false),
            Answer::Contested => block(Blocker::Contested, None, false),
            Answer::Unreachable { text } => block(Blocker::Unreachable(text), None, false),
            Answer::Refused { code, text } => {
                let by = Blocker::Failed { code, text };
                Duty::Refused(Block::again(before.as_ref(), by, now, None, false, uid))
            }
        };
        if contested && self.relist == Relist::No {
            self.relist = Relist::Wanted;
        }
    }

    /// Brings everything that time or state allows under way.
    pub fn settle(&mut self, now: Timestamp) -> Vec<Command> {
        let mut commands = Vec::new();
        self.heed(now);
        self.turn_round(now);
        for entry in self.pods.values_mut() {
            entry.ripen(now, self.options.skip_wait);
        }
        self.ask_for_daemon_sets(now, &mut commands);
        self.evict(now, &mut commands);
        self.watch_budgets(&mut commands);
        if !self.is_current
            && self.has_begun()
            && self.relist == Relist::No
            && self.seems_complete()
        {
            self.relist = Relist::Wanted;
        }
        if self.relist == Relist::Wanted {
            self.relist = Relist::Ordered;
            commands.push(Command::Relist);
        }
        commands
    }

    fn turn_round(&mut self, now: Timestamp) {
        match self.round {
            Round::Until(end) if end <= now && !self.is_complete() => {
                self.summary = self.lines();
                self.rounds = self.rounds.saturating_add(1);
                self.round = Round::PausedUntil(after(now, PAUSE));
            }
            Round::PausedUntil(end) if end <= now => {
                self.round = Round::Until(after(now, ROUND));
                for entry in self.pods.values_mut() {
                    match &mut entry.duty {
                        Duty::Refused(block) => entry.duty = Duty::Due(Some(block.clone())),
                        Duty::Accepted => entry.duty = Duty::Due(None),
                        Duty::Stays(_)
                        | Duty::Unclassified
                        | Duty::Undecided { .. }
                        | Duty::Due(_)
                        | Duty::Posting(_)
                        | Duty::Leaving(_)
                        | Duty::LetGo
                        | Duty::Blocked(_) => {}
                    }
                }
                let stale = |memo: &Memo| elapsed(memo.asked, now) >= DAEMON_SET_TRUST;
                let unread = &self.daemon_sets;
                self.memos.retain(|key, memo| {
                    let unreadable = matches!(unread.get(key), Some(DaemonSet::Unreadable(_)));
                    memo.is_open || !(unreadable || stale(memo))
                });
            }
            Round::NotBegun | Round::Until(_) | Round::PausedUntil(_) | Round::Cancelled => {}
        }
    }

    fn ask_for_daemon_sets(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        if self.round == Round::Cancelled {
            return;
        }
        for entry in self.pods.values() {
            let Some(key) = entry.daemon_set() else {
                continue;
            };
            if !self.memos.contains_key(key) {
                self.memos.insert(
                    key.clone(),
                    Memo {
                        asked: now,
                        is_open: true,
                    },
                );
                commands.push(Command::FindDaemonSet(key.clone()));
            }
        }
    }

    /// Sets this node's share of the evictions that the process may have under way.
    pub const fn set_share(&mut self, share: usize) {
        self.share = share;
    }

    /// How many evictions may be under way now.
    fn window(&self, now: Timestamp) -> usize {
        let grown = self.begun.map_or(0, |begun| {
            elapsed(begun, now).as_millis() / GROWTH.as_millis()
        });
        let grown = usize::try_from(grown).unwrap_or(usize::MAX);
        self.options
            .limit
            .min(self.share)
            .min(FIRST.saturating_add(grown))
            .max(1)
    }

    /// When the window grows, if pods wait for that.
    fn grows_at(&self) -> Option<Timestamp> {
        let begun = self.begun.filter(|_| self.has_begun())?;
        let cap = self.options.limit.min(self.share);
        let open = self.posting.len();
        let held_back = self.held_back();
        let waits = self.pods.values().any(|entry| {
            matches!(entry.duty, Duty::Due(_)) && held_back.as_ref() != Some(&entry.pod.key)
        });
        let steps = u32::try_from(open.checked_sub(FIRST)?)
            .ok()?
            .saturating_add(1);
        (waits && open < cap).then(|| after(begun, GROWTH.saturating_mul(steps)))
    }

    /// The operator's own pod, while others have to go before it.
    fn held_back(&self) -> Option<Key> {
        let own = self.options.own_pod.as_ref()?;
        self.pods
            .values()
            .any(|entry| entry.pod.key != *own && entry.holds_own_pod_back())
            .then(|| own.clone())
    }

    fn evict(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        if !self.has_begun() {
            return;
        }
        let window = self.window(now);
        let held_back = self.held_back();
        for entry in self.pods.values_mut() {
            if self.posting.len() >= window {
                return;
            }
            if held_back.as_ref() == Some(&entry.pod.key) {
                continue;
            }
            if let Duty::Due(block) = &mut entry.duty
                && !self.posting.contains(&entry.pod.uid)
            {
                entry.duty = Duty::Posting(block.take());
                self.posting.insert(entry.pod.uid.clone());
                self.has_evicted = true;
                commands.push(Command::Evict(Eviction {
                    key: entry.pod.key.clone(),
                    uid: entry.pod.uid.clone(),
                    grace_seconds: self.options.grace_seconds,
                    notes: entry.notes,
                }));
            }
        }
    }
}
