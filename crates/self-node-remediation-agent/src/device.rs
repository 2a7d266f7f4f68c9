//! The watchdog as the loop sees it: opened in the background, fed by its own thread.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use medik8s_runtime::clock::Clock;
use medik8s_watchdog::{
    ArmRequest, BootClock, Feeder, FeederState, Host, Report, ThreadNeeds, arm,
};
use self_node_remediation_core::agent::Evidence;
use self_node_remediation_core::time::BootInstant;

use crate::inbox::{Input, Sender};

/// A watchdog that could not be fed for two timeouts and this much more should have reset the
/// machine; it did not, so it is none.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// How long the agent of the original may hold the device after this one has started beside it.
const HELD: Duration = Duration::from_mins(1);

/// Where the device is opened: drivers and modprobe may take their time.
const OPENER: ThreadNeeds = ThreadNeeds {
    name: "open-watchdog",
    stack: 2 * 1024 * 1024,
    realtime: false,
};

/// While there is no permit, opening waits this long before it looks again.
const PERMIT_PAUSE: Duration = Duration::from_millis(500);

/// The clock of the agent as the feeder wants it.
struct Boottime(Clock);

impl BootClock for Boottime {
    fn boottime(&self) -> Duration {
        self.0.boottime()
    }
}

/// The node's watchdog. Cheap to clone.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    host: Arc<Host>,
    path: PathBuf,
    /// The device that an earlier process of this boot used.
    earlier: OnceLock<PathBuf>,
    /// The device in use.
    used: OnceLock<PathBuf>,
    /// Those that come before it but cannot be used, each with the reason.
    passed_over: OnceLock<Vec<(PathBuf, String)>>,
    clock: Clock,
    inbox: Sender,
    /// End of the permit in nanoseconds since boot.
    feed_until: AtomicU64,
    feeder: Mutex<Option<Feeder>>,
    /// When the device was opened, in nanoseconds since boot.
    opened: AtomicU64,
    rebooting: AtomicBool,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Nothing is opened yet.
    pub fn new(host: Arc<Host>, path: PathBuf, clock: Clock, inbox: Sender) -> Self {
        Self(Arc::new(Inner {
            host,
            path,
            earlier: OnceLock::new(),
            used: OnceLock::new(),
            passed_over: OnceLock::new(),
            clock,
            inbox,
            feed_until: AtomicU64::new(0),
            feeder: Mutex::new(None),
            opened: AtomicU64::new(0),
            rebooting: AtomicBool::new(false),
        }))
    }

    /// The device that an earlier process of this boot used is the one that runs: it is tried first.
    pub fn recall(&self, earlier: PathBuf) {
        self.0.earlier.get_or_init(|| earlier);
    }

    /// The device in use, once one is open.
    pub fn used(&self) -> Option<&PathBuf> {
        self.0.used.get()
    }

    /// Devices that come before the one in use but cannot be used, each with the reason.
    pub fn passed_over(&self) -> &[(PathBuf, String)] {
        self.0.passed_over.get().map_or(&[], Vec::as_slice)
    }

    fn feeder(&self) -> MutexGuard<'_, Option<Feeder>> {
        self.0.feeder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed_until(&self) -> Duration {
        Duration::from_nanos(self.0.feed_until.load(Ordering::SeqCst))
    }

    fn is_permitted(&self) -> bool {
        self.0.clock.boottime() < self.feed_until()
    }

    /// Feeding is allowed before this moment.
    pub fn permit(&self, until: BootInstant) {
        let until = until.since_boot();
        let nanoseconds = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.0.feed_until.store(nanoseconds, Ordering::SeqCst);
        if let Some(feeder) = self.feeder().as_ref() {
            feeder.permit(until);
        }
    }

    /// Opens the device on a thread of its own and reports the outcome as evidence. While the
    /// permit has ended nothing is opened; it is tried again when there is a new one.
    pub fn open(&self, timeout: Option<Duration>, may_release: bool) -> std::io::Result<()> {
        let device = self.clone();
        let work = move || {
            let Some(evidence) = device.try_open(timeout, may_release) else {
                return Some(PERMIT_PAUSE);
            };
            device.0.inbox.evidence(evidence);
            None
        };
        let threads = self.0.host.threads();
        threads.start(OPENER, Box::new(work)).map(drop)
    }

    /// `None`: there is no permit.
    fn try_open(&self, timeout: Option<Duration>, may_release: bool) -> Option<Evidence> {
        let request = ArmRequest {
            earlier: self.0.earlier.get().map(PathBuf::as_path),
            configured: &self.0.path,
            patience: HELD,
            timeout,
            permitted: &|| self.is_permitted(),
            may_release,
        };
        match arm(&self.0.host, &request) {
            Ok(armed) => Some(self.start(armed)),
            Err(refused) if refused.permit_ended => None,
            Err(refused) => {
                tracing::warn!(reason = %refused, "this node has no usable watchdog");
                Some(Evidence::NoWatchdog)
            }
        }
    }

    fn start(&self, armed: medik8s_watchdog::Armed) -> Evidence {
        let info = armed.device.info().clone();
        self.0.used.get_or_init(|| info.path.clone());
        self.0.passed_over.get_or_init(|| armed.passed_over);
        if let Some(reason) = &armed.timeout_refused {
            tracing::warn!(device = %info, reason, "the configured watchdog timeout is not in force");
        }
        let inbox = self.0.inbox.clone();
        let started = Feeder::start(
            self.0.host.threads(),
            armed.device,
            armed.timeout,
            self.feed_until(),
            Arc::new(Boottime(self.0.clock.clone())),
            Box::new(move |notice| inbox.send(Input::Feeder(notice))),
        );
        let feeder = match started {
            Ok(feeder) => feeder,
            Err(error) => {
                // The device is closed again, its timer runs: the machine will be reset.
                tracing::error!(device = %info, %error, "the watchdog feeder cannot be started");
                return Evidence::NoWatchdog;
            }
        };
        let now = u64::try_from(self.0.clock.boottime().as_nanos()).unwrap_or(u64::MAX);
        self.0.opened.store(now, Ordering::SeqCst);
        let mut slot = self.feeder();
        // The permit may have changed before the feeder was there to be told.
        feeder.permit(self.feed_until());
        *slot = Some(feeder);
        drop(slot);
        tracing::info!(
            device = %info,
            timeout = armed.timeout.as_secs(),
            nowayout = info.nowayout,
            "watchdog armed"
        );
        Evidence::Opened {
            timeout: whole_seconds(armed.timeout),
            can_disarm: info.nowayout != Some(true),
        }
    }

    /// Asks for another timeout.
    pub fn set_timeout(&self, timeout: Duration) {
        if let Some(feeder) = self.feeder().as_ref() {
            feeder.set_timeout(timeout);
        }
    }

    /// Stops feeding for good.
    pub fn starve(&self, shorten: bool) {
        if let Some(feeder) = self.feeder().as_ref()
            && !feeder.trigger(shorten)
        {
            tracing::error!("the watchdog is closed and cannot be starved");
        }
    }

    /// Closes the device by the magic character.
    pub fn disarm(&self) {
        if let Some(feeder) = self.feeder().as_ref()
            && !feeder.disarm()
        {
            tracing::error!("the watchdog is not armed and cannot be disarmed");
        }
    }

    /// Closes an armed device without the magic character. Returns whether there is one; the
    /// feeder then confirms.
    pub fn release(&self) -> bool {
        self.feeder().as_ref().is_some_and(Feeder::release)
    }

    /// What the feeder does, if there is one.
    pub fn report(&self) -> Option<Report> {
        self.feeder().as_ref().map(Feeder::report)
    }

    /// Whether an armed device has refused feeds for so long, with a valid permit, that it would
    /// have reset the machine if it worked.
    pub fn is_lost(&self) -> bool {
        let Some(report) = self.report() else {
            return false;
        };
        let opened = Duration::from_nanos(self.0.opened.load(Ordering::SeqCst));
        let fed = report.last_feed.unwrap_or(opened).max(opened);
        let overdue = report.timeout.saturating_mul(2).saturating_add(LOST_AFTER);
        report.state == FeederState::Armed
            && self.is_permitted()
            && self.0.clock.boottime() >= fed.saturating_add(overdue)
    }

    /// Resets the machine by software, on a thread of its own: a write to sysrq may hang.
    pub fn reboot(&self) {
        if self.0.rebooting.swap(true, Ordering::SeqCst) {
            return;
        }
        let device = self.clone();
        let chain = move || {
            for attempt in device.0.host.reboot() {
                match &attempt.result {
                    Ok(()) => tracing::error!(step = ?attempt.step, "software reboot requested"),
                    Err(error) => {
                        let error = error as &dyn std::error::Error;
                        tracing::error!(step = ?attempt.step, error, "software reboot failed");
                    }
                }
            }
            device.0.rebooting.store(false, Ordering::SeqCst);
        };
        if let Err(error) = std::thread::Builder::new()
            .name("reboot".to_owned())
            .spawn(chain)
        {
            tracing::error!(%error, "no thread for the software reboot");
            self.0.rebooting.store(false, Ordering::SeqCst);
        }
    }
}

/// Whole seconds, rounded up: an announced timeout is never shorter than the real one.
pub fn whole_seconds(timeout: Duration) -> u64 {
    timeout
        .as_secs()
        .saturating_add(u64::from(timeout.subsec_nanos() > 0))
}
