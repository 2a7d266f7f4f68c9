//! Which device becomes the node's watchdog.
//!
//! The device that an earlier process of this boot used comes first: its timer runs, and only feeding
//! that very device keeps the node up. Then the configured file. If it does not exist, `softdog` is loaded and the youngest
//! `/dev/watchdog*` is taken (the original's rule). If what was found is busy or useless, the
//! other devices are tried, and softdog at the end. The first two count as busy only when they stay so
//! for a while: during a take-over the original's agent holds the device until its pod has ended, and
//! what is armed instead stays in use until the machine boots.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::device::{DeviceError, DeviceFile, WatchdogDevice};
use crate::host::Host;

/// Pause before a busy device is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// What the caller wants and allows.
pub struct ArmRequest<'a> {
    /// The device that was used earlier in this boot.
    pub earlier: Option<&'a Path>,
    /// The configured device file.
    pub configured: &'a Path,
    /// A timeout to set, if one is configured.
    pub timeout: Option<Duration>,
    /// How long the two devices above may be busy before another one is looked for.
    pub patience: Duration,
    /// Opening and setting the timeout feed the device, so each is preceded by this question:
    /// is there a valid permit right now?
    pub permitted: &'a dyn Fn() -> bool,
    /// Whether a device that turns out to be useless may be stopped by a magic close. False
    /// when this boot has announced an armed watchdog: then stopping one needs the handshake.
    pub may_release: bool,
}

/// A device whose timer runs.
pub struct Armed {
    /// The device.
    pub device: Box<dyn WatchdogDevice>,
    /// The timeout in force, as the driver reports it.
    pub timeout: Duration,
    /// Set when the wanted timeout could not be set.
    pub timeout_refused: Option<String>,
    /// Devices that come first but cannot be used, each with the reason.
    pub passed_over: Vec<(PathBuf, String)>,
}

impl fmt::Debug for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Armed")
            .field("device", self.device.info())
            .field("timeout", &self.timeout)
            .field("timeout_refused", &self.timeout_refused)
            .field("passed_over", &self.passed_over)
            .finish()
    }
}

/// Why no device is armed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotArmed {
    /// The permit ended before a device was found.
    pub permit_ended: bool,
    /// Each device that was tried, with the reason it was not taken.
    pub tried: Vec<(PathBuf, String)>,
    /// Why softdog could not be loaded, if that was tried.
    pub softdog: Option<String>,
}

impl fmt::Display for NotArmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.permit_ended {
            return f.write_str("the permit to feed ended first");
        }
        if self.tried.is_empty() {
            f.write_str("there is no watchdog device")?;
        }
        for (index, (path, reason)) in self.tried.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}: {reason}", path.display())?;
        }
        match &self.softdog {
            Some(reason) => write!(f, "; softdog: {reason}"),
            None => Ok(()),
        }
    }
}

/// Opens the node's watchdog by the rules of this module. Blocks for as long as the drivers and
/// modprobe do.
pub fn arm(host: &Host, request: &ArmRequest<'_>) -> Result<Armed, NotArmed> {
    let mut search = Search {
        host,
        request,
        seen: BTreeSet::new(),
        report: NotArmed::default(),
    };
    let watchdogs = host.watchdogs();
    if let Some(earlier) = request.earlier.filter(|path| watchdogs.exists(path))
        && let Some(armed) = search.attempt(earlier)?
    {
        return Ok(armed);
    }
    if watchdogs.exists(request.configured)
        && let Some(armed) = search.attempt(request.configured)?
    {
        return Ok(armed);
    }
    let found_one = !search.seen.is_empty();
    if found_one && let Some(armed) = search.attempt_all(watchdogs.list())? {
        return Ok(armed);
    }
    if !search.permitted() {
        return Err(search.report);
    }
    match host.load_softdog() {
        Ok(()) => {}
        Err(error) => search.report.softdog = Some(describe(&error)),
    }
    match search.attempt_all(watchdogs.list())? {
        Some(armed) => Ok(armed),
        None => Err(search.report),
    }
}

/// Youngest first; of equals the alphabetically last first (the original's order).
fn by_age(mut files: Vec<DeviceFile>) -> Vec<DeviceFile> {
    files.sort_by(|a, b| (b.modified, &b.path).cmp(&(a.modified, &a.path)));
    files
}

struct Search<'a> {
    host: &'a Host,
    request: &'a ArmRequest<'a>,
    seen: BTreeSet<PathBuf>,
    report: NotArmed,
}

impl Search<'_> {
    fn permitted(&mut self) -> bool {
        let permitted = (self.request.permitted)();
        self.report.permit_ended |= !permitted;
        permitted
    }

    fn attempt_all(&mut self, files: Vec<DeviceFile>) -> Result<Option<Armed>, NotArmed> {
        for file in by_age(files) {
            if let Some(armed) = self.attempt(&file.path)? {
                return Ok(Some(armed));
            }
        }
        Ok(None)
    }

    /// `Err` only when the permit ended; a device that cannot be used is noted.
    fn attempt(&mut self, path: &Path) -> Result<Option<Armed>, NotArmed> {
        if !self.seen.insert(path.to_path_buf()) {
            return Ok(None);
        }
        let is_known = path == self.request.configured || Some(path) == self.request.earlier;
        let mut patience = if is_known {
            self.request.patience
        } else {
            Duration::ZERO
        };
        let device = loop {
            if !self.permitted() {
                return Err(std::mem::take(&mut self.report));
            }
            match self.host.watchdogs().open(path, self.request.may_release) {
                Ok(device) => break device,
                Err(DeviceError::Busy) if patience > Duration::ZERO => {
                    patience = patience.saturating_sub(BUSY_PAUSE);
                    std::thread::sleep(BUSY_PAUSE);
                }
                Err(error) => {
                    self.refuse(path, describe(&error));
                    return Ok(None);
                }
            }
        };
        match self.prepare(device)? {
            Ok(armed) => Ok(Some(armed)),
            Err(reason) => {
                self.refuse(path, reason);
                Ok(None)
            }
        }
    }

    fn prepare(
        &mut self,
        mut device: Box<dyn WatchdogDevice>,
    ) -> Result<Result<Armed, String>, NotArmed> {
        if !device.info().survives_close() {
            // Closing such a device stops it, and so would our death.
            return Ok(Err(
                "the driver lacks MAGICCLOSE: any close would stop it".to_owned()
            ));
        }
        let current = match device.timeout() {
            Ok(current) if current > Duration::ZERO => current,
            Ok(_) => return Ok(Err(self.give_back(device, "the driver reports no timeout"))),
            Err(error) => {
                let reason = describe(&error);
                return Ok(Err(self.give_back(device, &reason)));
            }
        };
        let Some(wanted) = self.request.timeout.filter(|wanted| *wanted != current) else {
            return Ok(Ok(self.armed(device, current, None)));
        };
        if !device.info().takes_timeout() {
            let refused = "the driver has a fixed timeout".to_owned();
            return Ok(Ok(self.armed(device, current, Some(refused))));
        }
        if !self.permitted() {
            // Left running: its reset is what an ended permit means.
            return Err(std::mem::take(&mut self.report));
        }
        Ok(match device.set_timeout(wanted) {
            Ok(taken) if taken > Duration::ZERO => {
                let refused = (taken != wanted)
                    .then(|| format!("the driver took {} s instead", taken.as_secs()));
                Ok(self.armed(device, taken, refused))
            }
            Ok(_) => Err(self.give_back(device, "the driver reports no timeout")),
            Err(error) => {
                let refused = Some(describe(&error));
                // The driver may have taken the value although the answer is an error.
                match device.timeout() {
                    Ok(now) if now > Duration::ZERO => Ok(self.armed(device, now, refused)),
                    Ok(_) | Err(_) => Err(self.give_back(device, "the timeout is unknown")),
                }
            }
        })
    }

    fn armed(
        &mut self,
        device: Box<dyn WatchdogDevice>,
        timeout: Duration,
        timeout_refused: Option<String>,
    ) -> Armed {
        Armed {
            device,
            timeout,
            timeout_refused,
            passed_over: std::mem::take(&mut self.report.tried),
        }
    }

    /// Ends the use of a device that was opened for nothing.
    fn give_back(&self, device: Box<dyn WatchdogDevice>, reason: &str) -> String {
        if !self.request.may_release {
            return format!("{reason}; its timer is left running");
        }
        match device.magic_close() {
            Ok(()) => reason.to_owned(),
            Err(error) => format!("{reason}; could not stop its timer: {}", describe(&error)),
        }
    }

    fn refuse(&mut self, path: &Path, reason: String) {
        tracing::warn!(path = %path.display(), reason, "this watchdog device cannot be used");
        self.report.tried.push((path.to_path_buf(), reason));
    }
}

/// An error with its causes in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
