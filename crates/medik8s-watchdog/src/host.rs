//! The host seam: everything that is taken from the machine, under one root.
//!
//! # Why
//!
//! The agent runs in a container but judges the machine. In production the root is
//! [`Host::REAL_ROOT`], the file system of PID 1 (the pod has `hostPID`). Tests and the demo
//! give a folder. With any other root than the real one there is no value of the type that can
//! reboot or load modules (`Machine` is not made), so no mistake elsewhere can reset the
//! machine the tests run on.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC};

use crate::device::{NoWatchdogs, WatchdogHost};
use crate::linux::LinuxWatchdogs;
use crate::machine::Machine;
use crate::threads::{OsThreads, Threads};

/// A link of the reboot chain that takes longer hangs. All that works takes no time.
const LINK_LIMIT: Duration = Duration::from_secs(1);

/// Why something could not be taken from the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file could not be read or written.
    #[error("could not {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} does not hold {expected}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected in it.
        expected: &'static str,
    },
    /// The root is not the real one, so the machine itself is out of reach.
    #[error("not available under another root than {}", Host::REAL_ROOT)]
    NotTheMachine,
    /// Under another root than the real one only plain files may be written.
    #[error(
        "{path} is no plain file outside procfs, and the root is not {}",
        Host::REAL_ROOT
    )]
    Refused {
        /// The file.
        path: PathBuf,
    },
    /// A kernel module could not be loaded.
    #[error("could not load the module {module}: {reason}")]
    Module {
        /// Its name.
        module: &'static str,
        /// What was tried and what came of it.
        reason: String,
    },
    /// reboot(2) returned.
    #[error("reboot(2) was refused")]
    Reboot(#[source] std::io::Error),
    /// A link of the reboot chain did not return; the next one is tried.
    #[error("no answer within {} s", LINK_LIMIT.as_secs())]
    Hangs,
}

/// One try to reset the machine by software that did not end this process.
#[derive(Debug)]
pub struct RebootAttempt {
    /// What was tried.
    pub step: RebootStep,
    /// `Ok` when the kernel accepted it and the machine lives on for the moment.
    pub result: Result<(), HostError>,
}

/// The links of the software reboot chain, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RebootStep {
    /// Write `b` to a sysrq trigger: immediate reset, no sync.
    Sysrq(PathBuf),
    /// Call reboot(2).
    Syscall,
}

/// The machine the agent guards.
pub struct Host {
    root: PathBuf,
    /// Present only for the real root: the abilities that can reset this machine.
    machine: Option<Arc<Machine>>,
    watchdogs: Box<dyn WatchdogHost>,
    threads: Box<dyn Threads>,
    /// Which links of the reboot chain have not returned yet.
    hanging: [Arc<AtomicBool>; LINKS],
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("root", &self.root)
            .field("real", &self.is_real())
            .finish_non_exhaustive()
    }
}

impl Host {
    /// The root of PID 1 as a pod with `hostPID` sees it.
    pub const REAL_ROOT: &'static str = "/proc/1/root";

    /// The host under `root`. Its watchdogs are the kernel's if the root is the real one;
    /// under another root there are none.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let watchdogs: Box<dyn WatchdogHost> = if root == Path::new(Self::REAL_ROOT) {
            // The pod mounts the host's /dev at its own /dev, and WATCHDOG_PATH names it there.
            Box::new(LinuxWatchdogs::new("/dev", "/sys"))
        } else {
            Box::new(NoWatchdogs)
        };
        Self::with_watchdogs(root, watchdogs)
    }

    /// The host under `root` with watchdogs from elsewhere.
    pub fn with_watchdogs(root: impl Into<PathBuf>, watchdogs: Box<dyn WatchdogHost>) -> Self {
        let root = root.into();
        let machine =
            (root == Path::new(Self::REAL_ROOT)).then(|| Arc::new(Machine::of_this_process(&root)));
        Self {
            root,
            machine,
            watchdogs,
            threads: Box::new(OsThreads),
            hanging: Default::default(),
        }
    }

    /// Whether the root is the real one.
    pub fn is_real(&self) -> bool {
        self.machine.is_some()
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where watchdogs come from.
    pub fn watchdogs(&self) -> &dyn WatchdogHost {
        self.watchdogs.as_ref()
    }

    /// The same host with threads from elsewhere.
    #[must_use]
    pub fn with_threads(self, threads: Box<dyn Threads>) -> Self {
        Self { threads, ..self }
    }

    /// Where threads of their own come from.
    pub fn threads(&self) -> &dyn Threads {
        self.threads.as_ref()
    }

    /// The folder whose contents live exactly as long as the boot (`/run` is a tmpfs).
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("run/self-node-remediation")
    }

    /// The kernel's identifier of this boot.
    pub fn boot_id(&self) -> Result<String, HostError> {
        let path = self.root.join("proc/sys/kernel/random/boot_id");
        let text = read(&path)?;
        let id = text.trim();
        let plausible = !id.is_empty()
            && id.len() <= 64
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if plausible {
            Ok(id.to_owned())
        } else {
            Err(HostError::Malformed {
                path,
                expected: "a boot ID",
            })
        }
    }

    /// How long the machine has been up. Only for the rule that compares it with the age of a
    /// remediation whose manager recorded no boot ID.
    pub fn uptime(&self) -> Result<Duration, HostError> {
        let path = self.root.join("proc/uptime");
        let text = read(&path)?;
        text.split_ascii_whitespace()
            .next()
            .and_then(|word| word.parse::<f64>().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or(HostError::Malformed {
                path,
                expected: "an uptime",
            })
    }

    /// Loads the kernel's software watchdog.
    pub fn load_softdog(&self) -> Result<(), HostError> {
        self.machine
            .as_ref()
            .ok_or(HostError::NotTheMachine)?
            .load_softdog()
    }

    /// The chain that [`Self::reboot`] goes through.
    pub fn reboot_chain(&self) -> Vec<RebootStep> {
        let in_root = RebootStep::Sysrq(self.root.join("proc/sysrq-trigger"));
        if self.is_real() {
            // First the own view of procfs, which needs no other mount namespace.
            let own = RebootStep::Sysrq(PathBuf::from("/proc/sysrq-trigger"));
            vec![own, in_root, RebootStep::Syscall]
        } else {
            vec![in_root]
        }
    }

    /// Resets the machine by software, without sync or unmount, which may hang. Each link is tried on a thread of its
    /// own, so that one that hangs does not keep the next from its turn. Returns only if the machine is still alive
    /// after the last link of the chain.
    pub fn reboot(&self) -> Vec<RebootAttempt> {
        let links = self.reboot_chain().into_iter().map(|step| {
            let (machine, link) = (self.machine.clone(), step.clone());
            let work: Link = Arc::new(move || match (&link, &machine) {
                (RebootStep::Sysrq(path), Some(machine)) => machine.write_sysrq(path),
                (RebootStep::Sysrq(path), None) => write_plain(path),
                (RebootStep::Syscall, Some(machine)) => machine.reboot_syscall(),
                (RebootStep::Syscall, None) => Err(HostError::NotTheMachine),
            });
            (step, work)
        });
        try_links(links, &self.hanging)
    }
}

/// The longest chain.
const LINKS: usize = 3;

/// One way to reset the machine.
type Link = Arc<dyn Fn() -> Result<(), HostError> + Send + Sync>;

/// Tries one link after the other. A link that has not returned since an earlier try is not tried again.
fn try_links(
    links: impl IntoIterator<Item = (RebootStep, Link)>,
    hanging: &[Arc<AtomicBool>; LINKS],
) -> Vec<RebootAttempt> {
    let attempt = |((step, link), hangs): ((RebootStep, Link), &Arc<AtomicBool>)| {
        let result = if hangs.swap(true, Ordering::SeqCst) {
            Err(HostError::Hangs)
        } else {
            try_link(&link, hangs)
        };
        RebootAttempt { step, result }
    };
    links.into_iter().zip(hanging).map(attempt).collect()
}

fn try_link(link: &Link, hangs: &Arc<AtomicBool>) -> Result<(), HostError> {
    let (sender, outcome) = mpsc::sync_channel(1);
    let (work, returned) = (Arc::clone(link), Arc::clone(hangs));
    let spawned = std::thread::Builder::new()
        .name("reboot-link".to_owned())
        .spawn(move || {
            let result = work();
            returned.store(false, Ordering::SeqCst);
            if sender.send(result).is_err() {
                tracing::debug!("a link of the reboot chain returned late");
            }
        });
    match spawned {
        Ok(_) => outcome
            .recv_timeout(LINK_LIMIT)
            .unwrap_or(Err(HostError::Hangs)),
        Err(error) => {
            tracing::warn!(%error, "no thread for a link of the reboot chain");
            let result = link();
            hangs.store(false, Ordering::SeqCst);
            result
        }
    }
}

fn read(path: &Path) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError::File {
        operation: "read",
        path: path.to_path_buf(),
        source,
    })
}

/// Writes the reset request of a simulated host: an existing plain file, never procfs, whatever
/// the root was set to.
fn write_plain(path: &Path) -> Result<(), HostError> {
    let fail = |operation| {
        move |source: std::io::Error| HostError::File {
            operation,
            path: path.to_path_buf(),
            source,
        }
    };
    // Opened once: what is inspected is what is written to. Opening alone changes nothing.
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .open(path)
        .map_err(fail("open"))?;
    let meta = file.metadata().map_err(fail("inspect"))?;
    let fs = nix::sys::statfs::fstatfs(&file).map_err(|e| fail("inspect")(e.into()))?;
    let kernel_made =
        [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&fs.filesystem_type()) || !meta.is_file();
    if kernel_made {
        return Err(HostError::Refused {
            path: path.to_path_buf(),
        });
    }
    file.write_all(b"b").map_err(fail("write"))
}

#[cfg(test)]
mod tests;
