//! What is to be done about one pod, and how that changes.

use std::time::Duration;

use jiff::Timestamp;
use medik8s_core::time::after;

use super::{Key, PodFacts, Termination, Uid};
use crate::drain::{
    filter::{Class, Notes, Stays},
    pod::Controller,
    retry,
};

/// A pod on the node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) pod: PodFacts,
    pub(super) duty: Duty,
    pub(super) notes: Notes,
}

/// What is to be done about a pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Duty {
    Stays(Stays),
    Unclassified,
    Undecided {
        daemon_set: Key,
        why: String,
    },
    Due(Option<Block>),
    Posting(Option<Block>),
    Accepted,
    Leaving(Termination),
    LetGo,
    /// To be tried again soon.
    Blocked(Block),
    /// To be tried again in the next round.
    Refused(Block),
}

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    pub(super) by: Blocker,
    pub(super) since: Timestamp,
    /// When the latest refusal came.
    pub(super) at: Timestamp,
    pub(super) retry_at: Timestamp,
    /// Refusals in a row.
    pub(super) refusals: u32,
    /// Refusals of tries made because a budget seemed open, less the times it was seen closed.
    pub(super) hasty: u32,
    /// Whether the next (or latest) try is such a one.
    pub(super) is_hasty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blocker {
    /// 429: a budget, a webhook or overload.
    NotNow(String),
    NamespaceTerminating,
    Contested,
    Unreachable(String),
    /// Any other answer.
    Failed {
        code: u16,
        text: String,
    },
}

/// The duty of a pod after its facts or its class changed.
pub(super) fn next_duty(before: Duty, class: Class, terminating: Option<Termination>) -> Duty {
    match class {
        Class::Stays(why) => Duty::Stays(why),
        Class::Ask(_) => Duty::Unclassified,
        Class::Undecided { daemon_set, why } => Duty::Undecided { daemon_set, why },
        Class::Goes(_) => match (before, terminating) {
            (Duty::LetGo, _) => Duty::LetGo,
            (
                Duty::Stays(_)
                | Duty::Unclassified
                | Duty::Undecided { .. }
                | Duty::Due(_)
                | Duty::Posting(_)
                | Duty::Accepted
                | Duty::Leaving(_)
                | Duty::Blocked(_)
                | Duty::Refused(_),
                Some(termination),
            ) => Duty::Leaving(termination),
            (
                Duty::Stays(_) | Duty::Unclassified | Duty::Undecided { .. } | Duty::Leaving(_),
                None,
            ) => Duty::Due(None),
            (
                kept @ (Duty::Due(_)
                | Duty::Posting(_)
                | Duty::Accepted
                | Duty::Blocked(_)
                | Duty::Refused(_)),
                None,
            ) => kept,
        },
    }
}

impl Entry {
    pub(super) fn belongs_to(&self, daemon_set: &Key) -> bool {
        self.daemon_set() == Some(daemon_set)
    }

    pub(super) fn daemon_set(&self) -> Option<&Key> {
        match &self.pod.controller {
            Controller::DaemonSet(key) if !self.pod.is_finished => Some(key),
            Controller::DaemonSet(_) | Controller::None | Controller::Other => None,
        }
    }

    /// Nothing is left to do or to wait for.
    pub(super) const fn is_settled(&self) -> bool {
        matches!(self.duty, Duty::Stays(_) | Duty::LetGo)
    }

    /// The operator's own pod waits while this one is neither gone nor on its way.
    pub(super) const fn holds_own_pod_back(&self) -> bool {
        match self.duty {
            Duty::Stays(_) | Duty::LetGo | Duty::Accepted | Duty::Leaving(_) => false,
            Duty::Unclassified
            | Duty::Undecided { .. }
            | Duty::Due(_)
            | Duty::Posting(_)
            | Duty::Blocked(_)
            | Duty::Refused(_) => true,
        }
    }

    /// The latest answer was 429, or the one before a try that is under way.
    pub(super) const fn is_refused_for_now(&self) -> bool {
        match &self.duty {
            Duty::Blocked(block) | Duty::Due(Some(block)) | Duty::Posting(Some(block)) => {
                matches!(block.by, Blocker::NotNow(_))
            }
            Duty::Stays(_)
            | Duty::Unclassified
            | Duty::Undecided { .. }
            | Duty::Due(None)
            | Duty::Posting(None)
            | Duty::Accepted
            | Duty::Leaving(_)
            | Duty::LetGo
            | Duty::Refused(_) => false,
        }
    }

    /// A try because a budget opened is planned or under way.
    pub(super) const fn is_hasty_try(&self) -> bool {
        match &self.duty {
            Duty::Blocked(block) | Duty::Due(Some(block)) | Duty::Posting(Some(block)) => {
                block.is_hasty
            }
            Duty::Stays(_)
            | Duty::Unclassified
            | Duty::Undecided { .. }
            | Duty::Due(None)
            | Duty::Posting(None)
            | Duty::Accepted
            | Duty::Leaving(_)
            | Duty::LetGo
            | Duty::Refused(_) => false,
        }
    }

    /// Lets time act on the duty.
    pub(super) fn ripen(&mut self, now: Timestamp, skip_wait: Option<Duration>) {
        match &self.duty {
            Duty::Blocked(block) if block.retry_at <= now => {
                self.duty = Duty::Due(Some(block.clone()));
            }
            Duty::Leaving(termination)
                if skip_wait.is_some_and(|wait| after(termination.deadline, wait) <= now) =>
            {
                self.duty = Duty::LetGo;
            }
            Duty::Blocked(_)
            | Duty::Leaving(_)
            | Duty::Stays(_)
            | Duty::Unclassified
            | Duty::Undecided { .. }
            | Duty::Due(_)
            | Duty::Posting(_)
            | Duty::Accepted
            | Duty::LetGo
            | Duty::Refused(_) => {}
        }
    }
}

impl Block {
    /// The block after another refusal.
    pub(super) fn again(
        before: Option<&Self>,
        by: Blocker,
        now: Timestamp,
        asked: Option<Duration>,
        explained: bool,
        uid: &Uid,
    ) -> Self {
        let refusals = before.map_or(0, |block| block.refusals).saturating_add(1);
        let hasty = before.map_or(0, |block| {
            if block.is_hasty {
                block.hasty.saturating_add(1)
            } else {
                block.hasty
            }
        });
        let delay = retry::delay(refusals, asked, explained, uid);
        Self {
            by,
            since: before.map_or(now, |block| block.since),
            at: now,
            retry_at: after(now, delay),
            refusals,
            hasty,
            is_hasty: false,
        }
    }

    /// A budget has an opening: try earlier, but not in a busy loop when the try keeps failing.
    pub(super) fn hurry(&mut self, now: Timestamp) {
        let soonest = after(self.at, retry::hasty_gap(self.hasty)).max(now);
        if soonest < self.retry_at {
            self.retry_at = soonest;
            self.is_hasty = true;
        }
    }
}
