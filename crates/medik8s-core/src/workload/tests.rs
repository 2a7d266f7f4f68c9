use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::taints;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A pod on node `n` that was created at second 100.
fn pod(name: &str, more: &Value) -> Pod {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"),
            "creationTimestamp": at(100).to_string()},
        "spec": {"nodeName": "n", "containers": []},
    });
    json_patch::merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

fn created(name: &str, second: i64) -> Pod {
    pod(
        name,
        &json!({"metadata": {"creationTimestamp": at(second).to_string()}}),
    )
}

fn daemon_set() -> Value {
    json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet",
        "name": "d", "uid": "d", "controller": true}]}})
}

fn mirror() -> Value {
    json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}})
}

fn terminating() -> Value {
    json!({"metadata": {"deletionTimestamp": at(150).to_string()}})
}

fn names(deletions: &[PodDeletion]) -> Vec<&str> {
    deletions
        .iter()
        .map(|deletion| deletion.name.as_str())
        .collect()
}

#[test]
fn every_pod_of_the_fenced_node_goes() {
    let pods = [
        pod("plain", &json!({})),
        pod("daemon", &daemon_set()),
        pod("mirror", &mirror()),
        pod("terminating", &terminating()),
        pod("finished", &json!({"status": {"phase": "Succeeded"}})),
        pod("elsewhere", &json!({"spec": {"nodeName": "m"}})),
        pod("unscheduled", &json!({"spec": {"nodeName": null}})),
    ];
    let deletions = pods_to_force_delete("n", at(200), &pods);
    assert_eq!(
        names(&deletions),
        ["daemon", "finished", "mirror", "plain", "terminating"]
    );
    assert_eq!(
        deletions[3],
        PodDeletion {
            namespace: "ns".to_owned(),
            name: "plain".to_owned(),
            uid: "uid-plain".to_owned(),
            resource_version: None,
        }
    );
}

#[test]
fn a_pod_that_may_be_younger_than_the_fencing_stays() {
    let pods = [
        created("before", 199),
        created("same-second", 200),
        created("after", 201),
    ];
    let fenced = at(200) + Duration::from_millis(900);
    assert_eq!(names(&pods_to_force_delete("n", fenced, &pods)), ["before"]);
    let unknown = pod("unknown", &json!({"metadata": {"creationTimestamp": null}}));
    assert!(pods_to_force_delete("n", fenced, &[unknown]).is_empty());
}

#[test]
fn a_pod_without_identity_is_never_deleted() {
    for field in ["uid", "name", "namespace"] {
        let anonymous = pod("p", &json!({"metadata": {field: null}}));
        assert!(
            pods_to_force_delete("n", at(200), &[anonymous]).is_empty(),
            "{field}"
        );
    }
}

#[test]
fn a_node_that_is_back_keeps_what_belongs_to_it() {
    let pods = [
        pod("plain", &json!({})),
        pod("daemon", &daemon_set()),
        pod("mirror", &mirror()),
        pod("terminating", &terminating()),
        created("new", 300),
    ];
    assert_eq!(
        names(&pods_to_delete_gracefully("n", at(200), &pods)),
        ["plain"]
    );
}

#[test]
fn tolerations_cover_taints_as_the_scheduler_says() {
    let taint = taints::out_of_service(at(0));
    let key = "node.kubernetes.io/out-of-service";
    for (toleration, expected) in [
        (json!({"operator": "Exists"}), true),
        (json!({"operator": "Exists", "effect": "NoExecute"}), true),
        (json!({"operator": "Exists", "effect": "NoSchedule"}), false),
        (json!({"key": key, "operator": "Exists"}), true),
        (json!({"key": "other", "operator": "Exists"}), false),
        (
            json!({"key": key, "operator": "Equal", "value": "nodeshutdown"}),
            true,
        ),
        (json!({"key": key, "value": "nodeshutdown"}), true),
        (json!({"key": key, "value": "other"}), false),
        (json!({"key": key}), false),
        (json!({}), false),
        (json!({"key": key, "operator": "Sometimes"}), false),
    ] {
        let toleration: Toleration = serde_json::from_value(toleration).unwrap();
        assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
    }
}

/// The taint was added at second 200; waiting ends at second 260.
fn judge(pods: &[Pod], attachments: usize, deleting: bool, now: Timestamp) -> OutOfService {
    let taint = taints::out_of_service(at(200));
    let seen = OutOfServiceSeen {
        taint: &taint,
        pods,
        attachments,
        deadline: at(260),
        deleting,
    };
    out_of_service(
        &seen,
        |pod| pod.metadata.name.as_deref() == Some("agent"),
        OutOfServiceRules::default(),
        now,
    )
}

const POLL: OutOfService = OutOfService::Wait(Duration::from_secs(5));

#[test]
fn an_empty_node_is_done_but_not_at_once() {
    assert_eq!(
        judge(&[], 0, false, at(200)),
        OutOfService::Wait(Duration::from_secs(1))
    );
    assert_eq!(judge(&[], 0, false, at(201)), OutOfService::Done);
}

#[test]
fn what_stays_anyway_is_not_waited_for() {
    let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    for more in [daemon_set(), mirror(), tolerant] {
        assert_eq!(
            judge(&[pod("p", &more)], 0, false, at(201)),
            OutOfService::Done
        );
    }
    assert_eq!(
        judge(&[pod("agent", &json!({}))], 0, false, at(201)),
        OutOfService::Done
    );
}

#[test]
fn a_pod_that_must_go_is_waited_for() {
    let pods = [pod("p", &json!({}))];
    assert_eq!(judge(&pods, 0, false, at(201)), POLL);
    assert_eq!(judge(&pods, 0, false, at(219)), POLL);
    // Nothing has begun to end it for 20 s: there is no controller that would.
    assert_eq!(judge(&pods, 0, false, at(220)), OutOfService::Done);
}

#[test]
fn terminating_pods_and_attached_volumes_are_waited_for() {
    let pods = [pod("p", &terminating())];
    for (pods, attachments) in [(&pods[..], 0), (&[], 1)] {
        assert_eq!(judge(pods, attachments, false, at(230)), POLL);
        assert_eq!(
            judge(pods, attachments, false, at(258)),
            OutOfService::Wait(Duration::from_secs(2))
        );
        assert_eq!(judge(pods, attachments, false, at(260)), OutOfService::Late);
        assert_eq!(
            judge(pods, attachments, true, at(260)),
            OutOfService::GivenUp
        );
    }
}

#[test]
fn a_taint_without_time_is_judged_by_what_is_left() {
    let taint = taints::OUT_OF_SERVICE.taint();
    let pods = [pod("p", &json!({}))];
    let judge = |pods: &[Pod]| {
        let seen = OutOfServiceSeen {
            taint: &taint,
            pods,
            attachments: 0,
            deadline: at(260),
            deleting: false,
        };
        out_of_service(&seen, |_| false, OutOfServiceRules::default(), at(230))
    };
    assert_eq!(judge(&[]), OutOfService::Done);
    assert_eq!(judge(&pods), POLL);
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    let one = (0i64..400, any::<bool>(), any::<bool>(), "[abc]", "[nm]").prop_map(
        |(second, daemon, ending, name, node)| {
            let mut more = if daemon { daemon_set() } else { json!({}) };
            if ending {
                json_patch::merge(&mut more, &terminating());
            }
            json_patch::merge(
                &mut more,
                &json!({"metadata": {"creationTimestamp": at(second).to_string()},
                    "spec": {"nodeName": node}}),
            );
            pod(&name, &more)
        },
    );
    prop::collection::vec(one, 0..8)
}

proptest! {
    #[test]
    fn only_old_pods_of_this_node_are_deleted(pods in pods(), fenced in 0i64..400) {
        let forced = pods_to_force_delete("n", at(fenced), &pods);
        let old = pods.iter().filter(|pod| {
            is_on(pod, "n") && pod.metadata.creation_timestamp.as_ref().unwrap().0 < at(fenced)
        });
        prop_assert_eq!(forced.len(), old.count());
        let gentle = pods_to_delete_gracefully("n", at(fenced), &pods);
        prop_assert!(gentle.iter().all(|deletion| forced.contains(deletion)));
    }

    #[test]
    fn waiting_always_ends(
        pods in pods(), attachments in 0usize..2, deleting: bool, now in 200i64..400,
    ) {
        match judge(&pods, attachments, deleting, at(now)) {
            OutOfService::Wait(wait) => {
                prop_assert!(now < 260 && !wait.is_zero() && at(now) + wait <= at(260));
            }
            OutOfService::Done => {
                prop_assert!(attachments == 0 && now > 200);
                prop_assert!(pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_none()));
            }
            OutOfService::GivenUp => prop_assert!(deleting && now >= 260),
            OutOfService::Late => prop_assert!(!deleting && now >= 260),
        }
    }
}
