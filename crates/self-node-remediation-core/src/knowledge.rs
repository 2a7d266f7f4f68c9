//! Sticky knowledge: orders that this agent has seen, for whatever node and boot.
//!
//! # Guarantees
//! * An order leaves the memory only by a consistent list that **started after** its last sighting or acknowledgement
//!   and does not show it (H14): neither a slow or lagging read nor a watch event removes one.
//! * An acknowledgement is given only for the very UID that is held (H14, ABA).
//!
//! # Caveats
//! The memory must be in `/run` before it is used (H5): the callers record it before they answer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::Shift;
use crate::ids::{BootId, Uid};
use crate::order::{Match, Remediation, Target};
use crate::time::BootInstant;

#[cfg(test)]
mod tests;

/// One order that was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sighting {
    /// Whom it is for.
    pub target: Target,
    /// The boot it names.
    pub boot: Option<BootId>,
    /// When it was last seen or acknowledged.
    pub last: BootInstant,
}

/// All orders that were seen and not yet seen gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Knowledge {
    orders: BTreeMap<Uid, Sighting>,
}

impl Knowledge {
    /// Takes in one object, seen at `now` (a watch event, an item of a list). Returns whether something new is known;
    /// a mere later sighting is not new, but moves the time before which reads are too old to clear it.
    pub fn see(&mut self, remediation: &Remediation, now: BootInstant) -> bool {
        if !remediation.is_order() {
            return false;
        }
        let seen = Sighting {
            target: remediation.target.clone(),
            boot: remediation.boot.clone(),
            last: now,
        };
        match self.orders.get_mut(&remediation.uid) {
            None => {
                self.orders.insert(remediation.uid.clone(), seen);
                true
            }
            Some(known) => {
                let last = known.last.max(now);
                // A Machine that could be looked up before is not forgotten because it cannot be now.
                let target = if seen.target.node().is_some() {
                    seen.target
                } else {
                    known.target.clone()
                };
                let new = target != known.target || seen.boot != known.boot;
                *known = Sighting {
                    target,
                    boot: seen.boot,
                    last,
                };
                new
            }
        }
    }

    /// Takes in a complete, consistent list that was asked for at `started` and arrived at `now`. Returns whether the
    /// set of known orders changed.
    pub fn take_list(
        &mut self,
        list: &[Remediation],
        started: BootInstant,
        now: BootInstant,
    ) -> bool {
        let before = self.orders.len();
        self.orders.retain(|uid, known| {
            known.last >= started
                || list
                    .iter()
                    .any(|remediation| remediation.uid == *uid && remediation.is_order())
        });
        let mut changed = self.orders.len() != before;
        for remediation in list {
            changed |= self.see(remediation, now);
        }
        changed
    }

    /// Whether this very order is held for the node; if so, it counts as seen at `now`: what is acknowledged must not
    /// be cleared by a read that is already under way.
    pub fn acknowledge(&mut self, node: &str, machine: &str, uid: &Uid, now: BootInstant) -> bool {
        let held = self.orders.get_mut(uid);
        let Some(known) = held.filter(|known| known.target.matches(node, machine) == Match::Yes)
        else {
            return false;
        };
        known.last = known.last.max(now);
        true
    }

    /// Whether an order for the node is held. An order whose node could not be found out may be for any node.
    pub fn has_order_about(&self, node: &str, machine: &str) -> bool {
        self.orders
            .values()
            .any(|known| known.target.matches(node, machine) != Match::No)
    }

    /// Whether this order is held.
    pub fn holds(&self, uid: &Uid) -> bool {
        self.orders.contains_key(uid)
    }

    pub(crate) fn shift(&mut self, shift: Shift) {
        for known in self.orders.values_mut() {
            known.last = shift.moment(known.last);
        }
    }

    /// The same knowledge `by` closer to the boot: for the explorer, see [`crate::agent::State::canonical`].
    #[must_use]
    pub fn earlier(mut self, by: Duration) -> Self {
        for known in self.orders.values_mut() {
            known.last = known.last.minus(by);
        }
        self
    }

    /// Whether any order is held.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// The orders held.
    pub fn orders(&self) -> impl Iterator<Item = (&Uid, &Sighting)> {
        self.orders.iter()
    }
}
