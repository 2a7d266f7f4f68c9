//! Opening the watchdog and setting its timeout.

use super::{Command, LastWords, Notice, Step, Watchdog};

impl Step<'_> {
    /// Opens the device if that is allowed: opening counts as feeding, so it needs a valid permit (H12), which no
    /// process has before the first successful read of this boot.
    pub(super) fn drive_watchdog(&mut self) {
        let has_permit = self.has_permit();
        let wanted = self.settings.watchdog_timeout;
        let Some(in_force) = self.state.announcing.in_force() else {
            return;
        };
        match &mut self.state.watchdog {
            watchdog @ Watchdog::NotTried => {
                if !self.state.contact || !has_permit || self.state.ending.is_some() {
                    return;
                }
                if in_force.armed && in_force.wd == 0 {
                    // The bound that the manager knows has no watchdog in it. A device found now would lengthen it by an
                    // unknown timeout; it is used after the next boot, or when this bound has been taken back.
                    *watchdog = Watchdog::Absent;
                    return;
                }
                // Longer than announced only after an announcement (H2); see the branch below.
                let set_timeout =
                    wanted.filter(|timeout| !in_force.armed || *timeout <= in_force.wd);
                *watchdog = Watchdog::Opening;
                self.rest.push(Command::OpenWatchdog { set_timeout });
            }
            Watchdog::Armed {
                timeout,
                asked_timeout,
                ..
            } if !*asked_timeout => {
                let pending = self.state.announcing.pending();
                let Some(wanted) = wanted.filter(|wanted| wanted != timeout) else {
                    return;
                };
                let announced =
                    in_force.wd >= wanted && pending.is_none_or(|pending| pending.wd >= wanted);
                if has_permit && (wanted < *timeout || announced || !in_force.armed) {
                    *asked_timeout = true;
                    self.rest.push(Command::SetWatchdogTimeout(wanted));
                }
            }
            Watchdog::Armed { .. }
            | Watchdog::Opening
            | Watchdog::Absent
            | Watchdog::Disarming
            | Watchdog::Disarmed => {}
        }
    }

    pub(super) fn opened(&mut self, timeout: u64, can_disarm: bool) {
        let wanted = self.settings.watchdog_timeout;
        // What the driver made of the wish is final; a wish that was held back comes later.
        let asked_timeout = wanted.is_none_or(|wanted| {
            self.state
                .announcing
                .in_force()
                .is_none_or(|in_force| !in_force.armed || wanted <= in_force.wd)
        });
        self.state.watchdog = Watchdog::Armed {
            timeout,
            can_disarm,
            asked_timeout,
        };
        self.rest.push(Command::Tell(Notice::Armed { timeout }));
        if self.state.fencing.is_some() {
            // Fencing began while the device was being opened.
            self.first.push(Command::Starve { shorten: false });
        }
    }

    pub(super) fn no_watchdog(&mut self) {
        self.state.watchdog = Watchdog::Absent;
        self.rest.push(Command::Tell(Notice::NoWatchdog));
        if let Some(fencing) = &mut self.state.fencing {
            fencing.software_at = fencing.software_at.min(self.now);
            fencing.last_words = LastWords::No;
        }
    }

    pub(super) fn timeout_set(&mut self, new: u64) {
        if let Watchdog::Armed {
            timeout,
            asked_timeout,
            ..
        } = &mut self.state.watchdog
        {
            *timeout = new;
            *asked_timeout = true;
        }
    }

    pub(super) fn record_failed(&mut self) {
        self.state.recorded = None;
        self.state.announcing.not_sent(self.now);
        if let Some(fencing) = &mut self.state.fencing
            && let LastWords::Sent { timeout } = fencing.last_words
        {
            fencing.last_words = LastWords::Due { timeout };
        }
    }
}
