//! The wall clock, which can be set back.

use jiff::Timestamp;
use medik8s_core::time::elapsed;

use super::{
    Machine, Round,
    duty::{Block, Duty},
};

impl Machine {
    /// Takes note of the time. When the clock was set back, everything that is kept moves back with
    /// it: what waits is to wait that long, not until then.
    pub(super) fn heed(&mut self, now: Timestamp) {
        let step = elapsed(now, self.latest);
        self.latest = now;
        if step.is_zero() {
            return;
        }
        let back = |time: &mut Timestamp| *time = time.checked_sub(step).unwrap_or(Timestamp::MIN);
        match &mut self.round {
            Round::Until(end) | Round::PausedUntil(end) => back(end),
            Round::NotBegun | Round::Cancelled => {}
        }
        self.begun.iter_mut().for_each(back);
        for memo in self.memos.values_mut() {
            back(&mut memo.asked);
        }
        for entry in self.pods.values_mut() {
            if let Some(block) = block(&mut entry.duty) {
                back(&mut block.since);
                back(&mut block.at);
                back(&mut block.retry_at);
            }
        }
    }
}

const fn block(duty: &mut Duty) -> Option<&mut Block> {
    match duty {
        Duty::Blocked(block)
        | Duty::Refused(block)
        | Duty::Due(Some(block))
        | Duty::Posting(Some(block)) => Some(block),
        Duty::Stays(_)
        | Duty::Unclassified
        | Duty::Undecided { .. }
        | Duty::Due(None)
        | Duty::Posting(None)
        | Duty::Accepted
        | Duty::Leaving(_)
        | Duty::LetGo => None,
    }
}
