//! Handing a node back.

use super::{Keep, Next, Step};
use crate::facts::{LeaseView, LoadBalancerLabel, Maintenance, NodeFacts, NodeView, Seen};

/// The next step for a maintenance that somebody deleted (specification, section 8).
pub(super) fn next(seen: &Seen, of: &Maintenance) -> Next {
    if !of.has_finalizer {
        return Next::Rest(None);
    }
    Next::Do(match give_back(seen, of) {
        GiveBack::Do(step) => step,
        GiveBack::Done => Step::RemoveFinalizer { of: of.uid.clone() },
    })
}

/// Whether the node has been given back.
pub(super) enum GiveBack {
    /// Not before this.
    Do(Step),
    /// Yes, or there is nothing to give back.
    Done,
}

/// Steps 2 to 5 of section 8: cordon, taints and label first, the lease last, so that nobody can
/// take the node while it is half way. No drain runs for `of` any more.
pub(super) fn give_back(seen: &Seen, of: &Maintenance) -> GiveBack {
    if let Some(sibling) = live_sibling(seen, of) {
        // The node stays in maintenance. Who ends it must know what it was like before.
        return match &of.record {
            Some(state) if sibling.record.is_none() => GiveBack::Do(Step::HandOver {
                to: sibling.uid.clone(),
                state: state.clone(),
            }),
            Some(_) | None => GiveBack::Done,
        };
    }
    match &seen.node {
        NodeView::Unknown => return GiveBack::Do(Step::ReadNode),
        NodeView::Missing => {}
        NodeView::Present(node) => {
            let keep = keep(of);
            if seen.is_entered(of) && has_marks(node, &keep) {
                return GiveBack::Do(Step::LeaveNode { keep });
            }
        }
    }
    match seen.memory.lease {
        LeaseView::Released => GiveBack::Done,
        LeaseView::Unchecked | LeaseView::Ours { .. } | LeaseView::Foreign { .. } => {
            GiveBack::Do(Step::ReleaseLease)
        }
    }
}

/// Another maintenance of the node that nobody deleted: the one that counts, if that is not `of`.
fn live_sibling<'a>(seen: &'a Seen, of: &Maintenance) -> Option<&'a Maintenance> {
    seen.maintenances
        .iter()
        .find(|other| other.uid != of.uid && !other.is_deleting)
}

/// What was there before the maintenance and stays.
pub(super) fn keep(of: &Maintenance) -> Keep {
    let before = of.record.clone().unwrap_or_default();
    Keep {
        cordon: of.restores_cordon && before.unschedulable,
        label: before.label(),
    }
}

/// Whether the node still carries something that maintenance put there.
pub(super) fn has_marks(node: &NodeFacts, keep: &Keep) -> bool {
    node.has_drain_taint
        || (!keep.cordon && (node.is_unschedulable || node.has_unschedulable_taint))
        || (node.is_excluded() && keep.label != node.exclude_label)
        || node.load_balancer_label == LoadBalancerLabel::Ours
}
