//! What only the real machine can do: be reset, load a module.
//!
//! A [`Machine`] is made in one place, [`crate::host::Host::with_watchdogs`], for the real root.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::kmod::ModuleInitFlags;
use nix::sched::CloneFlags;
use nix::sys::reboot::RebootMode;

use crate::host::HostError;

const SOFTDOG: &str = "softdog";
/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel unpacks the file (5.17 and later).
const COMPRESSED_FILE: u32 = 4;
/// modprobe is waited for in steps of [`STEP`].
const MODPROBE_STEPS: u32 = 200;
const STEP: Duration = Duration::from_millis(50);

/// The machine this process runs on.
pub(crate) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// Takes hold of the machine whose files are seen under `root`.
    pub(crate) fn of_this_process(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Asks for an immediate reset.
    #[expect(clippy::unused_self, reason = "having a Machine is the permission")]
    pub(crate) fn write_sysrq(&self, path: &Path) -> Result<(), HostError> {
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(b"b"))
            .map_err(|source| file_error("write", path, source))
    }

    /// Calls reboot(2), which resets the machine because the pod shares PID 1's PID namespace.
    #[expect(clippy::unused_self, reason = "having a Machine is the permission")]
    pub(crate) fn reboot_syscall(&self) -> Result<(), HostError> {
        match nix::sys::reboot::reboot(RebootMode::RB_AUTOBOOT) {
            Ok(never) => match never {},
            Err(errno) => Err(HostError::Reboot(errno.into())),
        }
    }

    /// Loads softdog with the host's modprobe, which honours the host's module options; hosts
    /// without one (Talos, Bottlerocket) get it by finit_module.
    pub(crate) fn load_softdog(&self) -> Result<(), HostError> {
        let mut reasons = Vec::new();
        for modprobe in ["/sbin/modprobe", "/usr/sbin/modprobe"] {
            match self.modprobe(modprobe) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(format!("{modprobe}: {reason}")),
            }
        }
        match self.insert(SOFTDOG) {
            Ok(()) => Ok(()),
            Err(reason) => {
                reasons.push(format!("finit_module: {reason}"));
                Err(HostError::Module {
                    module: SOFTDOG,
                    reason: reasons.join("; "),
                })
            }
        }
    }

    #[expect(clippy::unused_self, reason = "having a Machine is the permission")]
    fn modprobe(&self, program: &str) -> Result<(), String> {
        let namespace = File::open("/proc/1/ns/mnt").map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command
            .arg(SOFTDOG)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let enter = move || {
            nix::sched::setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that
        // was opened before, and neither allocates nor takes a lock.
        unsafe { command.pre_exec(enter) };
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        for _ in 0..MODPROBE_STEPS {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(status.to_string()),
                Ok(None) => std::thread::sleep(STEP),
                Err(error) => return Err(error.to_string()),
            }
        }
        let killed = child.kill().and_then(|()| child.wait());
        Err(match killed {
            Ok(_) => "took too long and was killed".to_owned(),
            Err(error) => format!("took too long and could not be killed: {error}"),
        })
    }

    fn insert(&self, module: &str) -> Result<(), String> {
        let release_file = self.root.join("proc/sys/kernel/osrelease");
        let release = std::fs::read_to_string(&release_file).map_err(|e| e.to_string())?;
        let folder = ["lib/modules", "usr/lib/modules"]
            .map(|folder| self.root.join(folder).join(release.trim()))
            .into_iter()
            .find(|folder| folder.join("modules.dep").is_file())
            .ok_or_else(|| format!("no modules.dep for kernel {}", release.trim()))?;
        let dependencies =
            std::fs::read_to_string(folder.join("modules.dep")).map_err(|e| e.to_string())?;
        let order = load_order(&dependencies, module)
            .ok_or_else(|| format!("modules.dep does not list {module}"))?;
        order
            .iter()
            .try_for_each(|file| insert_file(&folder.join(file)))
    }
}

fn insert_file(path: &Path) -> Result<(), String> {
    let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| fail(&error))?;
    let flags = if path.extension().is_some_and(|extension| extension == "ko") {
        ModuleInitFlags::empty()
    } else {
        ModuleInitFlags::from_bits_retain(COMPRESSED_FILE)
    };
    match nix::kmod::finit_module(&file, &CString::default(), flags) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(fail(&errno)),
    }
}

/// The files to insert for `module`, in order. A line of modules.dep is
/// `file: needed-file...`, where the file needed first stands last.
fn load_order(dependencies: &str, module: &str) -> Option<Vec<String>> {
    dependencies.lines().find_map(|line| {
        let (file, needs) = line.split_once(':')?;
        (module_name(file)? == module).then(|| {
            let mut order: Vec<_> = needs.split_whitespace().rev().map(str::to_owned).collect();
            order.push(file.to_owned());
            order
        })
    })
}

/// `kernel/drivers/watchdog/softdog.ko.xz` is the module `softdog`.
fn module_name(file: &str) -> Option<String> {
    let base = file.rsplit('/').next()?;
    let (stem, _) = base.split_once(".ko")?;
    Some(stem.replace('-', "_"))
}

fn file_error(operation: &'static str, path: &Path, source: std::io::Error) -> HostError {
    HostError::File {
        operation,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/drivers/watchdog/watchdog.ko.xz:
kernel/drivers/watchdog/softdog_extra.ko.xz:
kernel/drivers/watchdog/softdog.ko.xz: kernel/drivers/watchdog/watchdog.ko.xz kernel/lib/first-lib.ko
";

    #[test]
    fn what_is_needed_first_is_inserted_first() {
        let order = load_order(DEPENDENCIES, "softdog").unwrap();
        assert_eq!(
            order,
            [
                "kernel/lib/first-lib.ko",
                "kernel/drivers/watchdog/watchdog.ko.xz",
                "kernel/drivers/watchdog/softdog.ko.xz"
            ]
        );
    }

    #[test]
    fn an_unknown_module_has_no_order() {
        assert_eq!(load_order(DEPENDENCIES, "iTCO_wdt"), None);
        assert_eq!(load_order("", "softdog"), None);
    }

    #[test]
    fn module_names_ignore_folders_and_compression() {
        assert_eq!(
            module_name("kernel/a/first-lib.ko.zst").unwrap(),
            "first_lib"
        );
        assert_eq!(module_name("softdog.ko").unwrap(), "softdog");
        assert_eq!(module_name("modules.order"), None);
    }
}
