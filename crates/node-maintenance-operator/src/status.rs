//! The status of a NodeMaintenance in each situation, computed from the one before.
//!
//! # Guarantees
//! * Values that are zero or empty are absent, as the original writes them.
//! * `totalpods` and `evictionPods` are set once and never again.
//! * The same situation gives the same status, apart from `lastUpdate`; [`differs`] ignores it.
//!
//! # Caveats
//! `lastError` of a missing node, a duplicate and a lost lease, and the two lease texts, are asserted
//! by test suites of users. Do not reword them.

use std::fmt::Write as _;

use jiff::Timestamp;
use medik8s_api::{
    names::nmo,
    node_maintenance::{NodeMaintenanceStatus, PodReference},
};
use medik8s_core::{
    conditions::{self, NewCondition, Refresh, Status},
    time::whole_second,
};

use crate::{
    drain::{
        machine::{BlockedPod, Report},
        pod::Key,
    },
    facts::{Counts, LEASE_FAILURES, Maintenance, Phase},
};

#[cfg(test)]
mod tests;

/// Longest `lastError`.
pub const ERROR_LIMIT: usize = 4096;

/// Longest message of the condition.
const MESSAGE_LIMIT: usize = 1024;

/// Reasons of the condition `Drained`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is left to evict.
    Drained,
    /// Pods are being evicted.
    Draining,
    /// Some pod cannot be evicted at the moment.
    Blocked,
    /// Somebody else had the lease before the node was touched.
    WaitingForLease,
    /// Somebody else took the lease of a node in maintenance.
    LeaseTaken,
    /// The API server did not give the lease.
    LeaseUnavailable,
    /// The lease was lost for good.
    LeaseLost,
    /// etcd cannot do without the node now.
    WaitingForQuorum,
    /// There is no such node.
    NodeNotFound,
    /// An older maintenance of the node exists.
    Duplicate,
    /// The spec cannot be carried out.
    InvalidSpec,
    /// Some step failed and is tried again.
    Error,
}

impl Reason {
    /// The word in the condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "Drained",
            Self::Draining => "Draining",
            Self::Blocked => "Blocked",
            Self::WaitingForLease => "WaitingForLease",
            Self::LeaseTaken => "LeaseTaken",
            Self::LeaseUnavailable => "LeaseUnavailable",
            Self::LeaseLost => "LeaseLost",
            Self::WaitingForQuorum => "WaitingForQuorum",
            Self::NodeNotFound => "NodeNotFound",
            Self::Duplicate => "DuplicateMaintenance",
            Self::InvalidSpec => "InvalidSpec",
            Self::Error => "Error",
        }
    }

    /// Every reason.
    const ALL: [Self; 12] = [
        Self::Drained,
        Self::Draining,
        Self::Blocked,
        Self::WaitingForLease,
        Self::LeaseTaken,
        Self::LeaseUnavailable,
        Self::LeaseLost,
        Self::WaitingForQuorum,
        Self::NodeNotFound,
        Self::Duplicate,
        Self::InvalidSpec,
        Self::Error,
    ];

    /// The reason that a status gives; `None` for one of the original, which has no conditions.
    pub fn of(status: &NodeMaintenanceStatus) -> Option<Self> {
        let drained = conditions::get(status.conditions.as_deref()?, nmo::DRAINED)?;
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == drained.reason)
    }
}

/// Whether a status has to be written.
pub fn differs(old: &NodeMaintenanceStatus, new: &NodeMaintenanceStatus) -> bool {
    let timeless = |status: &NodeMaintenanceStatus| NodeMaintenanceStatus {
        last_update: None,
        ..status.clone()
    };
    timeless(old) != timeless(new)
}

/// The maintenance begins: numbers that stay, and the pods that have to go.
pub fn begun(of: &Maintenance, counts: &Counts, now: Timestamp) -> NodeMaintenanceStatus {
    let mut next = of.status.clone();
    next.phase = Some(nmo::PHASE_RUNNING.to_owned());
    next.total_pods = number(counts.total);
    next.eviction_pods = number(counts.pending.len());
    next.last_error = None;
    set_pending(&mut next, &counts.pending);
    finish(
        of,
        next,
        Reason::Draining,
        "The pods of the node are being evicted",
        now,
    )
}

/// Whether the numbers at the beginning still have to be taken.
pub fn needs_counts(of: &Maintenance) -> bool {
    match of.phase() {
        Phase::None => true,
        // A duplicate that was refused before it began.
        Phase::Failed => {
            Reason::of(&of.status) == Some(Reason::Duplicate) && of.status.total_pods.is_none()
        }
        Phase::Running | Phase::Succeeded => false,
    }
}

/// There is no such node.
pub fn node_missing(of: &Maintenance, node: &str, now: Timestamp) -> NodeMaintenanceStatus {
    let text = node_missing_text(node);
    let mut next = failed(of, &text);
    // The lease went with the node.
    next.error_on_lease_count = None;
    finish(of, next, Reason::NodeNotFound, &text, now)
}

/// The text of a missing node.
pub fn node_missing_text(node: &str) -> String {
    format!("nodes \"{node}\" not found")
}

/// An older maintenance has the node.
pub fn duplicate(of: &Maintenance, node: &str, now: Timestamp) -> NodeMaintenanceStatus {
    let text = crate::validate::duplicate_text(node);
    finish(of, failed(of, &text), Reason::Duplicate, &text, now)
}

/// The lease is lost for good.
pub fn lease_lost(of: &Maintenance, now: Timestamp) -> NodeMaintenanceStatus {
    let count = of.lease_failures();
    let text = format!("maintenance failed: lease could not be extended after {count} attempts");
    finish(of, failed(of, &text), Reason::LeaseLost, &text, now)
}

/// Somebody else has the lease; `is_entered` tells whether the node is in maintenance.
pub fn lease_foreign(
    of: &Maintenance,
    holder: &str,
    is_entered: bool,
    now: Timestamp,
) -> NodeMaintenanceStatus {
    let mut next = of.status.clone();
    next.phase = Some(nmo::PHASE_RUNNING.to_owned());
    let (reason, text) = if is_entered {
        // Only looks that found somebody else count, and only if nothing else failed between them:
        // a node must never be handed back because of API errors.
        let earlier = match Reason::of(&of.status) {
            Some(Reason::LeaseTaken) => of.lease_failures(),
            Some(_) | None => 0,
        };
        next.error_on_lease_count = Some(earlier.saturating_add(1));
        let text =
            format!("failed to extend a lease that used to be owned by us: it is held by {holder}");
        (Reason::LeaseTaken, text)
    } else {
        let text =
            format!("failed to obtain a lease that is not owned by us: it is held by {holder}");
        (Reason::WaitingForLease, text)
    };
    next.last_error = Some(text.clone());
    finish(of, next, reason, &text, now)
}

/// etcd cannot do without the node.
pub fn quorum_denied(of: &Maintenance, node: &str, now: Timestamp) -> NodeMaintenanceStatus {
    let text = crate::validate::quorum_text(node);
    let mut next = of.status.clone();
    next.phase = Some(nmo::PHASE_RUNNING.to_owned());
    next.last_error = Some(text.clone());
    finish(of, next, Reason::WaitingForQuorum, &text, now)
}

/// The spec cannot be carried out.
pub fn invalid_spec(of: &Maintenance, why: &str, now: Timestamp) -> NodeMaintenanceStatus {
    let mut next = of.status.clone();
    next.phase = Some(nmo::PHASE_RUNNING.to_owned());
    next.last_error = Some(why.to_owned());
    finish(of, next, Reason::InvalidSpec, why, now)
}

/// A step failed; `on_lease` tells whether it was about the lease.
pub fn step_failed(
    of: &Maintenance,
    why: &str,
    on_lease: bool,
    now: Timestamp,
) -> NodeMaintenanceStatus {
    let mut next = of.status.clone();
    next.last_error = Some(cut(why, ERROR_LIMIT));
    if on_lease {
        // For people only: it never reaches the number at which the node is handed back.
        let count = of.lease_failures();
        next.error_on_lease_count = Some(count.saturating_add(1).min(LEASE_FAILURES).max(count));
    }
    match of.phase() {
        // The node is drained as before; nothing is known to have changed.
        Phase::Succeeded => stamp(of, next, now),
        Phase::None | Phase::Running | Phase::Failed => {
            let reason = if on_lease {
                Reason::LeaseUnavailable
            } else {
                Reason::Error
            };
            let text = next.last_error.clone().unwrap_or_default();
            finish(of, next, reason, &text, now)
        }
    }
}

/// Whatever was in the way is gone: the drain goes on.
pub fn resumed(of: &Maintenance, now: Timestamp) -> NodeMaintenanceStatus {
    let mut next = of.status.clone();
    next.error_on_lease_count = None;
    next.last_error = None;
    match of.phase() {
        Phase::Succeeded => stamp(of, next, now),
        Phase::None | Phase::Running | Phase::Failed => {
            next.phase = Some(nmo::PHASE_RUNNING.to_owned());
            finish(
                of,
                next,
                Reason::Draining,
                "The pods of the node are being evicted",
                now,
            )
        }
    }
}

/// Whether [`resumed`] has something to say once lease and node are as they should be.
pub fn needs_resuming(of: &Maintenance) -> bool {
    match of.phase() {
        Phase::Succeeded => of.lease_failures() > 0 || of.status.last_error.is_some(),
        Phase::None | Phase::Failed => true,
        Phase::Running => {
            of.lease_failures() > 0
                || match Reason::of(&of.status) {
                    None | Some(Reason::Draining | Reason::Blocked | Reason::Drained) => false,
                    Some(
                        Reason::WaitingForLease
                        | Reason::LeaseTaken
                        | Reason::LeaseUnavailable
                        | Reason::LeaseLost
                        | Reason::WaitingForQuorum
                        | Reason::NodeNotFound
                        | Reason::Duplicate
                        | Reason::InvalidSpec
                        | Reason::Error,
                    ) => true,
                }
        }
    }
}

/// The spec changed in a way that changes nothing, as its reason does: what is said holds for the
/// new one. `kubectl wait` ignores conditions of an earlier generation.
pub fn observed(of: &Maintenance, now: Timestamp) -> NodeMaintenanceStatus {
    let mut next = of.status.clone();
    for condition in next.conditions.iter_mut().flatten() {
        if condition.type_ == nmo::DRAINED {
            condition.observed_generation = of.generation;
        }
    }
    stamp(of, next, now)
}

/// Pods are left. `is_node_ready` tells whether the kubelet can confirm that they ended.
pub fn draining(
    of: &Maintenance,
    report: &Report,
    is_node_ready: bool,
    now: Timestamp,
) -> NodeMaintenanceStatus {
    let mut next = of.status.clone();
    next.phase = Some(nmo::PHASE_RUNNING.to_owned());
    set_pending(&mut next, &report.pending);
    next.drain_progress = progress(of, report.pending.len());
    if report.rounds > 0 {
        next.last_error = Some(summary(report, is_node_ready)).filter(|text| !text.is_empty());
    }
    let (reason, message) = if report.blocked.is_empty() {
        let hint = if report.leaving > 0 && !is_node_ready {
            NOT_READY
        } else {
            ""
        };
        (
            Reason::Draining,
            format!("The pods of the node are being evicted{hint}"),
        )
    } else {
        (Reason::Blocked, blocked(&report.blocked))
    };
    finish(of, next, reason, &message, now)
}

/// Nothing is left to evict.
pub fn succeeded(of: &Maintenance, now: Timestamp) -> NodeMaintenanceStatus {
    let mut next = of.status.clone();
    next.phase = Some(nmo::PHASE_SUCCEEDED.to_owned());
    next.drain_progress = Some(100);
    next.last_error = None;
    next.error_on_lease_count = None;
    set_pending(&mut next, &[]);
    finish(
        of,
        next,
        Reason::Drained,
        "Every pod that had to leave the node is gone",
        now,
    )
}

/// The words of the event that tells about pods that have blocked the drain for long.
pub fn blocked(pods: &[BlockedPod]) -> String {
    let lines: Vec<String> = pods
        .iter()
        .map(|pod| {
            let since = whole_second(pod.since).0;
            format!("pod {}: {}, since {since}", pod.key, pod.why)
        })
        .collect();
    join(&lines, MESSAGE_LIMIT)
}

/// The words of the event that tells why a maintenance does not begin.
pub fn not_begun(why: &str) -> String {
    cut(
        &format!("The maintenance cannot begin: {why}"),
        MESSAGE_LIMIT,
    )
}

const NOT_READY: &str =
    "; the node is not Ready, so its kubelet is not confirming that pods have ended";

fn summary(report: &Report, is_node_ready: bool) -> String {
    let hint = if report.leaving > 0 && !is_node_ready {
        NOT_READY
    } else {
        ""
    };
    let room = ERROR_LIMIT - hint.len();
    let mut text = join(&report.summary, room);
    text.push_str(hint);
    text
}

/// Percent of the pods counted at the beginning that are gone; never negative, never complete.
fn progress(of: &Maintenance, pending: usize) -> Option<i64> {
    let all = of.status.eviction_pods.unwrap_or(0);
    if all <= 0 {
        return of.status.drain_progress;
    }
    let pending = i64::try_from(pending).unwrap_or(i64::MAX);
    let gone = all.saturating_sub(pending).max(0);
    Some(gone.saturating_mul(100) / all)
        .map(|percent| percent.clamp(0, 99))
        .filter(|p| *p > 0)
}

fn failed(of: &Maintenance, text: &str) -> NodeMaintenanceStatus {
    NodeMaintenanceStatus {
        phase: Some(nmo::PHASE_FAILED.to_owned()),
        last_error: Some(text.to_owned()),
        ..of.status.clone()
    }
}

fn set_pending(status: &mut NodeMaintenanceStatus, pending: &[Key]) {
    let absent_if_empty = !pending.is_empty();
    status.pending_pods =
        absent_if_empty.then(|| pending.iter().map(|key| key.name.clone()).collect());
    status.pending_pods_refs = absent_if_empty.then(|| {
        pending
            .iter()
            .map(|key| PodReference {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
            })
            .collect()
    });
}

/// Sets the condition and stamps the status.
fn finish(
    of: &Maintenance,
    mut next: NodeMaintenanceStatus,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> NodeMaintenanceStatus {
    let message = cut(message, MESSAGE_LIMIT);
    let condition = NewCondition {
        type_: nmo::DRAINED,
        status: Status::from(reason == Reason::Drained),
        reason: reason.as_str(),
        message: &message,
        observed_generation: of.generation,
    };
    let list = next.conditions.get_or_insert_default();
    conditions::set(list, &condition, Refresh::Always, now);
    stamp(of, next, now)
}

fn stamp(
    of: &Maintenance,
    mut next: NodeMaintenanceStatus,
    now: Timestamp,
) -> NodeMaintenanceStatus {
    next.observed_generation = of.generation;
    next.last_update = if differs(&of.status, &next) {
        Some(whole_second(now))
    } else {
        of.status.last_update.clone()
    };
    next
}

fn number(count: usize) -> Option<i64> {
    i64::try_from(count).ok().filter(|count| *count > 0)
}

/// Joins lines; what does not fit is counted instead.
fn join(lines: &[String], limit: usize) -> String {
    // Room for "; and 99999 more".
    const REST: usize = 20;
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let is_last = index + 1 == lines.len();
        let room = if is_last { limit } else { limit - REST };
        if text.len() + separator.len() + line.len() > room {
            if index == 0 {
                text = cut(line, limit - REST);
            }
            let rest = lines.len() - index - usize::from(index == 0);
            if rest > 0 && write!(text, "; and {rest} more").is_err() {
                return text;
            }
            return text;
        }
        text.push_str(separator);
        text.push_str(line);
    }
    text
}

/// At most `limit` bytes, cut at a character.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut short: String = text
        .char_indices()
        .take_while(|(at, c)| at + c.len_utf8() <= limit - 3)
        .map(|(_, c)| c)
        .collect();
    short.push_str("...");
    short
}
