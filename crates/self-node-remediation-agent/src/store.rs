//! What outlives the process but not the boot: files under the host's `/run`, and their owner.
//!
//! # Guarantees
//! * One process at a time owns the state: the holder of a `flock`. Successors stand by for it, and
//!   the holder can tell that somebody does.
//! * A record is written to a new file that then takes the place of the old one, so a reader sees
//!   the one or the other. A record of another boot, or one that cannot be read, counts as none.
//! * What must be known before it is used is written by [`Store::write`] before that.
//!
//! # Caveats
//! `/run` is a tmpfs, which a reboot empties; nothing here is meant to survive one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use self_node_remediation_core::ids::BootId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const OWNER: &str = "lock";
const STANDBY: &str = "standby";

/// What the rules want remembered: proofs, orders, announcements.
pub const STATE: &str = "state.json";
/// Where the peers were, so that a process that starts during an outage can ask them.
pub const PEERS: &str = "peers.json";

/// Which watchdog device is in use.
pub const DEVICE: &str = "watchdog.json";

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} {path}")]
pub struct StoreError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The state folder of this node.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder if it is not there. Its parent (`/run`) must be.
    pub fn open(path: PathBuf) -> Result<Self, StoreError> {
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self(path)),
            Err(source) => Err(StoreError {
                operation: "make the folder",
                path,
                source,
            }),
        }
    }

    /// Becomes the owner, or says that another process is. Never waits.
    pub fn try_own(&self) -> Result<Option<Store>, StoreError> {
        Ok(self
            .lock(OWNER, FlockArg::LockExclusiveNonblock)?
            .map(|owner| self.store(owner)))
    }

    /// Stands by for the ownership.
    pub fn stand_by(self) -> Successor {
        Successor {
            folder: self,
            standby: None,
            unseen: false,
        }
    }

    fn store(&self, owner: Flock<File>) -> Store {
        Store {
            folder: self.clone(),
            owner,
        }
    }

    /// `None`: another process holds this lock.
    fn lock(&self, name: &str, how: FlockArg) -> Result<Option<Flock<File>>, StoreError> {
        let path = self.0.join(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError {
                operation: "open",
                path: path.clone(),
                source,
            })?;
        let mut file = file;
        loop {
            match Flock::lock(file, how) {
                Ok(locked) => return Ok(Some(locked)),
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((again, Errno::EINTR)) => file = again,
                Err((_, errno)) => {
                    return Err(StoreError {
                        operation: "lock",
                        path,
                        source: errno.into(),
                    });
                }
            }
        }
    }
}

/// The state of this node, owned by this process.
#[derive(Debug)]
pub struct Store {
    folder: Folder,
    #[expect(dead_code, reason = "held for the lock, which ends with it")]
    owner: Flock<File>,
}

/// Stands by for the ownership: the owner sees it.
#[derive(Debug)]
pub struct Successor {
    folder: Folder,
    /// There is one successor at a time.
    standby: Option<Flock<File>>,
    /// The owner does not see it, and must not count on it.
    unseen: bool,
}

impl Successor {
    /// Becomes the owner if there is none any more. Never waits.
    pub fn try_own(&mut self) -> Result<Option<Store>, StoreError> {
        if self.unseen {
            return self.folder.try_own();
        }
        if self.standby.is_none() {
            let how = FlockArg::LockExclusiveNonblock;
            self.standby = self.folder.lock(STANDBY, how)?;
        }
        if self.standby.is_none() {
            return Ok(None);
        }
        let owned = self.folder.try_own()?;
        if owned.is_some() {
            self.standby = None;
        }
        Ok(owned)
    }

    /// From now on the owner does not see anybody here; the ownership can still be taken.
    pub fn is_no_more_awaiting(&mut self) {
        self.unseen = true;
        self.standby = None;
    }
}

/// A record with the boot it is of.
#[derive(Serialize, Deserialize)]
struct Record<T> {
    boot: BootId,
    state: T,
}

impl Store {
    /// The record of this boot. What cannot be read counts as none: then there was no contact in
    /// this boot, as far as anybody knows.
    pub fn read<T: DeserializeOwned>(&self, name: &str, boot: &BootId) -> Option<T> {
        let path = self.path(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the recorded state is unreadable");
                return None;
            }
        };
        match serde_json::from_slice::<Record<T>>(&bytes) {
            Ok(record) if record.boot == *boot => Some(record.state),
            Ok(record) => {
                tracing::info!(recorded = %record.boot, %boot, "the recorded state is of another boot");
                None
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the recorded state is malformed");
                None
            }
        }
    }

    /// Replaces the record.
    pub fn write<T: Serialize>(
        &self,
        name: &str,
        boot: &BootId,
        state: &T,
    ) -> Result<(), StoreError> {
        let next = self.path(&format!("{name}.next"));
        let fail = |operation, path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError {
                operation,
                path,
                source,
            }
        };
        let record = Record {
            boot: boot.clone(),
            state,
        };
        let bytes = serde_json::to_vec(&record).map_err(|e| fail("encode", &next)(e.into()))?;
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&next)
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(fail("write", &next))?;
        let path = self.path(name);
        std::fs::rename(&next, &path).map_err(fail("replace", &path))
    }

    /// Whether a successor stands by for the ownership.
    pub fn is_awaited(&self) -> Result<bool, StoreError> {
        let free = self.folder.lock(STANDBY, FlockArg::LockExclusiveNonblock)?;
        Ok(free.is_none())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }
}

#[cfg(test)]
mod tests;
