//! Folders of runs that were killed: removed by the next run.

use std::{fs, path::Path};

/// Name of the file that says whose folder it is: process id and start time.
const OWNER: &str = "owner";
/// Every temporary folder of the harness starts with this. Short: the path of a Unix socket has 107
/// bytes.
pub(crate) const PREFIX: &str = "medik8s-";

/// Writes down that the folder is ours.
pub(crate) fn claim(folder: &Path) -> anyhow::Result<()> {
    let pid = nix::unistd::Pid::this().as_raw();
    let started = start_time(pid).unwrap_or_default();
    fs::write(folder.join(OWNER), format!("{pid} {started}"))?;
    Ok(())
}

/// Removes the temporary folders whose owners are gone. What cannot be read or removed stays.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let ours = folder
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if ours && is_abandoned(&folder) {
            drop(fs::remove_dir_all(folder));
        }
    }
}

fn is_abandoned(folder: &Path) -> bool {
    let Ok(owner) = fs::read_to_string(folder.join(OWNER)) else {
        return false;
    };
    let mut words = owner.split(' ');
    let pid = words.next().and_then(|pid| pid.parse().ok());
    let started = words.next();
    pid.is_some_and(|pid| start_time(pid).as_deref() != started)
}

/// When a process was started: tells it from a later one with the same id.
pub(crate) fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold blanks; 20 fields after it is the start time.
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(19)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_abandoned_when_its_owner_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            !is_abandoned(folder.path()),
            "nobody's folder is left alone"
        );
        claim(folder.path()).unwrap();
        assert!(!is_abandoned(folder.path()));
        let own = nix::unistd::Pid::this();
        fs::write(folder.path().join(OWNER), format!("{own} 1")).unwrap();
        assert!(
            is_abandoned(folder.path()),
            "the id belongs to another process now"
        );
    }
}
