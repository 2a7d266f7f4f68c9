use super::*;
use crate::fixtures::{at, noon, secs};

const OFF: StormState = StormState {
    active: false,
    cooldown_since: None,
};
const RAGING: StormState = StormState {
    active: true,
    cooldown_since: None,
};

fn cooling(since: Timestamp) -> StormState {
    StormState {
        active: true,
        cooldown_since: Some(since),
    }
}

#[test]
fn every_transition() {
    let cooldown = Some(secs(30));
    for (stored, below, state, transition) in [
        (OFF, false, OFF, None),
        (OFF, true, RAGING, Some(Transition::Started)),
        (RAGING, true, RAGING, None),
        (
            RAGING,
            false,
            cooling(noon()),
            Some(Transition::CooldownStarted),
        ),
        (cooling(at(-29)), false, cooling(at(-29)), None),
        (cooling(at(-30)), false, OFF, Some(Transition::Ended)),
        (cooling(at(-30)), true, RAGING, None),
        (cooling(at(-5)), true, RAGING, None),
    ] {
        let storm = step(stored, below, cooldown, noon());
        assert_eq!(
            (storm.state, storm.transition),
            (state, transition),
            "{stored:?} {below}"
        );
        assert_eq!(storm.holds(), state.active);
        let until = state
            .cooldown_since
            .map(|since| since.checked_add(secs(30)).unwrap());
        assert_eq!(storm.cooldown_until, until);
    }
}

#[test]
fn a_new_dip_restarts_the_whole_cycle() {
    let cooldown = Some(secs(30));
    let dip = step(cooling(at(-20)), true, cooldown, noon());
    let again = step(dip.state, false, cooldown, at(1));
    assert_eq!(again.cooldown_until, Some(at(31)));
    assert!(step(again.state, false, cooldown, at(30)).holds());
    assert!(!step(again.state, false, cooldown, at(31)).holds());
}

#[test]
fn switching_the_feature_off_ends_the_storm() {
    for stored in [RAGING, cooling(at(-1))] {
        for below in [false, true] {
            let storm = step(stored, below, None, noon());
            assert_eq!(storm.state, OFF);
            assert!(!storm.holds());
        }
    }
}

#[test]
fn a_cooldown_of_nothing_is_none() {
    let storm = step(RAGING, false, Some(secs(0)), noon());
    assert_eq!(
        (storm.state, storm.transition),
        (OFF, Some(Transition::Ended))
    );
}
