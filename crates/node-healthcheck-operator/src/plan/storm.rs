//! Thresholds and storm recovery.

use jiff::Timestamp;
use medik8s_api::names::nhc;
use medik8s_core::conditions::{self, Status};

use super::Draft;
use crate::notice::Announcement;
use crate::storm::{self, StormState, Transition};

/// Why new remediations wait, for all nodes of the health check.
pub(super) struct Brake {
    /// For the status.
    pub(super) why: String,
    /// For the event.
    pub(super) message: String,
}

impl Draft<'_> {
    /// Applies the threshold and takes one step of storm recovery.
    ///
    /// In every pass, not only while a node is unhealthy: otherwise a storm that everybody has
    /// survived would delay the next single failure by a whole cooldown.
    pub(super) fn apply_threshold(&mut self, healthy: usize) -> Option<Brake> {
        let check = &self.seen.check;
        let total = self.seen.nodes.len();
        let minimum = check.threshold.minimum_healthy(total as u64);
        let below = (healthy as u64) < minimum;
        let stored = stored_state(self.seen.status.conditions.as_deref().unwrap_or_default());
        let storm = storm::step(stored, below, check.storm_cooldown, self.now);
        if let Some(transition) = storm.transition {
            let announcement = announcement(transition, healthy, minimum, storm.cooldown_until);
            self.announcements.push(announcement);
        }
        if let Some(until) = storm.cooldown_until {
            self.wake_at(until);
        }
        self.storm = Some(storm.state);
        if below {
            return Some(Brake {
                why: format!(
                    "only {healthy} of {total} nodes are healthy, at least {minimum} must be"
                ),
                message: format!(
                    "Skipped remediation because the number of healthy nodes selected by the \
                     selector is {healthy} and should equal or exceed {minimum}"
                ),
            });
        }
        storm.holds().then(|| {
            let until = storm
                .cooldown_until
                .map_or_else(String::new, |at| format!(" until {at:.0}"));
            Brake {
                why: format!("storm recovery{until}"),
                message: format!("Skipped remediation because of storm recovery{until}"),
            }
        })
    }
}

fn announcement(
    transition: Transition,
    healthy: usize,
    minimum: u64,
    until: Option<Timestamp>,
) -> Announcement {
    let until = until.map_or_else(String::new, |at| format!(" until {at:.0}"));
    match transition {
        Transition::Started => Announcement::warning(
            nhc::EVENT_STORM_STARTED,
            format!(
                "Storm recovery started: {healthy} nodes are healthy, at least {minimum} must \
                 be; new remediations are held back"
            ),
        ),
        Transition::CooldownStarted => Announcement::warning(
            nhc::EVENT_STORM_COOLDOWN_STARTED,
            format!(
                "Enough nodes are healthy again ({healthy} of the required {minimum}); new \
                 remediations are held back{until}"
            ),
        ),
        Transition::Ended => Announcement::normal(
            nhc::EVENT_STORM_ENDED,
            "Storm recovery ended, new remediations are possible again",
        ),
    }
}

/// Reads the stored conditions.
pub(super) fn stored_state(
    list: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
) -> StormState {
    let since = |type_| {
        conditions::get(list, type_)
            .filter(|condition| Status::parse(&condition.status) == Status::True)
            .map(|condition| condition.last_transition_time.0)
    };
    StormState {
        active: since(nhc::STORM_ACTIVE).is_some(),
        cooldown_since: since(nhc::STORM_COOLDOWN_ACTIVE),
    }
}
