//! Waiting longer after each failure.
//!
//! # Guarantees The wait never shrinks with the number of failures, never exceeds the cap plus the
//! spread, and never overflows.

use std::time::Duration;

/// A rule for waiting: it doubles from `first` to `cap`, and chance adds at most `spread` of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// The longest wait, before the spread.
    pub cap: Duration,
    /// Share of the wait that chance may add: `0.2` adds up to 20 %.
    pub spread: f64,
}

impl Backoff {
    /// Doubles from `first` to `cap`, without spread.
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            spread: 0.0,
        }
    }

    /// The same rule with a spread, so that many objects that failed together do not retry
    /// together.
    #[must_use]
    pub const fn with_spread(self, spread: f64) -> Self {
        Self { spread, ..self }
    }

    /// How long to wait after `failures` failures in a row.
    ///
    /// `chance` is a random number from 0 to 1; the caller draws it, so that this stays a function.
    /// No failure: no wait.
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let wait = self.first.saturating_mul(factor).min(self.cap);
        let wait = if factor == u32::MAX && !self.first.is_zero() {
            self.cap
        } else {
            wait
        };
        wait.saturating_add(share(wait, self.spread * chance.clamp(0.0, 1.0)))
    }
}

/// A share of a duration; a share that is no number, or negative, counts as none.
pub fn share(duration: Duration, share: f64) -> Duration {
    let none = if share > 0.0 {
        Duration::MAX
    } else {
        Duration::ZERO
    };
    Duration::try_from_secs_f64(duration.as_secs_f64() * share).unwrap_or(none)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_up_to_the_cap() {
        let backoff = Backoff::new(SECOND, 60 * SECOND);
        let seconds: Vec<u64> = (0..9).map(|n| backoff.delay(n, 0.0).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        for failures in [32, 33, 34, 1_000, u32::MAX] {
            assert_eq!(backoff.delay(failures, 1.0), 60 * SECOND);
        }
    }

    #[test]
    fn chance_adds_at_most_the_spread() {
        let backoff = Backoff::new(SECOND, 60 * SECOND).with_spread(0.2);
        assert_eq!(backoff.delay(1, 0.0), SECOND);
        assert_eq!(backoff.delay(1, 1.0), Duration::from_millis(1200));
        assert_eq!(backoff.delay(9, 7.0), 72 * SECOND);
        assert_eq!(backoff.delay(1, f64::NAN), SECOND);
    }

    #[test]
    fn a_tiny_first_wait_still_reaches_the_cap() {
        let backoff = Backoff::new(Duration::from_nanos(1), 60 * SECOND);
        assert_eq!(backoff.delay(33, 0.0), 60 * SECOND);
        assert_eq!(
            Backoff::new(Duration::ZERO, SECOND).delay(99, 1.0),
            Duration::ZERO
        );
    }

    proptest! {
        #[test]
        fn never_shrinks_and_stays_below_the_cap(
            first in 0u64..10_000, cap in 0u64..1_000_000, failures: u32, chance in 0.0f64..=1.0,
        ) {
            let backoff = Backoff::new(Duration::from_millis(first), Duration::from_millis(cap))
                .with_spread(0.5);
            let next = backoff.delay(failures.saturating_add(1), 0.0);
            prop_assert!(backoff.delay(failures, 0.0) <= next);
            prop_assert!(backoff.delay(failures, chance) <= Duration::from_millis(cap) * 3 / 2);
        }
    }
}
