//! Fencing: once begun, only the end of the boot ends it.
//!
//! The watchdog starves; the last words (E2) follow when nothing feeds any more and that is recorded; and software
//! resets the machine if the watchdog has not done so in time (section 12).

use std::time::Duration;

use super::{Command, Fencing, LastWords, Notice, Reason, Settings, Step, Watchdog};
use crate::announcement::StoppedFeeding;
use crate::time::BootInstant;

/// The watchdog gets this long before software resets the machine.
const SOFTWARE_AFTER: Duration = Duration::from_secs(30);
/// The watchdog has failed when it has not fired this long after its timeout.
const OVERDUE: Duration = Duration::from_secs(5);
/// Pause between two attempts to reset by software.
const SOFTWARE_RETRY: Duration = Duration::from_secs(1);

/// When software resets a machine whose watchdog was fed last at `last_feed`; or, where it must not, when the watchdog
/// has failed.
pub(super) fn software_after(
    settings: &Settings,
    begin: BootInstant,
    last_feed: BootInstant,
    wd: u64,
) -> BootInstant {
    let failed = last_feed.plus(Duration::from_secs(wd)).plus(OVERDUE);
    if settings.software_reboot {
        failed.min(begin.plus(SOFTWARE_AFTER))
    } else {
        failed
    }
}

impl Step<'_> {
    /// Begins to fence. Irrevocable.
    pub(super) fn fence(&mut self, reason: Reason) {
        if self.state.fencing.is_some() {
            return;
        }
        let has_permit = self.has_permit();
        // An isolated node has waited for its watchdog since the permit ran out.
        let expired = self.limit().filter(|_| reason == Reason::Isolated);
        let since = expired.map_or(self.now, |limit| limit.min(self.now));
        self.end_round(true);
        let mut software_at = self.now;
        let mut last_words = LastWords::No;
        if let Watchdog::Armed { timeout, .. } = self.state.watchdog {
            // Shortening pings, which needs the permit; without it the device is left alone (E2).
            self.first.push(Command::Starve {
                shorten: has_permit,
            });
            software_at = software_after(self.settings, since, since, timeout);
            if has_permit {
                last_words = LastWords::AfterStarving;
            }
        } else if self.state.device && !self.settings.software_reboot {
            // It is being opened, or a process before this one did that: it may still reset the machine.
            let wd = self.state.announcing.wd();
            software_at = software_after(self.settings, self.now, self.now, wd);
        }
        self.rest
            .push(Command::Tell(Notice::Fencing(reason.clone())));
        self.state.fencing = Some(Fencing {
            reason,
            since,
            software_at,
            last_words,
            told_cannot: false,
        });
    }

    pub(super) fn starved(&mut self, timeout: u64, last_feed: BootInstant) {
        let Some(fencing) = &mut self.state.fencing else {
            return;
        };
        fencing.software_at = software_after(self.settings, fencing.since, last_feed, timeout);
        if fencing.last_words == LastWords::AfterStarving {
            fencing.last_words = if timeout > 0 {
                LastWords::Due { timeout }
            } else {
                LastWords::No
            };
        }
    }

    pub(super) fn drive_fencing(&mut self) {
        let Some(fencing) = &mut self.state.fencing else {
            return;
        };
        if let LastWords::Due { timeout } = fencing.last_words {
            fencing.last_words = LastWords::Sent { timeout };
            let boot = self.settings.own.boot.clone();
            self.rest
                .push(Command::PublishStoppedFeeding(StoppedFeeding {
                    boot,
                    timeout,
                }));
        }
        if self.now < fencing.software_at {
            return;
        }
        if self.settings.software_reboot {
            fencing.software_at = self.now.plus(SOFTWARE_RETRY);
            self.rest.push(Command::SoftwareReboot);
        } else if !fencing.told_cannot {
            fencing.told_cannot = true;
            let watchdog_failed = self.state.device;
            self.rest
                .push(Command::Tell(Notice::CannotReboot { watchdog_failed }));
        }
    }

    /// The permit has run out. An armed watchdog is starved by its feeder already, and new proof may still resume the
    /// feeding; only where no watchdog resets the machine in time, software must.
    pub(super) fn drive_expiry(&mut self) {
        let Some(limit) = self.limit() else { return };
        if self.now < limit {
            self.state.told.expired = false;
            return;
        }
        let announcing = &self.state.announcing;
        if !self.state.contact || !announcing.may_be_armed() {
            return;
        }
        if !self.state.told.expired {
            self.state.told.expired = true;
            self.rest.push(Command::Tell(Notice::PermitExpired));
        }
        // By V so many checks have failed, unless the process itself stood still.
        if self.state.errors < self.settings.timing.max_api_error_threshold() {
            return;
        }
        if self
            .state
            .expiry_reset(self.settings, self.now)
            .is_some_and(|at| self.now >= at)
        {
            self.fence(Reason::Isolated);
        }
    }
}

impl super::State {
    /// When an expired permit becomes irrevocable: software resets the machine, or says that it must not.
    pub(super) fn expiry_reset(
        &self,
        settings: &Settings,
        now: BootInstant,
    ) -> Option<BootInstant> {
        let limit = self.limit(settings, now)?;
        let wd = match self.watchdog {
            Watchdog::Absent | Watchdog::Disarming | Watchdog::Disarmed => return Some(limit),
            Watchdog::Armed { timeout, .. } => timeout,
            // A predecessor's watchdog is still running.
            Watchdog::NotTried | Watchdog::Opening => self.announcing.wd(),
        };
        if wd == 0 {
            Some(limit)
        } else {
            // Where software may not reset the machine, nothing is gained by giving up before the watchdog has failed: new
            // proof may still come.
            Some(software_after(settings, limit, limit, wd))
        }
    }
}
