//! Moments of one machine's boot-time clock.
//!
//! The agent never measures with the wall clock: it may be wrong or jump, and a node whose clock runs ahead would
//! believe that it has rebooted already (H11). The boot-time clock counts from the boot on, also while suspended.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment: nanoseconds since the boot of this machine. Meaningless on another machine or in another boot.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BootInstant(u64);

impl BootInstant {
    /// The moment of the boot, before which nothing is.
    pub const ZERO: Self = Self(0);

    /// The moment this long after the boot.
    pub fn at(since_boot: Duration) -> Self {
        Self(u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The moment this many seconds after the boot.
    pub const fn at_seconds(since_boot: u64) -> Self {
        Self(since_boot.saturating_mul(1_000_000_000))
    }

    /// How long after the boot.
    pub const fn since_boot(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The moment `later`; the end of time instead of an overflow. No accepted configuration reaches it: see
    /// [`crate::budget::LONGEST`].
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(Self::at(later).0))
    }

    /// The moment `earlier`; the boot at the earliest.
    #[must_use]
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(Self::at(earlier).0))
    }

    /// How long since `earlier`; zero if that lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for BootInstant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s after boot", self.since_boot().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let five = BootInstant::at(Duration::from_secs(5));
        assert_eq!(five.minus(Duration::from_secs(9)), BootInstant::ZERO);
        assert_eq!(
            five.plus(Duration::MAX).plus(Duration::MAX),
            BootInstant::at(Duration::MAX)
        );
        assert_eq!(BootInstant::ZERO.since(five), Duration::ZERO);
        assert_eq!(five.since(BootInstant::ZERO), Duration::from_secs(5));
    }
}
