//! Lists of standard conditions, and the pair that remediators report with.
//!
//! # Guarantees `lastTransitionTime` changes only with the status, so that repeating a report
//! changes nothing. The pair `Processing`/`Succeeded` moves only forward: `Processing` never
//! returns to `True` once it is `False`, and `Succeeded` never leaves `True` (remediation contract,
//! A.6). A health checker escalates and gives nodes back on these.
//!
//! # Caveats Times are stored in whole seconds, as the API keeps them; otherwise an object read
//! back would differ from the one written.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use medik8s_api::names::contract::{PROCESSING, SUCCEEDED};

use crate::time::whole_second;

#[cfg(test)]
mod tests;

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody knows.
    Unknown,
}

impl Status {
    /// The value in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }

    /// Reads a status. A text that is none of the three says nothing, like `Unknown`.
    pub fn parse(text: &str) -> Self {
        match text {
            "True" => Self::True,
            "False" => Self::False,
            _ => Self::Unknown,
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to reason, message and observed generation when the status stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// They are brought up to date (without touching the transition time).
    Always,
    /// They stay as they are: nothing is written while the status is right.
    WithStatus,
}

/// A condition as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCondition<'a> {
    /// Its type, the key in the list.
    pub type_: &'a str,
    /// Its status.
    pub status: Status,
    /// One word in CamelCase.
    pub reason: &'a str,
    /// A sentence for people; may be empty.
    pub message: &'a str,
    /// The generation of the object that was judged.
    pub observed_generation: Option<i64>,
}

/// Puts a condition into the list; returns whether the list changed.
pub fn set(
    conditions: &mut Vec<Condition>,
    new: &NewCondition<'_>,
    refresh: Refresh,
    now: Timestamp,
) -> bool {
    let wanted = |since: Time| Condition {
        type_: new.type_.to_owned(),
        status: new.status.as_str().to_owned(),
        reason: new.reason.to_owned(),
        message: new.message.to_owned(),
        observed_generation: new.observed_generation,
        last_transition_time: since,
    };
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) else {
        conditions.push(wanted(whole_second(now)));
        return true;
    };
    let same = old.status == new.status.as_str();
    let replacement = match refresh {
        Refresh::WithStatus if same => return false,
        Refresh::Always if same => wanted(old.last_transition_time.clone()),
        Refresh::WithStatus | Refresh::Always => wanted(whole_second(now)),
    };
    let changed = *old != replacement;
    *old = replacement;
    changed
}

/// The condition of a type.
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// The status of a condition; `None` if the list does not have it.
pub fn status(conditions: &[Condition], type_: &str) -> Option<Status> {
    get(conditions, type_).map(|condition| Status::parse(&condition.status))
}

/// Whether the list has the condition with this status.
pub fn is(conditions: &[Condition], type_: &str, expected: Status) -> bool {
    status(conditions, type_) == Some(expected)
}

/// Takes a condition out of the list; returns whether it was there.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.len() != before
}

/// How far a remediation is, in the terms of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Work in progress.
    Started,
    /// Node fenced and workload released.
    Finished,
    /// Failed, stopped by the health checker, or impossible to start.
    Failed,
}

impl Stage {
    /// Statuses of `Processing` and `Succeeded`.
    pub const fn statuses(self) -> (Status, Status) {
        match self {
            Self::Started => (Status::True, Status::Unknown),
            Self::Finished => (Status::False, Status::True),
            Self::Failed => (Status::False, Status::False),
        }
    }

    /// The stage that a list of conditions tells, if it tells one.
    pub fn read(conditions: &[Condition]) -> Option<Self> {
        match (
            status(conditions, PROCESSING)?,
            status(conditions, SUCCEEDED)?,
        ) {
            (Status::True, Status::Unknown) => Some(Self::Started),
            (Status::False, Status::True) => Some(Self::Finished),
            (Status::False, Status::False) => Some(Self::Failed),
            (Status::True | Status::Unknown, _) | (Status::False, Status::Unknown) => None,
        }
    }
}

/// What became of a request to report a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageChange {
    /// The list changed: write it.
    Changed,
    /// The list says so already.
    Unchanged,
    /// The rules forbid this step; the list was left alone.
    Refused,
}

/// Reports a stage: sets `Processing` and `Succeeded` together, with one reason.
///
/// Refused are a start after an end, and any end other than success after success.
pub fn set_stage(
    conditions: &mut Vec<Condition>,
    stage: Stage,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    refresh: Refresh,
    now: Timestamp,
) -> StageChange {
    let (processing, succeeded) = stage.statuses();
    let restarts = processing == Status::True && is(conditions, PROCESSING, Status::False);
    let takes_back = succeeded != Status::True && is(conditions, SUCCEEDED, Status::True);
    if restarts || takes_back {
        return StageChange::Refused;
    }
    // The two change together: a reason that one of them gets is the reason of both.
    let refresh = if is(conditions, PROCESSING, processing) && is(conditions, SUCCEEDED, succeeded)
    {
        refresh
    } else {
        Refresh::Always
    };
    let mut changed = false;
    for (type_, status) in [(PROCESSING, processing), (SUCCEEDED, succeeded)] {
        let new = NewCondition {
            type_,
            status,
            reason,
            message,
            observed_generation,
        };
        changed |= set(conditions, &new, refresh, now);
    }
    if changed {
        StageChange::Changed
    } else {
        StageChange::Unchanged
    }
}
