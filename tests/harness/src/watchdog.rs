//! The watchdog device of a simulated machine, behind a Unix socket.
//!
//! # Purpose
//! The test build of the agent speaks a small text protocol instead of the kernel's ioctls:
//! connecting is `open(2)`, `a` feeds, `t<s>\n` sets the timeout, `V` before the close disarms, a
//! close without `V` pings once more (as the kernel does) and the timer runs on.
//!
//! # Guarantees
//! [`Device`] is pure and follows `drivers/watchdog/watchdog_dev.c`: a second open is busy, opening a
//! running timer does not ping, a close without magic pings.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::sleep_until,
};

/// What happened at the device; the machine and the story listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Opened: the timer runs.
    Opened,
    /// Closed with the magic character: the timer stands.
    Disarmed,
    /// Closed without it.
    ClosedArmed,
    /// Not fed for longer than a feeder that is alive would wait.
    Starving,
    /// The time is over: the machine resets.
    Expired,
}

/// The timer of one machine.
#[derive(Debug)]
pub struct Device {
    timeout: Duration,
    /// Counts resets: a descriptor of an earlier boot reaches nothing any more.
    boot: u32,
    open: bool,
    magic: bool,
    deadline: Option<Instant>,
    last_fed: Option<Instant>,
    starving: bool,
}

impl Device {
    /// A device whose driver starts with this timeout.
    pub const fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            boot: 0,
            open: false,
            magic: false,
            deadline: None,
            last_fed: None,
            starving: false,
        }
    }

    /// `open(2)`: the timeout, or `None` when somebody else has it open.
    pub fn open(&mut self, now: Instant) -> Option<Duration> {
        if self.open {
            return None;
        }
        self.open = true;
        self.magic = false;
        // The timer of a predecessor that closed without magic runs on, unfed.
        self.deadline.get_or_insert(now + self.timeout);
        Some(self.timeout)
    }

    /// A write of anything but the magic character.
    pub fn feed(&mut self, now: Instant) {
        self.magic = false;
        self.ping(now);
    }

    /// `WDIOC_SETTIMEOUT`: pings too.
    pub fn set_timeout(&mut self, timeout: Duration, now: Instant) -> Option<Duration> {
        if timeout < Duration::from_secs(1) || timeout > Duration::from_mins(10) {
            return None;
        }
        self.timeout = timeout;
        self.feed(now);
        Some(timeout)
    }

    /// The magic character.
    pub fn magic(&mut self, now: Instant) {
        self.ping(now);
        self.magic = true;
    }

    /// `close(2)`, also by the end of the process.
    pub fn close(&mut self, now: Instant) -> Signal {
        self.open = false;
        if self.magic {
            self.deadline = None;
            return Signal::Disarmed;
        }
        self.ping(now);
        Signal::ClosedArmed
    }

    /// The machine went through a reset: as after power-on.
    pub fn reset(&mut self, driver_default: Duration) {
        let boot = self.boot.wrapping_add(1);
        *self = Self {
            boot,
            ..Self::new(driver_default)
        };
    }

    /// When something happens if nobody does anything.
    pub fn next_change(&self) -> Option<Instant> {
        match self.starving_at() {
            Some(starving) if !self.starving => Some(starving),
            Some(_) | None => self.deadline,
        }
    }

    /// What is due by now.
    pub fn due(&mut self, now: Instant) -> Option<Signal> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            return Some(Signal::Expired);
        }
        if !self.starving && self.starving_at().is_some_and(|at| at <= now) {
            self.starving = true;
            return Some(Signal::Starving);
        }
        None
    }

    /// When it was fed last.
    pub const fn last_fed(&self) -> Option<Instant> {
        self.last_fed
    }

    /// A feeder feeds every third of the timeout; two thirds without food are no accident.
    fn starving_at(&self) -> Option<Instant> {
        self.deadline
            .and_then(|deadline| deadline.checked_sub(self.timeout / 3))
    }

    fn ping(&mut self, now: Instant) {
        self.deadline = Some(now + self.timeout);
        self.last_fed = Some(now);
        self.starving = false;
    }
}

/// The device as it is shared between the socket, the machine and the story.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Device>>);

impl Shared {
    pub(crate) fn new(device: Device) -> Self {
        Self(Arc::new(Mutex::new(device)))
    }

    /// Does something with the device.
    pub fn with<T>(&self, act: impl FnOnce(&mut Device) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something through a descriptor that was opened in this boot.
    fn through<T>(&self, boot: u32, act: impl FnOnce(&mut Device) -> T) -> Option<T> {
        self.with(|device| (device.boot == boot).then(|| act(device)))
    }
}

/// Serves the device at `socket` until it is dropped; `signals` hears what happens.
pub(crate) async fn serve(
    device: Shared,
    socket: &Path,
    signals: mpsc::UnboundedSender<Signal>,
) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("make the watchdog {}", socket.display()))?;
    // Woken whenever the deadline may have moved.
    let (moved, mut changed) = mpsc::unbounded_channel::<()>();
    loop {
        let next = device.with(|device| device.next_change());
        let due = async {
            match next {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            connection = listener.accept() => {
                let (stream, _) = connection?;
                drop(tokio::spawn(hold_open(stream, device.clone(), signals.clone(), moved.clone())));
            }
            _ = changed.recv() => {}
            () = due => {
                if let Some(signal) = device.with(|device| device.due(Instant::now())) {
                    tell(&signals, signal);
                }
            }
        }
    }
}

/// One open file description, from its open to its close.
async fn hold_open(
    mut stream: UnixStream,
    device: Shared,
    signals: mpsc::UnboundedSender<Signal>,
    moved: mpsc::UnboundedSender<()>,
) {
    let (boot, opened) = device.with(|device| (device.boot, device.open(Instant::now())));
    let Some(timeout) = opened else {
        // Somebody who was refused does not care whether the refusal arrived.
        drop(stream.write_all(b"busy\n").await);
        return;
    };
    tell(&signals, Signal::Opened);
    tell(&moved, ());
    if stream
        .write_all(format!("timeout {}\n", timeout.as_secs()).as_bytes())
        .await
        .is_ok()
    {
        // An error is the end of the connection as much as its close.
        drop(converse(&mut stream, &device, boot, &moved).await);
    }
    if let Some(closed) = device.through(boot, |device| device.close(Instant::now())) {
        tell(&signals, closed);
    }
    tell(&moved, ());
}

async fn converse(
    stream: &mut UnixStream,
    device: &Shared,
    boot: u32,
    moved: &mpsc::UnboundedSender<()>,
) -> std::io::Result<()> {
    let mut number: Option<u64> = None;
    loop {
        let byte = stream.read_u8().await?;
        let now = Instant::now();
        match (byte, number) {
            (b'0'..=b'9', Some(value)) => {
                number = Some(
                    value
                        .saturating_mul(10)
                        .saturating_add(u64::from(byte - b'0')),
                );
                continue;
            }
            (b'\n', Some(seconds)) => {
                number = None;
                let wanted = Duration::from_secs(seconds);
                let taken = device.through(boot, |device| device.set_timeout(wanted, now));
                let answer = taken.flatten().map_or_else(
                    || "error\n".to_owned(),
                    |timeout| format!("timeout {}\n", timeout.as_secs()),
                );
                stream.write_all(answer.as_bytes()).await?;
            }
            (b't', _) => number = Some(0),
            (b'V', _) => {
                device.through(boot, |device| device.magic(now));
            }
            (_, _) => {
                number = None;
                device.through(boot, |device| device.feed(now));
            }
        }
        tell(moved, ());
    }
}

fn tell<T>(channel: &mpsc::UnboundedSender<T>, value: T) {
    // Nobody listens any more: the machine is gone, and its watchdog with it.
    drop(channel.send(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn fires_one_timeout_after_the_last_feed() {
        let start = Instant::now();
        let mut device = Device::new(10 * S);
        assert_eq!(device.next_change(), None);
        assert_eq!(device.open(start), Some(10 * S));
        device.feed(start + 4 * S);
        assert_eq!(device.due(start + 10 * S), None);
        assert_eq!(device.due(start + 11 * S), Some(Signal::Starving));
        assert_eq!(device.due(start + 13 * S), None);
        assert_eq!(device.due(start + 14 * S), Some(Signal::Expired));
        assert_eq!(device.next_change(), None);
    }

    #[test]
    fn second_open_is_busy_until_the_first_closes() {
        let start = Instant::now();
        let mut device = Device::new(10 * S);
        assert!(device.open(start).is_some());
        assert_eq!(device.open(start), None);
        assert_eq!(device.close(start), Signal::ClosedArmed);
        assert!(device.open(start).is_some());
    }

    #[test]
    fn close_without_magic_pings_and_a_new_open_does_not() {
        let start = Instant::now();
        let mut device = Device::new(10 * S);
        device.open(start);
        device.close(start + 8 * S);
        device.open(start + 15 * S);
        assert_eq!(device.due(start + 17 * S), Some(Signal::Starving));
        assert_eq!(device.due(start + 18 * S), Some(Signal::Expired));
    }

    #[test]
    fn magic_counts_only_as_the_last_word() {
        let start = Instant::now();
        let mut device = Device::new(10 * S);
        device.open(start);
        device.magic(start);
        device.feed(start);
        assert_eq!(device.close(start), Signal::ClosedArmed);
        device.open(start);
        device.magic(start);
        assert_eq!(device.close(start), Signal::Disarmed);
        assert_eq!(device.due(start + 100 * S), None);
    }

    #[test]
    fn timeout_is_taken_within_the_range_of_the_driver() {
        let start = Instant::now();
        let mut device = Device::new(60 * S);
        device.open(start);
        assert_eq!(device.set_timeout(10 * S, start), Some(10 * S));
        assert_eq!(device.set_timeout(Duration::ZERO, start), None);
        assert_eq!(device.due(start + 10 * S), Some(Signal::Expired));
    }
}
