//! Node leases of remediations in progress.

use jiff::Timestamp;
use medik8s_core::time::after;

use super::{Draft, LEASE_BUFFER, Step};
use crate::check::Rung;
use crate::facts::HeldLease;
use crate::node::NodeFacts;
use crate::remediation::Remediation;

impl<'a> Draft<'a> {
    /// Keeps the lease of a node whose remediation goes on, whatever else is held back: it is what
    /// keeps other operators off the node.
    pub(super) fn keep_lease(&mut self, node: &'a NodeFacts, own: &[&Remediation]) {
        if own.is_empty() {
            return;
        }
        if let Some(rung) = self.current_rung(node) {
            self.renew_lease(node, rung);
        }
    }

    /// Renews the lease of a node when half of it is used up.
    ///
    /// Not our lease, or none: nothing to keep. It was ours when the remediation was created; who
    /// has taken it since has done so because we let it run out.
    pub(super) fn renew_lease(&mut self, node: &'a NodeFacts, rung: &Rung) {
        let Some(held) = self.seen.leases.get(&node.name) else {
            return;
        };
        let duration = rung.expected().saturating_add(LEASE_BUFFER);
        match renewal(held, &node.uid, duration, self.now) {
            Some(due) => self.wake_at(due),
            None => self.step(Step::RenewLease {
                node: node.name.clone(),
                node_uid: node.uid.clone(),
                duration,
            }),
        }
    }
}

/// When a lease is to be renewed; `None` is now.
///
/// At once if it belongs to an earlier node of the same name: garbage collection would take it.
pub(crate) fn renewal(
    held: &HeldLease,
    node_uid: &str,
    wanted: std::time::Duration,
    now: Timestamp,
) -> Option<Timestamp> {
    if held.node_uid.as_deref() != Some(node_uid) {
        return None;
    }
    let (Some(renewed), Some(duration)) = (held.renewed, held.duration) else {
        return None;
    };
    if duration < wanted {
        return None;
    }
    let due = after(renewed, duration / 2);
    (now < due).then_some(due)
}

/// When a remediation has held its lease for too long: three times what it was expected to take,
/// after the time of the earlier steps.
pub(crate) fn overdue_from(held: &HeldLease, rung: &Rung) -> Option<Timestamp> {
    let limit = rung
        .expected()
        .saturating_mul(3)
        .saturating_add(rung.earlier);
    held.acquired.map(|acquired| after(acquired, limit))
}
