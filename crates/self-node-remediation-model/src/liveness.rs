//! Liveness: a node that is cut off for good is freed within the bound, or the manager says what it waits for.

use crate::manager::Stage;
use crate::search::Model;
use crate::setup::Fault;
use crate::view::TICK;
use crate::world::{Action, State, World};

/// How many of the states are looked at: one of so many.
const SAMPLE: u32 = 61;

/// Whether a state is looked at.
pub fn is_sampled(state: State) -> bool {
    (state.x ^ state.cluster.wrapping_mul(7)).is_multiple_of(SAMPLE)
}

/// Cuts x off for good, lets everybody else do their work, and waits. What is wrong, if something is.
pub fn check(world: &mut World, state: State) -> Option<String> {
    let order = world.cluster(state).order.as_ref()?;
    if order.deleting || world.cluster(state).freed.is_some() {
        return None;
    }
    let machine = &world.setup().machine;
    let bound = machine.settings.timing.span().as_secs() + 2 * machine.watchdog + 30;
    // A second order may follow for another boot, and the write of the first may be under way.
    let most = 3 + 2 * bound / TICK.as_secs();
    let mut state = state;
    let mut waits = None;
    for _ in 0..most {
        for action in rest(world) {
            if let Some((next, told)) = world.act(state, action) {
                state = next;
                if matches!(action, Action::Manager { .. }) {
                    waits = told.iter().find(|text| text.starts_with("holds")).cloned();
                }
            }
        }
        if world.cluster(state).freed.is_some() {
            return world.violation(state);
        }
        world.cluster(state).order.as_ref()?;
        if world.cluster(state).write.is_some() && !state.left.has(Fault::Late) {
            return None;
        }
        state = world.act(state, Action::Tick)?.0;
    }
    let ordered = world.cluster(state).order.as_ref().map(|order| order.stage);
    if waits.is_some() || ordered == Some(Stage::Marked) {
        // A remediation without precondition reports what is missing and is no order.
        return None;
    }
    Some(
        "x is cut off for good, and is neither freed nor does the manager say what it waits for"
            .to_owned(),
    )
}

/// What everybody but x does in a step.
fn rest(world: &World) -> Vec<Action> {
    let mut actions = vec![
        Action::Order,
        Action::OrderLands,
        Action::Manager { ready: false },
    ];
    for peer in 0..world.setup().peers {
        actions.push(Action::PeerReads(peer));
        actions.push(Action::Acknowledge(peer, true));
    }
    actions.push(Action::Manager { ready: false });
    actions
}
