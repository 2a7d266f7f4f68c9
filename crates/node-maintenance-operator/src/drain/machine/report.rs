//! What a drain says about itself: numbers for the status, words for people.
//!
//! Texts hold no counters that change while nothing happens (attempts, seconds left), so that an
//! unchanged situation gives an unchanged status.

use jiff::Timestamp;
use medik8s_core::time::whole_second;

use super::{
    Budget, Key, Machine, Round,
    duty::{Block, Blocker, Duty, Entry},
};
use crate::drain::answer::shorten;

/// The state of a drain at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Whether the pods of the node are known.
    pub is_listed: bool,
    /// Whether every pod that has to go is gone.
    pub is_complete: bool,
    /// Pods bound to the node now.
    pub total: usize,
    /// Pods that have to go and are still there, in the order of namespace and name.
    pub pending: Vec<Key>,
    /// Whether some pending pod depends on a DaemonSet that could not be read.
    pub undecided: Vec<String>,
    /// Pods whose latest eviction was refused, with the reason.
    pub blocked: Vec<BlockedPod>,
    /// Pods that were asked to go and are still there.
    pub leaving: usize,
    /// Whether an eviction was asked for.
    pub has_evicted: bool,
    /// Rounds that ended unfinished.
    pub rounds: u32,
    /// One line for each pod that was unfinished when the latest round ended and still is.
    pub summary: Vec<String>,
    /// When the next round starts, while the pause after a round lasts.
    pub paused_until: Option<Timestamp>,
}

/// A pod whose eviction is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedPod {
    /// The pod.
    pub key: Key,
    /// Since when.
    pub since: Timestamp,
    /// By what, for people: "blocked by PodDisruptionBudget x".
    pub why: String,
}

impl Machine {
    /// The state of the drain now.
    pub fn report(&self) -> Report {
        let pending = self.pods.values().filter(|entry| entry.is_pending());
        Report {
            is_listed: self.is_listed,
            is_complete: self.is_complete(),
            total: self.pods.len(),
            pending: pending.clone().map(|entry| entry.pod.key.clone()).collect(),
            undecided: self
                .pods
                .values()
                .filter(|entry| matches!(entry.duty, Duty::Undecided { .. }))
                .map(|entry| self.line(entry))
                .collect(),
            blocked: pending
                .filter_map(|entry| {
                    let block = entry.block()?;
                    let why = self.explain(entry, block, false);
                    Some(BlockedPod {
                        key: entry.pod.key.clone(),
                        since: block.since,
                        why,
                    })
                })
                .collect(),
            leaving: self
                .pods
                .values()
                .filter(|entry| matches!(entry.duty, Duty::Leaving(_)))
                .count(),
            has_evicted: self.has_evicted,
            rounds: self.rounds,
            summary: self
                .summary
                .iter()
                .filter(|(key, _)| self.pods.get(key).is_some_and(Entry::is_unfinished))
                .map(|(_, line)| line.clone())
                .collect(),
            paused_until: match self.round {
                Round::PausedUntil(end) => Some(end),
                Round::NotBegun | Round::Until(_) | Round::Cancelled => None,
            },
        }
    }

    /// Whether the pods are known, how many rounds have ended, and how many pods are blocked: what
    /// somebody may want to hear of at once.
    pub fn news(&self) -> (bool, u32, usize) {
        let blocked = self
            .pods
            .values()
            .filter(|entry| entry.block().is_some())
            .count();
        (self.is_listed, self.rounds, blocked)
    }

    /// One line per pod that is not gone.
    pub(super) fn lines(&self) -> Vec<(Key, String)> {
        self.pods
            .values()
            .filter(|entry| entry.is_unfinished())
            .map(|entry| (entry.pod.key.clone(), self.line(entry)))
            .collect()
    }

    fn line(&self, entry: &Entry) -> String {
        let pod = &entry.pod.key;
        match &entry.duty {
            Duty::Blocked(block)
            | Duty::Refused(block)
            | Duty::Due(Some(block))
            | Duty::Posting(Some(block)) => {
                let why = self.explain(entry, block, true);
                format!("{pod}: {why} since {}", seconds(block.since))
            }
            Duty::Leaving(termination) => {
                let since = seconds(termination.since);
                let deadline = seconds(termination.deadline);
                format!("{pod}: terminating since {since}, its grace period ends at {deadline}")
            }
            Duty::Undecided { daemon_set, why } => {
                format!("{pod}: not evicted, its DaemonSet {daemon_set} could not be read: {why}")
            }
            Duty::Unclassified => format!("{pod}: its DaemonSet has not been read yet"),
            Duty::Accepted => format!("{pod}: eviction accepted, the pod is not terminating yet"),
            Duty::Posting(None) => format!("{pod}: eviction requested"),
            Duty::Due(None) if self.options.own_pod.as_ref() == Some(pod) => {
                format!("{pod}: runs this operator and is evicted last")
            }
            Duty::Due(None) => format!("{pod}: waits for its turn"),
            Duty::Stays(_) | Duty::LetGo => format!("{pod}: stays"),
        }
    }

    /// What blocks a pod. Numbers of budgets move all the time; they are for summaries only.
    fn explain(&self, entry: &Entry, block: &Block, with_numbers: bool) -> String {
        let text = match &block.by {
            Blocker::NotNow(text) => text,
            Blocker::NamespaceTerminating => return "its namespace is terminating".to_owned(),
            Blocker::Contested => return "changed while it was evicted".to_owned(),
            Blocker::Unreachable(text) => return format!("eviction was not answered: {text}"),
            Blocker::Failed { code, text } => return format!("eviction failed ({code}): {text}"),
        };
        let known = self
            .budgets
            .get(&entry.pod.key.namespace)
            .and_then(Option::as_ref);
        let covering: Vec<&Budget> = known
            .into_iter()
            .flatten()
            .filter(|budget| budget.covers(&entry.pod))
            .collect();
        let closed: Vec<&Budget> = covering
            .iter()
            .filter(|budget| budget.openings() == 0)
            .copied()
            .collect();
        if closed.is_empty() {
            return format!("eviction refused for now: {text}");
        }
        let names: Vec<String> = closed
            .iter()
            .map(|budget| {
                if with_numbers {
                    budget.to_string()
                } else {
                    budget.name.clone()
                }
            })
            .collect();
        shorten(&format!(
            "blocked by PodDisruptionBudget {}",
            names.join(", ")
        ))
    }
}

impl Entry {
    /// Something is left to do or to wait for.
    const fn is_unfinished(&self) -> bool {
        !self.is_settled()
    }

    /// It has to go and is still there.
    const fn is_pending(&self) -> bool {
        match self.duty {
            Duty::Stays(_) | Duty::LetGo | Duty::Unclassified => false,
            Duty::Undecided { .. }
            | Duty::Due(_)
            | Duty::Posting(_)
            | Duty::Accepted
            | Duty::Leaving(_)
            | Duty::Blocked(_)
            | Duty::Refused(_) => true,
        }
    }

    const fn block(&self) -> Option<&Block> {
        match &self.duty {
            Duty::Blocked(block)
            | Duty::Refused(block)
            | Duty::Due(Some(block))
            | Duty::Posting(Some(block)) => Some(block),
            Duty::Stays(_)
            | Duty::Unclassified
            | Duty::Undecided { .. }
            | Duty::Due(None)
            | Duty::Posting(None)
            | Duty::Accepted
            | Duty::Leaving(_)
            | Duty::LetGo => None,
        }
    }
}

/// A moment in whole seconds, for people.
fn seconds(time: Timestamp) -> Timestamp {
    whole_second(time).0
}
