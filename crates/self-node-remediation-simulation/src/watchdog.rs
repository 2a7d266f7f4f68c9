//! The watchdog of a machine, and threads on virtual time.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use medik8s_watchdog::device::{OPTION_MAGIC_CLOSE, OPTION_SET_TIMEOUT};
use medik8s_watchdog::{
    DeviceError, DeviceFile, Info, ThreadNeeds, Threads, Wake, WatchdogDevice, WatchdogHost, Work,
};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

const PATH: &str = "/dev/watchdog";

#[derive(Debug)]
struct Timer {
    timeout: Duration,
    deadline: Option<Instant>,
    open: bool,
    /// A handle from before the last reset does nothing.
    boot: u64,
    nowayout: bool,
    /// Sabotage: feeding has no effect.
    ignores_feeds: bool,
}

/// The device of one machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dog(Arc<Mutex<Timer>>);

impl Dog {
    /// A device whose timer stands.
    pub fn new(timeout: Duration, nowayout: bool) -> Self {
        Self(Arc::new(Mutex::new(Timer {
            timeout,
            deadline: None,
            open: false,
            boot: 0,
            nowayout,
            ignores_feeds: false,
        })))
    }

    fn timer(&self) -> MutexGuard<'_, Timer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it resets the machine.
    pub fn deadline(&self) -> Option<Instant> {
        self.timer().deadline
    }

    /// The machine was reset: the timer stands, and the timeout is what it was made with.
    pub fn reset(&self, timeout: Duration) {
        let mut timer = self.timer();
        timer.boot += 1;
        timer.deadline = None;
        timer.open = false;
        timer.timeout = timeout;
    }

    /// Sabotage: from now on feeding has no effect.
    pub fn ignore_feeds(&self) {
        self.timer().ignores_feeds = true;
    }
}

impl Timer {
    fn ping(&mut self) {
        if !self.ignores_feeds || self.deadline.is_none() {
            self.deadline = Some(Instant::now() + self.timeout);
        }
    }
}

impl WatchdogHost for Dog {
    fn exists(&self, path: &Path) -> bool {
        path == Path::new(PATH)
    }

    fn list(&self) -> Vec<DeviceFile> {
        vec![DeviceFile {
            path: PATH.into(),
            modified: SystemTime::UNIX_EPOCH,
        }]
    }

    fn open(&self, path: &Path, _may_stop: bool) -> Result<Box<dyn WatchdogDevice>, DeviceError> {
        let mut timer = self.timer();
        if timer.open {
            return Err(DeviceError::Busy);
        }
        timer.open = true;
        // Opening a device whose timer runs does not start it anew.
        if timer.deadline.is_none() {
            timer.ping();
        }
        Ok(Box::new(Handle {
            info: Info {
                path: path.to_path_buf(),
                identity: "simulated".to_owned(),
                options: OPTION_MAGIC_CLOSE | OPTION_SET_TIMEOUT,
                nowayout: Some(timer.nowayout),
            },
            boot: timer.boot,
            dog: self.clone(),
        }))
    }
}

struct Handle {
    info: Info,
    boot: u64,
    dog: Dog,
}

impl Handle {
    fn timer(&self) -> Option<MutexGuard<'_, Timer>> {
        Some(self.dog.timer()).filter(|timer| timer.boot == self.boot)
    }
}

impl WatchdogDevice for Handle {
    fn info(&self) -> &Info {
        &self.info
    }

    fn timeout(&self) -> Result<Duration, DeviceError> {
        Ok(self.dog.timer().timeout)
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<Duration, DeviceError> {
        if let Some(mut timer) = self.timer() {
            timer.timeout = timeout;
            timer.ping();
        }
        self.timeout()
    }

    fn feed(&mut self) -> Result<(), DeviceError> {
        if let Some(mut timer) = self.timer() {
            timer.ping();
        }
        Ok(())
    }

    fn magic_close(self: Box<Self>) -> Result<(), DeviceError> {
        if let Some(mut timer) = self.timer()
            && !timer.nowayout
        {
            timer.deadline = None;
            timer.open = false;
            // What is dropped now closes nothing any more.
            timer.boot += 1;
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The kernel's closing ping.
        if let Some(mut timer) = self.timer() {
            timer.open = false;
            timer.ping();
        }
    }
}

/// The threads of one process.
#[derive(Clone, Default)]
pub struct VirtualThreads(Arc<Mutex<Vec<AbortHandle>>>);

impl VirtualThreads {
    /// Ends them, as `kill -9` does.
    pub fn kill(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in all.drain(..) {
            thread.abort();
        }
    }
}

impl Threads for VirtualThreads {
    fn start(&self, _: ThreadNeeds, mut work: Work) -> io::Result<Wake> {
        let woken = Arc::new(Notify::new());
        let wake = Arc::clone(&woken);
        let thread = tokio::spawn(async move {
            while let Some(rest) = work() {
                if rest.is_zero() {
                    continue;
                }
                tokio::select! {
                    biased;
                    () = woken.notified() => {}
                    () = tokio::time::sleep(rest) => {}
                }
            }
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(thread.abort_handle());
        Ok(Arc::new(move || wake.notify_one()))
    }
}
