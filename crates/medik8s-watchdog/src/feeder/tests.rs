//! The beat as pure values, then the thread against a fake device and a clock set by hand.
#![expect(
    clippy::disallowed_methods,
    reason = "the tests wait for a real thread"
)]

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use proptest::prelude::*;

use super::schedule::{Schedule, Turn};
use super::*;
use crate::device::{Info, OPTION_MAGIC_CLOSE, OPTION_SET_TIMEOUT};
use crate::threads::OsThreads;

const SECOND: Duration = Duration::from_secs(1);

proptest! {
    /// H1: whatever the owner does with the permit, no feed at or after its end; and while the
    /// permit lasts, the device is never left for longer than a beat plus the loop's lateness.
    #[test]
    fn feeds_only_inside_the_permit_and_often_enough(
        timeout in 1_u64..600,
        steps in proptest::collection::vec((0_u64..20_000, 0_u64..60_000, any::<bool>()), 1..60),
    ) {
        let timeout = Duration::from_secs(timeout);
        let mut now = Duration::from_secs(1_000);
        let mut until = now;
        let mut last_feed = now;
        let mut schedule = Schedule::new(timeout, now);
        for (late, permit, fails) in steps {
            match schedule.turn(now, until) {
                Turn::Feed => {
                    prop_assert!(now < until);
                    if fails { schedule.failed(now) } else { schedule.fed(now); last_feed = now; }
                }
                Turn::Starve => prop_assert!(now >= until),
                Turn::Sleep(time) => {
                    prop_assert!(time > Duration::ZERO);
                    prop_assert!(now + time <= until, "wakes by the end of the permit");
                    if !fails {
                        prop_assert!(now + time <= last_feed.max(now) + schedule.period());
                    }
                }
            }
            now += Duration::from_millis(late);
            until = until.max(now.saturating_sub(SECOND) + Duration::from_millis(permit));
        }
    }

    /// With a punctual loop and an unbroken permit the gaps are exactly a third of the timeout.
    #[test]
    fn the_beat_does_not_drift(timeout in 1_u64..600, lateness in 0_u64..200) {
        let timeout = Duration::from_secs(timeout);
        let start = Duration::from_secs(50);
        let mut schedule = Schedule::new(timeout, start);
        let mut now = start;
        for beat in 0..20_u32 {
            prop_assert_eq!(schedule.turn(now, Duration::MAX), Turn::Feed);
            schedule.fed(now);
            let due = start + schedule.period() * (beat + 1);
            prop_assert_eq!(schedule.turn(now, Duration::MAX), Turn::Sleep(due.abs_diff(now)));
            now = due + Duration::from_millis(lateness).min(schedule.period() / 2);
        }
    }
}

/// A clock that only moves by hand.
#[derive(Default)]
struct HandClock(AtomicU64);

impl HandClock {
    fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seconds * 1_000_000_000)))
    }

    fn set(&self, seconds: u64) {
        self.0.store(seconds * 1_000_000_000, Ordering::SeqCst);
    }
}

impl BootClock for HandClock {
    fn boottime(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// What happened to the fake device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Did {
    Fed,
    Set(u64),
    MagicClosed,
    Dropped,
}

type Log = Arc<Mutex<Vec<Did>>>;

fn push(log: &Log, did: Did) {
    log.lock().unwrap().push(did);
}

struct Fake {
    info: Info,
    timeout: u64,
    shortest: u64,
    broken: bool,
    log: Log,
}

impl Drop for Fake {
    fn drop(&mut self) {
        push(&self.log, Did::Dropped);
    }
}

impl WatchdogDevice for Fake {
    fn info(&self) -> &Info {
        &self.info
    }

    fn timeout(&self) -> Result<Duration, DeviceError> {
        Ok(Duration::from_secs(self.timeout))
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<Duration, DeviceError> {
        push(&self.log, Did::Set(timeout.as_secs()));
        if timeout.as_secs() < self.shortest {
            return Err(DeviceError::io("set", io::Error::from_raw_os_error(22)));
        }
        self.timeout = timeout.as_secs();
        self.timeout()
    }

    fn feed(&mut self) -> Result<(), DeviceError> {
        if self.broken {
            return Err(DeviceError::io("feed", io::Error::from_raw_os_error(5)));
        }
        push(&self.log, Did::Fed);
        Ok(())
    }

    fn magic_close(self: Box<Self>) -> Result<(), DeviceError> {
        push(&self.log, Did::MagicClosed);
        Ok(())
    }
}

struct Bench {
    feeder: Feeder,
    clock: Arc<HandClock>,
    log: Log,
    notices: Receiver<Notice>,
}

impl Bench {
    /// A device with a timeout of 60 s, at time 100 s.
    fn start(feed_until: u64, change: impl FnOnce(&mut Fake)) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let clock = HandClock::at(100);
        let mut device = Fake {
            info: Info {
                path: PathBuf::from("/dev/fake"),
                identity: "fake".to_owned(),
                options: OPTION_MAGIC_CLOSE | OPTION_SET_TIMEOUT,
                nowayout: Some(false),
            },
            timeout: 60,
            shortest: 1,
            broken: false,
            log: Arc::clone(&log),
        };
        change(&mut device);
        let (sender, notices) = mpsc::channel();
        let notify = Box::new(move |notice| sender.send(notice).unwrap_or_default());
        let feeder = Feeder::start(
            &OsThreads,
            Box::new(device),
            Duration::from_mins(1),
            Duration::from_secs(feed_until),
            Arc::clone(&clock) as Arc<dyn BootClock>,
            notify,
        )
        .unwrap();
        Self {
            feeder,
            clock,
            log,
            notices,
        }
    }

    fn feeds(&self) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|did| **did == Did::Fed)
            .count()
    }

    fn await_that(&self, what: &str, claim: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !claim(self) {
            assert!(
                Instant::now() < deadline,
                "never: {what}: {:?}",
                self.feeder
            );
            (self.feeder.wake)();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the thread come round several times.
    fn settle(&self) {
        for _ in 0..20 {
            (self.feeder.wake)();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next notice, after a wake-up: the clock moved but real time did not.
    fn notice_after_poke(&self) -> Notice {
        (self.feeder.wake)();
        self.notice()
    }

    fn notice(&self) -> Notice {
        self.notices.recv_timeout(Duration::from_secs(10)).unwrap()
    }
}

#[test]
fn feeds_at_once_and_then_every_third_of_the_timeout() {
    let bench = Bench::start(1_000, |_| {});
    bench.await_that("first feed", |b| b.feeds() == 1);
    bench.clock.set(119);
    bench.settle();
    assert_eq!(bench.feeds(), 1);
    bench.clock.set(120);
    bench.await_that("second feed", |b| b.feeds() == 2);
    bench.await_that("reported", |b| {
        b.feeder.report().last_feed == Some(SECOND * 120)
    });
}

#[test]
fn starves_at_the_end_of_the_permit_and_resumes_with_a_new_one() {
    let bench = Bench::start(110, |_| {});
    bench.await_that("first feed", |b| b.feeds() == 1);
    bench.clock.set(130);
    assert!(matches!(bench.notice_after_poke(), Notice::Starving));
    bench.clock.set(150);
    bench.settle();
    assert_eq!(bench.feeds(), 1, "a hung owner does not extend the permit");
    bench.feeder.permit(SECOND * 200);
    assert!(matches!(bench.notice(), Notice::Resumed));
    bench.await_that("fed again", |b| b.feeds() == 2);
}

#[test]
fn without_a_valid_permit_the_first_feed_never_comes() {
    let bench = Bench::start(100, |_| {});
    bench.settle();
    assert_eq!((bench.feeds(), bench.feeder.report().last_feed), (0, None));
}

#[test]
fn triggered_is_irrevocable_and_keeps_the_device_open() {
    let bench = Bench::start(1_000, |_| {});
    bench.await_that("first feed", |b| b.feeds() == 1);
    assert!(bench.feeder.trigger(true));
    let Notice::Triggered {
        timeout, last_feed, ..
    } = bench.notice()
    else {
        panic!("no trigger")
    };
    assert_eq!((timeout, last_feed), (SECOND * 5, SECOND * 100));
    assert!(
        !bench.feeder.disarm(),
        "a triggered device is never disarmed"
    );
    bench.feeder.permit(SECOND * 5_000);
    bench.clock.set(300);
    bench.settle();
    assert_eq!(*bench.log.lock().unwrap(), [Did::Fed, Did::Set(5)]);
    assert_eq!(bench.feeder.report().state, FeederState::Triggered);
    assert!(bench.feeder.trigger(true), "asked again, still true");
}

/// E2 rests on the reset: a device that does not take its feeds proves nothing by its timeout.
#[test]
fn a_device_that_refuses_its_feeds_is_not_reliable() {
    for broken in [false, true] {
        let bench = Bench::start(1_000, |device| device.broken = broken);
        bench.await_that("a feed", |b| {
            b.feeds() > 0 || b.feeder.report().failures > 0
        });
        bench.feeder.trigger(true);
        let reliable = loop {
            if let Notice::Triggered { reliable, .. } = bench.notice() {
                break reliable;
            }
        };
        assert_eq!(reliable, !broken);
    }
}

#[test]
fn the_triggered_timeout_is_the_smallest_the_driver_takes() {
    let bench = Bench::start(1_000, |device| device.shortest = 8);
    bench.feeder.trigger(true);
    let Notice::Triggered { timeout, .. } = bench.notice() else {
        panic!("no trigger")
    };
    assert_eq!(timeout, SECOND * 8);
}

#[test]
fn a_driver_with_a_long_minimum_keeps_its_timeout() {
    let bench = Bench::start(1_000, |device| device.shortest = 59);
    bench.feeder.trigger(true);
    let Notice::Triggered { timeout, .. } = bench.notice() else {
        panic!("no trigger")
    };
    assert_eq!(timeout, SECOND * 60);
}

#[test]
fn without_leave_to_shorten_the_device_is_left_alone() {
    let bench = Bench::start(1_000, |_| {});
    bench.await_that("first feed", |b| b.feeds() == 1);
    bench.feeder.trigger(false);
    let Notice::Triggered { timeout, .. } = bench.notice() else {
        panic!("no trigger")
    };
    assert_eq!(timeout, SECOND * 60);
    assert_eq!(*bench.log.lock().unwrap(), [Did::Fed]);
}

#[test]
fn another_timeout_is_set_read_back_and_followed() {
    let bench = Bench::start(1_000, |_| {});
    bench.await_that("first feed", |b| b.feeds() == 1);
    bench.feeder.set_timeout(SECOND * 12);
    let Notice::TimeoutSet { timeout } = bench.notice() else {
        panic!("no answer")
    };
    assert_eq!(timeout, SECOND * 12);
    bench.await_that("fed in the new beat", |b| b.feeds() == 2);
    bench.clock.set(104);
    bench.await_that("fed again after 4 s", |b| b.feeds() == 3);
    assert_eq!(bench.feeder.report().timeout, SECOND * 12);
}

#[test]
fn another_timeout_waits_for_a_permit() {
    let bench = Bench::start(100, |_| {});
    bench.feeder.set_timeout(SECOND * 12);
    bench.settle();
    assert!(bench.log.lock().unwrap().is_empty());
    bench.feeder.permit(SECOND * 200);
    bench.await_that("set", |b| b.log.lock().unwrap().contains(&Did::Set(12)));
}

#[test]
fn an_ended_permit_forbids_the_ping_of_a_new_timeout() {
    let bench = Bench::start(110, |_| {});
    bench.await_that("first feed", |b| b.feeds() == 1);
    bench.clock.set(110);
    assert!(matches!(bench.notice_after_poke(), Notice::Starving));
    bench.feeder.trigger(true);
    let Notice::Triggered {
        timeout, last_feed, ..
    } = bench.notice()
    else {
        panic!("no trigger")
    };
    assert_eq!((timeout, last_feed), (SECOND * 60, SECOND * 100));
    assert_eq!(*bench.log.lock().unwrap(), [Did::Fed]);
}

#[test]
fn disarm_closes_with_the_magic_character_and_ends_the_thread() {
    let bench = Bench::start(1_000, |_| {});
    bench.await_that("first feed", |b| b.feeds() == 1);
    assert!(bench.feeder.disarm());
    assert!(matches!(bench.notice(), Notice::Disarmed));
    bench.await_that("ended", |b| b.feeder.is_finished());
    assert_eq!(
        *bench.log.lock().unwrap(),
        [Did::Fed, Did::MagicClosed, Did::Dropped]
    );
    assert!(!bench.feeder.trigger(true), "nothing is left to trigger");
}

#[test]
fn a_release_closes_without_the_magic_character() {
    let bench = Bench::start(1_000, |_| {});
    bench.await_that("first feed", |b| b.feeds() == 1);
    assert!(bench.feeder.release());
    assert!(matches!(bench.notice(), Notice::Released));
    bench.await_that("ended", |b| b.feeder.is_finished());
    assert_eq!(*bench.log.lock().unwrap(), [Did::Fed, Did::Dropped]);
    assert!(
        !bench.feeder.trigger(true) && !bench.feeder.disarm(),
        "it is somebody else's now"
    );
}

#[test]
fn a_triggered_device_is_not_released() {
    let bench = Bench::start(1_000, |_| {});
    bench.feeder.trigger(true);
    assert!(!bench.feeder.release());
    assert!(matches!(bench.notice(), Notice::Triggered { .. }));
    bench.settle();
    assert!(!bench.log.lock().unwrap().contains(&Did::Dropped));
}

#[test]
fn failed_feeds_are_counted_reported_and_tried_again() {
    let bench = Bench::start(1_000, |device| device.broken = true);
    assert!(matches!(bench.notice(), Notice::FeedFailed(_)));
    bench.clock.set(101);
    assert!(matches!(bench.notice_after_poke(), Notice::FeedFailed(_)));
    assert_eq!(bench.feeder.report().last_feed, None);
    assert!(bench.feeder.report().failures >= 2);
}
