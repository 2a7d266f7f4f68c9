//! What becomes known when a step is done.

use jiff::Timestamp;

use super::{Event, Step};
use crate::{
    facts::{Counts, Drained, LeaseView, QuorumView, Seen},
    status::Reason,
};

/// What a step that went well found out. Objects that it changed are seen again by themselves.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Nothing more than that it is done.
    Done,
    /// The pods of the node.
    Counted(Counts),
    /// Whose the lease is.
    Lease(LeaseView),
    /// Whether etcd can do without the node.
    Quorum {
        /// It can.
        is_allowed: bool,
    },
    /// The node carries every mark now.
    Entered {
        /// Pods could land on it before.
        was_open: bool,
    },
}

impl Seen {
    /// Takes in the outcome of a step.
    pub fn absorb(&mut self, step: &Step, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::Counted(counts) => self.counts = Some(counts),
            Outcome::Lease(lease) => self.memory.lease = lease,
            Outcome::Quorum { is_allowed } => {
                self.memory.quorum = if is_allowed {
                    QuorumView::Allowed(now)
                } else {
                    QuorumView::Denied(now)
                };
            }
            // Whatever was scheduled meanwhile has to go.
            Outcome::Entered { was_open: true } => self.memory.drained = None,
            Outcome::Done | Outcome::Entered { was_open: false } => {}
        }
        match step {
            Step::WriteStatus { status, .. } => {
                self.memory.status_written = Some(now);
                let is_about_lease = matches!(
                    Reason::of(status),
                    Some(Reason::LeaseTaken | Reason::WaitingForLease)
                );
                if let LeaseView::Foreign { is_told, .. } = &mut self.memory.lease
                    && is_about_lease
                {
                    *is_told = true;
                }
            }
            Step::FinishDrain { of, node_uid } => {
                self.memory.drained = Some(Drained {
                    maintenance: of.clone(),
                    node: node_uid.clone(),
                });
                self.memory.blocked_told = None;
            }
            Step::ReleaseLease => self.memory.lease = LeaseView::Released,
            Step::Tell {
                event: Event::Blocked(_),
                ..
            } => self.memory.blocked_told = Some(now),
            Step::Tell {
                event: Event::Failed | Event::Succeeded,
                ..
            }
            | Step::AddFinalizer { .. }
            | Step::CountPods
            | Step::ReadNode
            | Step::RequestLease { .. }
            | Step::CheckQuorum
            | Step::Record { .. }
            | Step::EnterNode { .. }
            | Step::StartDrain { .. }
            | Step::StopDrain
            | Step::LeaveNode { .. }
            | Step::HandOver { .. }
            | Step::DropRecord { .. }
            | Step::RemoveFinalizer { .. } => {}
        }
    }
}
