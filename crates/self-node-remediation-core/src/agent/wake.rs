//! When the loop must call [`super::step`] again even if nothing happens.

use super::{Settings, State, nodes};
use crate::permit::Base;
use crate::time::BootInstant;

/// The next moment at which time alone changes something; always after `now`, the moment of the latest [`super::step`].
/// Asked with a later one it would leave out what has fallen due in between, until something else wakes.
pub fn next_wake(settings: &Settings, state: &State, now: BootInstant) -> BootInstant {
    let timing = &settings.timing;
    let check = match state.check.running {
        Some(since) => since.plus(timing.api_server_timeout()),
        None => state.check.next,
    };
    let list = match state.nodes.running {
        Some(since) => since.plus(nodes::DEADLINE),
        None => state.nodes.next,
    };
    let round_due = state.permit.base().map(|base| match base {
        Base::Outage(at) | Base::Direct(at) => at.plus(timing.patience()),
    });
    [
        Some(check),
        state.check.wanted_after,
        Some(list),
        state.announcing.wake(),
        state.rounds.current.as_ref().map(|round| round.deadline),
        round_due,
        Some(state.rounds.next),
        state.last_chance(settings, now),
        state.proved_until(settings, now),
        state.limit(settings, now),
        state.expiry_reset(settings, now),
        state.fencing.as_ref().map(|fencing| fencing.software_at),
        state.ending.map(|ending| ending.deadline),
    ]
    .into_iter()
    .flatten()
    .filter(|at| *at > now)
    .min()
    .unwrap_or_else(|| now.plus(timing.check_period()))
}
