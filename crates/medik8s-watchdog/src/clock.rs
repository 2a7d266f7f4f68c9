//! The clock that counts suspend and that no administrator can set.

use std::time::Duration;

/// Time since boot, suspend included (`CLOCK_BOOTTIME`).
///
/// Permits are compared with this clock because a wall clock can be wrong or jump and
/// `CLOCK_MONOTONIC` stands still while the machine sleeps.
pub trait BootClock: Send + Sync {
    /// The time since boot.
    fn boottime(&self) -> Duration;
}

/// The kernel's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemBootClock;

impl BootClock for SystemBootClock {
    fn boottime(&self) -> Duration {
        // Linux has CLOCK_BOOTTIME since 2.6.39. Were it refused, the largest value makes every
        // permit look expired: the safe side.
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_or(Duration::MAX, Duration::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances() {
        let first = SystemBootClock.boottime();
        assert!(first > Duration::ZERO && first < Duration::MAX);
        std::thread::sleep(Duration::from_millis(5));
        assert!(SystemBootClock.boottime() > first);
    }
}
