use proptest::prelude::*;
use serde_json::json;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);
const ME: &str = "NodeHealthCheck-workers";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn owner() -> Owner {
    Owner::node("Worker-1", "uid-1")
}

fn wish(owner: &Owner) -> Request<'_> {
    Request {
        namespace: "medik8s-leases",
        owner,
        holder: ME,
        duration: 10 * MINUTE,
        incident: Incident::Ongoing,
    }
}

/// A stored lease of ten minutes.
fn stored(holder: &str, acquired: i64, renewed: i64) -> Lease {
    serde_json::from_value(json!({
        "metadata": {
            "name": "node-worker-1", "namespace": "medik8s-leases",
            "uid": "l", "resourceVersion": "5",
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "Worker-1", "uid": "uid-1"},
            ],
        },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 600, "leaseTransitions": 3,
            "acquireTime": at(acquired).to_string(), "renewTime": at(renewed).to_string(),
        },
    }))
    .unwrap()
}

/// Acquire time, renew time, transitions of the lease that is written.
fn replaced(decision: Result<Decision, AlreadyHeld>) -> (i64, i64, i32) {
    let Ok(Decision::Replace(lease)) = decision else {
        panic!("{decision:?}")
    };
    assert_eq!(lease.metadata.resource_version.as_deref(), Some("5"));
    assert!(owner().owns(&lease));
    let spec = lease.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some(ME));
    let second = |time: Option<_>| {
        let time: k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime = time.unwrap();
        time.0.as_second()
    };
    (
        second(spec.acquire_time),
        second(spec.renew_time),
        spec.lease_transitions.unwrap(),
    )
}

#[test]
fn names_are_lower_case() {
    assert_eq!(owner().lease_name(), "node-worker-1");
    assert_eq!(node_lease_name("Worker-1"), "node-worker-1");
}

#[test]
fn a_missing_lease_is_created() {
    let owner = owner();
    let now = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
    let Ok(Decision::Create(lease)) = request(None, &wish(&owner), now) else {
        panic!()
    };
    assert_eq!(
        serde_json::to_value(lease).unwrap(),
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": "node-worker-1", "namespace": "medik8s-leases",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "Worker-1", "uid": "uid-1"},
                ],
            },
            "spec": {
                "holderIdentity": "NodeHealthCheck-workers", "leaseDurationSeconds": 600,
                "leaseTransitions": 0, "acquireTime": "2026-01-02T03:04:05.678901Z",
                "renewTime": "2026-01-02T03:04:05.678901Z",
            },
        })
    );
}

#[test]
fn a_valid_foreign_lease_is_respected() {
    let owner = owner();
    // Renewed at 1000, ends at 1600; the last row is a clock up to one duration behind the
    // holder's.
    for now in [1000, 1599, 1600, 999, 400] {
        let lease = stored("node-maintenance", 1000, 1000);
        assert_eq!(
            request(Some(&lease), &wish(&owner), at(now)),
            Err(AlreadyHeld {
                holder: "node-maintenance".to_owned()
            }),
            "at {now}"
        );
    }
    let nobody = stored("", 1000, 1000);
    let error = request(Some(&nobody), &wish(&owner), at(1000)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "can't update or invalidate the lease because it is held by different owner: unknown"
    );
}

#[test]
fn an_invalid_foreign_lease_is_taken_over() {
    let owner = owner();
    let lease = stored("node-maintenance", 1000, 1000);
    for now in [1601, 399] {
        assert_eq!(
            replaced(request(Some(&lease), &wish(&owner), at(now))),
            (now, now, 4)
        );
    }
    for field in ["renewTime", "leaseDurationSeconds"] {
        let mut value = serde_json::to_value(&lease).unwrap();
        value["spec"].as_object_mut().unwrap().remove(field);
        value["spec"]
            .as_object_mut()
            .unwrap()
            .remove("leaseTransitions");
        let broken: Lease = serde_json::from_value(value).unwrap();
        let decision = request(Some(&broken), &wish(&owner), at(1001));
        assert_eq!(replaced(decision), (1001, 1001, 1), "without {field}");
    }
}

#[test]
fn our_lease_is_renewed_from_half_of_its_duration() {
    let owner = owner();
    let lease = stored(ME, 500, 1000);
    for now in [1000, 1299] {
        assert_eq!(
            request(Some(&lease), &wish(&owner), at(now)),
            Ok(Decision::Keep),
            "at {now}"
        );
    }
    for now in [1300, 1600, 1601, 9999] {
        let decision = request(Some(&lease), &wish(&owner), at(now));
        assert_eq!(replaced(decision), (500, now, 3), "at {now}");
    }
}

#[test]
fn our_lease_is_rewritten_when_it_no_longer_fits() {
    let owner = owner();
    let lease = stored(ME, 500, 1000);
    let longer = Request {
        duration: 11 * MINUTE,
        ..wish(&owner)
    };
    assert_eq!(
        replaced(request(Some(&lease), &longer, at(1001))),
        (500, 1001, 3)
    );
    // A renew time ahead of us: our clock was set back, and others may take such a lease early.
    assert_eq!(
        replaced(request(Some(&lease), &wish(&owner), at(900))),
        (500, 900, 3)
    );

    let mut of_old_node = lease.clone();
    of_old_node.metadata.owner_references.as_mut().unwrap()[0].uid = "uid-0".to_owned();
    assert_eq!(
        replaced(request(Some(&of_old_node), &wish(&owner), at(1001))),
        (500, 1001, 3)
    );
    let mut of_two = lease.clone();
    let extra = Owner::node("other", "uid-2").reference();
    of_two
        .metadata
        .owner_references
        .as_mut()
        .unwrap()
        .push(extra);
    assert_eq!(
        replaced(request(Some(&of_two), &wish(&owner), at(1001))),
        (500, 1001, 3)
    );
}

#[test]
fn our_broken_lease_starts_anew() {
    let owner = owner();
    for field in ["renewTime", "leaseDurationSeconds", "acquireTime"] {
        let mut value = serde_json::to_value(stored(ME, 500, 1000)).unwrap();
        value["spec"].as_object_mut().unwrap().remove(field);
        let broken: Lease = serde_json::from_value(value).unwrap();
        let decision = request(Some(&broken), &wish(&owner), at(1400));
        assert_eq!(replaced(decision), (1400, 1400, 4), "without {field}");
    }
}

#[test]
fn our_lease_counts_from_now_for_a_new_incident() {
    let owner = owner();
    let lease = stored(ME, 500, 1000);
    let new = Request {
        incident: Incident::New,
        ..wish(&owner)
    };
    // Run out, worth a renewal, and renewed just now.
    for now in [9999, 1500, 1001] {
        assert_eq!(
            replaced(request(Some(&lease), &new, at(now))),
            (now, now, 4),
            "at {now}"
        );
    }
}

#[test]
fn durations_are_whole_seconds_and_never_zero() {
    for (duration, seconds) in [
        (Duration::ZERO, 1),
        (Duration::from_millis(1), 1),
        (Duration::from_millis(90_500), 91),
        (Duration::MAX, i32::MAX),
    ] {
        assert_eq!(whole_seconds(duration), seconds);
    }
}

#[test]
fn release_deletes_exactly_what_was_read() {
    let precondition = Precondition {
        uid: Some("l".to_owned()),
        resource_version: Some("5".to_owned()),
    };
    assert_eq!(release(None, ME), Ok(None));
    assert_eq!(
        release(Some(&stored(ME, 1, 1)), ME),
        Ok(Some(precondition.clone()))
    );
    assert_eq!(release(Some(&stored("", 1, 1)), ME), Ok(Some(precondition)));
    assert_eq!(
        release(Some(&stored("node-maintenance", 1, 1)), ME),
        Err(AlreadyHeld {
            holder: "node-maintenance".to_owned()
        })
    );
}

#[test]
fn overdue_after_three_steps_and_all_before() {
    let spec = stored(ME, 1000, 1000).spec.unwrap();
    let overdue = |now| is_overdue(&spec, 10 * MINUTE, 2 * MINUTE, at(now));
    assert!(!overdue(1000 + 3 * 600 + 120));
    assert!(overdue(1000 + 3 * 600 + 121));
    let unknown = LeaseSpec {
        acquire_time: None,
        ..spec.clone()
    };
    assert!(!is_overdue(&unknown, MINUTE, MINUTE, at(99_999)));
    assert!(!is_overdue(
        &spec,
        Duration::MAX,
        Duration::MAX,
        Timestamp::MAX
    ));
}

#[test]
fn upkeep_follows_the_health_check() {
    let owner = owner();
    let step = 9 * MINUTE;
    let keep =
        |lease: Option<&Lease>, now| upkeep(lease, &wish(&owner), step, Duration::ZERO, at(now));
    assert_eq!(keep(None, 1000), Upkeep::NotOurs);
    assert_eq!(
        keep(Some(&stored("other", 1000, 1000)), 1000),
        Upkeep::NotOurs
    );
    let lease = stored(ME, 1000, 1000);
    // It ends at 1600; the caller comes back nine minutes later.
    assert_eq!(keep(Some(&lease), 1060), Upkeep::Keep);
    let Upkeep::Replace(renewed) = keep(Some(&lease), 1061) else {
        panic!()
    };
    assert_eq!(end(renewed.spec.as_ref().unwrap()), Some(at(1061 + 600)));
    assert_eq!(
        keep(Some(&lease), 1000 + 3 * 540 + 1),
        Upkeep::Overdue(Precondition::of(&lease))
    );
}

fn leases() -> impl Strategy<Value = Lease> {
    (
        prop::sample::select(vec![ME, "node-maintenance", ""]),
        prop::option::of(0i64..5000),
        prop::option::of(0i64..5000),
        prop::option::of(-5i32..2000),
        prop::option::of(0i32..9),
        any::<bool>(),
    )
        .prop_map(
            |(holder, acquired, renewed, duration, transitions, right_owner)| {
                let mut lease = stored(holder, 0, 0);
                lease.spec = Some(LeaseSpec {
                    holder_identity: Some(holder.to_owned()),
                    acquire_time: acquired.map(|time| whole_micro(at(time))),
                    renew_time: renewed.map(|time| whole_micro(at(time))),
                    lease_duration_seconds: duration,
                    lease_transitions: transitions,
                    ..LeaseSpec::default()
                });
                if !right_owner {
                    lease.metadata.owner_references = None;
                }
                lease
            },
        )
}

proptest! {
    /// Whatever is stored: afterwards we hold a lease that binds others for long enough, or we were
    /// told who holds it.
    #[test]
    fn a_request_ends_with_a_good_lease_or_an_answer(
        lease in prop::option::of(leases()), now in 0i64..9999,
    ) {
        let owner = owner();
        let result = match request(lease.as_ref(), &wish(&owner), at(now)) {
            Ok(Decision::Create(new)) => { prop_assert!(lease.is_none()); new }
            Ok(Decision::Replace(new)) => new,
            Ok(Decision::Keep) => lease.clone().unwrap(),
            Err(_) => {
                let spec = lease.unwrap().spec.unwrap();
                prop_assert!(is_valid(&spec, at(now)) && holder(&spec) != Some(ME));
                return Ok(());
            }
        };
        let spec = result.spec.as_ref().unwrap();
        prop_assert_eq!(holder(spec), Some(ME));
        prop_assert!(is_valid(spec, at(now)));
        prop_assert!(end(spec).unwrap() > at(now + 300));
        prop_assert!(owner.owns(&result));
        prop_assert_eq!(request(Some(&result), &wish(&owner), at(now)), Ok(Decision::Keep));
    }

    /// A valid foreign lease is never written, also by one whose clock differs by up to its
    /// duration.
    #[test]
    fn nobody_takes_a_fresh_lease(renewed in 1000i64..5000, skew in -600i64..=600) {
        let owner = owner();
        let lease = stored("node-maintenance", 0, renewed);
        prop_assert!(request(Some(&lease), &wish(&owner), at(renewed + skew)).is_err());
    }

    /// Transitions count changes of hands and never go back.
    #[test]
    fn transitions_never_shrink(lease in leases(), now in 0i64..9999) {
        let owner = owner();
        let before = lease.spec.as_ref().unwrap().lease_transitions.unwrap_or(0);
        if let Ok(Decision::Replace(new)) = request(Some(&lease), &wish(&owner), at(now)) {
            let after = new.spec.unwrap().lease_transitions.unwrap_or(0);
            prop_assert!(after == before || after == before + 1);
            if holder(lease.spec.as_ref().unwrap()) != Some(ME) {
                prop_assert_eq!(after, before + 1);
            }
        }
    }

    /// The lease of a remediation always lasts until the health checker looks again.
    #[test]
    fn upkeep_lasts_until_the_next_visit(lease in leases(), now in 0i64..9999, step in 1u64..600) {
        let owner = owner();
        let step = Duration::from_secs(step);
        let wish = Request { duration: step + MINUTE, ..wish(&owner) };
        let lasting = match upkeep(Some(&lease), &wish, step, Duration::ZERO, at(now)) {
            Upkeep::Replace(new) => *new,
            Upkeep::Keep => lease,
            Upkeep::NotOurs | Upkeep::Overdue(_) => return Ok(()),
        };
        prop_assert!(is_valid(lasting.spec.as_ref().unwrap(), after(at(now), step)));
        prop_assert!(owner.owns(&lasting));
    }
}
