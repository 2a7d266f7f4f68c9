//! Real machines for `make test-vm`: QEMU guests with a Debian kernel and a watchdog that resets them.
//!
//! # Purpose
//! The fencing rules end at a device. Here the device is the emulated i6300esb, or the kernel's own
//! softdog, the driver is Debian's, and the agent is the release program, unchanged, with the arguments,
//! environment and files of its DaemonSet pod. What is played: the guest's kubelet ([`kubelet`]).
//!
//! ```text
//!  control plane, manager, test agents of simulated workers        (the harness' network namespace)
//!        │ tap                                   │ QMP: WATCHDOG, RESET; set_link
//!  ┌─────┴─────── guest ─────────────────────────┴──┐
//!  │ /init (tests/guest) ── serial port ── kubelet  │
//!  │ agent ──► /dev/watchdog ──► i6300esb │ softdog │
//!  └────────────────────────────────────────────────┘
//! ```
//!
//! # Guarantees
//! A reset is what QEMU reports, at the moment it reports it. A kernel that panics stands still, so it is
//! never taken for a reset by a watchdog.

mod guest;
mod initramfs;
mod kernel;
mod kubelet;
mod port;
mod qmp;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::unistd::Uid;

pub use guest::{Driver, Guest, Happening, Hardware, What};
pub use kernel::Kernel;

use crate::images::has_test_watchdog;

/// The emulator.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Kernel and modules.
    pub kernel: Kernel,
    /// The first process.
    pub init: PathBuf,
    /// The agent as it is shipped.
    pub agent: PathBuf,
}

/// The kernel of guests, or why guests cannot be had here. It may have to be fetched, so this is called
/// while this process is still in the machine's own network.
pub fn able() -> anyhow::Result<Kernel> {
    ensure!(Uid::effective().is_root(), "guests need root (tap devices)");
    ensure!(
        Path::new("/dev/net/tun").exists(),
        "guests need /dev/net/tun"
    );
    crate::tools::find(QEMU)
        .context("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")?;
    Kernel::ready()
}

impl Parts {
    /// All of them.
    pub fn with(kernel: Kernel) -> anyhow::Result<Self> {
        let release = crate::tools::repository().join("target/x86_64-unknown-linux-gnu/release");
        let built = |name: &str| {
            let program = release.join(name);
            program.canonicalize().with_context(|| {
                format!("{} is missing: `make test-vm` builds it", program.display())
            })
        };
        let agent = built("self-node-remediation-agent")?;
        ensure!(
            !has_test_watchdog(&agent)?,
            "{} has a test watchdog",
            agent.display()
        );
        Ok(Self {
            init: built("medik8s-guest")?,
            agent,
            kernel,
        })
    }
}
