//! Opening the watchdog and setting its timeout.

use super::{Command, LastWords, Notice, Step, Watchdog, Wish};

impl Step<'_> {
    /// Opens the device if that is allowed: opening counts as feeding, so it needs a valid permit (H12), which no
    /// process has before the first successful read of this boot.
    pub(super) fn drive_watchdog(&mut self) {
        let has_permit = self.has_permit();
        let wanted = self.settings.watchdog_timeout;
        if self.state.announcing.in_force().is_none() {
            return;
        }
        let least = self.state.announcing.least_armed_wd();
        match &mut self.state.watchdog {
            watchdog @ Watchdog::NotTried => {
                if !self.state.contact || !has_permit || self.state.ending.is_some() {
                    return;
                }
                if least == Some(0) {
                    // The bound that the manager knows has no watchdog in it. A device found now would lengthen it by an
                    // unknown timeout; it is used after the next boot, or when this bound has been taken back.
                    *watchdog = Watchdog::Absent;
                    return;
                }
                // Longer than announced only after an announcement (H2); see the branch below.
                let set_timeout = wanted.filter(|timeout| least.is_none_or(|wd| *timeout <= wd));
                *watchdog = Watchdog::Opening;
                self.state.device = true;
                self.rest.push(Command::OpenWatchdog { set_timeout });
            }
            Watchdog::Armed {
                timeout,
                wish: wish @ Wish::Open,
                ..
            } => {
                let Some(wanted) = wanted.filter(|wanted| wanted != timeout) else {
                    return;
                };
                let announced = least.is_none_or(|wd| wd >= wanted);
                if has_permit && (wanted < *timeout || announced) {
                    *wish = Wish::Asked(wanted);
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
        let least = self.state.announcing.least_armed_wd();
        let granted = wanted.is_none_or(|wanted| least.is_none_or(|wd| wanted <= wd));
        self.state.watchdog = Watchdog::Armed {
            timeout,
            can_disarm,
            wish: if granted { Wish::Done } else { Wish::Open },
        };
        if let Some(ending) = &mut self.state.ending {
            ending.disarm &= can_disarm;
        }
        self.rest.push(Command::Tell(Notice::Armed { timeout }));
        if self.state.fencing.is_some() {
            // Fencing began while the device was being opened.
            self.first.push(Command::Starve { shorten: false });
        }
    }

    pub(super) fn no_watchdog(&mut self) {
        self.state.watchdog = Watchdog::Absent;
        self.state.device = false;
        self.rest.push(Command::Tell(Notice::NoWatchdog));
        if let Some(fencing) = &mut self.state.fencing {
            fencing.software_at = fencing.software_at.min(self.now);
            fencing.last_words = LastWords::No;
        }
    }

    pub(super) fn timeout_set(&mut self, new: u64) {
        if let Watchdog::Armed { timeout, wish, .. } = &mut self.state.watchdog {
            *timeout = new;
            *wish = Wish::Done;
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
