//! The only place that asks for the time.
//!
//! # Purpose
//! Plans get `now` as an argument. This module is where that argument comes from: wall time for
//! records in the API, boot time (`CLOCK_BOOTTIME`, counts suspend too, never jumps) for intervals.
//!
//! # Guarantees
//! A [`Clock`] is cheap to clone and all clones of a manual clock move together.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Boot time at which clocks of tests start, so that a test can look back without underflow.
const MANUAL_START: Duration = Duration::from_hours(24);

/// A source of wall time and boot time.
#[derive(Debug, Clone, Default)]
pub struct Clock(Source);

#[derive(Debug, Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<Mutex<Reading>>),
    Tokio {
        wall: Timestamp,
        started: tokio::time::Instant,
        /// Parts in a million that it runs fast; negative: slow.
        drift: i32,
    },
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    wall: Timestamp,
    boottime: Duration,
}

/// Moves the time of a manual [`Clock`].
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Reading>>);

impl Clock {
    /// The clock of this machine.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that only moves when told to, for tests and simulations. Its boot time starts at one day.
    pub fn manual(start: Timestamp) -> (Self, ManualClock) {
        let reading = Arc::new(Mutex::new(Reading {
            wall: start,
            boottime: MANUAL_START,
        }));
        (
            Self(Source::Manual(Arc::clone(&reading))),
            ManualClock(reading),
        )
    }

    /// A clock that runs with tokio's, so that a test with paused time
    /// (`#[tokio::test(start_paused = true)]`) moves both together. Starts at `wall`.
    pub fn with_tokio(wall: Timestamp) -> Self {
        Self::with_tokio_drifting(wall, 0)
    }

    /// The same, fast by so many parts in a million, or slow.
    pub fn with_tokio_drifting(wall: Timestamp, drift: i32) -> Self {
        Self(Source::Tokio {
            wall,
            started: tokio::time::Instant::now(),
            drift,
        })
    }

    /// The wall time. For records that others read; never for measuring intervals.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => system_now(),
            Source::Manual(reading) => lock(reading).wall,
            Source::Tokio {
                wall,
                started,
                drift,
            } => wall
                .saturating_add(drifted(started.elapsed(), *drift))
                .unwrap_or(Timestamp::MAX),
        }
    }

    /// Time since boot, including suspend. For intervals and deadlines.
    pub fn boottime(&self) -> Duration {
        match &self.0 {
            Source::System => system_boottime(),
            Source::Manual(reading) => lock(reading).boottime,
            Source::Tokio { started, drift, .. } => {
                MANUAL_START + drifted(started.elapsed(), *drift)
            }
        }
    }
}

impl ManualClock {
    /// Moves wall time and boot time forward.
    pub fn advance(&self, by: Duration) {
        let mut reading = lock(&self.0);
        reading.wall = reading.wall.saturating_add(by).unwrap_or(Timestamp::MAX);
        reading.boottime = reading.boottime.saturating_add(by);
    }

    /// Sets the wall time only, as an administrator or NTP would.
    pub fn set_wall(&self, wall: Timestamp) {
        lock(&self.0).wall = wall;
    }
}

/// What a clock shows of this time that is off by so many parts in a million.
fn drifted(elapsed: Duration, drift: i32) -> Duration {
    let off = (elapsed / 1_000_000).saturating_mul(drift.unsigned_abs());
    if drift < 0 {
        elapsed.saturating_sub(off)
    } else {
        elapsed.saturating_add(off)
    }
}

fn lock(reading: &Mutex<Reading>) -> MutexGuard<'_, Reading> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this module is where time enters the program"
)]
fn system_now() -> Timestamp {
    Timestamp::now()
}

fn system_boottime() -> Duration {
    // CLOCK_BOOTTIME exists since Linux 2.6.39 and the call cannot fail for a valid clock id. Were it refused, the
    // largest value makes every permit look expired: the safe side.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clones_move_together() {
        let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
        let other = clock.clone();
        let before = other.boottime();
        hands.advance(Duration::from_secs(3));
        assert_eq!(other.boottime(), before + Duration::from_secs(3));
        assert_eq!(clock.now(), Timestamp::from_second(3).unwrap());
    }

    #[test]
    fn setting_the_wall_clock_leaves_intervals_alone() {
        let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
        let before = clock.boottime();
        hands.set_wall(Timestamp::from_second(1_000_000).unwrap());
        assert_eq!(clock.boottime(), before);
        assert_eq!(clock.now().as_second(), 1_000_000);
    }

    #[test]
    fn system_clock_runs() {
        let clock = Clock::system();
        assert!(clock.boottime() > Duration::ZERO);
        assert!(clock.now() > Timestamp::UNIX_EPOCH);
    }
}
