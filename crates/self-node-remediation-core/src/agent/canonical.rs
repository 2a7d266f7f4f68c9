//! A normal form of the state for exhaustive search: what differs in nothing that can ever matter becomes equal.
//!
//! # Purpose
//! The explorer of `self-node-remediation-model` counts time from a fixed present. Two states that differ only in the
//! moment at which they are looked at, in numbers of attempts, or in how long something is overdue behave alike; without
//! a normal form a search would never meet a state twice.
//!
//! # Guarantees
//! [`super::step`] on the normal form does the same as on the original: moments that are compared with each other keep
//! their distance, and only those that are asked nothing but "is it due?" lose theirs once they are. A moment further
//! back than the present itself becomes the boot: the caller chooses the present later than anything that counts.

use std::time::Duration;

use super::{Recorded, Settings, State};
use crate::permit::Base;
use crate::time::BootInstant;

/// Moves moments towards the boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shift {
    by: Duration,
    /// The present, after the move.
    now: BootInstant,
}

impl Shift {
    /// The same moment, closer to the boot. The end of time stays where it is.
    pub(crate) fn moment(self, at: BootInstant) -> BootInstant {
        if at == BootInstant::at(Duration::MAX) {
            at
        } else {
            at.minus(self.by)
        }
    }

    /// A moment that is only asked whether it is due.
    pub(crate) fn due(self, at: BootInstant) -> BootInstant {
        let at = self.moment(at);
        if at <= self.now {
            BootInstant::ZERO
        } else {
            at
        }
    }

    pub(crate) fn is_older(self, at: BootInstant, than: Duration) -> bool {
        self.now.since(at) > than
    }

    pub(crate) fn option(self, at: &mut Option<BootInstant>) {
        *at = at.map(|at| self.moment(at));
    }
}

impl State {
    /// The state at `now`, in its normal form at `now - by`. Running checks, rounds and announcements have number 1.
    #[must_use]
    pub fn canonical(mut self, settings: &Settings, now: BootInstant, by: Duration) -> Self {
        let shift = Shift {
            by,
            now: now.minus(by),
        };
        let most_errors = settings.timing.max_api_error_threshold();
        self.errors = self.errors.min(most_errors);
        if let Some(probe) = &mut self.last_probe {
            probe.ended = shift.moment(probe.ended);
            let recent = settings.timing.check_period();
            if self.check.wanted_after.is_none() && shift.now.since(probe.ended) > recent {
                probe.ended = BootInstant::ZERO;
            }
        }
        self.permit.shift(shift, settings.timing.check_period());
        self.knowledge.shift(shift);
        self.announcing.shift(shift);
        if let Some(fencing) = &mut self.fencing {
            fencing.since = shift.moment(fencing.since);
            fencing.software_at = shift.due(fencing.software_at);
        }
        self.check.number = 1;
        shift.option(&mut self.check.running);
        self.check.next = shift.due(self.check.next);
        shift.option(&mut self.check.wanted_after);
        self.rounds.number = 1;
        shift.option(&mut self.rounds.last_full);
        // A round before the latest proof was not the last chance of this permit.
        let base = self.permit.base().map(Base::moment);
        self.rounds.last_full = self.rounds.last_full.filter(|at| Some(*at) >= base);
        self.rounds.next = shift.due(self.rounds.next);
        if let Some(round) = &mut self.rounds.current {
            round.started = shift.moment(round.started);
            round.deadline = shift.moment(round.deadline);
            for said in round.answers.values_mut() {
                said.shift(shift);
            }
        }
        self.nodes.next = shift.due(self.nodes.next);
        shift.option(&mut self.nodes.running);
        if let Some(ending) = &mut self.ending {
            ending.deadline = shift.due(ending.deadline);
        }
        if let Some(recorded) = self.recorded.take() {
            self.recorded = Some(Box::new(recorded.canonical(settings, now, by)));
        }
        shift.option(&mut self.feed_until);
        self
    }
}

impl Recorded {
    /// As [`State::canonical`].
    #[must_use]
    pub fn canonical(mut self, settings: &Settings, now: BootInstant, by: Duration) -> Self {
        let shift = Shift {
            by,
            now: now.minus(by),
        };
        self.errors = self.errors.min(settings.timing.max_api_error_threshold());
        self.permit.shift(shift, settings.timing.check_period());
        self.knowledge.shift(shift);
        if let Some(fencing) = &mut self.fencing {
            fencing.since = shift.moment(fencing.since);
        }
        self.quiet_until = shift.due(self.quiet_until);
        self
    }
}
