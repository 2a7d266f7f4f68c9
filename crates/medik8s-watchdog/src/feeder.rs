//! The dead-man feeder.
//!
//! ```text
//!            permit extended            trigger
//!   ┌────────────────────────┐   ┌──────────────────┐
//!   │ Armed: feeds while     │──►│ Triggered: never │   (the device stays open until the
//!   │ boottime < feed_until  │   │ feeds again      │    machine is reset)
//!   └───────────┬────────────┘   └──────────────────┘
//!               │ disarm                   ▲
//!               ▼                          │ a trigger wins until the magic character is written
//!           Disarmed ──────────────────────┘ (impossible once closed)
//!
//! Armed ──release──► Released: closed without the magic character, so that a successor can open
//! the device. The timer goes on with one full timeout (the kernel's closing ping).
//! ```
//!
//! # Guarantees
//!
//! * The clock is compared with the permit right before every feed, on the feeder's own thread.
//!   A loop that hangs no longer extends the permit, and so starves the device.
//! * After [`Feeder::trigger`] has returned true, no feed begins. One that was being written
//!   then is over when the state is [`FeederState::Triggered`]; only that state may be published.
//! * Nothing is allocated and no lock is taken between two feeds.
//!
//! # Caveats
//!
//! A process that is stopped between the comparison and the write feeds once when it continues,
//! if the machine has survived that long. Nothing in user space can prevent it; the manager
//! counts the timeout twice.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::BootClock;
use crate::device::{DeviceError, WatchdogDevice};
use crate::threads::{ThreadNeeds, Threads, Wake};

mod schedule;

use schedule::{Schedule, Turn};

/// A small stack: the loop is shallow, and small is soon locked in memory.
const THREAD: ThreadNeeds = ThreadNeeds {
    name: "watchdog",
    stack: 128 * 1024,
    realtime: true,
};
/// The shortest timeout that may be set when triggered: shorter ones may fire while the last
/// words are still being written.
pub const SHORTEST_TRIGGERED_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest timeout that is tried for that; beyond it the device's own stays.
const LONGEST_TRIGGERED_TIMEOUT: u64 = 30;

/// What the feeder is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeederState {
    /// Feeding while the permit lasts.
    Armed,
    /// Told to stop for ever, not yet confirmed by the feeder thread.
    Triggering,
    /// Will never feed again. The device stays open.
    Triggered,
    /// Told to stop the timer, not yet confirmed by the feeder thread.
    Disarming,
    /// The magic character is being written: too late for a trigger.
    Closing,
    /// The device is closed; with a driver that honours the magic character its timer stands.
    Disarmed,
    /// Told to hand the device over, not yet confirmed by the feeder thread.
    Releasing,
    /// The device is closed and its timer runs.
    Released,
}

impl FeederState {
    const fn code(self) -> u8 {
        match self {
            Self::Armed => 0,
            Self::Triggering => 1,
            Self::Triggered => 2,
            Self::Disarming => 3,
            Self::Closing => 4,
            Self::Disarmed => 5,
            Self::Releasing => 6,
            Self::Released => 7,
        }
    }

    const fn of(code: u8) -> Self {
        match code {
            0 => Self::Armed,
            2 => Self::Triggered,
            3 => Self::Disarming,
            4 => Self::Closing,
            5 => Self::Disarmed,
            6 => Self::Releasing,
            7 => Self::Released,
            // Unknown cannot occur; the state in which nothing is fed is the safe reading.
            _ => Self::Triggering,
        }
    }
}

/// Something the owner should know. Called on the feeder thread, so it must not block.
#[derive(Debug)]
pub enum Notice {
    /// The permit ran out: feeding has stopped and may resume.
    Starving,
    /// A new permit came before the reset: feeding goes on.
    Resumed,
    /// A feed failed; it is tried again.
    FeedFailed(DeviceError),
    /// Another timeout was asked for; this one is in force.
    TimeoutSet {
        /// As read back from the driver.
        timeout: Duration,
    },
    /// Feeding has stopped for ever. The reset comes at most `timeout` after `last_feed`.
    Triggered {
        /// The timeout in force, read back after it was shortened if it could be.
        timeout: Duration,
        /// Whether the device did what it was told last. One that refused its feeds, or does not tell its timeout, may
        /// not reset the machine either: nobody may be told to count on it.
        reliable: bool,
        /// When the device was last fed (boot-time clock).
        last_feed: Duration,
    },
    /// The device was closed with the magic character.
    Disarmed,
    /// Writing the magic character failed; the timer runs on.
    CloseFailed(DeviceError),
    /// The device was closed without the magic character; the timer runs on.
    Released,
}

/// A reading of the feeder, for decisions, probes and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What it is doing.
    pub state: FeederState,
    /// The end of the permit it knows (boot-time clock).
    pub feed_until: Duration,
    /// When it last fed the device (boot-time clock, taken after the write).
    pub last_feed: Option<Duration>,
    /// The timeout in force.
    pub timeout: Duration,
    /// Feeds that failed since the start.
    pub failures: u32,
    /// When its thread last came round (boot-time clock).
    pub last_turn: Duration,
}

struct Shared {
    state: AtomicU8,
    feed_until: AtomicU64,
    last_feed: AtomicU64,
    last_turn: AtomicU64,
    timeout: AtomicU64,
    /// A timeout that was asked for and not yet tried; 0 for none.
    wanted_timeout: AtomicU64,
    /// Whether a trigger may shorten the timeout.
    may_shorten: AtomicBool,
    failures: AtomicU32,
    ended: AtomicBool,
}

impl Shared {
    fn state(&self) -> FeederState {
        FeederState::of(self.state.load(Ordering::SeqCst))
    }

    fn set(&self, state: FeederState) {
        self.state.store(state.code(), Ordering::SeqCst);
    }

    /// Moves from one state to another unless somebody was faster.
    fn shift(&self, from: FeederState, to: FeederState) -> bool {
        self.state
            .compare_exchange(from.code(), to.code(), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Holds the device and its thread. Dropping this does not end the thread: an armed device
/// stays armed and starves when its permit ends.
pub struct Feeder {
    shared: Arc<Shared>,
    wake: Wake,
}

impl fmt::Debug for Feeder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report().fmt(f)
    }
}

impl Feeder {
    /// Starts feeding `device`, whose timeout is `timeout`, until `feed_until`.
    pub fn start(
        threads: &dyn Threads,
        device: Box<dyn WatchdogDevice>,
        timeout: Duration,
        feed_until: Duration,
        clock: Arc<dyn BootClock>,
        notify: Box<dyn Fn(Notice) + Send>,
    ) -> io::Result<Self> {
        let now = clock.boottime();
        let shared = Arc::new(Shared {
            state: AtomicU8::new(FeederState::Armed.code()),
            feed_until: AtomicU64::new(nanos(feed_until)),
            last_feed: AtomicU64::new(0),
            last_turn: AtomicU64::new(nanos(now)),
            timeout: AtomicU64::new(nanos(timeout)),
            wanted_timeout: AtomicU64::new(0),
            may_shorten: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        });
        let mut runner = Runner {
            device: Some(device),
            shared: Arc::clone(&shared),
            clock,
            notify,
            schedule: Schedule::new(timeout, now),
            refused: false,
            starving: false,
        };
        let work = move || {
            let rest = runner.turn();
            if rest.is_none() {
                runner.shared.ended.store(true, Ordering::SeqCst);
            }
            rest
        };
        let wake = threads.start(THREAD, Box::new(work))?;
        Ok(Self { shared, wake })
    }

    /// Sets the end of the permit, longer or shorter. Without effect once triggered or disarmed.
    pub fn permit(&self, feed_until: Duration) {
        self.shared
            .feed_until
            .store(nanos(feed_until), Ordering::SeqCst);
        (self.wake)();
    }

    /// Asks for another timeout, which also feeds the device: nothing happens without a valid
    /// permit. The answer is [`Notice::TimeoutSet`].
    pub fn set_timeout(&self, timeout: Duration) {
        self.shared
            .wanted_timeout
            .store(nanos(timeout), Ordering::SeqCst);
        (self.wake)();
    }

    /// Stops feeding for ever. With `shorten` the smallest timeout from
    /// [`SHORTEST_TRIGGERED_TIMEOUT`] on is set first, if the permit is still valid: that is one
    /// last ping. Returns false if the device is closed already.
    pub fn trigger(&self, shorten: bool) -> bool {
        loop {
            match self.shared.state() {
                FeederState::Triggering | FeederState::Triggered => return true,
                FeederState::Closing
                | FeederState::Disarmed
                | FeederState::Releasing
                | FeederState::Released => return false,
                from @ (FeederState::Armed | FeederState::Disarming) => {
                    self.shared.may_shorten.store(shorten, Ordering::SeqCst);
                    if self.shared.shift(from, FeederState::Triggering) {
                        (self.wake)();
                        return true;
                    }
                }
            }
        }
    }

    /// Asks for a magic close. Returns false, and does nothing, unless the feeder is armed.
    pub fn disarm(&self) -> bool {
        let accepted = self
            .shared
            .shift(FeederState::Armed, FeederState::Disarming);
        (self.wake)();
        accepted
    }

    /// Hands the device over to a successor: closes it without the magic character, once more
    /// with a full timeout. Returns false, and does nothing, unless the feeder is armed.
    pub fn release(&self) -> bool {
        let accepted = self
            .shared
            .shift(FeederState::Armed, FeederState::Releasing);
        (self.wake)();
        accepted
    }

    /// The present reading.
    pub fn report(&self) -> Report {
        let time = |value: &AtomicU64| Duration::from_nanos(value.load(Ordering::SeqCst));
        let last_feed = time(&self.shared.last_feed);
        Report {
            state: self.shared.state(),
            feed_until: time(&self.shared.feed_until),
            last_feed: (last_feed > Duration::ZERO).then_some(last_feed),
            timeout: time(&self.shared.timeout),
            failures: self.shared.failures.load(Ordering::SeqCst),
            last_turn: time(&self.shared.last_turn),
        }
    }

    /// Whether the thread has ended, which it does only after a disarm or a release.
    pub fn is_finished(&self) -> bool {
        self.shared.ended.load(Ordering::SeqCst)
    }
}

/// The feeder thread.
struct Runner {
    device: Option<Box<dyn WatchdogDevice>>,
    shared: Arc<Shared>,
    clock: Arc<dyn BootClock>,
    notify: Box<dyn Fn(Notice) + Send>,
    schedule: Schedule,
    /// The latest feed was refused.
    refused: bool,
    starving: bool,
}

impl Runner {
    /// Comes round once: how long to rest then, or `None` when the device is closed.
    fn turn(&mut self) -> Option<Duration> {
        let now = self.clock.boottime();
        self.shared.last_turn.store(nanos(now), Ordering::SeqCst);
        match self.shared.state() {
            FeederState::Armed => {}
            FeederState::Triggering => {
                self.finish_trigger(now);
                return Some(Duration::ZERO);
            }
            // Holds the device open: a close would ping once more.
            FeederState::Triggered => return Some(self.schedule.period()),
            FeederState::Disarming => {
                let closes = self
                    .shared
                    .shift(FeederState::Disarming, FeederState::Closing);
                if closes {
                    self.close();
                    return None;
                }
                return Some(Duration::ZERO);
            }
            FeederState::Releasing => {
                drop(self.device.take());
                self.shared.set(FeederState::Released);
                (self.notify)(Notice::Released);
                return None;
            }
            FeederState::Closing | FeederState::Disarmed | FeederState::Released => return None,
        }
        let until = Duration::from_nanos(self.shared.feed_until.load(Ordering::SeqCst));
        let turn = self.schedule.turn(now, until);
        let starves = matches!(turn, Turn::Starve);
        if starves != self.starving {
            self.starving = starves;
            (self.notify)(if starves {
                Notice::Starving
            } else {
                Notice::Resumed
            });
        }
        if !starves {
            self.change_timeout();
        }
        Some(match turn {
            Turn::Feed => {
                self.feed();
                Duration::ZERO
            }
            Turn::Sleep(time) => time,
            Turn::Starve => self.schedule.period(),
        })
    }

    fn feed(&mut self) {
        let Some(device) = self.device.as_mut() else {
            return;
        };
        match device.feed() {
            Ok(()) => {
                self.refused = false;
                let now = self.clock.boottime();
                self.shared.last_feed.store(nanos(now), Ordering::SeqCst);
                self.schedule.fed(now);
            }
            Err(error) => {
                self.refused = true;
                self.shared.failures.fetch_add(1, Ordering::SeqCst);
                self.schedule.failed(self.clock.boottime());
                (self.notify)(Notice::FeedFailed(error));
            }
        }
    }

    /// Carries out a wish for another timeout. Called only while the permit lasts.
    fn change_timeout(&mut self) {
        let wanted = self.shared.wanted_timeout.swap(0, Ordering::SeqCst);
        let Some(device) = self.device.as_mut().filter(|_| wanted > 0) else {
            return;
        };
        let answer = device
            .set_timeout(Duration::from_nanos(wanted))
            .or_else(|error| {
                tracing::warn!(%error, "the watchdog driver refused a timeout");
                device.timeout()
            });
        let now = self.clock.boottime();
        self.shared.last_feed.store(nanos(now), Ordering::SeqCst);
        let known = Duration::from_nanos(self.shared.timeout.load(Ordering::SeqCst));
        let timeout = answer
            .ok()
            .filter(|timeout| *timeout > Duration::ZERO)
            .unwrap_or(known);
        self.shared.timeout.store(nanos(timeout), Ordering::SeqCst);
        self.schedule = Schedule::new(timeout, now);
        (self.notify)(Notice::TimeoutSet { timeout });
    }

    /// Shortens the timeout, which pings the device, if the permit still allows a ping; then
    /// confirms that feeding is over.
    fn finish_trigger(&mut self, now: Duration) {
        let mut timeout = Duration::from_nanos(self.shared.timeout.load(Ordering::SeqCst));
        let until = Duration::from_nanos(self.shared.feed_until.load(Ordering::SeqCst));
        let mut reliable = !self.refused;
        if let Some(device) = self.device.as_mut()
            && self.shared.may_shorten.load(Ordering::SeqCst)
            && device.info().takes_timeout()
        {
            let first = SHORTEST_TRIGGERED_TIMEOUT.as_secs();
            let last = timeout
                .as_secs()
                .saturating_sub(1)
                .min(LONGEST_TRIGGERED_TIMEOUT);
            for seconds in first..=last {
                if self.clock.boottime() >= until {
                    break;
                }
                let answer = device.set_timeout(Duration::from_secs(seconds));
                // Whatever the driver answered, it may have pinged.
                self.shared
                    .last_feed
                    .store(nanos(self.clock.boottime()), Ordering::SeqCst);
                match answer {
                    Ok(taken) if taken >= SHORTEST_TRIGGERED_TIMEOUT => {
                        timeout = taken;
                        break;
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        // The truth is what the driver says now, above all after refused attempts.
        match self.device.as_ref().map(|device| device.timeout()) {
            Some(Ok(read)) if read > Duration::ZERO => timeout = read,
            Some(Ok(_) | Err(_)) | None => reliable = false,
        }
        self.shared.timeout.store(nanos(timeout), Ordering::SeqCst);
        self.shared.set(FeederState::Triggered);
        let fed = Duration::from_nanos(self.shared.last_feed.load(Ordering::SeqCst));
        // Never fed: the opening counts, which was before this thread began.
        let last_feed = if fed > Duration::ZERO { fed } else { now };
        (self.notify)(Notice::Triggered {
            timeout,
            reliable,
            last_feed,
        });
    }

    fn close(&mut self) {
        let outcome = self
            .device
            .take()
            .map_or(Ok(()), WatchdogDevice::magic_close);
        self.shared.set(FeederState::Disarmed);
        (self.notify)(match outcome {
            Ok(()) => Notice::Disarmed,
            Err(error) => Notice::CloseFailed(error),
        });
    }
}

#[cfg(test)]
mod tests;
