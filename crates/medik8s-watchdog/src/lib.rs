//! The watchdog of a node, the thread that feeds it, and the host seam.
//!
//! # Purpose
//!
//! Whoever stops proving that its node is healthy must be reset by hardware. This crate opens,
//! feeds and disarms `/dev/watchdog`, and holds everything else that the agent takes from the
//! machine it runs on: boot ID, uptime, the state folder, software reboot and module loading.
//!
//! # Guarantees
//!
//! * The feeder is a dead-man switch: it feeds only while the boot-time clock is before the end
//!   of a permit that somebody else has to extend ([`feeder`]). Triggered is irrevocable.
//! * Everything that touches the machine goes through one [`Host`]. With any root but
//!   [`Host::REAL_ROOT`] it can neither call reboot(2), nor load a module, nor open a character
//!   device, nor write to procfs; those abilities do not exist in that case.
//! * A device whose driver does not report `WDIOF_MAGICCLOSE` counts as no watchdog: any close,
//!   also that of a killed process, would stop its timer.
//!
//! # Caveats
//!
//! * Linux pings an active device when it is closed without the magic character, and on
//!   `WDIOC_SETTIMEOUT` (drivers/watchdog/watchdog_dev.c). The reset therefore comes up to one
//!   full timeout after the process that held the device has died, whenever its last feed was.
//! * No other crate that is part of a product has `unsafe` code.
#![expect(
    unsafe_code,
    reason = "watchdog ioctls, sched_setscheduler, mlockall and the child that enters the host's \
              mount namespace have no safe wrapper"
)]

pub mod clock;
pub mod device;
pub mod discover;
pub mod feeder;
pub mod host;
mod linux;
mod machine;
mod realtime;
pub mod threads;

pub use clock::{BootClock, SystemBootClock};
pub use device::{DeviceError, DeviceFile, Info, WatchdogDevice, WatchdogHost};
pub use discover::{ArmRequest, Armed, NotArmed, arm};
pub use feeder::{Feeder, FeederState, Notice, Report};
pub use host::{Host, HostError, RebootAttempt};
pub use threads::{OsThreads, ThreadNeeds, Threads, Wake, Work};
