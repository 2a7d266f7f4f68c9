//! The dead-man permit: until when the watchdog may be fed.
//!
//! # Purpose
//! fencing-safety section 3. The feeder feeds only before [`feed_until`]. Everything that extends the permit goes
//! through [`Permit::extend`] with a proof, and proofs can only be made by the function that saw the evidence.
//!
//! # Guarantees
//! * Only four things extend: (a) a complete consistent API read that showed no order for this boot, (b) a peer's
//!   Healthy, (c) a strict majority of "API error" in one round, (d) no electorate, as announced. An answer of a peer as
//!   such, a reachable local API server or a living process extend nothing (H1, H3, H4).
//! * A proof reaches from the **start** of what proved it: the start of the read, the sending of the request, the start
//!   of the round.
//! * After a restart of the process the permit is the recorded one, never more (H7).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::Shift;
use crate::time::BootInstant;

#[cfg(test)]
mod tests;

/// (a): a complete consistent list showed no order for this boot. Made by [`crate::order::read`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NoOrder {
    started: BootInstant,
}

impl NoOrder {
    pub(crate) const fn read_at(started: BootInstant) -> Self {
        Self { started }
    }

    /// When the read was started.
    pub const fn started(self) -> BootInstant {
        self.started
    }
}

/// (b): a peer answered Healthy. Made by [`crate::verdict`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerHealthy {
    sent: BootInstant,
}

impl PeerHealthy {
    pub(crate) const fn asked_at(sent: BootInstant) -> Self {
        Self { sent }
    }
}

/// (c): most peers have no API either (rule W6). Made by [`crate::verdict`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outage {
    round_started: BootInstant,
}

impl Outage {
    pub(crate) const fn in_round(round_started: BootInstant) -> Self {
        Self { round_started }
    }
}

/// (d): too few peers to decide by, announced as `bound=none` and not being taken back. Made by
/// [`crate::agent::Announcing`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NoElectorate(());

impl NoElectorate {
    pub(crate) const fn announced() -> Self {
        Self(())
    }
}

/// A proof that carries a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// (a)
    ApiRead(NoOrder),
    /// (b)
    PeerHealthy(PeerHealthy),
    /// (c)
    Outage(Outage),
}

/// What the latest proof was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Base {
    /// t_ok: somebody who reads the API says that there is no order.
    Direct(BootInstant),
    /// Start of the round in which most peers had no API.
    Outage(BootInstant),
}

impl Base {
    /// The moment from which the permit is counted.
    pub const fn moment(self) -> BootInstant {
        match self {
            Self::Direct(at) | Self::Outage(at) => at,
        }
    }
}

/// The proofs held.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Permit {
    direct: Option<BootInstant>,
    outage: Option<BootInstant>,
    /// V as it was recorded by the process before this one; binds until there is a new proof.
    recorded: Option<BootInstant>,
}

impl Permit {
    /// The one way to extend the permit.
    pub fn extend(&mut self, proof: Proof) {
        let before = self.direct.max(self.outage);
        match proof {
            Proof::ApiRead(NoOrder { started }) => self.direct = self.direct.max(Some(started)),
            Proof::PeerHealthy(PeerHealthy { sent }) => self.direct = self.direct.max(Some(sent)),
            Proof::Outage(Outage { round_started }) => {
                self.outage = self.outage.max(Some(round_started));
            }
        }
        if self.direct.max(self.outage) > before {
            self.recorded = None;
        }
    }

    /// The latest proof.
    pub fn base(&self) -> Option<Base> {
        if self.outage > self.direct {
            self.outage.map(Base::Outage)
        } else {
            self.direct.map(Base::Direct)
        }
    }

    /// t_ok: the latest direct proof.
    pub const fn direct(&self) -> Option<BootInstant> {
        self.direct
    }

    /// V: until when the proofs reach with this span.
    pub fn valid_until(&self, span: Duration) -> Option<BootInstant> {
        let until = self.base()?.moment().plus(span);
        Some(self.recorded.map_or(until, |recorded| until.min(recorded)))
    }

    /// `recent`: how old a direct proof may be to matter beside a later one.
    pub(crate) fn shift(&mut self, shift: Shift, recent: Duration) {
        for moment in [&mut self.direct, &mut self.outage, &mut self.recorded] {
            shift.option(moment);
        }
        if self.outage <= self.direct {
            self.outage = None;
        } else if let Some(direct) = &mut self.direct
            && shift.is_older(*direct, recent)
        {
            *direct = BootInstant::ZERO;
        }
    }

    /// What goes into `/run`: the proofs, and V as it is now.
    #[must_use]
    pub fn to_record(self, span: Duration) -> Self {
        Self {
            recorded: self.valid_until(span),
            ..self
        }
    }
}

/// What limits the use of the proofs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The span in use: never more than what is or may be announced.
    pub span: Duration,
    /// By how much V is cut while the device has a longer timeout than announced.
    pub cut: Duration,
    /// (d)
    pub no_electorate: Option<NoElectorate>,
    /// Fencing has begun, which nothing takes back.
    pub triggered: bool,
}

/// Until when the watchdog may be fed; `None`: not at all.
pub fn feed_until(permit: &Permit, terms: Terms, now: BootInstant) -> Option<BootInstant> {
    if terms.triggered {
        return None;
    }
    let proved = permit
        .valid_until(terms.span)
        .map(|until| until.minus(terms.cut));
    // (d) reaches one span ahead of each step of the loop, so that a loop that hangs is starved here as well.
    let unproved = terms
        .no_electorate
        .map(|NoElectorate(())| now.plus(terms.span));
    proved.max(unproved)
}
