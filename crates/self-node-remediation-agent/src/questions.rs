//! Questions of peers that wait for a live list.
//!
//! # Guarantees
//! * A question is answered from a list that began after it arrived, or as "no list" when its time
//!   is over, whatever the API client does.
//! * One list serves everybody who waits: at most one is begun in [`PAUSE`], and one of the agent's
//!   own checks serves as well.

use std::time::Duration;

use self_node_remediation_core::time::BootInstant;
use self_node_remediation_peer::HealthRequest;
use tokio::sync::oneshot;

use crate::inbox::PeerAnswer;

/// The least time between the beginnings of two lists.
pub const PAUSE: Duration = Duration::from_millis(250);
/// Lists that may run at once: one that hangs must not keep the next one from being tried.
const LISTS: u32 = 2;

/// Somebody who waits.
#[derive(Debug)]
pub struct Waiting {
    /// What was asked.
    pub question: HealthRequest,
    /// When it arrived.
    pub arrived: BootInstant,
    /// Where the answer goes.
    pub reply: oneshot::Sender<PeerAnswer>,
}

/// Everybody who waits.
#[derive(Debug, Default)]
pub struct Questions {
    waiting: Vec<Waiting>,
    /// When the latest list began, for whatever purpose.
    last_list: Option<BootInstant>,
    running: u32,
}

impl Questions {
    /// Lets somebody wait.
    pub fn push(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
    }

    /// When a list should begin for those whom no running one can serve.
    pub fn list_due(&self) -> Option<BootInstant> {
        let last = self.last_list;
        let first = self.waiting.iter().map(|waiting| waiting.arrived);
        let unserved = first
            .filter(|arrived| last.is_none_or(|last| *arrived > last))
            .min()?;
        if self.running >= LISTS {
            return None;
        }
        Some(last.map_or(unserved, |last| unserved.max(last.plus(PAUSE))))
    }

    /// A list for questions begins.
    pub fn list_begins(&mut self, now: BootInstant) {
        self.running = self.running.saturating_add(1);
        self.other_list_begins(now);
    }

    /// A list for another purpose begins; it serves whoever waits already.
    pub fn other_list_begins(&mut self, now: BootInstant) {
        self.last_list = self.last_list.max(Some(now));
    }

    /// A list for questions ended.
    pub fn list_ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Takes those whom a list that began at `started` serves.
    pub fn take_served(&mut self, started: BootInstant) -> Vec<Waiting> {
        self.waiting
            .extract_if(.., |waiting| waiting.arrived <= started)
            .collect()
    }

    /// Takes those who have waited for `limit`.
    pub fn take_expired(&mut self, now: BootInstant, limit: Duration) -> Vec<Waiting> {
        self.waiting
            .extract_if(.., |waiting| now >= waiting.arrived.plus(limit))
            .collect()
    }

    /// Takes everybody.
    pub fn take_all(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting)
    }

    /// When something is to be done here by time alone.
    pub fn wake(&self, limit: Duration) -> Option<BootInstant> {
        let expiry = self
            .waiting
            .iter()
            .map(|waiting| waiting.arrived.plus(limit))
            .min();
        [expiry, self.list_due()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> BootInstant {
        BootInstant::at(Duration::from_millis(milliseconds))
    }

    fn waiting(milliseconds: u64) -> Waiting {
        let (reply, _) = oneshot::channel();
        Waiting {
            question: HealthRequest::default(),
            arrived: at(milliseconds),
            reply,
        }
    }

    #[test]
    fn a_list_that_began_earlier_serves_nobody() {
        let mut questions = Questions::default();
        questions.push(waiting(1_000));
        assert!(questions.take_served(at(999)).is_empty());
        assert_eq!(questions.take_served(at(1_000)).len(), 1);
        assert!(questions.take_served(at(1_000)).is_empty());
    }

    #[test]
    fn all_who_arrive_within_a_pause_share_one_list() {
        let mut questions = Questions::default();
        assert_eq!(questions.list_due(), None);
        questions.push(waiting(1_000));
        assert_eq!(questions.list_due(), Some(at(1_000)));
        questions.list_begins(at(1_000));
        assert_eq!(questions.list_due(), None, "it serves who waits already");
        questions.push(waiting(1_010));
        questions.push(waiting(1_200));
        assert_eq!(questions.list_due(), Some(at(1_250)));
        questions.list_begins(at(1_250));
        assert_eq!(questions.take_served(at(1_250)).len(), 3);
        questions.push(waiting(2_000));
        assert_eq!(questions.list_due(), None, "two lists run");
        questions.list_ended();
        assert_eq!(questions.list_due(), Some(at(2_000)));
    }

    #[test]
    fn an_own_check_serves_too() {
        let mut questions = Questions::default();
        questions.push(waiting(1_000));
        questions.other_list_begins(at(1_001));
        assert_eq!(questions.list_due(), None);
        assert_eq!(questions.take_served(at(1_001)).len(), 1);
    }

    #[test]
    fn nobody_waits_longer_than_the_limit() {
        let limit = Duration::from_secs(5);
        let mut questions = Questions::default();
        questions.push(waiting(1_000));
        questions.list_begins(at(1_000));
        questions.push(waiting(1_100));
        questions.list_begins(at(1_250));
        assert_eq!(questions.wake(limit), Some(at(6_000)));
        assert_eq!(questions.take_expired(at(5_999), limit).len(), 0);
        assert_eq!(questions.take_expired(at(6_000), limit).len(), 1);
        assert_eq!(questions.take_all().len(), 1);
    }
}
