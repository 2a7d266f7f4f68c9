//! Putting a node into maintenance and keeping it there.

use std::time::Duration;

use jiff::Timestamp;
use medik8s_core::time::{after, elapsed};

use super::{
    BLOCKED_PACE, Event, Next, STATUS_PACE, Step, due_at, earliest, is_due, is_ready,
    lease::{self, Gate},
    leave::{GiveBack, give_back},
    write, write_failure,
};
use crate::{
    drain::machine::Report,
    facts::{
        DrainView, LEASE_FAILURES, LoadBalancerLabel, Maintenance, NodeFacts, NodeView, Phase,
        PreviousState, QuorumView, Seen,
    },
    status,
};

/// Until etcd is asked again after it said no.
const QUORUM_RETRY: Duration = Duration::from_mins(1);

/// How long the answer of the etcd guard may be relied on.
const QUORUM_TRUST: Duration = Duration::from_secs(5);

/// After this time a blocked pod is worth an event.
const BLOCKED_FOR: Duration = Duration::from_mins(5);

/// Until the kind of cluster is asked for again.
const PLATFORM_RETRY: Duration = Duration::from_secs(1);

/// The next step for the maintenance that counts (specification, 5.2).
pub(super) fn next(seen: &Seen, of: &Maintenance, now: Timestamp) -> Next {
    if of.is_lost() {
        return match seen.drain {
            DrainView::Running { .. } => Next::Do(Step::StopDrain),
            DrainView::None => Next::Rest(None),
        };
    }
    if !of.has_finalizer {
        return Next::Do(Step::AddFinalizer { of: of.uid.clone() });
    }
    if status::needs_counts(of) {
        let Some(counts) = &seen.counts else {
            return Next::Do(Step::CountPods);
        };
        if let Some(step) = write(of, status::begun(of, counts, now), None) {
            return Next::Do(step);
        }
    }
    let node = match &seen.node {
        NodeView::Unknown => return Next::Do(Step::ReadNode),
        NodeView::Missing => return node_missing(seen, of, now),
        NodeView::Present(node) => node,
    };
    if of.lease_failures() > LEASE_FAILURES {
        return lease_lost(seen, of, now);
    }
    let is_marked = is_marked(of, node);
    let is_drained = is_drained(seen, of, node);
    let starts = seen.drain == DrainView::None && !(is_marked && is_drained);
    match lease::gate(seen, of, node, starts || !is_marked, now) {
        Gate::Open => {}
        Gate::Shut(next) => return next,
    }
    if let Some(next) = quorum(seen, of, node, now) {
        return next;
    }
    if let Some(next) = orders(seen, of, now) {
        return next;
    }
    if status::needs_resuming(of)
        && let Some(step) = write(of, status::resumed(of, now), None)
    {
        return Next::Do(step);
    }
    if of.record.is_none() {
        let state = previous_state(seen, of, node);
        return Next::Do(Step::Record {
            of: of.uid.clone(),
            state,
        });
    }
    if !is_marked {
        // What was scheduled while the node was open may not be known to the drain yet: the next
        // one begins with a list that was asked for after the node is closed again.
        if node.is_open()
            && let DrainView::Running { .. } = seen.drain
        {
            return Next::Do(Step::StopDrain);
        }
        return Next::Do(Step::EnterNode {
            leaves_load_balancers: of.leaves_load_balancers,
            node_uid: node.uid.clone(),
        });
    }
    if seen.drain == DrainView::None && is_drained {
        let rest = Next::Rest(lease::look_at(seen));
        return write(of, status::observed(of, now), None).map_or(rest, Next::Do);
    }
    drain(seen, of, node, now)
}

/// There is no node of that name: say so and wait for one (5.2 steps 6 and 7).
fn node_missing(seen: &Seen, of: &Maintenance, now: Timestamp) -> Next {
    if let DrainView::Running { .. } = seen.drain {
        return Next::Do(Step::StopDrain);
    }
    write_failure(of, status::node_missing(of, &seen.node_name, now))
}

/// Too many looks at the lease found somebody else: hand the node back for good (5.2 step 9).
fn lease_lost(seen: &Seen, of: &Maintenance, now: Timestamp) -> Next {
    if let DrainView::Running { .. } = seen.drain {
        return Next::Do(Step::StopDrain);
    }
    if let GiveBack::Do(step) = give_back(seen, of) {
        return Next::Do(step);
    }
    // The new holder may cordon the node: a later deletion of this object must not undo that.
    if of.record.is_some() {
        return Next::Do(Step::DropRecord { of: of.uid.clone() });
    }
    write_failure(of, status::lease_lost(of, now))
}

/// The etcd guard, for control-plane nodes of OpenShift that are not yet in maintenance (5.2 step
/// 11): two of them may have been admitted at the same moment.
fn quorum(seen: &Seen, of: &Maintenance, node: &NodeFacts, now: Timestamp) -> Option<Next> {
    if !node.is_control_plane || seen.is_entered(of) {
        return None;
    }
    match seen.is_openshift {
        Some(false) => return None,
        Some(true) => {}
        None => return Some(Next::Rest(Some(after(now, PLATFORM_RETRY)))),
    }
    match seen.memory.quorum {
        QuorumView::Allowed(at) if !is_due(at, QUORUM_TRUST, now) => None,
        QuorumView::Denied(at) if !is_due(at, QUORUM_RETRY, now) => {
            let denied = status::quorum_denied(of, &seen.node_name, now);
            let rest = Next::Rest(Some(after(at, QUORUM_RETRY)));
            Some(write(of, denied, None).map_or(rest, Next::Do))
        }
        QuorumView::Allowed(_) | QuorumView::Denied(_) | QuorumView::Unchecked => {
            Some(Next::Do(Step::CheckQuorum))
        }
    }
}

/// Orders for the drain that cannot be carried out, which only happens without the webhook.
fn orders(seen: &Seen, of: &Maintenance, now: Timestamp) -> Option<Next> {
    let why = of.drain.as_ref().err()?;
    if let DrainView::Running { .. } = seen.drain {
        return Some(Next::Do(Step::StopDrain));
    }
    if of.phase() == Phase::Succeeded {
        return None;
    }
    let rest = Next::Rest(lease::look_at(seen));
    Some(write(of, status::invalid_spec(of, why, now), None).map_or(rest, Next::Do))
}

/// What to write down about the node before it is changed (7.3).
fn previous_state(seen: &Seen, of: &Maintenance, node: &NodeFacts) -> PreviousState {
    // One that is ended and kept by somebody else has given the node back already.
    let handed_over = seen
        .maintenances
        .iter()
        .filter(|other| other.uid != of.uid && other.has_finalizer)
        .find_map(|other| other.record.clone());
    if let Some(state) = handed_over {
        return state;
    }
    // The original has put the node into maintenance and wrote nothing down.
    if node.has_drain_taint {
        return PreviousState::default();
    }
    PreviousState::of(node)
}

/// The node carries everything that maintenance puts on it.
fn is_marked(of: &Maintenance, node: &NodeFacts) -> bool {
    let load_balancers = match node.load_balancer_label {
        LoadBalancerLabel::Absent => !of.leaves_load_balancers,
        LoadBalancerLabel::Ours => of.leaves_load_balancers,
        LoadBalancerLabel::Foreign => true,
    };
    !node.is_open() && node.is_excluded() && load_balancers
}

/// This process has seen that nothing is left on this incarnation of the node. What appears there
/// afterwards is how administrators work on a node (5.3).
fn is_drained(seen: &Seen, of: &Maintenance, node: &NodeFacts) -> bool {
    of.phase() == Phase::Succeeded
        && seen
            .memory
            .drained
            .as_ref()
            .is_some_and(|seen| seen.maintenance == of.uid && seen.node == node.uid)
}

/// Steps 13 to 15: the node is marked, the lease is ours.
fn drain(seen: &Seen, of: &Maintenance, node: &NodeFacts, now: Timestamp) -> Next {
    // Orders that cannot be read are dealt with before; a drained node needs none.
    let Ok(orders) = &of.drain else {
        return Next::Rest(lease::look_at(seen));
    };
    let options = orders.options(&seen.base);
    match &seen.drain {
        DrainView::None => Next::Do(Step::StartDrain {
            of: of.uid.clone(),
            options: Box::new(options),
        }),
        DrainView::Running {
            options: current, ..
        } if **current != options => Next::Do(Step::StopDrain),
        DrainView::Running { report, .. } if !report.is_listed => Next::Rest(lease::look_at(seen)),
        DrainView::Running { report, .. } if report.is_complete => {
            let event = (of.phase() != Phase::Succeeded).then_some(Event::Succeeded);
            write(of, status::succeeded(of, now), event).map_or_else(
                || {
                    Next::Do(Step::FinishDrain {
                        of: of.uid.clone(),
                        node_uid: node.uid.clone(),
                    })
                },
                Next::Do,
            )
        }
        DrainView::Running { report, .. } => progress(seen, of, report, now),
    }
}

/// Pods are left: keep the status up to date, but not at every pod.
fn progress(seen: &Seen, of: &Maintenance, report: &Report, now: Timestamp) -> Next {
    let mut wake = lease::look_at(seen);
    let next = status::draining(of, report, is_ready(seen), now);
    if let Some(step) = write(of, next, None) {
        let due = seen
            .memory
            .status_written
            .map(|written| due_at(written, STATUS_PACE, now));
        match due {
            Some(due) if due > now => wake = earliest(wake, Some(due)),
            Some(_) | None => return Next::Do(step),
        }
    }
    let long: Vec<_> = report
        .blocked
        .iter()
        .filter(|pod| elapsed(pod.since, now) >= BLOCKED_FOR)
        .cloned()
        .collect();
    if long.is_empty() {
        let first = report
            .blocked
            .iter()
            .map(|pod| after(pod.since, BLOCKED_FOR))
            .min();
        return Next::Rest(earliest(wake, first));
    }
    match seen
        .memory
        .blocked_told
        .map(|told| due_at(told, BLOCKED_PACE, now))
    {
        Some(again) if again > now => Next::Rest(earliest(wake, Some(again))),
        Some(_) | None => Next::Do(Step::Tell {
            of: of.uid.clone(),
            event: Event::Blocked(status::blocked(&long)),
        }),
    }
}
