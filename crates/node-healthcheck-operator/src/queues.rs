//! Who waits for work: node health checks and machine health checks, in a queue each.

use medik8s_runtime::controller::Queue;

use crate::world::Wakes;

/// Both queues. Cheap to clone.
#[derive(Clone)]
pub struct Queues {
    /// Names of NodeHealthChecks.
    pub checks: Queue<String>,
    /// MachineHealthChecks, as `namespace/name`.
    pub machine_checks: Queue<String>,
}

impl Queues {
    /// Wakes health checks. The name of a NodeHealthCheck has no slash.
    pub fn wake(&self, names: Wakes) {
        for name in names {
            if name.contains('/') {
                self.machine_checks.add(name);
            } else {
                self.checks.add(name);
            }
        }
    }
}
