//! Remediations and leases of nodes that are not selected (any more).

use super::{Draft, Removal, Step};
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
            if is_part_of_the_cure(remediation) {
                self.keep_orphans(node);
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

    /// Keeps the entry of a node that is gone, with those of its remediations that go on.
    fn keep_orphans(&mut self, node: &'a str) {
        let mut kept = self.own(node);
        kept.retain(|one| one.deleting_since.is_none() && is_part_of_the_cure(one));
        self.track(node, &kept);
    }

    /// Gives back leases of nodes that are neither selected nor remediated.
    pub(super) fn handle_unselected_leases(&mut self) {
        for node in self.seen.leases.keys() {
            if !self.selected.contains(node.as_str())
                && self.own(node).is_empty()
                && !self.may_have_unseen_remediation(node)
            {
                self.release_unneeded_lease(node);
            }
        }
    }
}

/// Whether a remediator said that the node object vanishes for good, and is still at work.
fn is_part_of_the_cure(remediation: &Remediation) -> bool {
    remediation.node_deletion_expected && !remediation.has_succeeded()
}
