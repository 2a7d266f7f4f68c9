//! What an agent answers to `IsHealthy`.
//!
//! # Purpose
//! SelfNodeRemediation section 16 as changed by fencing-safety section 4. The server first asks [`at_once`]; if that
//! gives no answer it makes one live list, hands it to the agent's core (which records what was seen), and asks
//! [`after_read`] with the knowledge of after that.
//!
//! # Guarantees
//! * Healthy only from a consistent list that started after the request and showed no remediation for the node.
//! * Whoever holds an order for the node never answers "API error" about it (H5), and without a live read says nothing
//!   at all (H18), except that it acknowledges an equal UID.
//! * Nobody answers "API error" before the first successful read since boot (H15) or while standing by.

use crate::ids::Uid;
use crate::knowledge::Knowledge;
use crate::order::{Match, Remediation};
use crate::time::BootInstant;

#[cfg(test)]
mod tests;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// The node asked about.
    pub node: &'a str,
    /// Its machine, possibly empty.
    pub machine: &'a str,
    /// The order that the manager wants acknowledged.
    pub order: Option<&'a Uid>,
}

/// How the answering agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// It waits for the lock of its predecessor.
    pub standing_by: bool,
    /// A read of the API has succeeded since boot.
    pub contact: bool,
    /// Its own last API check, not older than I + A, failed.
    pub own_probe_failed: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A live list has no remediation for the node.
    Healthy,
    /// A live list has one, or the order asked about is held.
    Unhealthy {
        /// The order that the agent holds in `/run`.
        acknowledged: Option<Uid>,
    },
    /// The API server does not answer.
    ApiError,
    /// The agent must not say anything: gRPC UNAVAILABLE.
    Unavailable,
}

/// A live list, made for this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveRead<'a> {
    /// All remediations.
    List(&'a [Remediation]),
    /// An error, or the time was over.
    Failed,
}

/// The answer that needs no live read, if there is one.
pub fn at_once(
    question: &Question<'_>,
    standing: Standing,
    knowledge: &mut Knowledge,
    now: BootInstant,
) -> Option<Answer> {
    if standing.standing_by {
        return Some(Answer::Unavailable);
    }
    if let Some(acknowledged) = acknowledge(question, knowledge, now) {
        return Some(acknowledged);
    }
    standing
        .own_probe_failed
        .then(|| without_api(question, standing, knowledge))
}

/// The answer after a live read. `knowledge` has taken in the list already and is in `/run`; `standing.contact` is what
/// it is after this read.
pub fn after_read(
    question: &Question<'_>,
    standing: Standing,
    knowledge: &mut Knowledge,
    read: LiveRead<'_>,
    now: BootInstant,
) -> Answer {
    if standing.standing_by {
        return Answer::Unavailable;
    }
    let LiveRead::List(list) = read else {
        return without_api(question, standing, knowledge);
    };
    if let Some(acknowledged) = acknowledge(question, knowledge, now) {
        return acknowledged;
    }
    let matches = |wanted| {
        list.iter()
            .any(|found| found.target.matches(question.node, question.machine) == wanted)
    };
    if matches(Match::Yes) {
        Answer::Unhealthy { acknowledged: None }
    } else if matches(Match::Unknown) {
        // Never vouch for what is unknown: one of the remediations may be for this node.
        without_api(question, standing, knowledge)
    } else {
        Answer::Healthy
    }
}

fn acknowledge(
    question: &Question<'_>,
    knowledge: &mut Knowledge,
    now: BootInstant,
) -> Option<Answer> {
    let uid = question.order?;
    knowledge
        .acknowledge(question.node, question.machine, uid, now)
        .then(|| Answer::Unhealthy {
            acknowledged: Some(uid.clone()),
        })
}

fn without_api(question: &Question<'_>, standing: Standing, knowledge: &Knowledge) -> Answer {
    if !standing.contact || knowledge.has_order_about(question.node, question.machine) {
        Answer::Unavailable
    } else {
        Answer::ApiError
    }
}
