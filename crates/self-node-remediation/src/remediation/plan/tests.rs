use k8s_openapi::api::core::v1::{Node, Pod};
use medik8s_api::SelfNodeRemediation;
use medik8s_core::version::ServerVersion;
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::order::Remediation;
use serde_json::{Value, json};

use super::super::observe::NodeSeen;
use super::*;

const DAY: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    "2026-01-01T10:00:00Z".parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + seconds).unwrap()
}

fn merge(base: &mut Value, change: &Value) {
    json_patch::merge(base, change);
}

/// A remediation of node x, varied by a merge patch.
fn object(change: &Value) -> SelfNodeRemediation {
    let mut value = json!({
        "apiVersion": "self-node-remediation.medik8s.io/v1alpha1",
        "kind": "SelfNodeRemediation",
        "metadata": {"name": "x", "namespace": "ns", "uid": "u1", "resourceVersion": "7",
                     "creationTimestamp": "2026-01-01T09:59:00Z"},
        "spec": {"remediationStrategy": "ResourceDeletion"},
    });
    merge(&mut value, change);
    serde_json::from_value(value).unwrap()
}

fn marked() -> Value {
    json!({"metadata": {
        "finalizers": [snr::FINALIZER],
        "annotations": {snr::BOOT_ID_ANNOTATION: "b1", ORDERED_NODE_ANNOTATION: "x"},
    }})
}

/// Phase Pre-Reboot-Completed or Reboot-Completed with these recorded times.
fn in_phase(phase: &str, times: &str) -> Value {
    let mut value = marked();
    merge(
        &mut value,
        &json!({
            "metadata": {"annotations": {snr::ORDER_TIMES_ANNOTATION: times}},
            "status": {"phase": phase, "timeAssumedRebooted": "2026-01-01T09:59:30Z"},
        }),
    );
    value
}

const QUORATE: &str =
    "uid=u1 boot=b1 seen=2026-01-01T09:56:00Z bound=90 wd=10 quorum=2026-01-01T09:56:01Z";
const RELEASED: &str = "uid=u1 boot=b1 seen=2026-01-01T09:56:00Z bound=90 wd=10 \
     quorum=2026-01-01T09:56:01Z released=2026-01-01T09:59:31Z by=time";

fn node(change: &Value) -> Node {
    let mut value = json!({
        "metadata": {"name": "x", "uid": "n1", "resourceVersion": "5", "annotations": {
            snr::IS_REBOOT_CAPABLE_ANNOTATION: "true",
            snr::ANNOUNCED_ANNOTATION: format!("boot=b1 armed=true wd=10 bound=90 workers=1 cp=0 stamp={DAY}"),
        }},
        "spec": {"taints": [{"key": snr::REMEDIATION_TAINT, "effect": "NoSchedule"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown"}],
            "nodeInfo": {"bootID": "b1", "architecture": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "operatingSystem": "", "osImage": "", "systemUUID": ""},
        },
    });
    merge(&mut value, change);
    serde_json::from_value(value).unwrap()
}

fn agent_pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "agent", "namespace": "snr", "uid": "p0", "creationTimestamp": DAY,
            "labels": {snr::AGENT_NAME_LABEL: snr::AGENT_NAME_VALUE,
                       snr::AGENT_COMPONENT_LABEL: snr::AGENT_COMPONENT_VALUE},
            "annotations": {snr::AGENT_POD_MARKER_ANNOTATION: snr::AGENT_POD_MARKER},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "ds",
                                 "uid": "d", "controller": true}]},
        "spec": {"nodeName": "x", "containers": []},
    }))
    .unwrap()
}

fn workload_pod(created: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "p1", "creationTimestamp": created},
        "spec": {"nodeName": "x", "containers": []},
    }))
    .unwrap()
}

fn seen(object: SelfNodeRemediation, node: Node, pods: Vec<Pod>) -> Observed {
    let remediation = Remediation::parse(&object).unwrap();
    let annotations = object.metadata.annotations.as_ref();
    let times = OrderTimes::read(
        annotations
            .and_then(|all| all.get(snr::ORDER_TIMES_ANNOTATION))
            .map(String::as_str),
        &remediation.uid,
        remediation.boot.as_ref(),
    );
    let node = NodeSeen::new(node, NodeName::new("x").unwrap(), &pods);
    Observed {
        object,
        remediation,
        config: Some(SelfNodeRemediationConfigSpec::default()),
        found: Found::Node(Box::new(node)),
        times,
        workers: 2,
        peers: Vec::new(),
        acknowledged: std::collections::BTreeSet::default(),
        asked: false,
        storm: false,
        calm_since: now(),
        watched_since: now(),
        kubelet_seen: None,
        version: Some(ServerVersion {
            major: 1,
            minor: 33,
        }),
        pods,
        attachments: 0,
    }
}

fn observe(change: &Value, node_change: &Value) -> Observed {
    seen(object(change), node(node_change), vec![agent_pod()])
}

fn untold(steps: &[Step]) -> Vec<&Step> {
    steps
        .iter()
        .filter(|step| !matches!(step, Step::Tell(_)))
        .collect()
}

fn status(plan: &Plan, condition: &str) -> String {
    let conditions = plan.status.conditions.as_deref().unwrap_or_default();
    conditions::get(conditions, condition).map_or_else(String::new, |found| found.status.clone())
}

const UNTAINTED: &str = r#"{"spec": {"taints": null}}"#;

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_boot_is_recorded_with_the_finalizer() {
    let plan = plan(&observe(&json!({}), &parsed(UNTAINTED)), now());
    match untold(&plan.steps).as_slice() {
        [
            Step::Mark {
                finalizer: true,
                annotations,
            },
        ] => {
            assert_eq!(annotations[snr::BOOT_ID_ANNOTATION], "b1");
            assert_eq!(annotations[ORDERED_NODE_ANNOTATION], "x");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(plan.status.phase, None);
    assert_eq!(plan.status.time_assumed_rebooted, None);
    assert_eq!(status(&plan, "Processing"), "True");
    assert_eq!(status(&plan, "Succeeded"), "Unknown");
}

#[test]
fn the_taint_comes_before_the_order() {
    let plan = plan(&observe(&marked(), &parsed(UNTAINTED)), now());
    assert_eq!(untold(&plan.steps), [&Step::AddTaint]);
    assert_eq!(plan.status.phase, None);
}

#[test]
fn time_and_phase_of_the_order_are_one_write() {
    let plan = plan(&observe(&marked(), &json!({})), now());
    assert!(untold(&plan.steps).is_empty() && plan.is_order);
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_PRE_REBOOT_COMPLETED)
    );
    assert_eq!(
        plan.status.time_assumed_rebooted,
        Some(api_time(later(130)))
    );
}

#[test]
fn a_time_is_never_moved_earlier() {
    let mut with_time = marked();
    merge(
        &mut with_time,
        &json!({"status": {"timeAssumedRebooted": "2026-01-01T12:00:00Z"}}),
    );
    let plan = plan(&observe(&with_time, &json!({})), now());
    assert_eq!(
        plan.status.time_assumed_rebooted,
        Some(api_time(later(7200)))
    );
}

#[test]
fn a_missing_precondition_is_reported_and_nothing_is_begun() {
    let incapable =
        json!({"metadata": {"annotations": {snr::IS_REBOOT_CAPABLE_ANNOTATION: "false"}}});
    let plan = plan(&observe(&json!({}), &incapable), now());
    assert!(untold(&plan.steps).is_empty());
    assert!(matches!(plan.error, Some(RemediationError::CannotStart(_))));
    assert!(plan.status.last_error.is_some());
    assert_eq!(status(&plan, "Processing"), "True");
}

/// What its predecessor said is still on the Node.
#[test]
fn an_agent_of_the_original_that_was_never_started_guards_nothing() {
    let with = |phase: &str| {
        let mut agent = agent_pod();
        agent.metadata.annotations = None;
        agent.status.get_or_insert_default().phase = Some(phase.to_owned());
        plan(
            &seen(object(&json!({})), node(&json!({})), vec![agent]),
            now(),
        )
        .error
    };
    assert!(matches!(
        with("Pending"),
        Some(RemediationError::CannotStart(_))
    ));
    assert!(with("Running").is_none());
}

#[test]
fn a_node_that_was_reset_before_the_order_is_not_ordered_to_reboot_again() {
    let returned = json!({"status": {"nodeInfo": {"bootID": "b2"}}});
    let plan = plan(&observe(&marked(), &returned), now());
    // The order names the boot that has ended.
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_PRE_REBOOT_COMPLETED)
    );
    assert!(
        !plan
            .after
            .iter()
            .chain(&plan.steps)
            .any(|step| matches!(step, Step::Mark { .. }))
    );
}

#[test]
fn the_release_is_recorded_and_then_committed() {
    let order = in_phase(snr::PHASE_PRE_REBOOT_COMPLETED, QUORATE);
    let plan = plan(&observe(&order, &json!({})), now());
    match untold(&plan.steps).as_slice() {
        [
            Step::Mark {
                finalizer: false,
                annotations,
            },
            Step::Released(By::Time),
        ] => {
            assert!(
                annotations[snr::ORDER_TIMES_ANNOTATION]
                    .contains("released=2026-01-01T10:00:00Z by=time")
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_REBOOT_COMPLETED)
    );
}

#[test]
fn nothing_is_released_without_the_taint() {
    let order = in_phase(snr::PHASE_PRE_REBOOT_COMPLETED, QUORATE);
    let plan = plan(&observe(&order, &parsed(UNTAINTED)), now());
    assert_eq!(untold(&plan.steps), [&Step::AddTaint]);
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_PRE_REBOOT_COMPLETED)
    );
}

#[test]
fn nothing_is_released_without_the_finalizer() {
    for phase in [snr::PHASE_PRE_REBOOT_COMPLETED, snr::PHASE_REBOOT_COMPLETED] {
        let mut order = in_phase(phase, RELEASED);
        merge(&mut order, &json!({"metadata": {"finalizers": null}}));
        let mut seen = observe(&order, &json!({}));
        seen.pods.push(workload_pod(DAY));
        let plan = plan(&seen, now());
        assert!(untold(&plan.steps).is_empty(), "{phase}");
        assert_eq!(plan.status.phase.as_deref(), Some(phase));
        assert_eq!(plan.next, Next::After(Duration::from_secs(5)));
    }
}

#[test]
fn h05_missing_acknowledgements_are_asked_for_and_then_held() {
    let times = "uid=u1 boot=b1 seen=2026-01-01T09:00:00Z bound=90 wd=10";
    let order = in_phase(snr::PHASE_PRE_REBOOT_COMPLETED, times);
    let mut seen = observe(&order, &json!({}));
    let asking = plan(&seen, now());
    assert!(matches!(
        untold(&asking.steps).as_slice(),
        [Step::Ask { .. }]
    ));
    seen.asked = true;
    let holding = plan(&seen, now());
    assert!(untold(&holding.steps).is_empty());
    assert!(holding.steps.iter().any(|step| matches!(
        step,
        Step::Tell(Tale::Hold {
            reason: snr::EVENT_WAITING_FOR_QUORUM,
            ..
        })
    )));
    assert_eq!(holding.next, Next::After(Duration::from_secs(5)));
    assert_eq!(
        holding.status.phase.as_deref(),
        Some(snr::PHASE_PRE_REBOOT_COMPLETED)
    );
}

fn removing(strategy: &str, node_change: &Value, pods: Vec<Pod>) -> Plan {
    let mut released = in_phase(snr::PHASE_REBOOT_COMPLETED, RELEASED);
    merge(
        &mut released,
        &json!({"spec": {"remediationStrategy": strategy}}),
    );
    let mut all = vec![agent_pod()];
    all.extend(pods);
    plan(&seen(object(&released), node(node_change), all), now())
}

/// A pod of the boot before that does not end must not keep a healthy node in remediation for ever.
#[test]
fn a_remediation_that_is_taken_back_does_not_wait_for_a_stuck_pod() {
    let back = node(&json!({"status": {
        "nodeInfo": {"bootID": "b2"}, "conditions": [{"type": "Ready", "status": "True"}]}}));
    let after = |taken_back: bool, told: bool| {
        let released = in_phase(snr::PHASE_REBOOT_COMPLETED, RELEASED);
        let released = if taken_back {
            deleting(released)
        } else {
            released
        };
        let mut pod = workload_pod(DAY);
        if told {
            pod.metadata.deletion_timestamp = pod.metadata.creation_timestamp.clone();
        }
        let plan = plan(
            &seen(object(&released), back.clone(), vec![agent_pod(), pod]),
            now(),
        );
        let success = status(&plan, contract::SUCCEEDED);
        assert_ne!(success, "True", "an old container may still run");
        matches!(plan.steps.last(), Some(Step::RemoveFinalizer))
    };
    assert!(after(true, true));
    assert!(!after(true, false), "it has to be told to end first");
    assert!(!after(false, true), "nobody says that the node is well");
}

#[test]
fn a_node_that_is_off_loses_all_its_pods() {
    let plan = removing("ResourceDeletion", &json!({}), vec![workload_pod(DAY)]);
    match untold(&plan.steps).as_slice() {
        [Step::DeletePods { pods, force: true }] => {
            assert_eq!(pods.len(), 2, "agent and DaemonSets too");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_FENCING_COMPLETED)
    );
    assert_eq!(
        (status(&plan, "Processing"), status(&plan, "Succeeded")),
        ("False".into(), "True".into())
    );
    let conditions = plan.status.conditions.as_deref().unwrap_or_default();
    let processing = conditions::get(conditions, contract::PROCESSING).unwrap();
    assert!(
        processing.message.contains("the time has passed"),
        "what it rested on stays to be read: {}",
        processing.message
    );
}

#[test]
fn pods_created_after_the_release_are_not_deleted() {
    let plan = removing(
        "ResourceDeletion",
        &json!({}),
        vec![workload_pod("2026-01-01T09:59:40Z")],
    );
    match untold(&plan.steps).as_slice() {
        [Step::DeletePods { pods, .. }] => assert!(pods.iter().all(|pod| pod.uid != "p1")),
        other => panic!("{other:?}"),
    }
}

fn returned(ready: &str) -> Value {
    json!({"status": {
        "nodeInfo": {"bootID": "b2"},
        "conditions": [{"type": "Ready", "status": ready}],
    }})
}

#[test]
fn h13_a_node_in_another_boot_is_never_emptied_by_force() {
    for strategy in ["ResourceDeletion", "OutOfServiceTaint", "Automatic"] {
        for ready in ["True", "False"] {
            let plan = removing(strategy, &returned(ready), vec![workload_pod(DAY)]);
            match untold(&plan.steps).as_slice() {
                [Step::DeletePods { pods, force: false }] => {
                    assert_eq!(pods.len(), 1, "no DaemonSets");
                }
                other => panic!("{strategy} {ready}: {other:?}"),
            }
            assert_eq!(
                plan.status.phase.as_deref(),
                Some(snr::PHASE_REBOOT_COMPLETED)
            );
        }
    }
    let plan = removing("ResourceDeletion", &returned("True"), Vec::new());
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_FENCING_COMPLETED)
    );
}

#[test]
fn a_returned_node_loses_the_out_of_service_taint_first() {
    let mut change = returned("True");
    merge(
        &mut change,
        &json!({"spec": {"taints": [
            {"key": snr::REMEDIATION_TAINT, "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"},
        ]}}),
    );
    let plan = removing("OutOfServiceTaint", &change, vec![workload_pod(DAY)]);
    assert_eq!(untold(&plan.steps), [&Step::RemoveOutOfService]);
}

#[test]
fn a_node_that_came_back_and_was_lost_is_ordered_again_status_first() {
    let mut change = returned("Unknown");
    merge(
        &mut change,
        &json!({"metadata": {"annotations": {
            snr::ANNOUNCED_ANNOTATION: format!("boot=b2 armed=true wd=10 bound=90 workers=1 cp=0 stamp={DAY}"),
        }}}),
    );
    let plan = removing("ResourceDeletion", &change, vec![workload_pod(DAY)]);
    assert!(
        untold(&plan.steps).is_empty(),
        "nothing before the status: {:?}",
        plan.steps
    );
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_PRE_REBOOT_COMPLETED)
    );
    assert_eq!(
        plan.status.time_assumed_rebooted,
        Some(api_time(later(130)))
    );
    match plan.after.first() {
        Some(Step::Mark { annotations, .. }) => {
            assert_eq!(annotations[snr::BOOT_ID_ANNOTATION], "b2");
        }
        other => panic!("{other:?}"),
    }
    // Without an announcement of that boot it is never freed.
    let plan = removing(
        "ResourceDeletion",
        &returned("Unknown"),
        vec![workload_pod(DAY)],
    );
    assert!(untold(&plan.steps).is_empty() && plan.after.is_empty());
    assert_eq!(plan.next, Next::After(Duration::from_secs(5)));
}

#[test]
fn without_a_recorded_release_nothing_is_removed() {
    let order = in_phase(snr::PHASE_REBOOT_COMPLETED, QUORATE);
    let mut seen = observe(&order, &json!({}));
    seen.pods.push(workload_pod(DAY));
    let plan = plan(&seen, now());
    assert!(untold(&plan.steps).is_empty());
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_REBOOT_COMPLETED)
    );
}

#[test]
fn the_out_of_service_taint_is_added_to_the_node_that_was_judged() {
    let plan = removing("Automatic", &json!({}), vec![workload_pod(DAY)]);
    assert_eq!(untold(&plan.steps), [&Step::AddOutOfService]);
    assert_eq!(
        plan.status.phase.as_deref(),
        Some(snr::PHASE_REBOOT_COMPLETED)
    );
}

fn deleting(mut change: Value) -> Value {
    merge(
        &mut change,
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T09:59:59Z"}}),
    );
    change
}

/// Its taints are somewhere, and would stay there for ever.
#[test]
fn a_deleted_remediation_stays_while_nobody_knows_its_node() {
    let timed_out = json!({"metadata": {"annotations": {contract::NHC_TIMED_OUT_ANNOTATION: DAY}}});
    for (phase, change) in [
        (snr::PHASE_FENCING_COMPLETED, json!({})),
        (snr::PHASE_PRE_REBOOT_COMPLETED, timed_out),
    ] {
        let mut remediation = deleting(in_phase(phase, RELEASED));
        merge(&mut remediation, &change);
        let mut seen = seen(object(&remediation), node(&json!({})), vec![]);
        seen.found = Found::Unresolved("the Machine m has no nodeRef".to_owned());
        let plan = plan(&seen, now());
        assert!(untold(&plan.steps).is_empty(), "{:?}", plan.steps);
        let error = plan.status.last_error.unwrap();
        assert!(error.contains("has no nodeRef"), "{error}");
    }
}

#[test]
fn a_finished_remediation_that_is_deleted_is_cleaned_up() {
    let finished = in_phase(snr::PHASE_FENCING_COMPLETED, RELEASED);
    assert!(
        plan(&observe(&finished, &json!({})), now())
            .steps
            .is_empty()
    );
    let gone = deleting(finished);
    let cleaned = plan(&observe(&gone, &json!({})), now());
    assert_eq!(
        untold(&cleaned.steps),
        [&Step::RemoveTaints, &Step::RemoveFinalizer]
    );
    let mut lost = observe(&gone, &json!({}));
    lost.found = Found::Absent;
    lost.config = None;
    assert_eq!(untold(&plan(&lost, now()).steps), [&Step::RemoveFinalizer]);
}

#[test]
fn h06_a_deleted_order_waits_unless_the_node_is_up_in_its_boot() {
    let order = deleting(in_phase(snr::PHASE_PRE_REBOOT_COMPLETED, QUORATE));
    let lost = plan(&observe(&order, &json!({})), later(-60));
    assert!(untold(&lost.steps).is_empty());
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let up = plan(&observe(&order, &ready), later(-60));
    assert_eq!(
        untold(&up.steps),
        [&Step::RemoveTaints, &Step::RemoveFinalizer]
    );
    let rebooted = plan(&observe(&order, &returned("True")), later(-60));
    assert!(rebooted.steps.contains(&Step::Released(By::Reboot)));
}

#[test]
fn a_timed_out_remediation_is_withdrawn_and_its_marks_stay() {
    let mut order = in_phase(snr::PHASE_PRE_REBOOT_COMPLETED, QUORATE);
    merge(
        &mut order,
        &json!({"metadata": {"annotations": {"remediation.medik8s.io/nhc-timed-out": DAY}}}),
    );
    let withdrawn = plan(&observe(&order, &json!({})), now());
    assert!(untold(&withdrawn.steps).is_empty());
    assert_eq!(
        (
            status(&withdrawn, "Processing"),
            status(&withdrawn, "Succeeded")
        ),
        ("False".into(), "False".into())
    );
    assert_eq!(
        withdrawn.status.phase.as_deref(),
        Some(snr::PHASE_PRE_REBOOT_COMPLETED),
        "not released"
    );
    let cleaned = plan(&observe(&deleting(order), &json!({})), now());
    assert_eq!(
        untold(&cleaned.steps),
        [&Step::RemoveTaints, &Step::RemoveFinalizer]
    );
}

#[test]
fn an_excluded_node_is_left_alone() {
    let excluded = json!({"metadata": {"labels": {"remediation.medik8s.io/exclude-from-remediation": "true"}}});
    for change in [
        json!({}),
        in_phase(snr::PHASE_PRE_REBOOT_COMPLETED, QUORATE),
        in_phase(snr::PHASE_REBOOT_COMPLETED, RELEASED),
    ] {
        let skipped = plan(&observe(&change, &excluded), now());
        assert!(untold(&skipped.steps).is_empty());
        assert!(skipped.steps.contains(&Step::Tell(Tale::Skipped)));
        let conditions = skipped.status.conditions.unwrap();
        let processing = conditions::get(&conditions, contract::PROCESSING).unwrap();
        assert_eq!(processing.message, tell::EXCLUDED, "no time is promised");
    }
    // But the label does not block the clean-up.
    let gone = deleting(in_phase(snr::PHASE_REBOOT_COMPLETED, RELEASED));
    let cleaned = plan(&observe(&gone, &excluded), now());
    assert_eq!(
        untold(&cleaned.steps),
        [&Step::RemoveTaints, &Step::RemoveFinalizer]
    );
}

#[test]
fn without_configuration_nothing_goes_on() {
    let mut seen = observe(
        &in_phase(snr::PHASE_PRE_REBOOT_COMPLETED, QUORATE),
        &json!({}),
    );
    seen.config = None;
    let disabled = plan(&seen, now());
    assert!(untold(&disabled.steps).is_empty());
    assert_eq!(status(&disabled, snr::DISABLED), "True");
    assert_eq!(
        disabled.status.phase.as_deref(),
        Some(snr::PHASE_PRE_REBOOT_COMPLETED)
    );
    // It is back.
    let status_then = json!({"status": serde_json::to_value(&disabled.status).unwrap()});
    let enabled = plan(&observe(&status_then, &json!({})), now());
    assert_eq!(status(&enabled, snr::DISABLED), "");
}

#[test]
fn a_node_that_does_not_exist_ends_the_remediation() {
    let mut seen = observe(&json!({}), &json!({}));
    seen.found = Found::Absent;
    let skipped = plan(&seen, now());
    assert_eq!(
        (
            status(&skipped, "Processing"),
            status(&skipped, "Succeeded")
        ),
        ("False".into(), "False".into())
    );
    assert_eq!(skipped.next, Next::Idle);
    // And stays ended: a second pass changes nothing.
    let mut again = observe(
        &json!({"status": serde_json::to_value(&skipped.status).unwrap()}),
        &json!({}),
    );
    again.found = Found::Absent;
    let repeated = plan(&again, later(60));
    assert!(repeated.steps.is_empty());
    assert_eq!(repeated.status, skipped.status);
}

#[test]
fn planning_twice_changes_nothing() {
    let order = in_phase(snr::PHASE_PRE_REBOOT_COMPLETED, QUORATE);
    let first = plan(&observe(&order, &json!({})), later(-60));
    let mut waiting = order;
    merge(
        &mut waiting,
        &json!({"status": serde_json::to_value(&first.status).unwrap()}),
    );
    let second = plan(&observe(&waiting, &json!({})), later(-50));
    assert!(untold(&second.steps).is_empty());
    assert_eq!(
        second.status, first.status,
        "no write while nothing changes"
    );
}
