use medik8s_api::NodeMaintenance;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn maintenance(status: impl serde::Serialize) -> Maintenance {
    let status = serde_json::to_value(status).unwrap();
    let object: NodeMaintenance = serde_json::from_value(json!({
        "apiVersion": "nodemaintenance.medik8s.io/v1beta1", "kind": "NodeMaintenance",
        "metadata": {"name": "m", "uid": "u", "resourceVersion": "1", "generation": 3},
        "spec": {"nodeName": "n"}, "status": status,
    }))
    .unwrap();
    Maintenance::read(&object).unwrap()
}

fn key(name: &str) -> Key {
    Key::new("ns", name)
}

fn counts(total: usize, pending: usize) -> Counts {
    Counts {
        total,
        pending: (0..pending).map(|n| key(&format!("p{n}"))).collect(),
    }
}

fn report(pending: usize) -> Report {
    Report {
        is_listed: true,
        total: pending,
        pending: counts(0, pending).pending,
        ..Report::default()
    }
}

fn json_of(status: &NodeMaintenanceStatus) -> serde_json::Value {
    serde_json::to_value(status).unwrap()
}

#[test]
fn the_beginning_counts_pods_and_omits_zeros() {
    let begun = json_of(&begun(&maintenance(json!({})), &counts(9, 2), at(0)));
    assert_eq!(begun["phase"], "Running");
    assert_eq!(begun["totalpods"], 9);
    assert_eq!(begun["evictionPods"], 2);
    assert_eq!(begun["pendingPods"], json!(["p0", "p1"]));
    assert_eq!(
        begun["pendingPodsRefs"],
        json!([{"namespace": "ns", "name": "p0"}, {"namespace": "ns", "name": "p1"}])
    );
    assert_eq!(begun["lastUpdate"], "2027-01-15T08:00:00Z");
    for absent in ["drainProgress", "lastError", "errorOnLeaseCount"] {
        assert_eq!(begun.get(absent), None, "{absent}");
    }
    let empty = json_of(&super::begun(&maintenance(json!({})), &counts(0, 0), at(0)));
    for absent in [
        "totalpods",
        "evictionPods",
        "pendingPods",
        "pendingPodsRefs",
    ] {
        assert_eq!(empty.get(absent), None, "{absent}");
    }
}

#[test]
fn progress_is_the_share_that_is_gone() {
    for (all, pending, before, expected) in [
        (3, 2, None, Some(33)),
        (3, 1, Some(33), Some(66)),
        (3, 3, None, None),
        (3, 5, Some(33), None),
        (3, 0, Some(66), Some(99)),
        (1000, 1, None, Some(99)),
        (0, 2, Some(40), Some(40)),
        (0, 2, None, None),
    ] {
        let mut status = json!({"phase": "Running"});
        if all > 0 {
            status["evictionPods"] = json!(all);
        }
        if let Some(before) = before {
            status["drainProgress"] = json!(before);
        }
        let next = draining(&maintenance(status), &report(pending), true, at(1));
        assert_eq!(next.drain_progress, expected, "{all} {pending} {before:?}");
    }
}

#[test]
fn success_clears_what_was_wrong() {
    let of = maintenance(
        json!({"phase": "Running", "lastError": "x", "pendingPods": ["p"],
        "pendingPodsRefs": [{"name": "p"}], "totalpods": 4, "evictionPods": 2,
        "errorOnLeaseCount": 1, "drainProgress": 50}),
    );
    let done = json_of(&succeeded(&of, at(1)));
    assert_eq!(done["phase"], "Succeeded");
    assert_eq!(done["drainProgress"], 100);
    assert_eq!(
        (&done["totalpods"], &done["evictionPods"]),
        (&json!(4), &json!(2))
    );
    for absent in [
        "lastError",
        "pendingPods",
        "pendingPodsRefs",
        "errorOnLeaseCount",
    ] {
        assert_eq!(done.get(absent), None, "{absent}");
    }
    assert_eq!(done["conditions"][0]["type"], "Drained");
    assert_eq!(done["conditions"][0]["status"], "True");
    assert_eq!(done["conditions"][0]["observedGeneration"], 3);
}

#[test]
fn fixed_texts() {
    let of = maintenance(json!({"phase": "Running", "errorOnLeaseCount": 4}));
    let text = |status: NodeMaintenanceStatus| status.last_error.unwrap();
    assert_eq!(
        text(node_missing(&of, "node02", at(0))),
        "nodes \"node02\" not found"
    );
    assert_eq!(
        text(lease_lost(&of, at(0))),
        "maintenance failed: lease could not be extended after 4 attempts"
    );
    assert_eq!(
        text(duplicate(&of, "n", at(0))),
        "invalid nodeName, a NodeMaintenance for node n already exists"
    );
    assert!(
        text(lease_foreign(&of, "x", true, at(0)))
            .contains("failed to extend a lease that used to be owned by us")
    );
    assert!(
        text(lease_foreign(&of, "x", false, at(0)))
            .contains("failed to obtain a lease that is not owned by us")
    );
    assert!(text(quorum_denied(&of, "n", at(0))).contains("will violate etcd quorum"));
}

#[test]
fn a_foreign_lease_counts_only_for_a_node_in_maintenance() {
    let waiting = lease_foreign(&maintenance(json!({"phase": "Running"})), "x", false, at(0));
    assert_eq!(
        (waiting.error_on_lease_count, waiting.phase.as_deref()),
        (None, Some("Running"))
    );
    let mut of = maintenance(json!({"phase": "Succeeded"}));
    for expected in 1..=4 {
        of.status = lease_foreign(&of, "x", true, at(expected));
        assert_eq!(of.status.error_on_lease_count, Some(expected));
        assert_eq!(of.phase(), Phase::Running);
    }
}

#[test]
fn must_not_count_api_errors_towards_handing_back() {
    let mut of = maintenance(json!({"phase": "Running"}));
    for _ in 0..20 {
        of.status = step_failed(&of, "timeout", true, at(1));
        assert!(of.lease_failures() <= LEASE_FAILURES);
    }
    // Somebody else seen after that is the first time, not the fourth.
    of.status = lease_foreign(&of, "x", true, at(2));
    assert_eq!(of.lease_failures(), 1);
}

#[test]
fn errors_keep_a_drained_node_drained() {
    let of = maintenance(
        json!({"phase": "Succeeded", "conditions": [{"type": "Drained",
        "status": "True", "reason": "Drained", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}),
    );
    let next = step_failed(&of, "timeout", true, at(1));
    assert_eq!(next.phase.as_deref(), Some("Succeeded"));
    assert_eq!(next.conditions, of.status.conditions);
    assert_eq!(next.last_error.as_deref(), Some("timeout"));
    let of = Maintenance { status: next, ..of };
    assert!(needs_resuming(&of));
    let resumed = resumed(&of, at(2));
    assert_eq!(
        (resumed.last_error, resumed.error_on_lease_count),
        (None, None)
    );
}

#[test]
fn the_last_error_names_each_pod_and_stays_small() {
    let mut stuck = report(300);
    stuck.rounds = 1;
    stuck.summary = (0..300)
        .map(|n| format!("ns/p{n}: blocked by PodDisruptionBudget b"))
        .collect();
    let of = maintenance(json!({"phase": "Running", "evictionPods": 300}));
    let text = draining(&of, &stuck, true, at(1)).last_error.unwrap();
    assert!(text.len() <= ERROR_LIMIT, "{}", text.len());
    assert!(
        text.starts_with("ns/p0: blocked by PodDisruptionBudget b; ns/p1: "),
        "{text}"
    );
    assert!(text.contains("; and ") && text.ends_with(" more"), "{text}");
    stuck.summary.truncate(2);
    let text = draining(&of, &stuck, true, at(1)).last_error.unwrap();
    assert!(
        text.ends_with("ns/p1: blocked by PodDisruptionBudget b"),
        "{text}"
    );
}

#[test]
fn a_node_that_is_not_ready_is_told() {
    let mut stuck = report(1);
    (stuck.rounds, stuck.leaving) = (1, 1);
    stuck.summary = vec!["ns/p0: terminating".to_owned()];
    let of = maintenance(json!({"phase": "Running", "evictionPods": 1}));
    let text = |ready| draining(&of, &stuck, ready, at(1)).last_error.unwrap();
    assert_eq!(text(true), "ns/p0: terminating");
    assert!(
        text(false).contains("its kubelet is not confirming"),
        "{}",
        text(false)
    );
}

#[test]
fn the_condition_says_what_blocks_and_since_when() {
    let mut stuck = report(1);
    stuck.blocked = vec![BlockedPod {
        key: key("p0"),
        since: at(5),
        why: "blocked by PodDisruptionBudget b".to_owned(),
    }];
    let of = maintenance(json!({"phase": "Running", "evictionPods": 1}));
    let next = draining(&of, &stuck, true, at(9));
    let drained = &next.conditions.unwrap()[0];
    assert_eq!(
        (drained.status.as_str(), drained.reason.as_str()),
        ("False", "Blocked")
    );
    assert_eq!(
        drained.message,
        "pod ns/p0: blocked by PodDisruptionBudget b, since 2027-01-15T08:00:05Z"
    );
}

#[test]
fn the_same_situation_is_not_written_twice() {
    let of = maintenance(json!({"phase": "Running", "evictionPods": 2}));
    let first = draining(&of, &report(1), true, at(1));
    assert!(differs(&of.status, &first));
    let of = Maintenance {
        status: first.clone(),
        ..of
    };
    let second = draining(&of, &report(1), true, at(100));
    assert!(!differs(&first, &second));
    assert_eq!(first.last_update, second.last_update);
}

proptest! {
    /// Whatever comes in: limits hold and what was counted at the beginning stays.
    #[test]
    fn limits_hold(
        all in 0i64..50, pending in 0usize..60, lines in proptest::collection::vec(".{0,400}", 0..40),
        ready: bool, rounds in 0u32..3,
    ) {
        let mut status = json!({"phase": "Running", "totalpods": 77});
        if all > 0 {
            status["evictionPods"] = json!(all);
        }
        let of = maintenance(status);
        let mut now = report(pending);
        (now.rounds, now.leaving, now.summary) = (rounds, 1, lines);
        let next = draining(&of, &now, ready, at(1));
        prop_assert!(next.drain_progress.is_none_or(|percent| (1..=99).contains(&percent)));
        prop_assert!(next.last_error.as_ref().is_none_or(|text| text.len() <= ERROR_LIMIT));
        prop_assert_eq!(next.total_pods, Some(77));
        prop_assert_eq!(next.eviction_pods, of.status.eviction_pods);
        let text = serde_json::to_string(&next).unwrap();
        prop_assert!(!text.contains("null") || next.last_error.is_some_and(|e| e.contains("null")));
    }
}
