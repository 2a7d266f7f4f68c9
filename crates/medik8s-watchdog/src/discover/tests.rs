//! Discovery against scripted devices.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::*;
use crate::device::{DeviceError, Info, OPTION_MAGIC_CLOSE, OPTION_SET_TIMEOUT, WatchdogHost};

/// What a scripted device does.
#[derive(Clone)]
struct Script {
    age: u64,
    /// Opens that are refused before one succeeds.
    busy: u32,
    options: u32,
    timeout: u64,
    refuses_timeout: bool,
}

const GOOD: Script = Script {
    age: 0,
    busy: 0,
    options: OPTION_MAGIC_CLOSE | OPTION_SET_TIMEOUT,
    timeout: 60,
    refuses_timeout: false,
};

type Log = Arc<Mutex<Vec<String>>>;

fn push(log: &Log, line: String) {
    log.lock().unwrap().push(line);
}

struct Fakes {
    scripts: BTreeMap<PathBuf, Script>,
    tries: AtomicU32,
    log: Log,
}

impl WatchdogHost for Fakes {
    fn exists(&self, path: &Path) -> bool {
        self.scripts.contains_key(path)
    }

    fn list(&self) -> Vec<DeviceFile> {
        self.scripts
            .iter()
            .map(|(path, script)| DeviceFile {
                path: path.clone(),
                modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 - script.age),
            })
            .collect()
    }

    fn open(&self, path: &Path, _may_stop: bool) -> Result<Box<dyn WatchdogDevice>, DeviceError> {
        let script = self
            .scripts
            .get(path)
            .cloned()
            .ok_or(DeviceError::Missing)?;
        let tried = self.tries.fetch_add(1, Ordering::SeqCst);
        if tried < script.busy {
            return Err(DeviceError::Busy);
        }
        push(&self.log, format!("open {}", path.display()));
        let info = Info {
            path: path.to_path_buf(),
            identity: "scripted".to_owned(),
            options: script.options,
            nowayout: None,
        };
        let log = Arc::clone(&self.log);
        Ok(Box::new(Fake {
            info,
            timeout: script.timeout,
            script,
            log,
        }))
    }
}

struct Fake {
    info: Info,
    timeout: u64,
    script: Script,
    log: Log,
}

impl WatchdogDevice for Fake {
    fn info(&self) -> &Info {
        &self.info
    }

    fn timeout(&self) -> Result<Duration, DeviceError> {
        Ok(Duration::from_secs(self.timeout))
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<Duration, DeviceError> {
        push(&self.log, format!("set {}", timeout.as_secs()));
        if self.script.refuses_timeout {
            return Err(DeviceError::io(
                "set",
                std::io::Error::from_raw_os_error(22),
            ));
        }
        self.timeout = timeout.as_secs().min(30);
        self.timeout()
    }

    fn feed(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn magic_close(self: Box<Self>) -> Result<(), DeviceError> {
        push(
            &self.log,
            format!("magic close {}", self.info.path.display()),
        );
        Ok(())
    }
}

fn host(scripts: &[(&str, Script)]) -> (Host, Log) {
    let log = Log::default();
    let scripts = scripts
        .iter()
        .map(|(path, s)| (PathBuf::from(path), s.clone()))
        .collect();
    let fakes = Fakes {
        scripts,
        tries: AtomicU32::new(0),
        log: Arc::clone(&log),
    };
    (Host::with_watchdogs("/nonexistent", Box::new(fakes)), log)
}

fn request(timeout: Option<u64>) -> ArmRequest<'static> {
    ArmRequest {
        earlier: None,
        configured: Path::new("/dev/watchdog"),
        timeout: timeout.map(Duration::from_secs),
        patience: Duration::from_millis(500),
        permitted: &|| true,
        may_release: true,
    }
}

fn path_of(armed: &Armed) -> String {
    armed.device.info().path.display().to_string()
}

#[test]
fn the_configured_device_comes_first() {
    let old = Script { age: 500, ..GOOD };
    let (host, _) = host(&[("/dev/watchdog", old), ("/dev/watchdog1", GOOD)]);
    let armed = arm(&host, &request(None)).unwrap();
    assert_eq!(path_of(&armed), "/dev/watchdog");
    assert_eq!(armed.passed_over, []);
    assert_eq!(
        (armed.timeout, armed.timeout_refused),
        (Duration::from_mins(1), None)
    );
}

/// A restarted agent feeds the device that runs, whatever is configured or younger by now.
#[test]
fn the_device_of_an_earlier_process_comes_before_the_configured_one() {
    let old = Script { age: 500, ..GOOD };
    let wanted = ArmRequest {
        earlier: Some(Path::new("/dev/watchdog1")),
        ..request(None)
    };
    let (host, log) = host(&[
        ("/dev/watchdog", GOOD),
        ("/dev/watchdog1", old),
        ("/dev/watchdog2", GOOD),
    ]);
    assert_eq!(path_of(&arm(&host, &wanted).unwrap()), "/dev/watchdog1");
    assert_eq!(*log.lock().unwrap(), ["open /dev/watchdog1"]);
    // One that is gone (a module was unloaded) keeps nobody from the others.
    let (host, _) = self::host(&[("/dev/watchdog", GOOD)]);
    assert_eq!(path_of(&arm(&host, &wanted).unwrap()), "/dev/watchdog");
}

#[test]
fn without_the_configured_device_the_youngest_is_taken() {
    let (host, _) = host(&[
        ("/dev/watchdog0", Script { age: 9, ..GOOD }),
        ("/dev/watchdog1", Script { age: 1, ..GOOD }),
        ("/dev/watchdog2", Script { age: 5, ..GOOD }),
    ]);
    let wanted = ArmRequest {
        configured: Path::new("/dev/none"),
        ..request(None)
    };
    assert_eq!(path_of(&arm(&host, &wanted).unwrap()), "/dev/watchdog1");
}

#[test]
fn of_equally_old_devices_the_last_name_is_taken() {
    let (host, _) = host(&[("/dev/watchdog0", GOOD), ("/dev/watchdog1", GOOD)]);
    let wanted = ArmRequest {
        configured: Path::new("/dev/none"),
        ..request(None)
    };
    assert_eq!(path_of(&arm(&host, &wanted).unwrap()), "/dev/watchdog1");
}

#[test]
fn a_busy_device_leads_to_another_one() {
    let busy = Script {
        busy: u32::MAX,
        ..GOOD
    };
    let (host, _) = host(&[("/dev/watchdog", busy.clone()), ("/dev/watchdog1", GOOD)]);
    let armed = arm(&host, &request(None)).unwrap();
    assert_eq!(path_of(&armed), "/dev/watchdog1");
    let [(path, why)] = armed.passed_over.as_slice() else {
        panic!("{armed:?}");
    };
    assert_eq!(path, Path::new("/dev/watchdog"));
    assert!(why.contains("held by another process"), "{why}");
    let (host, _) = self::host(&[("/dev/watchdog", busy.clone()), ("/dev/watchdog0", busy)]);
    let none = arm(&host, &request(None)).unwrap_err();
    assert_eq!(none.tried.len(), 2);
    assert!(
        none.tried
            .iter()
            .all(|(_, reason)| reason.contains("held by another process"))
    );
    assert!(none.softdog.is_some(), "softdog is the last resort");
}

#[test]
fn a_device_that_is_just_being_closed_is_waited_for() {
    let soon = Script { busy: 3, ..GOOD };
    let (host, _) = host(&[("/dev/watchdog", soon), ("/dev/watchdog1", GOOD)]);
    assert_eq!(
        path_of(&arm(&host, &request(None)).unwrap()),
        "/dev/watchdog"
    );
}

#[test]
fn a_driver_without_magic_close_counts_as_none() {
    let (host, log) = host(&[(
        "/dev/watchdog",
        Script {
            options: OPTION_SET_TIMEOUT,
            ..GOOD
        },
    )]);
    let none = arm(&host, &request(Some(10))).unwrap_err();
    assert!(none.tried[0].1.contains("MAGICCLOSE"), "{none}");
    assert_eq!(*log.lock().unwrap(), ["open /dev/watchdog"]);
}

#[test]
fn the_value_read_back_counts() {
    let (host, _) = host(&[("/dev/watchdog", GOOD)]);
    let armed = arm(&host, &request(Some(10))).unwrap();
    assert_eq!(
        (armed.timeout, armed.timeout_refused),
        (Duration::from_secs(10), None)
    );
    let armed = arm(&host, &request(Some(45))).unwrap();
    assert_eq!(armed.timeout, Duration::from_secs(30));
    assert!(armed.timeout_refused.unwrap().contains("30 s"));
}

#[test]
fn a_refused_or_fixed_timeout_leaves_the_drivers_own() {
    for script in [
        Script {
            refuses_timeout: true,
            ..GOOD
        },
        Script {
            options: OPTION_MAGIC_CLOSE,
            ..GOOD
        },
    ] {
        let (host, _) = host(&[("/dev/watchdog", script)]);
        let armed = arm(&host, &request(Some(10))).unwrap();
        assert_eq!(armed.timeout, Duration::from_mins(1));
        assert!(armed.timeout_refused.is_some());
    }
}

#[test]
fn a_wanted_timeout_that_is_in_force_is_not_set_again() {
    let (host, log) = host(&[("/dev/watchdog", GOOD)]);
    arm(&host, &request(Some(60))).unwrap();
    assert_eq!(*log.lock().unwrap(), ["open /dev/watchdog"]);
}

#[test]
fn a_device_without_timeout_is_stopped_unless_one_was_announced() {
    for (may_release, expected) in [
        (
            true,
            vec!["open /dev/watchdog", "magic close /dev/watchdog"],
        ),
        (false, vec!["open /dev/watchdog"]),
    ] {
        let (host, log) = host(&[("/dev/watchdog", Script { timeout: 0, ..GOOD })]);
        arm(
            &host,
            &ArmRequest {
                may_release,
                ..request(None)
            },
        )
        .unwrap_err();
        assert_eq!(*log.lock().unwrap(), expected, "may_release={may_release}");
    }
}

#[test]
fn nothing_is_opened_or_set_without_a_permit() {
    let (host, log) = host(&[("/dev/watchdog", GOOD)]);
    let none = arm(
        &host,
        &ArmRequest {
            permitted: &|| false,
            ..request(Some(10))
        },
    )
    .unwrap_err();
    assert!(none.permit_ended);
    assert!(log.lock().unwrap().is_empty());

    let asked = Cell::new(0);
    let once = || asked.replace(asked.get() + 1) == 0;
    let none = arm(
        &host,
        &ArmRequest {
            permitted: &once,
            ..request(Some(10))
        },
    )
    .unwrap_err();
    assert!(none.permit_ended);
    assert_eq!(
        *log.lock().unwrap(),
        ["open /dev/watchdog"],
        "opened, then left as it was"
    );
}

#[test]
fn no_device_is_said_in_words() {
    let (host, _) = host(&[]);
    let none = arm(&host, &request(None)).unwrap_err();
    let text = none.to_string();
    assert!(
        text.contains("no watchdog device") && text.contains("softdog"),
        "{text}"
    );
}
