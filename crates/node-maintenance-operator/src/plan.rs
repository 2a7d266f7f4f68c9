//! What to do next about one node.
//!
//! # Purpose
//! [`next`] looks at everything that is known of a node and its maintenances and names the one next
//! step. Effects carry it out, its outcome becomes known, and the plan is asked again; so every
//! order of steps is decided here and can be searched without an API server.
//!
//! ```text
//!                        finalizer     counts      node there    lease ours    quorum
//!   NodeMaintenance ---> added ------> taken ----> ------------> ------------> ------+
//!        |                                           | missing      | foreign         |
//!        | older one exists                          v              v                 v
//!        +-----------> Failed                     Failed       Running, waits     recorded
//!                        ^                                     or, once entered,     |
//!                        |        4 looks found somebody else  counts to 4           v
//!                        +---- handed back <--------------------------+          entered
//!                                                                                    |
//!   deleted: drain stopped -> node handed back -> lease given back -> finalizer      v
//!                                                                     Succeeded <- drain
//! ```
//!
//! # Guarantees
//! The rules of section 14 of the specification that are about order: the node is touched and pods
//! are evicted only while the lease is ours; nothing is evicted for an object that is being deleted;
//! the finalizer goes last; a node that another live maintenance names stays in maintenance.
//!
//! # Caveats
//! What is seen may be old. Every step that writes carries the version that was seen.

use std::time::Duration;

use jiff::Timestamp;
use medik8s_api::node_maintenance::NodeMaintenanceStatus;
use medik8s_core::{conditions::Status, time::after};

pub use outcome::Outcome;

use crate::{
    drain::machine::Options,
    facts::{DrainView, Maintenance, NodeView, PreviousState, Seen},
    status,
};

mod lease;
mod leave;
mod maintain;
mod outcome;

#[cfg(test)]
mod tests;

/// How long the lease lasts.
pub const LEASE_DURATION: Duration = Duration::from_hours(1);

/// How often a status is written while a drain makes progress.
pub const STATUS_PACE: Duration = Duration::from_secs(2);

/// Until it is told again that a drain is blocked.
const BLOCKED_PACE: Duration = Duration::from_mins(15);

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Add our finalizer, then tell that the maintenance begins.
    AddFinalizer {
        /// UID of the maintenance.
        of: String,
    },
    /// List the pods of the node and decide which have to go.
    CountPods,
    /// Wait until the node is known, or known to be missing.
    ReadNode,
    /// Ask for the lease, or renew it.
    RequestLease {
        /// Incarnation of the node.
        node_uid: String,
    },
    /// Ask whether etcd can do without the node.
    CheckQuorum,
    /// Write down what the node is like before it is changed.
    Record {
        /// UID of the maintenance.
        of: String,
        /// What it is like.
        state: PreviousState,
    },
    /// Label, taint and cordon the node.
    EnterNode {
        /// Whether it also leaves external load balancers.
        leaves_load_balancers: bool,
        /// Incarnation of the node.
        node_uid: String,
    },
    /// Start evicting.
    StartDrain {
        /// UID of the maintenance.
        of: String,
        /// How.
        options: Box<Options>,
    },
    /// Stop evicting. When this is done no further eviction leaves this process.
    StopDrain,
    /// The drain has completed; let go of it.
    FinishDrain {
        /// UID of the maintenance.
        of: String,
        /// Incarnation of the node.
        node_uid: String,
    },
    /// Write a status; then record an event if there is one.
    WriteStatus {
        /// UID of the maintenance.
        of: String,
        /// The status.
        status: Box<NodeMaintenanceStatus>,
        /// What to tell.
        event: Option<Event>,
    },
    /// Record an event.
    Tell {
        /// UID of the maintenance.
        of: String,
        /// What to tell.
        event: Event,
    },
    /// Remove what maintenance put on the node.
    LeaveNode {
        /// What stays.
        keep: Keep,
    },
    /// Delete the lease if it is ours.
    ReleaseLease,
    /// Copy the record to the maintenance that takes over. It gets our finalizer as well, if it was
    /// refused before it could begin: otherwise it could vanish, and the record with it.
    HandOver {
        /// UID of that maintenance.
        to: String,
        /// The record.
        state: PreviousState,
    },
    /// Remove the record, so that the node is never touched for this object again.
    DropRecord {
        /// UID of the maintenance.
        of: String,
    },
    /// Remove our finalizer, then tell that the maintenance is removed.
    RemoveFinalizer {
        /// UID of the maintenance.
        of: String,
    },
}

/// What to leave alone when a node is handed back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keep {
    /// The cordon with its taint was there before, and the user wants it back.
    pub cordon: bool,
    /// Value that the label had before which excludes from remediation.
    pub label: Option<String>,
}

/// Something users are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Maintenance failed.
    Failed,
    /// Nothing is left to evict.
    Succeeded,
    /// Pods have blocked the drain for long, or it cannot begin.
    Blocked(String),
}

/// What [`next`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Do this, then ask again.
    Do(Step),
    /// Nothing now; ask again then, or when something changes.
    Rest(Option<Timestamp>),
}

/// The next step for a node.
pub fn next(seen: &Seen, now: Timestamp) -> Next {
    if let Some(step) = stop_foreign_drain(seen) {
        return Next::Do(step);
    }
    let mut wake: Option<Timestamp> = None;
    for maintenance in &seen.maintenances {
        if seen.failed.contains(&maintenance.uid) {
            continue;
        }
        let found = if maintenance.is_deleting {
            leave::next(seen, maintenance)
        } else if is_primary(seen, maintenance) {
            maintain::next(seen, maintenance, now)
        } else {
            refuse(seen, maintenance, now)
        };
        match found {
            Next::Do(step) => return Next::Do(step),
            Next::Rest(at) => wake = earliest(wake, at),
        }
    }
    Next::Rest(wake)
}

/// The status after a step failed; `None` if it has nothing to say about it.
pub fn after_failure(
    seen: &Seen,
    step: &Step,
    why: &str,
    now: Timestamp,
) -> Option<(String, NodeMaintenanceStatus)> {
    let of = concerned(seen, step)?;
    // Before the beginning nothing is persisted.
    if of.phase() == crate::facts::Phase::None {
        return None;
    }
    let on_lease = matches!(step, Step::RequestLease { .. } | Step::ReleaseLease);
    let next = status::step_failed(of, why, on_lease, now);
    status::differs(&of.status, &next).then(|| (of.uid.clone(), next))
}

/// What to tell after a step failed of which the status cannot say anything yet: users would wait
/// for a maintenance that does not begin, and see nothing.
pub fn told_failure(seen: &Seen, step: &Step, why: &str, now: Timestamp) -> Option<Step> {
    let of = concerned(seen, step)?;
    let told = seen.memory.blocked_told;
    let is_time = told.is_none_or(|told| is_due(told, BLOCKED_PACE, now));
    (of.phase() == crate::facts::Phase::None && is_time).then(|| Step::Tell {
        of: of.uid.clone(),
        event: Event::Blocked(status::not_begun(why)),
    })
}

/// The maintenance that a step is done for.
pub fn concerned<'a>(seen: &'a Seen, step: &Step) -> Option<&'a Maintenance> {
    let by_uid = |uid: &str| seen.maintenances.iter().find(|one| one.uid == uid);
    match step {
        Step::AddFinalizer { of }
        | Step::Record { of, .. }
        | Step::StartDrain { of, .. }
        | Step::FinishDrain { of, .. }
        | Step::WriteStatus { of, .. }
        | Step::Tell { of, .. }
        | Step::DropRecord { of }
        | Step::RemoveFinalizer { of } => by_uid(of),
        Step::HandOver { to, .. } => by_uid(to),
        Step::CountPods
        | Step::ReadNode
        | Step::RequestLease { .. }
        | Step::CheckQuorum
        | Step::EnterNode { .. } => seen.primary(),
        Step::StopDrain | Step::LeaveNode { .. } | Step::ReleaseLease => seen
            .maintenances
            .iter()
            .find(|one| one.is_deleting && one.has_finalizer && !seen.failed.contains(&one.uid))
            .or_else(|| seen.primary()),
    }
}

/// A drain for anybody but the maintenance that counts must not go on.
fn stop_foreign_drain(seen: &Seen) -> Option<Step> {
    match &seen.drain {
        DrainView::None => None,
        DrainView::Running { owner, .. } => {
            let is_wanted = seen.primary().is_some_and(|primary| primary.uid == *owner);
            (!is_wanted).then_some(Step::StopDrain)
        }
    }
}

fn is_primary(seen: &Seen, maintenance: &Maintenance) -> bool {
    seen.primary()
        .is_some_and(|primary| primary.uid == maintenance.uid)
}

/// Another, older maintenance has the node: say so and touch nothing.
fn refuse(seen: &Seen, of: &Maintenance, now: Timestamp) -> Next {
    if of.is_lost() {
        return Next::Rest(None);
    }
    write_failure(of, status::duplicate(of, &seen.node_name, now))
}

/// Writes a failure, and tells about it if it is news.
fn write_failure(of: &Maintenance, status: NodeMaintenanceStatus) -> Next {
    if !status::differs(&of.status, &status) {
        return Next::Rest(None);
    }
    let is_news = of.status.phase != status.phase || of.status.last_error != status.last_error;
    Next::Do(Step::WriteStatus {
        of: of.uid.clone(),
        status: Box::new(status),
        event: is_news.then_some(Event::Failed),
    })
}

/// Writes a status if it says something new.
fn write(of: &Maintenance, status: NodeMaintenanceStatus, event: Option<Event>) -> Option<Step> {
    status::differs(&of.status, &status).then(|| Step::WriteStatus {
        of: of.uid.clone(),
        status: Box::new(status),
        event,
    })
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn is_ready(seen: &Seen) -> bool {
    match &seen.node {
        NodeView::Present(node) => node.ready == Status::True,
        NodeView::Unknown | NodeView::Missing => false,
    }
}

/// When `wait` is over that began at `start`: at once if that lies in the future, since then the
/// clock was set back and nobody knows.
fn due_at(start: Timestamp, wait: Duration, now: Timestamp) -> Timestamp {
    if start > now { now } else { after(start, wait) }
}

/// Whether `wait` is over that began at `start`.
fn is_due(start: Timestamp, wait: Duration, now: Timestamp) -> bool {
    due_at(start, wait, now) <= now
}
