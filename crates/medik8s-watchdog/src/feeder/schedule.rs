//! When to feed: a fixed beat of a third of the timeout, inside the permit.

use std::time::Duration;

/// A failed feed is tried again after this time, or after one beat if that is shorter.
const RETRY: Duration = Duration::from_secs(1);
/// The beat of a device whose timeout is absurdly short; a zero would spin.
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// What the feeder does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Feed now.
    Feed,
    /// Nothing is due for this long.
    Sleep(Duration),
    /// The permit has ended.
    Starve,
}

/// The beat. It does not drift: a late feed does not move the later ones.
#[derive(Debug)]
pub(super) struct Schedule {
    period: Duration,
    due: Duration,
}

impl Schedule {
    pub(super) fn new(timeout: Duration, now: Duration) -> Self {
        Self {
            period: (timeout / 3).max(SHORTEST_BEAT),
            due: now,
        }
    }

    pub(super) fn period(&self) -> Duration {
        self.period
    }

    pub(super) fn turn(&self, now: Duration, feed_until: Duration) -> Turn {
        if now >= feed_until {
            Turn::Starve
        } else if now >= self.due {
            Turn::Feed
        } else {
            Turn::Sleep(self.due.min(feed_until).saturating_sub(now))
        }
    }

    pub(super) fn fed(&mut self, now: Duration) {
        self.due = self.due.saturating_add(self.period);
        if self.due <= now {
            // Behind by a beat or more: no burst to catch up.
            self.due = now.saturating_add(self.period);
        }
    }

    pub(super) fn failed(&mut self, now: Duration) {
        self.due = now.saturating_add(self.period.min(RETRY));
    }
}
