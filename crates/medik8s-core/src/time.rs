//! Times as the API stores them.
//!
//! The API server drops what a field cannot hold. A time that goes into an object is cut the same
//! way first, so that the object read back equals the one that was written and a plan over it is
//! stable.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// Cut to whole seconds, as `metav1.Time` has it.
pub fn whole_second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// Cut to whole microseconds, as `metav1.MicroTime` has it.
pub fn whole_micro(time: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time))
}

/// `time + duration`; the end of time instead of an overflow, so that a deadline that cannot be
/// represented is one that never comes.
pub fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// How long until `deadline`; zero if it has passed.
pub fn until(deadline: Timestamp, now: Timestamp) -> Duration {
    elapsed(now, deadline)
}

/// How long since `start`; zero if it lies in the future.
pub fn elapsed(start: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(SignedDuration::from_nanos_i128(
        now.as_nanosecond().saturating_sub(start.as_nanosecond()),
    ))
    .unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_like_the_api() {
        let time: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        assert_eq!(whole_second(time).0.to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(
            whole_micro(time).0.to_string(),
            "2026-01-02T03:04:05.678901Z"
        );
        for (cut, json) in [
            (
                serde_json::to_value(whole_second(time)),
                "2026-01-02T03:04:05Z",
            ),
            (
                serde_json::to_value(whole_micro(time)),
                "2026-01-02T03:04:05.678901Z",
            ),
        ] {
            assert_eq!(cut.unwrap(), json);
        }
    }

    #[test]
    fn arithmetic_saturates() {
        let time = Timestamp::UNIX_EPOCH;
        assert_eq!(after(time, Duration::from_secs(5)).as_second(), 5);
        assert_eq!(after(time, Duration::MAX), Timestamp::MAX);
        assert_eq!(
            elapsed(time, after(time, Duration::from_secs(5))),
            Duration::from_secs(5)
        );
        assert_eq!(
            elapsed(after(time, Duration::from_secs(5)), time),
            Duration::ZERO
        );
        assert_eq!(
            until(after(time, Duration::from_secs(5)), time),
            Duration::from_secs(5)
        );
        assert_eq!(elapsed(Timestamp::MAX, Timestamp::MIN), Duration::ZERO);
        assert!(elapsed(Timestamp::MIN, Timestamp::MAX) > Duration::from_hours(24));
    }
}
