//! Holding the lease.

use std::time::Duration;

use jiff::Timestamp;
use medik8s_core::time::after;

use super::{Next, Step, due_at, is_due, write};
use crate::{
    drain::machine::{PAUSE, ROUND},
    facts::{DrainView, LeaseView, Maintenance, NodeFacts, Seen},
    status,
};

/// Between two looks at a lease that somebody else holds. Four of them find somebody else before a
/// node is handed back, so that takes more than 30 s.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// How old the knowledge that the lease is ours may be when the node is touched.
pub(super) const FRESH: Duration = Duration::from_secs(5);

/// What the lease allows.
pub(super) enum Gate {
    /// It is ours: go on.
    Open,
    /// Not now.
    Shut(Next),
}

/// Whether the maintenance may go on. `needs_fresh` says that the node is about to be touched.
pub(super) fn gate(
    seen: &Seen,
    of: &Maintenance,
    node: &NodeFacts,
    needs_fresh: bool,
    now: Timestamp,
) -> Gate {
    let ask = || {
        Gate::Shut(Next::Do(Step::RequestLease {
            node_uid: node.uid.clone(),
        }))
    };
    match &seen.memory.lease {
        LeaseView::Unchecked | LeaseView::Released => match pace(of, now) {
            Some(at) => Gate::Shut(stopped(seen).unwrap_or(Next::Rest(Some(at)))),
            None => ask(),
        },
        // It could not be renewed for long, and by now somebody else may have it.
        LeaseView::Ours { ends_at, .. } if *ends_at <= now && is_draining(seen) => {
            Gate::Shut(Next::Do(Step::StopDrain))
        }
        LeaseView::Ours {
            checked,
            renew_at,
            node_uid,
            ..
        } => {
            let limit = if needs_fresh {
                Some(FRESH)
            } else {
                // Somebody may have taken it by force: look once in each round.
                is_draining(seen).then(|| ROUND + PAUSE)
            };
            let is_old = *checked > now || limit.is_some_and(|limit| is_due(*checked, limit, now));
            if *node_uid != node.uid || *renew_at <= now || is_old {
                ask()
            } else {
                Gate::Open
            }
        }
        LeaseView::Foreign {
            holder,
            checked,
            is_told,
        } => {
            if let Some(stop) = stopped(seen) {
                return Gate::Shut(stop);
            }
            if !is_told {
                let told = status::lease_foreign(of, holder, seen.is_entered(of), now);
                if let Some(step) = write(of, told, None) {
                    return Gate::Shut(Next::Do(step));
                }
            }
            // Telling may have taken its time; the next look waits from there.
            let due = due_at(*checked, RETRY, now);
            let due = pace(of, now).map_or(due, |at| at.max(due));
            if due <= now {
                ask()
            } else {
                Gate::Shut(Next::Rest(Some(due)))
            }
        }
    }
}

/// When the lease has to be looked at again while nothing else happens.
pub(super) fn look_at(seen: &Seen) -> Option<Timestamp> {
    match &seen.memory.lease {
        LeaseView::Ours {
            checked, renew_at, ..
        } if is_draining(seen) => Some((*renew_at).min(after(*checked, ROUND + PAUSE))),
        LeaseView::Ours { renew_at, .. } => Some(*renew_at),
        LeaseView::Unchecked | LeaseView::Released | LeaseView::Foreign { .. } => None,
    }
}

/// Two looks that find somebody else count as two only if time lies between them. A restart must not
/// shorten it: the status knows when the latest was told.
fn pace(of: &Maintenance, now: Timestamp) -> Option<Timestamp> {
    if status::Reason::of(&of.status) != Some(status::Reason::LeaseTaken) {
        return None;
    }
    let latest = of.status.last_update.as_ref()?.0;
    let next = due_at(latest, RETRY, now);
    (next > now).then_some(next)
}

const fn is_draining(seen: &Seen) -> bool {
    matches!(seen.drain, DrainView::Running { .. })
}

/// Without the lease nothing may be evicted.
fn stopped(seen: &Seen) -> Option<Next> {
    is_draining(seen).then_some(Next::Do(Step::StopDrain))
}
