//! What a watchdog device can do, and who opens one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The driver reports that it honours the magic character (`WDIOF_MAGICCLOSE`).
pub const OPTION_MAGIC_CLOSE: u32 = 0x0100;
/// The driver lets the timeout be set (`WDIOF_SETTIMEOUT`).
pub const OPTION_SET_TIMEOUT: u32 = 0x0080;

/// Facts about an opened device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The file it was opened by.
    pub path: PathBuf,
    /// The driver's name for itself, such as `Software Watchdog`.
    pub identity: String,
    /// The driver's `WDIOF_*` bits.
    pub options: u32,
    /// Whether the driver ignores the magic character. `None` when the kernel does not say.
    pub nowayout: Option<bool>,
}

impl Info {
    /// Whether only a deliberate close stops the timer. Without it a killed process would
    /// disarm the node's watchdog.
    pub fn survives_close(&self) -> bool {
        self.options & OPTION_MAGIC_CLOSE != 0
    }

    /// Whether the timeout can be changed.
    pub fn takes_timeout(&self) -> bool {
        self.options & OPTION_SET_TIMEOUT != 0
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.identity)
    }
}

/// Why a device could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Another process holds it, often systemd's `RuntimeWatchdogSec` or sbd.
    #[error("the device is held by another process")]
    Busy,
    /// There is no such file.
    #[error("no such device")]
    Missing,
    /// The file exists but is no watchdog.
    #[error("not a watchdog device")]
    NotAWatchdog,
    /// The driver answered an operation with an error.
    #[error("could not {operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

impl DeviceError {
    pub(crate) fn io(operation: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            operation,
            source: source.into(),
        }
    }
}

/// An open watchdog device. Its timer runs.
///
/// Dropping it closes the device **without** the magic character: the kernel pings once more
/// and the timer goes on, so the machine is reset one full timeout later unless somebody opens
/// and feeds the device again.
pub trait WatchdogDevice: Send {
    /// Facts read when it was opened.
    fn info(&self) -> &Info;
    /// The timeout the driver reports now.
    fn timeout(&self) -> Result<Duration, DeviceError>;
    /// Asks for another timeout (whole seconds) and reads back what the driver took.
    /// This also feeds the device.
    fn set_timeout(&mut self, timeout: Duration) -> Result<Duration, DeviceError>;
    /// Starts the timeout anew. Must not allocate.
    fn feed(&mut self) -> Result<(), DeviceError>;
    /// Writes the magic character and closes the device, which stops its timer unless the
    /// driver was loaded with `nowayout`.
    fn magic_close(self: Box<Self>) -> Result<(), DeviceError>;
}

/// A device file that can be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFile {
    /// Its path.
    pub path: PathBuf,
    /// When it was last modified; the youngest file is the youngest device.
    pub modified: SystemTime,
}

/// Where watchdog devices come from.
pub trait WatchdogHost: Send + Sync {
    /// Whether there is a file of this name.
    fn exists(&self, path: &Path) -> bool;
    /// All files `/dev/watchdog*` but directories.
    fn list(&self) -> Vec<DeviceFile>;
    /// Opens a device, which starts its timer. `may_stop`: if the device turns out to be unusable right then, its timer
    /// may be stopped again; false when somebody may count on the node being reset.
    fn open(&self, path: &Path, may_stop: bool) -> Result<Box<dyn WatchdogDevice>, DeviceError>;
}

/// A host without any watchdog.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoWatchdogs;

impl WatchdogHost for NoWatchdogs {
    fn exists(&self, _path: &Path) -> bool {
        false
    }

    fn list(&self) -> Vec<DeviceFile> {
        Vec::new()
    }

    fn open(&self, _path: &Path, _may_stop: bool) -> Result<Box<dyn WatchdogDevice>, DeviceError> {
        Err(DeviceError::Missing)
    }
}
