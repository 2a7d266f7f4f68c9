//! A watchdog for tests: a Unix socket that the harness serves. Not part of any product build; it
//! is compiled only with `--cfg medik8s_test_watchdog`.
//!
//! # Protocol
//! One device at `<host root>/dev/watchdog.sock`, which the agent knows as `/dev/watchdog`.
//!
//! * Connecting is open(2). The harness answers one line: `timeout <seconds>[ nowayout][ nomagic]`
//!   (the timer runs from now on, or goes on running if it already was), or `busy`.
//! * `a` feeds. No answer.
//! * `t<seconds>\n` sets the timeout, which feeds too. The answer is `timeout <taken>` or `error`.
//! * `V` followed by the end of the connection stops the timer, unless `nowayout`.
//! * The end of the connection without `V` before it is the kernel's closing ping: the timer goes
//!   on with one full timeout.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use medik8s_watchdog::device::{OPTION_MAGIC_CLOSE, OPTION_SET_TIMEOUT};
use medik8s_watchdog::{DeviceError, DeviceFile, Info, WatchdogDevice, WatchdogHost};

/// Shows in logs, and proves by its absence that a binary has no test watchdog.
const MARKER: &str = "medik8s-test-watchdog";
/// The name under which the agent is configured to look for it.
const PATH: &str = "/dev/watchdog";
const ANSWER: Duration = Duration::from_secs(2);

/// The harness' device of one simulated node.
pub(crate) struct SocketWatchdogs {
    socket: PathBuf,
}

impl SocketWatchdogs {
    pub(crate) fn new(host_root: &Path) -> Self {
        tracing::warn!(MARKER, "this agent has a test watchdog");
        Self {
            socket: host_root.join("dev/watchdog.sock"),
        }
    }
}

impl WatchdogHost for SocketWatchdogs {
    fn exists(&self, path: &Path) -> bool {
        path == Path::new(PATH) && self.socket.exists()
    }

    fn list(&self) -> Vec<DeviceFile> {
        let path = PathBuf::from(PATH);
        let found = self.exists(&path);
        found
            .then_some(DeviceFile {
                path,
                modified: SystemTime::UNIX_EPOCH,
            })
            .into_iter()
            .collect()
    }

    fn open(&self, path: &Path, _may_stop: bool) -> Result<Box<dyn WatchdogDevice>, DeviceError> {
        if path != Path::new(PATH) {
            return Err(DeviceError::Missing);
        }
        let stream = UnixStream::connect(&self.socket).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                DeviceError::Missing
            } else {
                failed("connect to the test watchdog", error)
            }
        })?;
        let limit = |error| failed("limit the wait for the test watchdog", error);
        stream.set_read_timeout(Some(ANSWER)).map_err(limit)?;
        stream.set_write_timeout(Some(ANSWER)).map_err(limit)?;
        let reader = stream.try_clone().map_err(limit)?;
        let mut device = Socket {
            stream,
            reader: BufReader::new(reader),
            info: Info {
                path: path.to_path_buf(),
                identity: MARKER.to_owned(),
                options: OPTION_MAGIC_CLOSE | OPTION_SET_TIMEOUT,
                nowayout: Some(false),
            },
            timeout: Duration::ZERO,
        };
        let line = device.read_line()?;
        if line == "busy" {
            return Err(DeviceError::Busy);
        }
        device.timeout = timeout_in(&line)?;
        for word in line.split_ascii_whitespace().skip(2) {
            match word {
                "nowayout" => device.info.nowayout = Some(true),
                "nomagic" => device.info.options &= !OPTION_MAGIC_CLOSE,
                _ => return Err(DeviceError::NotAWatchdog),
            }
        }
        Ok(Box::new(device))
    }
}

struct Socket {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    info: Info,
    timeout: Duration,
}

impl Socket {
    fn send(&mut self, bytes: &[u8]) -> Result<(), DeviceError> {
        self.stream
            .write_all(bytes)
            .map_err(|error| failed("write to the test watchdog", error))
    }

    fn read_line(&mut self) -> Result<String, DeviceError> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Err(DeviceError::NotAWatchdog),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(failed("read from the test watchdog", error)),
        }
    }
}

impl WatchdogDevice for Socket {
    fn info(&self) -> &Info {
        &self.info
    }

    fn timeout(&self) -> Result<Duration, DeviceError> {
        Ok(self.timeout)
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<Duration, DeviceError> {
        self.send(format!("t{}\n", timeout.as_secs()).as_bytes())?;
        let line = self.read_line()?;
        self.timeout = timeout_in(&line)?;
        Ok(self.timeout)
    }

    fn feed(&mut self) -> Result<(), DeviceError> {
        self.send(b"a")
    }

    fn magic_close(mut self: Box<Self>) -> Result<(), DeviceError> {
        self.send(b"V")
    }
}

fn failed(operation: &'static str, source: io::Error) -> DeviceError {
    DeviceError::Io { operation, source }
}

/// The number in `timeout <seconds> ...`.
fn timeout_in(line: &str) -> Result<Duration, DeviceError> {
    line.strip_prefix("timeout ")
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs)
        .ok_or_else(|| {
            failed(
                "understand the test watchdog",
                io::ErrorKind::InvalidData.into(),
            )
        })
}
