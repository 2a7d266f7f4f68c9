//! What outlives the process, in `/run`: gone after a reboot, as it must be.

use serde::{Deserialize, Serialize};

use super::{
    Announcing, Check, Fencing, InForce, LastWords, Nodes, Reason, Rounds, Settings, State, Step,
    Told, Watchdog, fencing::software_after,
};
use crate::ids::BootId;
use crate::knowledge::Knowledge;
use crate::permit::Permit;
use crate::table::Role;
use crate::time::BootInstant;

/// Version of [`Recorded`]. A record of another version is unreadable.
pub const RECORD_VERSION: u32 = 1;

/// The state folder's content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recorded {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The boot that it is of.
    pub boot: BootId,
    /// Whether a read has succeeded in this boot.
    pub contact: bool,
    /// Role at the start of the process.
    pub role: Option<Role>,
    /// Proofs, and V.
    pub permit: Permit,
    /// Failed checks in a row.
    pub errors: u32,
    /// Fencing, if it has begun.
    pub fencing: Option<RecordedFencing>,
    /// Orders that were seen.
    pub knowledge: Knowledge,
    /// The announcement in force, with its table.
    pub in_force: Option<InForce>,
    /// The announcement that may be in force.
    pub pending: Option<InForce>,
    /// Before this moment a request without known outcome may still take effect.
    #[serde(default)]
    pub quiet_until: BootInstant,
    /// The watchdog was opened, or is about to be, and was not closed properly since.
    #[serde(default)]
    pub device: bool,
}

impl Recorded {
    /// Whether the watchdog may be armed. It is opened after an announcement that says it is not.
    pub fn may_be_armed(&self) -> bool {
        let mut announced = self.in_force.iter().chain(&self.pending);
        self.device || announced.any(|value| value.armed)
    }
}

/// Fencing that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordedFencing {
    /// Why.
    pub reason: Reason,
    /// When.
    pub since: BootInstant,
}

impl State {
    /// The state at the start of a process. `record` is what the state folder holds; whatever is unreadable, of another
    /// boot or of another version is `None`: no contact in this boot.
    pub fn restore(settings: &Settings, record: Option<Recorded>, now: BootInstant) -> Self {
        let record = record
            .filter(|record| record.version == RECORD_VERSION)
            .filter(|record| record.boot == settings.own.boot);
        let mut state = Self::fresh(now);
        let Some(record) = record else { return state };
        let stale = record
            .permit
            .direct()
            .is_none_or(|direct| now.since(direct) > settings.timing.check_period());
        state.contact = record.contact;
        state.role = record.role;
        state.permit = record.permit;
        state.errors = record.errors;
        state.device = record.device;
        state.knowledge = record.knowledge.clone();
        state.announcing = Announcing::restore(
            record.in_force.clone(),
            record.pending.clone(),
            record.quiet_until,
            now,
        );
        state.rounds.at_once = record.contact && stale;
        let wd = state.announcing.wd();
        state.fencing = record.fencing.clone().map(|fencing| Fencing {
            reason: fencing.reason,
            since: fencing.since,
            // The process before this one may have closed the device just now, which pings once more (H12).
            software_at: software_after(settings, fencing.since, now, wd),
            last_words: LastWords::No,
            told_cannot: false,
        });
        state.recorded = Some(Box::new(record));
        state
    }

    fn fresh(now: BootInstant) -> Self {
        Self {
            contact: false,
            role: None,
            errors: 0,
            last_probe: None,
            permit: Permit::default(),
            knowledge: Knowledge::default(),
            announcing: Announcing::default(),
            watchdog: Watchdog::NotTried,
            device: false,
            fencing: None,
            check: Check {
                number: 0,
                running: None,
                next: now,
                wanted_after: None,
            },
            rounds: Rounds {
                number: 0,
                current: None,
                last_full: None,
                next: now,
                at_once: false,
                control_plane_due: false,
            },
            nodes: Nodes {
                role_read: false,
                next: now,
                running: None,
                latest: None,
                follows_change: false,
            },
            ending: None,
            recorded: None,
            feed_until: None,
            told: Told::default(),
        }
    }
}

impl Step<'_> {
    pub(super) fn to_record(&self) -> Recorded {
        let state = &self.state;
        Recorded {
            version: RECORD_VERSION,
            boot: self.settings.own.boot.clone(),
            contact: state.contact,
            role: state.role,
            permit: state.permit.to_record(state.terms(self.settings).span),
            errors: state.errors,
            fencing: state.fencing.as_ref().map(|fencing| RecordedFencing {
                reason: fencing.reason.clone(),
                since: fencing.since,
            }),
            knowledge: state.knowledge.clone(),
            in_force: state.announcing.in_force().cloned(),
            pending: state.announcing.pending().cloned(),
            quiet_until: state.announcing.quiet_until(),
            device: state.device,
        }
    }
}
