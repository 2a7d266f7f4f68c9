//! What the agent tells people.

use serde::{Deserialize, Serialize};

use crate::ids::Uid;

/// What people should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An API check failed.
    CheckFailed {
        /// How many in a row.
        errors: u32,
    },
    /// The first successful check after failed ones.
    ContactRegained,
    /// Peers are asked.
    Asking {
        /// How many.
        peers: usize,
    },
    /// A peer said that we are healthy.
    PeerSaysHealthy,
    /// Most peers have no API either.
    ControlPlaneOutage,
    /// A round ended without a decision.
    RoundUndecided {
        /// How many said "API error".
        api_errors: usize,
        /// How many said nothing.
        silent: usize,
    },
    /// The permit ran out: the watchdog is no longer fed.
    PermitExpired,
    /// The watchdog is armed.
    Armed {
        /// Its timeout in seconds.
        timeout: u64,
    },
    /// There is no usable watchdog.
    NoWatchdog,
    /// Fencing has begun.
    Fencing(Reason),
    /// Fencing has begun, but no watchdog resets this machine, and software must not.
    CannotReboot {
        /// There is a watchdog, but it has not fired in time.
        watchdog_failed: bool,
    },
    /// Too few peers to fence ourselves for isolation.
    NoElectorate,
}

/// Why the node fences itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// We read the order.
    Ordered(Uid),
    /// A peer knows of a remediation for us.
    PeerSaysUnhealthy,
    /// No proof of health was to be had for the whole span.
    Isolated,
}
