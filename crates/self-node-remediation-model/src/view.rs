//! What a list of all remediations shows: nothing, or one remediation of node x.

use std::time::Duration;

use jiff::Timestamp;
use self_node_remediation_core::ids::{BootId, NodeName, Uid};
use self_node_remediation_core::order::{Phase, Remediation, Target, Uptime};
use self_node_remediation_core::time::BootInstant;

/// The wall clock's present, in every state: what was earlier moves back when time passes.
pub const WALL: i64 = 1_700_000_000;

/// One step of time.
pub const TICK: Duration = Duration::from_secs(10);

/// The present on every machine's boot-time clock: later than anything that counts.
pub const NOW: BootInstant = BootInstant::at_seconds(200);

/// The wall clock's present.
pub fn wall() -> Timestamp {
    Timestamp::from_second(WALL).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A name that is known to be one.
///
/// # Panics
/// On a text that names nothing.
#[expect(clippy::expect_used, reason = "the names of the model are constants")]
pub fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

/// The ID of the boot with this number.
///
/// # Panics
/// On a text that names nothing.
#[expect(clippy::expect_used, reason = "the names of the model are constants")]
pub fn boot_id(number: u8) -> BootId {
    BootId::new(format!("boot-{number}")).expect("a boot ID")
}

/// The UID of the remediation with this number.
///
/// # Panics
/// On a text that names nothing.
#[expect(clippy::expect_used, reason = "the names of the model are constants")]
pub fn uid(number: u8) -> Uid {
    Uid::new(format!("order-{number}")).expect("a UID")
}

/// What is seen of the remediation of node x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct View {
    /// Number of its UID.
    pub uid: u8,
    /// Phase Pre-Reboot-Completed or later.
    pub ordered: bool,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// Number of the recorded boot; 0: none was recorded.
    pub boot: u8,
}

impl View {
    /// The object.
    pub fn object(self) -> Remediation {
        Remediation {
            namespace: "ns".to_owned(),
            name: "x".to_owned(),
            uid: uid(self.uid),
            target: Target::Node(node("x")),
            phase: if self.ordered {
                Phase::PreRebootCompleted
            } else {
                Phase::Started
            },
            finalizer: true,
            withdrawn: false,
            deleting: self.deleting,
            timed_out: false,
            boot: (self.boot > 0).then(|| boot_id(self.boot)),
            created: Some(wall()),
        }
    }
}

/// All remediations.
pub fn list(view: Option<View>) -> Vec<Remediation> {
    view.map(View::object).into_iter().collect()
}

/// The clocks of a machine. `wrong`: the wall clock runs an hour ahead (H11).
pub fn uptime(wrong: bool) -> Uptime {
    let ahead = if wrong { 3600 } else { 0 };
    Uptime {
        wall: Timestamp::from_second(WALL + ahead).unwrap_or(Timestamp::UNIX_EPOCH),
        up: NOW.since_boot(),
    }
}
