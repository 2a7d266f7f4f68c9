//! The API check loop: a consistent read, then a pause, for ever.

use std::time::Duration;

use super::{Command, Notice, Probe, Step};
use crate::table::mix;
use crate::time::BootInstant;

/// When an order seems to be over, all agents look within this time, each at a moment of its own.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

impl Step<'_> {
    /// A check ended. A late outcome of an earlier check changes nothing here; what it read was judged all the same.
    pub(super) fn check_ended(&mut self, number: u64, started: BootInstant, succeeded: bool) {
        let state = &mut self.state;
        if succeeded
            && state
                .check
                .wanted_after
                .is_some_and(|after| after <= started)
        {
            state.check.wanted_after = None;
        }
        if number != state.check.number || state.check.running.is_none() {
            return;
        }
        self.end_check(succeeded);
    }

    fn end_check(&mut self, succeeded: bool) {
        let (now, timing) = (self.now, &self.settings.timing);
        let state = &mut self.state;
        state.check.running = None;
        state.check.next = now.plus(timing.api_check_interval());
        state.last_probe = Some(Probe {
            ended: now,
            succeeded,
        });
        if succeeded {
            if let Some(after) = state.check.wanted_after {
                state.check.next = now.max(after);
            }
            return;
        }
        state.errors = state.errors.saturating_add(1);
        state.rounds.control_plane_due = true;
        self.rest.push(Command::Tell(Notice::CheckFailed {
            errors: state.errors,
        }));
    }

    /// An order that is remembered seems to be over. As long as that is not read, this agent abstains about the node
    /// (H18), so an outage that begins now would cost the node its voters. The check comes instead of the next one.
    pub(super) fn check_soon(&mut self) {
        let share = u32::try_from(mix(self.chance) % 1000).unwrap_or_default();
        let at = self.now.plus(LOOK_WITHIN / 1000 * share);
        let wanted = &mut self.state.check.wanted_after;
        *wanted = (*wanted).max(Some(at));
    }

    pub(super) fn drive_check(&mut self) {
        let timeout = self.settings.timing.api_server_timeout();
        if self
            .state
            .check
            .running
            .is_some_and(|since| self.now >= since.plus(timeout))
        {
            // The read has its own time limit; this one holds even if that read hangs.
            self.end_check(false);
        }
        let tried = self.state.last_probe.map(|probe| probe.ended);
        let check = &mut self.state.check;
        // At once, but after a failure not before the next turn.
        let wanted = check
            .wanted_after
            .is_some_and(|after| self.now >= after && tried.is_none_or(|ended| ended <= after));
        if check.running.is_none() && (self.now >= check.next || wanted) {
            check.number = check.number.wrapping_add(1);
            check.running = Some(self.now);
            self.rest.push(Command::StartApiRead {
                check: check.number,
            });
        }
    }
}
