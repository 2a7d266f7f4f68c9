//! Remediations and leases of nodes that are not selected (any more).

use super::{Draft, Removal, Step, entries};
use crate::remediation::{Ownership, Remediation};

impl<'a> Draft<'a> {
    /// Ends remediations whose node is gone or has left the selector.
    ///
    /// Not if the remediator said that the node object vanishes for good and is still at work: then
    /// the node's absence is part of the cure.
    pub(super) fn handle_orphans(&mut self) {
        let seen = self.seen;
        for remediation in &seen.remediations {
            let node = remediation.node();
            if remediation.ownership(&seen.owner) != Ownership::Ours
                || remediation.deleting_since.is_some()
                || self.selected.contains(node)
            {
                continue;
            }
            if remediation.node_deletion_expected && !remediation.has_succeeded() {
                self.keep_orphan(node, remediation);
                continue;
            }
            let cause = if seen.unselected.contains(node) {
                Removal::LeftSelector
            } else {
                Removal::NodeGone
            };
            // Its lease is kept until the object is gone: while a remediator still cleans up, the
            // node may be power-cycled.
            self.step(Step::Delete {
                remediation: remediation.handle(),
                node: node.to_owned(),
                cause,
            });
        }
        for (node, entry) in self.stored.clone() {
            if !self.selected.contains(node) && self.may_have_unseen_remediation(node) {
                self.entries
                    .entry(node.to_owned())
                    .or_insert_with(|| entry.clone());
            }
        }
    }

    fn keep_orphan(&mut self, node: &'a str, remediation: &'a Remediation) {
        let mut entry = self.entries.remove(node).unwrap_or_else(|| {
            entries::unhealthy(node, self.stored.get(node).copied(), &[], self.now)
        });
        let list = entries::remediations(Some(&entry), &[remediation], self.now);
        entry.remediations = Some(list);
        self.entries.insert(node.to_owned(), entry);
    }

    /// Gives back leases of nodes that are neither selected nor remediated.
    pub(super) fn handle_unselected_leases(&mut self) {
        for node in self.seen.leases.keys() {
            if !self.selected.contains(node.as_str())
                && self.own(node).is_empty()
                && !self.may_have_unseen_remediation(node)
            {
                self.release_lease(node);
            }
        }
    }
}
