//! Storm recovery: after too few nodes were healthy, wait until enough of them have been healthy for a while.
//!
//! ```text
//!              below minimum                 enough healthy               cooldown over
//!   inactive ────────────────▶ storm ────────────────────────▶ cooldown ────────────────▶ inactive
//!                                ◀──────────────────────────────┘
//!                                        below minimum
//! ```

use std::time::Duration;

use jiff::Timestamp;

#[cfg(test)]
mod tests;

/// What the stored conditions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StormState {
    /// `StormActive` is True.
    pub active: bool,
    /// `StormCooldownActive` is True, and since when.
    pub cooldown_since: Option<Timestamp>,
}

/// A change that users are told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Too few nodes are healthy.
    Started,
    /// Enough nodes are healthy again; the cooldown runs.
    CooldownStarted,
    /// The cooldown is over.
    Ended,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// The state to store. A condition that was never stored need not be stored when it is not active.
    pub state: StormState,
    /// What changed.
    pub transition: Option<Transition>,
    /// Until when the cooldown runs.
    pub cooldown_until: Option<Timestamp>,
}

impl Storm {
    /// Whether new remediations must wait.
    pub fn holds(&self) -> bool {
        self.state.active
    }
}

/// Takes one step. `cooldown` is `None` when the feature is off; then a storm that is still stored ends at once.
pub fn step(
    stored: StormState,
    below_minimum: bool,
    cooldown: Option<Duration>,
    now: Timestamp,
) -> Storm {
    let inactive = StormState::default();
    let storm = |state, transition, cooldown_until| Storm {
        state,
        transition,
        cooldown_until,
    };
    let Some(cooldown) = cooldown else {
        return storm(inactive, None, None);
    };
    let ends = |since: Timestamp| since.checked_add(cooldown).unwrap_or(Timestamp::MAX);
    match (below_minimum, stored.active, stored.cooldown_since) {
        (true, active, _) => {
            let raging = StormState {
                active: true,
                cooldown_since: None,
            };
            storm(raging, (!active).then_some(Transition::Started), None)
        }
        (false, false, _) => storm(inactive, None, None),
        (false, true, None) if cooldown.is_zero() => storm(inactive, Some(Transition::Ended), None),
        (false, true, None) => {
            let cooling = StormState {
                active: true,
                cooldown_since: Some(now),
            };
            storm(cooling, Some(Transition::CooldownStarted), Some(ends(now)))
        }
        (false, true, Some(since)) if now < ends(since) => storm(stored, None, Some(ends(since))),
        (false, true, Some(_)) => storm(inactive, Some(Transition::Ended), None),
    }
}
