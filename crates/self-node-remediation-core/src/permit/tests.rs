use proptest::prelude::*;

use super::*;

const SPAN: Duration = Duration::from_secs(90);

fn at(seconds: u64) -> BootInstant {
    BootInstant::at(Duration::from_secs(seconds))
}

fn terms() -> Terms {
    Terms {
        span: SPAN,
        cut: Duration::ZERO,
        no_electorate: None,
        triggered: false,
    }
}

fn read(started: u64) -> Proof {
    Proof::ApiRead(NoOrder::read_at(at(started)))
}

fn healthy(sent: u64) -> Proof {
    Proof::PeerHealthy(PeerHealthy::asked_at(at(sent)))
}

fn outage(started: u64) -> Proof {
    Proof::Outage(Outage::in_round(at(started)))
}

#[test]
fn without_proof_there_is_no_permit() {
    assert_eq!(feed_until(&Permit::default(), terms(), at(1000)), None);
}

#[test]
fn each_proof_reaches_one_span_from_its_start() {
    for proof in [read(10), healthy(10), outage(10)] {
        let mut permit = Permit::default();
        permit.extend(proof);
        assert_eq!(feed_until(&permit, terms(), at(50)), Some(at(100)));
    }
}

#[test]
fn an_older_proof_that_arrives_late_takes_nothing_back() {
    let mut permit = Permit::default();
    permit.extend(read(50));
    permit.extend(healthy(40));
    permit.extend(outage(45));
    assert_eq!(permit.valid_until(SPAN), Some(at(140)));
    assert_eq!(permit.base(), Some(Base::Direct(at(50))));
    permit.extend(outage(60));
    assert_eq!(permit.base(), Some(Base::Outage(at(60))));
    assert_eq!(permit.direct(), Some(at(50)));
}

#[test]
fn h07_the_recorded_permit_binds_until_there_is_new_proof() {
    let mut permit = Permit::default();
    permit.extend(read(10));
    let mut restored = permit.to_record(SPAN);
    let longer = SPAN + Duration::from_secs(30);
    assert_eq!(
        restored.valid_until(longer),
        Some(at(100)),
        "never more than was recorded"
    );
    assert_eq!(
        restored.valid_until(SPAN / 2),
        Some(at(55)),
        "a shorter span is used at once"
    );
    restored.extend(read(5));
    assert_eq!(
        restored.valid_until(longer),
        Some(at(100)),
        "an old proof is no new one"
    );
    restored.extend(read(11));
    assert_eq!(restored.valid_until(longer), Some(at(131)));
}

#[test]
fn fencing_ends_every_permit() {
    let mut permit = Permit::default();
    permit.extend(read(10));
    let triggered = Terms {
        triggered: true,
        no_electorate: Some(NoElectorate::announced()),
        ..terms()
    };
    assert_eq!(feed_until(&permit, triggered, at(11)), None);
}

#[test]
fn no_electorate_reaches_one_span_ahead_of_each_step() {
    let unbound = Terms {
        no_electorate: Some(NoElectorate::announced()),
        ..terms()
    };
    assert_eq!(
        feed_until(&Permit::default(), unbound, at(1000)),
        Some(at(1090))
    );
}

#[test]
fn a_cut_ends_earlier() {
    let mut permit = Permit::default();
    permit.extend(read(10));
    let cut = Terms {
        cut: Duration::from_secs(40),
        ..terms()
    };
    assert_eq!(feed_until(&permit, cut, at(11)), Some(at(60)));
}

proptest! {
    #[test]
    fn the_permit_is_the_latest_proof_and_nothing_else(proofs in proptest::collection::vec((0u8..3, 0u64..1000), 1..20)) {
        let mut permit = Permit::default();
        for (kind, moment) in &proofs {
            permit.extend(match kind {
                0 => read(*moment),
                1 => healthy(*moment),
                _ => outage(*moment),
            });
        }
        let latest = proofs.iter().map(|(_, moment)| *moment).max().unwrap();
        prop_assert_eq!(feed_until(&permit, terms(), at(5000)), Some(at(latest + 90)));
    }
}
