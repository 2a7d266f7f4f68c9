//! The end of the process (fencing-safety section 5, roll-out).
//!
//! With a successor that waits for the lock the process exits armed: its closing ping leaves the successor a full
//! timeout. Without one, and only if its own pod is being deleted and no order is known, it disarms, by announcement:
//! armed=false is accepted, a list asked for after that shows no order, then the device is closed by the magic
//! character. In all other cases it exits armed. A node that is fencing itself never exits: the device stays open.

use std::time::Duration;

use super::{Command, Ending, Step, Watchdog};

/// Time for the announcement; the kubelet kills after 10 s.
const TIME_TO_DISARM: Duration = Duration::from_secs(7);

impl Step<'_> {
    pub(super) fn terminate(&mut self, successor: bool, pod_deleted: bool) {
        let can_disarm = match self.state.watchdog {
            Watchdog::Armed { can_disarm, .. } => can_disarm,
            // What is being opened is waited for, and shows then whether it can be closed.
            Watchdog::Absent | Watchdog::Opening => true,
            Watchdog::NotTried | Watchdog::Disarming | Watchdog::Disarmed => false,
        };
        // Nor is "disarmed" said by a node that is fencing itself or about which an order is known: the manager would hold
        // for ever what is being reset right now.
        let own = self.settings.own.node.as_str();
        let ordered = self.state.fencing.is_some() || self.state.knowledge.has_order_about(own, "");
        let disarm = !successor && pod_deleted && can_disarm && !ordered;
        let deadline = self.now.plus(if disarm {
            TIME_TO_DISARM
        } else {
            Duration::ZERO
        });
        // A second signal does not bring back what the first one gave up.
        let disarm = disarm && self.state.ending.is_none_or(|ending| ending.disarm);
        self.state.ending = Some(Ending { deadline, disarm });
        // The announcement must be begun in this very step.
        self.drive_announcing();
    }

    pub(super) fn drive_ending(&mut self) {
        let Some(Ending { deadline, disarm }) = self.state.ending else {
            return;
        };
        let own = self.settings.own.node.as_str();
        let may_disarm = disarm
            && self.now < deadline
            && !self.state.knowledge.has_order_about(own, "")
            && self.state.announcing.in_force().is_some();
        if !may_disarm {
            self.state.ending = Some(Ending {
                deadline,
                disarm: false,
            });
            if self.state.watchdog != Watchdog::Disarming {
                self.rest.push(Command::Exit);
            }
            return;
        }
        if self.state.announcing.may_be_armed() {
            return;
        }
        match self.state.watchdog {
            Watchdog::Armed { .. } => {
                self.state.watchdog = Watchdog::Disarming;
                self.rest.push(Command::Disarm);
            }
            Watchdog::Absent | Watchdog::Disarmed => self.rest.push(Command::Exit),
            Watchdog::NotTried | Watchdog::Opening | Watchdog::Disarming => {}
        }
    }

    pub(super) fn disarmed(&mut self) {
        if self.state.watchdog == Watchdog::Disarming {
            self.state.watchdog = Watchdog::Disarmed;
            self.state.device = false;
        }
    }
}
