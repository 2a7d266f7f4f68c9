//! Announce, read, act (fencing-safety section 5).
//!
//! # Purpose
//! What the Node says about this agent must never be shorter than what the agent does. Two values are kept: the one
//! **in force**, and at most one **pending**, which was or will be sent and may or may not be what the manager reads.
//! The agent behaves by the stricter of both: the smaller span, the smaller watchdog timeout, a majority in both tables,
//! and "no electorate" only if both say so.
//!
//! A pending value that lengthens anything, or changes the table, comes in force when the API server has accepted it
//! **and** a list that was asked for after that showed no order: the manager publishes its order first and reads the
//! Node after it, so one of the two always sees the other.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Command, Notice, Shift, Step, Watchdog, Wish};
use crate::announcement::Announcement;
use crate::ids::BootId;
use crate::permit::{NoElectorate, Terms};
use crate::table::Table;
use crate::time::BootInstant;
use crate::verdict::Electorates;

/// Pause before an announcement without known outcome is sent again.
const RETRY: Duration = Duration::from_secs(5);
/// An announcement whose outcome was not reported by then has none.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long an API server may still carry out a request whose answer never came (its request timeout). A different
/// announcement waits that long, or the late one would overwrite it.
const LATE_WRITE: Duration = Duration::from_mins(1);

/// A bound and the electorates it goes with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InForce {
    /// Whether the node is reset when it must be.
    pub armed: bool,
    /// Watchdog timeout in seconds.
    pub wd: u64,
    /// Span in seconds; `None`: no electorate, no bound.
    pub bound: Option<u64>,
    /// Who votes.
    pub table: Arc<Table>,
}

impl InForce {
    /// The annotation for it.
    pub fn announcement(&self, boot: &BootId) -> Announcement {
        let count = |names: usize| u32::try_from(names).unwrap_or(u32::MAX);
        Announcement {
            boot: boot.clone(),
            armed: self.armed,
            wd: self.wd,
            bound: self.bound,
            workers: count(self.table.workers.len()),
            cp: count(self.table.control_plane.len()),
            stamp: self.table.stamp,
        }
    }

    /// Whether going from `self` to `next` needs a read in between.
    fn must_read_before(&self, next: &Self) -> bool {
        // None is the longest bound of all.
        let longer = |from: Option<u64>, to: Option<u64>| match (from, to) {
            (Some(from), Some(to)) => to > from,
            (Some(_), None) => true,
            (None, Some(_) | None) => false,
        };
        !self.table.has_same_names(&next.table)
            || self.armed && (!next.armed || next.wd > self.wd || longer(self.bound, next.bound))
    }
}

/// What is announced and what is being announced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Announcing {
    in_force: Option<InForce>,
    pending: Option<Pending>,
    sequence: u64,
    /// Before this moment a request without known outcome may still take effect.
    quiet_until: BootInstant,
    /// Our Node does not carry what is in force (it was created anew).
    lost: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pending {
    value: InForce,
    /// When the present attempt was sent.
    sent: Option<BootInstant>,
    accepted: Option<BootInstant>,
    next: BootInstant,
}

impl Announcing {
    /// What an earlier process of this boot had announced and was announcing. The outcome of the latter is unknown, so it
    /// may still take effect late.
    pub(super) fn restore(
        in_force: Option<InForce>,
        pending: Option<InForce>,
        quiet_until: BootInstant,
        now: BootInstant,
    ) -> Self {
        let quiet_until = if pending.is_some() {
            quiet_until.max(now.plus(LATE_WRITE))
        } else {
            quiet_until
        };
        let pending = pending.map(|value| Pending {
            value,
            sent: None,
            accepted: None,
            next: BootInstant::ZERO,
        });
        Self {
            in_force,
            pending,
            quiet_until,
            ..Self::default()
        }
    }

    /// Before this moment a request without known outcome may still take effect.
    pub(super) const fn quiet_until(&self) -> BootInstant {
        self.quiet_until
    }

    /// What is in force.
    pub const fn in_force(&self) -> Option<&InForce> {
        self.in_force.as_ref()
    }

    /// The watchdog's timeout in force, in seconds; 0: none.
    pub(super) fn wd(&self) -> u64 {
        self.in_force().map_or(0, |value| value.wd)
    }

    /// What may be in force already.
    pub fn pending(&self) -> Option<&InForce> {
        self.pending.as_ref().map(|pending| &pending.value)
    }

    fn both(&self) -> impl Iterator<Item = &InForce> {
        self.in_force().into_iter().chain(self.pending())
    }

    /// The shortest watchdog timeout with which the manager may count; `None`: it counts on none.
    pub(super) fn least_armed_wd(&self) -> Option<u64> {
        self.both()
            .filter(|value| value.armed)
            .map(|value| value.wd)
            .min()
    }

    /// Whether the manager may count on this node resetting itself.
    pub(super) fn may_be_armed(&self) -> bool {
        self.both().any(|value| value.armed)
    }

    /// Whether an announcement of this boot had been accepted before `moment`.
    pub(super) fn spoke_for_this_boot_before(&self, moment: BootInstant) -> bool {
        self.in_force.is_some()
            || self
                .pending
                .as_ref()
                .and_then(|pending| pending.accepted)
                .is_some_and(|accepted| accepted <= moment)
    }

    /// Who votes now.
    pub fn electorates(&self) -> Option<Electorates<'_>> {
        Some(Electorates {
            announced: &self.in_force()?.table,
            pending: self.pending().map(|pending| pending.table.as_ref()),
        })
    }

    /// (d), if it is in force and not being taken back.
    pub fn no_electorate(&self) -> Option<NoElectorate> {
        let unbound = self.in_force()?.bound.is_none()
            && self.pending().is_none_or(|pending| pending.bound.is_none());
        unbound.then(NoElectorate::announced)
    }

    /// The stricter of both values, for a device with this timeout.
    pub(super) fn terms(&self, span: Duration, timeout: Option<u64>) -> Terms {
        let mut terms = Terms {
            span,
            cut: Duration::ZERO,
            no_electorate: self.no_electorate(),
            triggered: false,
        };
        for value in self.both().filter(|value| value.armed) {
            if let Some(bound) = value.bound {
                terms.span = terms.span.min(Duration::from_secs(bound));
            }
            // Reset comes up to two timeouts after V (H12): a longer timeout than announced makes V earlier.
            let excess = timeout.unwrap_or_default().saturating_sub(value.wd);
            terms.cut = terms.cut.max(Duration::from_secs(excess.saturating_mul(2)));
        }
        terms
    }

    pub(super) fn wake(&self) -> Option<BootInstant> {
        match &self.pending {
            Some(Pending {
                accepted: Some(_), ..
            }) => None,
            Some(Pending {
                sent: Some(sent), ..
            }) => Some(sent.plus(DEADLINE)),
            Some(Pending { next, .. }) => Some(*next),
            None => Some(self.quiet_until),
        }
    }
}

impl Step<'_> {
    /// What the agent would announce if nothing were announced yet or everything could be changed at once.
    fn desired(&self) -> Option<InForce> {
        let state = &self.state;
        state.role?;
        let latest = state.nodes.latest.as_ref()?;
        let Some(now) = state.announcing.in_force() else {
            // First announcement of this process without a record: nothing is open yet.
            let table = Arc::clone(latest);
            return Some(InForce {
                armed: false,
                wd: 0,
                bound: self.bound_of(&table),
                table,
            });
        };
        let (armed, wd) = match state.watchdog {
            Watchdog::NotTried | Watchdog::Opening => (now.armed, now.wd),
            Watchdog::Armed { timeout, wish, .. } => {
                // What the device was asked to take stays announced until it has answered.
                let larger = match wish {
                    Wish::Open => self.settings.watchdog_timeout,
                    Wish::Asked(asked) => Some(asked),
                    Wish::Done => None,
                };
                (true, timeout.max(larger.unwrap_or_default()))
            }
            Watchdog::Absent => (self.settings.software_reboot, 0),
            Watchdog::Disarming | Watchdog::Disarmed => (false, now.wd),
        };
        let armed = armed && !state.ending.is_some_and(|ending| ending.disarm);
        // A member that was too young to be counted has become old enough.
        let restamp = now.table.has_young && latest.stamp > now.table.stamp;
        let table = if latest.has_same_names(&now.table) && !restamp {
            &now.table
        } else {
            latest
        };
        let bound = self.bound_of(table);
        if now.bound.is_none()
            && bound.is_some()
            && self.state.proved_until(self.settings, self.now) <= Some(self.now)
        {
            // Leaving (d) uses the proofs from this moment on; without one the watchdog would starve.
            return Some(InForce {
                armed,
                wd,
                bound: None,
                table: Arc::clone(&now.table),
            });
        }
        Some(InForce {
            armed,
            wd,
            bound,
            table: Arc::clone(table),
        })
    }

    /// The bound that goes with a table: none without an electorate.
    fn bound_of(&self, table: &Table) -> Option<u64> {
        let min_peers = usize::try_from(self.settings.min_peers).unwrap_or(usize::MAX);
        let too_few = table.workers.len() < min_peers && table.control_plane.is_empty();
        (!too_few).then(|| self.settings.timing.announced_span())
    }

    pub(super) fn drive_announcing(&mut self) {
        self.begin_announcing();
        let now = self.now;
        let announcing = &mut self.state.announcing;
        let Some(pending) = &mut announcing.pending else {
            return;
        };
        if pending.accepted.is_some() {
            return;
        }
        if pending.sent.is_some_and(|sent| now >= sent.plus(DEADLINE)) {
            pending.sent = None;
            announcing.quiet_until = now.plus(LATE_WRITE);
        }
        if pending.sent.is_none() && now >= pending.next {
            announcing.sequence = announcing.sequence.wrapping_add(1);
            pending.sent = Some(now);
            pending.next = now.plus(RETRY);
            self.rest.push(Command::PublishAnnouncement {
                sequence: announcing.sequence,
                announcement: pending.value.announcement(&self.settings.own.boot),
            });
        }
    }

    fn begin_announcing(&mut self) {
        let announcing = &self.state.announcing;
        if announcing.pending.is_some() || self.now < announcing.quiet_until {
            return;
        }
        let Some(desired) = self.desired() else {
            return;
        };
        if announcing.in_force() == Some(&desired) && !announcing.lost {
            return;
        }
        if desired.bound.is_none() && !self.state.told.no_electorate {
            self.state.told.no_electorate = true;
            self.rest.push(Command::Tell(Notice::NoElectorate));
        }
        self.state.announcing.pending = Some(Pending {
            value: desired,
            sent: None,
            accepted: None,
            next: self.now,
        });
    }

    pub(super) fn published(&mut self, sequence: u64, accepted: bool) {
        let announcing = &mut self.state.announcing;
        if sequence != announcing.sequence {
            return;
        }
        let Some(pending) = &mut announcing.pending else {
            return;
        };
        if pending.accepted.is_some() {
            return;
        }
        pending.sent = None;
        if !accepted {
            announcing.quiet_until = self.now.plus(LATE_WRITE);
            return;
        }
        let must_read = announcing
            .in_force
            .as_ref()
            .is_none_or(|in_force| in_force.must_read_before(&pending.value));
        if must_read {
            pending.accepted = Some(self.now);
            self.state.check.wanted_after = Some(self.now);
        } else {
            announcing.take_effect();
        }
    }

    /// A list that was asked for at `started` showed no order.
    pub(super) fn no_order_read(&mut self, started: BootInstant) {
        let announcing = &mut self.state.announcing;
        let accepted = announcing
            .pending
            .as_ref()
            .and_then(|pending| pending.accepted);
        if accepted.is_some_and(|accepted| accepted <= started) {
            announcing.take_effect();
        }
    }

    /// Our Node carries this announcement.
    pub(super) fn announcement_seen(&mut self, announced: Option<&str>) {
        let boot = &self.settings.own.boot;
        let announcing = &mut self.state.announcing;
        let is = |value: &InForce| announced == Some(value.announcement(boot).to_string().as_str());
        announcing.lost = announcing.in_force().is_some() && !announcing.both().any(is);
    }
}

impl Announcing {
    #[cfg(test)]
    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn shift(&mut self, shift: Shift) {
        self.sequence = 1;
        self.quiet_until = shift.due(self.quiet_until);
        if let Some(pending) = &mut self.pending {
            shift.option(&mut pending.sent);
            shift.option(&mut pending.accepted);
            pending.next = shift.due(pending.next);
        }
    }

    fn take_effect(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.in_force = Some(pending.value);
            self.lost = false;
        }
    }

    /// The attempt was never sent.
    pub(super) fn not_sent(&mut self, now: BootInstant) {
        if let Some(pending) = &mut self.pending
            && pending.accepted.is_none()
        {
            pending.sent = None;
            pending.next = now.plus(RETRY);
        }
    }
}
