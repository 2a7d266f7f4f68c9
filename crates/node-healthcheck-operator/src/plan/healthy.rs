//! Nodes that no rule matches: their remediations end.

use jiff::{SignedDuration, Timestamp};
use medik8s_core::time::{after, elapsed};

use super::{Draft, PENDING_DELETION, Removal, Standing, Step, entries, stored_time};
use crate::node::NodeFacts;
use crate::remediation::Remediation;

/// What becomes of one remediation of a healthy node.
enum Fate {
    Delete,
    /// Its delay starts now.
    Start,
    Until(Timestamp),
    /// Until a person confirms.
    Indefinite,
}

impl<'a> Draft<'a> {
    /// Handles a node that no rule matches; returns whether it counts as healthy.
    pub(super) fn handle_healthy(&mut self, node: &'a NodeFacts) -> bool {
        let own = self.own(&node.name);
        if own.is_empty() {
            return self.handle_recovered(node);
        }
        let mut delayed = false;
        for remediation in &own {
            if let Some(since) = remediation.deleting_since {
                self.await_deletion(node, remediation, since);
                continue;
            }
            delayed |= self.end(node, remediation);
        }
        let stored = self.stored.get(node.name.as_str()).copied();
        let mut entry = entries::unhealthy(&node.name, stored, &own, self.seen, self.now);
        entry.conditions_healthy_timestamp = stored
            .and_then(|stored| stored.conditions_healthy_timestamp.clone())
            .or_else(|| Some(stored_time(self.now)));
        entry.healthy_delayed = delayed.then_some(true);
        self.entries.insert(node.name.clone(), entry);
        // Its remediators still work on it. Not while only a person can end that: he may want to put
        // the node into maintenance meanwhile.
        if !delayed || !self.seen.check.healthy_delay.is_negative() {
            self.keep_lease(node, &own);
        }
        false
    }

    /// A healthy node without remediations of ours.
    fn handle_recovered(&mut self, node: &'a NodeFacts) -> bool {
        if self.may_have_unseen_remediation(&node.name) {
            let stored = self.stored.get(node.name.as_str()).copied();
            self.entries
                .extend(stored.map(|entry| (node.name.clone(), entry.clone())));
            self.standings.insert(node.name.clone(), Standing::Unseen);
            return false;
        }
        // With several health checks over one node, the last one to let go of it ends the
        // confirmation; the others still need it.
        if node.confirmed_healthy && !self.seen.remediated_by_anyone.contains(&node.name) {
            self.step(Step::DropConfirmation {
                node: node.name.clone(),
            });
        }
        self.release_unneeded_lease(&node.name);
        true
    }

    /// Whether the status names a remediation of a kind whose objects cannot be seen now.
    pub(super) fn may_have_unseen_remediation(&self, node: &str) -> bool {
        let Some(entry) = self.stored.get(node) else {
            return false;
        };
        let unknown = &self.seen.unknown_kinds;
        entry
            .remediations
            .iter()
            .flatten()
            .any(|entry| unknown.keys().any(|kind| entries::is_of_kind(entry, kind)))
    }

    /// Ends one remediation, now or after its delay; returns whether it is delayed.
    fn end(&mut self, node: &'a NodeFacts, remediation: &Remediation) -> bool {
        let delay = self.seen.check.healthy_delay;
        let standing = match fate(remediation, node.confirmed_healthy, delay, self.now) {
            Fate::Delete => {
                self.step(Step::Delete {
                    remediation: remediation.handle(),
                    node: node.name.clone(),
                    cause: Removal::Recovered,
                });
                self.standings
                    .entry(node.name.clone())
                    .or_insert_with(|| Standing::Deleting {
                        remediation: remediation.handle(),
                    });
                return false;
            }
            Fate::Start => {
                self.step(Step::StartHealthyDelay {
                    remediation: remediation.handle(),
                });
                let until = self.now.checked_add(delay).unwrap_or(Timestamp::MAX);
                self.wake_at(until);
                Standing::Delayed { until: Some(until) }
            }
            Fate::Until(until) => {
                self.wake_at(until);
                Standing::Delayed { until: Some(until) }
            }
            Fate::Indefinite => Standing::Delayed { until: None },
        };
        self.standings.insert(node.name.clone(), standing);
        true
    }

    /// Waits for a remediator's finalizer; after a while this is worth a line in the log.
    fn await_deletion(&mut self, node: &'a NodeFacts, remediation: &Remediation, since: Timestamp) {
        let worth_a_line = after(since, PENDING_DELETION);
        let overdue = elapsed(since, self.now) >= PENDING_DELETION;
        if !overdue {
            self.wake_at(worth_a_line);
        }
        self.standings
            .entry(node.name.clone())
            .or_insert_with(|| Standing::AwaitingDeletion {
                remediation: remediation.handle(),
                since,
                overdue,
            });
    }
}

fn fate(remediation: &Remediation, confirmed: bool, delay: SignedDuration, now: Timestamp) -> Fate {
    if confirmed || delay.is_zero() {
        return Fate::Delete;
    }
    if delay.is_negative() {
        return Fate::Indefinite;
    }
    // A text that is no time was not written by us: the delay starts anew, the safe side.
    let start = remediation
        .healthy_delay
        .as_deref()
        .and_then(|text| text.parse::<Timestamp>().ok());
    match start {
        None => Fate::Start,
        Some(start) => {
            let end = start.checked_add(delay).unwrap_or(Timestamp::MAX);
            if now < end {
                Fate::Until(end)
            } else {
                Fate::Delete
            }
        }
    }
}
