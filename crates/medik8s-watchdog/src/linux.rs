//! The kernel's watchdog devices (Documentation/watchdog/watchdog-api.rst).
//!
//! [`LinuxWatchdogs`] can only be made for the real host: see [`crate::host::Host`].

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::libc;

use crate::device::{DeviceError, DeviceFile, Info, WatchdogDevice, WatchdogHost};

/// Any byte but the magic one.
const FEED: &[u8] = b"a";
/// The byte after which a close stops the timer.
const MAGIC: &[u8] = b"V";
/// The misc device number of `/dev/watchdog`, the legacy name of watchdog0.
const LEGACY: (u64, u64) = (10, 130);

/// `struct watchdog_info` of linux/watchdog.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

mod ioctl {
    use super::WatchdogInfo;
    nix::ioctl_read!(get_support, b'W', 0, WatchdogInfo);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, super::libc::c_int);
    nix::ioctl_read!(get_timeout, b'W', 7, super::libc::c_int);
}

/// Opens device files of the machine this process runs on.
#[derive(Debug)]
pub(crate) struct LinuxWatchdogs {
    dev: PathBuf,
    sys: PathBuf,
}

impl LinuxWatchdogs {
    /// `dev` and `sys` as this process sees them.
    pub(crate) fn new(dev: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self {
            dev: dev.into(),
            sys: sys.into(),
        }
    }

    /// Whether the driver was loaded with `nowayout`, as far as sysfs tells.
    fn nowayout(&self, rdev: u64) -> Option<bool> {
        let number = (libc::major(rdev).into(), libc::minor(rdev).into());
        let class = self.sys.join("class/watchdog");
        let folder = if number == LEGACY {
            class.join("watchdog0")
        } else {
            std::fs::read_dir(&class)
                .ok()?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| {
                    read_trimmed(&path.join("dev"))
                        .is_some_and(|dev| dev == format!("{}:{}", number.0, number.1))
                })?
        };
        parse_nowayout(&read_trimmed(&folder.join("nowayout"))?)
    }
}

fn read_trimmed(path: &Path) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn parse_nowayout(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

impl WatchdogHost for LinuxWatchdogs {
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn list(&self) -> Vec<DeviceFile> {
        list_folder(&self.dev)
    }

    fn open(&self, path: &Path, may_stop: bool) -> Result<Box<dyn WatchdogDevice>, DeviceError> {
        // Looked at before opening: opening arms, and a mistaken path must not be written to.
        let meta = std::fs::metadata(path).map_err(|source| open_error(&source))?;
        if !meta.file_type().is_char_device() {
            return Err(DeviceError::NotAWatchdog);
        }
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|e| open_error(&e))?;
        let nowayout = self.nowayout(meta.rdev());
        LinuxDevice::query(file, path, nowayout, may_stop).map(|device| Box::new(device) as _)
    }
}

/// The files `watchdog*` of a folder, directories left out.
pub(crate) fn list_folder(dev: &Path) -> Vec<DeviceFile> {
    let Ok(entries) = std::fs::read_dir(dev) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(b"watchdog")
        })
        .filter_map(|entry| {
            let meta = std::fs::metadata(entry.path()).ok()?;
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            (!meta.is_dir()).then(|| DeviceFile {
                path: entry.path(),
                modified,
            })
        })
        .collect()
}

fn open_error(source: &std::io::Error) -> DeviceError {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => DeviceError::Busy,
        // ENODEV and ENXIO: a device file whose driver is gone.
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => DeviceError::Missing,
        Some(errno) => DeviceError::io("open the device", errno),
        None => DeviceError::io("open the device", std::io::Error::from(source.kind())),
    }
}

/// An open device file.
struct LinuxDevice {
    file: File,
    info: Info,
}

impl LinuxDevice {
    fn query(
        file: File,
        path: &Path,
        nowayout: Option<bool>,
        may_stop: bool,
    ) -> Result<Self, DeviceError> {
        let mut raw = WatchdogInfo {
            options: 0,
            firmware_version: 0,
            identity: [0; 32],
        };
        // SAFETY: the descriptor is open and `raw` is a valid, writable watchdog_info.
        let answer = unsafe { ioctl::get_support(file.as_raw_fd(), &raw mut raw) }.map(|_| raw);
        Self::of(file, path, nowayout, may_stop, answer)
    }

    /// The device, or why the driver's answer makes it none.
    fn of(
        mut file: File,
        path: &Path,
        nowayout: Option<bool>,
        may_stop: bool,
        answer: Result<WatchdogInfo, Errno>,
    ) -> Result<Self, DeviceError> {
        let raw = match answer {
            Ok(raw) => raw,
            Err(Errno::ENOTTY | Errno::EINVAL) => return Err(DeviceError::NotAWatchdog),
            Err(errno) => {
                // Opening started a timer that nobody will feed. Whether it is the one that an earlier process of this
                // boot has announced is not known, so it is stopped only if nobody counts on it.
                if !may_stop {
                    tracing::warn!(path = %path.display(), "the timer is left running");
                } else if let Err(error) = file.write_all(MAGIC) {
                    tracing::warn!(path = %path.display(), %error, "could not stop the timer");
                }
                return Err(DeviceError::io(
                    "query the driver (WDIOC_GETSUPPORT)",
                    errno,
                ));
            }
        };
        let identity = raw
            .identity
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        let info = Info {
            path: path.to_path_buf(),
            identity: String::from_utf8_lossy(identity).into_owned(),
            options: raw.options,
            nowayout,
        };
        Ok(Self { file, info })
    }
}

impl WatchdogDevice for LinuxDevice {
    fn info(&self) -> &Info {
        &self.info
    }

    fn timeout(&self) -> Result<Duration, DeviceError> {
        let mut seconds: libc::c_int = 0;
        // SAFETY: the descriptor is open and `seconds` is a valid, writable int.
        unsafe { ioctl::get_timeout(self.file.as_raw_fd(), &raw mut seconds) }
            .map_err(|errno| DeviceError::io("read the timeout (WDIOC_GETTIMEOUT)", errno))?;
        // A timeout of zero or less is a broken driver; discovery refuses it.
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<Duration, DeviceError> {
        let mut seconds = libc::c_int::try_from(timeout.as_secs()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the descriptor is open and `seconds` is a valid, writable int.
        unsafe { ioctl::set_timeout(self.file.as_raw_fd(), &raw mut seconds) }
            .map_err(|errno| DeviceError::io("set the timeout (WDIOC_SETTIMEOUT)", errno))?;
        self.timeout()
    }

    fn feed(&mut self) -> Result<(), DeviceError> {
        self.file
            .write_all(FEED)
            .map_err(|source| DeviceError::io("feed the device", source))
    }

    fn magic_close(mut self: Box<Self>) -> Result<(), DeviceError> {
        self.file
            .write_all(MAGIC)
            .map_err(|source| DeviceError::io("write the magic character", source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_character_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        std::fs::write(&path, "untouched").unwrap();
        let host = LinuxWatchdogs::new(dir.path(), dir.path());
        assert!(matches!(
            host.open(&path, true),
            Err(DeviceError::NotAWatchdog)
        ));
        assert!(matches!(
            host.open(&dir.path().join("none"), true),
            Err(DeviceError::Missing)
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "untouched");
    }

    #[test]
    fn a_character_device_that_is_no_watchdog_is_refused() {
        // /dev/null answers every ioctl with ENOTTY.
        let host = LinuxWatchdogs::new("/nowhere", "/nowhere");
        assert!(matches!(
            host.open(Path::new("/dev/null"), true),
            Err(DeviceError::NotAWatchdog)
        ));
    }

    /// A device whose driver does not answer may be the one that was announced: then its timer runs on.
    #[test]
    fn a_device_that_does_not_answer_is_stopped_only_if_nobody_counts_on_it() {
        for (may_stop, written) in [(true, "V"), (false, "")] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("watchdog");
            let file = File::create(&path).unwrap();
            let refused = LinuxDevice::of(file, &path, None, may_stop, Err(Errno::EIO));
            assert!(matches!(refused, Err(DeviceError::Io { .. })));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
        }
    }

    #[test]
    fn lists_files_by_prefix_without_folders() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("watchdog"), "").unwrap();
        std::fs::write(dir.path().join("watchdog1"), "").unwrap();
        std::fs::write(dir.path().join("null"), "").unwrap();
        std::fs::create_dir(dir.path().join("watchdog.d")).unwrap();
        let mut names: Vec<_> = list_folder(dir.path())
            .into_iter()
            .map(|f| f.path)
            .collect();
        names.sort();
        assert_eq!(
            names,
            [dir.path().join("watchdog"), dir.path().join("watchdog1")]
        );
    }

    #[test]
    fn nowayout_is_read_from_sysfs() {
        let sys = tempfile::tempdir().unwrap();
        let class = sys.path().join("class/watchdog");
        for (name, dev, nowayout) in [("watchdog0", "248:0", "0\n"), ("watchdog1", "248:1", "1\n")]
        {
            std::fs::create_dir_all(class.join(name)).unwrap();
            std::fs::write(class.join(name).join("dev"), dev).unwrap();
            std::fs::write(class.join(name).join("nowayout"), nowayout).unwrap();
        }
        let host = LinuxWatchdogs::new("/nowhere", sys.path());
        assert_eq!(host.nowayout(libc::makedev(10, 130)), Some(false));
        assert_eq!(host.nowayout(libc::makedev(248, 1)), Some(true));
        assert_eq!(host.nowayout(libc::makedev(248, 7)), None);
        assert_eq!(parse_nowayout("maybe"), None);
    }
}
