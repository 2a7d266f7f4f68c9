use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wall() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn candidate(identity: &str) -> Election {
    Election::new("ns", "lock", identity, Params::default())
}

/// What the server stores: it counts resource versions.
fn saved(mut lease: Lease, version: u32) -> Lease {
    lease.metadata.resource_version = Some(version.to_string());
    lease
}

fn lease_of(holder: &str, seconds: i32) -> Lease {
    Lease {
        metadata: ObjectMeta {
            resource_version: Some("1".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(whole_micro(wall())),
            acquire_time: Some(whole_micro(wall())),
            lease_transitions: Some(7),
            ..LeaseSpec::default()
        }),
    }
}

/// A leader since second 10.
fn leader() -> Election {
    let mut me = candidate("me");
    me.saw(None, s(10));
    let Decision::Create(lease) = me.decide(s(10), wall()) else {
        panic!()
    };
    me.wrote(saved(lease, 1), s(10), s(11));
    me
}

fn spec(decision: Decision) -> LeaseSpec {
    match decision {
        Decision::Create(lease) | Decision::Replace(lease) => lease.spec.unwrap(),
        other @ (Decision::Read | Decision::Wait(_) | Decision::Lost) => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_lease_is_created_and_then_kept() {
    let mut me = candidate("me");
    assert_eq!(me.decide(s(10), wall()), Decision::Read);
    me.saw(None, s(10));
    let created = me.decide(s(10), wall());
    let Decision::Create(lease) = created.clone() else {
        panic!()
    };
    let spec = spec(created);
    assert_eq!(spec.holder_identity.as_deref(), Some("me"));
    assert_eq!(spec.lease_duration_seconds, Some(15));
    assert_eq!(spec.lease_transitions, Some(0));
    assert_eq!(spec.acquire_time, spec.renew_time);
    assert!(!me.leads(s(10)));
    me.wrote(saved(lease, 1), s(10), s(11));
    assert!(me.leads(s(11)));
    assert_eq!(me.deadline(), Some(s(20)));
    assert_eq!(me.decide(s(11), wall()), Decision::Wait(s(15)));
}

#[test]
fn a_leader_renews_every_five_seconds_without_reading() {
    let mut me = leader();
    for round in 0..3 {
        let now = s(15 + 5 * round);
        let Decision::Replace(lease) = me.decide(now, wall()) else {
            panic!()
        };
        assert_eq!(lease.spec.as_ref().unwrap().lease_transitions, Some(0));
        me.wrote(saved(lease, 2), now, now);
        assert_eq!(me.decide(now, wall()), Decision::Wait(now + s(5)));
    }
}

#[test]
fn a_failure_is_retried_after_two_seconds_with_a_look_first() {
    let mut me = leader();
    me.failed(s(15));
    assert_eq!(me.decide(s(15), wall()), Decision::Wait(s(17)));
    assert_eq!(me.decide(s(17), wall()), Decision::Read);
    me.saw(Some(lease_of("me", 15)), s(17));
    assert!(matches!(me.decide(s(17), wall()), Decision::Replace(_)));
    // Nothing is waited for beyond the end of leadership.
    me.failed(s(19));
    assert_eq!(me.decide(s(19), wall()), Decision::Wait(s(20)));
}

#[test]
fn leadership_ends_at_the_deadline_after_the_last_renewal_was_sent() {
    let mut me = leader();
    me.failed(s(15));
    assert!(me.leads(Duration::from_nanos(19_999_999_999)));
    assert!(!me.leads(s(20)));
    assert_eq!(me.decide(s(20), wall()), Decision::Lost);
    assert_eq!(me.release(s(20), wall()), None);
}

#[test]
fn leadership_ends_when_somebody_else_holds_the_lease() {
    for holder in ["you", ""] {
        let mut me = leader();
        me.failed(s(12));
        me.saw(Some(lease_of(holder, 15)), s(14));
        assert!(!me.leads(s(14)));
        assert_eq!(me.decide(s(14), wall()), Decision::Lost);
    }
}

#[test]
fn a_leader_creates_a_deleted_lease_again() {
    let mut me = leader();
    me.failed(s(15));
    me.saw(None, s(17));
    assert!(me.leads(s(17)));
    assert!(matches!(me.decide(s(17), wall()), Decision::Create(_)));
}

#[test]
fn a_follower_takes_over_when_the_record_stood_still_for_its_duration() {
    let mut me = candidate("me");
    me.saw(Some(lease_of("you", 15)), s(10));
    assert_eq!(me.decide(s(10), wall()), Decision::Wait(s(12)));
    assert_eq!(me.decide(s(12), wall()), Decision::Read);
    me.saw(Some(lease_of("you", 15)), s(24));
    assert_eq!(me.decide(s(24), wall()), Decision::Wait(s(25)));
    me.saw(Some(lease_of("you", 15)), s(25));
    let taken = spec(me.decide(s(25), wall()));
    assert_eq!(taken.holder_identity.as_deref(), Some("me"));
    assert_eq!(taken.lease_transitions, Some(8));
}

#[test]
fn remote_clocks_play_no_part() {
    // The stored renew time is an hour old, and an hour ahead: only its change counts.
    for renewed in ["2026-01-02T02:00:00Z", "2026-01-02T04:00:00Z"] {
        let mut lease = lease_of("you", 15);
        lease.spec.as_mut().unwrap().renew_time =
            Some(whole_micro(renewed.parse::<Timestamp>().unwrap()));
        let mut me = candidate("me");
        me.saw(Some(lease.clone()), s(10));
        assert_eq!(me.decide(s(10), wall()), Decision::Wait(s(12)));
        me.saw(Some(lease), s(25));
        assert!(matches!(me.decide(s(25), wall()), Decision::Replace(_)));
    }
}

#[test]
fn a_renewal_seen_starts_the_count_anew() {
    let mut me = candidate("me");
    me.saw(Some(lease_of("you", 15)), s(10));
    let mut renewed = lease_of("you", 15);
    renewed.spec.as_mut().unwrap().renew_time = Some(whole_micro(
        "2026-01-02T03:04:10Z".parse::<Timestamp>().unwrap(),
    ));
    me.saw(Some(renewed.clone()), s(20));
    me.saw(Some(renewed), s(34));
    assert_eq!(me.decide(s(34), wall()), Decision::Wait(s(35)));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let me = leader();
    let released = me.release(s(12), wall()).unwrap();
    let spec = released.spec.as_ref().unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some(""));
    assert_eq!(spec.lease_duration_seconds, Some(1));
    assert_eq!(released.metadata.resource_version.as_deref(), Some("1"));
    let mut you = candidate("you");
    you.saw(Some(released), s(13));
    let Decision::Replace(lease) = you.decide(s(13), wall()) else {
        panic!()
    };
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(1));
}

#[test]
fn an_acquisition_of_unknown_outcome_is_recognised() {
    let mut me = candidate("me");
    me.saw(None, s(10));
    me.failed(s(11));
    me.saw(Some(lease_of("me", 15)), s(13));
    assert!(!me.leads(s(13)));
    let spec = spec(me.decide(s(13), wall()));
    assert_eq!(spec.lease_transitions, Some(7));
}

#[test]
fn a_claim_rests_on_a_fresh_look() {
    let mut me = candidate("me");
    me.saw(Some(lease_of("", 1)), s(10));
    assert_eq!(me.decide(s(12), wall()), Decision::Read);
}

/// One process in the simulation: an election, and the request it has in flight.
struct Process {
    election: Election,
    flight: Option<Flight>,
    frozen_until: Duration,
}

struct Flight {
    decision: Decision,
    sent: Duration,
    stored: Duration,
    answered: Duration,
    lost: bool,
    answer: Option<Result<Option<Lease>, ()>>,
}

/// The stored lease with optimistic locking.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u32,
}

impl Server {
    fn handle(&mut self, decision: &Decision) -> Result<Option<Lease>, ()> {
        let stored = self
            .lease
            .as_ref()
            .and_then(|lease| lease.metadata.resource_version.clone());
        let new = match decision {
            Decision::Read => return Ok(self.lease.clone()),
            Decision::Create(lease) if stored.is_none() => lease,
            Decision::Replace(lease) if lease.metadata.resource_version == stored => lease,
            Decision::Create(_) | Decision::Replace(_) => return Err(()),
            Decision::Wait(_) | Decision::Lost => panic!("not a request"),
        };
        self.version += 1;
        self.lease = Some(saved(new.clone(), self.version));
        Ok(self.lease.clone())
    }
}

/// What chance does to the next request or process, in steps of a quarter second.
#[derive(Debug, Clone)]
struct Chance {
    request: u32,
    response: u32,
    lost: bool,
    freeze: Option<u32>,
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let chance = (
        prop_oneof![4 => 0u32..3, 1 => 0u32..80],
        prop_oneof![4 => 0u32..3, 1 => 0u32..80],
        prop::bool::weighted(0.2),
        prop::option::weighted(0.05, 0u32..120),
    )
        .prop_map(|(request, response, lost, freeze)| Chance {
            request,
            response,
            lost,
            freeze,
        });
    prop::collection::vec(chance, 20..120)
}

/// Two processes with skewed wall clocks against one server. Returns how long there was a leader;
/// fails when there were two.
fn simulate(chances: &[Chance]) -> Result<u32, TestCaseError> {
    const STEP: Duration = Duration::from_millis(250);
    let mut chances = chances.iter().cycle();
    let mut server = Server::default();
    let mut born = 0;
    let mut spawn = || {
        born += 1;
        let election = candidate(&format!("p{born}"));
        Process {
            election,
            flight: None,
            frozen_until: Duration::ZERO,
        }
    };
    let mut processes = [spawn(), spawn()];
    let mut led = 0;
    for step in 0..1200 {
        let now = STEP * step;
        for (index, process) in processes.iter_mut().enumerate() {
            let skew = if index == 0 { s(3600) } else { Duration::ZERO };
            // Requests travel whether their sender is frozen or not.
            if let Some(flight) = &mut process.flight
                && flight.answer.is_none()
                && flight.stored <= now
            {
                flight.answer = Some(server.handle(&flight.decision));
            }
            if process.frozen_until > now {
                continue;
            }
            if let Some(flight) = process.flight.take_if(|flight| flight.answered <= now) {
                match (flight.lost, flight.answer, &flight.decision) {
                    (false, Some(Ok(lease)), Decision::Read) => process.election.saw(lease, now),
                    (false, Some(Ok(Some(lease))), _) => {
                        process.election.wrote(lease, flight.sent, now);
                    }
                    _ => process.election.failed(now),
                }
            }
            if process.flight.is_some() {
                continue;
            }
            let decision = process.election.decide(now, wall() + skew + now);
            match decision {
                Decision::Wait(until) => prop_assert!(until > now),
                Decision::Lost => *process = spawn(),
                Decision::Read | Decision::Create(_) | Decision::Replace(_) => {
                    let chance = chances.next().unwrap();
                    let stored = now + STEP * chance.request;
                    process.flight = Some(Flight {
                        decision,
                        sent: now,
                        stored,
                        answered: stored + STEP * chance.response,
                        lost: chance.lost,
                        answer: None,
                    });
                    if let Some(freeze) = chance.freeze {
                        process.frozen_until = now + STEP * freeze;
                    }
                }
            }
        }
        // A frozen process acts when it wakes up, unless it asks the clock again: `leads` is what
        // it asks.
        let leaders = processes
            .iter()
            .filter(|process| process.election.leads(now))
            .count();
        prop_assert!(leaders <= 1, "two leaders at {now:?}");
        led += u32::from(leaders == 1);
    }
    Ok(led)
}

#[test]
fn somebody_leads_when_nothing_fails() {
    let smooth = [Chance {
        request: 0,
        response: 1,
        lost: false,
        freeze: None,
    }];
    let led = simulate(&smooth).unwrap();
    assert!(led > 1190, "there was a leader for {led} of 1200 steps");
}

proptest! {
    #[test]
    fn there_are_never_two_leaders(chances in chances()) {
        simulate(&chances)?;
    }

    #[test]
    fn a_leader_is_never_without_deadline(offset in 0u64..60) {
        let me = leader();
        let now = s(10) + SECOND * u32::try_from(offset).unwrap();
        prop_assert_eq!(me.leads(now), now < me.deadline().unwrap());
    }
}
