//! Objects come back as they were written, and odd ones do not hide the others.
#![cfg(test)]

use kube::core::ObjectList;
use medik8s_api::{
    CustomizedUserRemediationConfig, FenceAgentsRemediation, FenceAgentsRemediationTemplate,
    GoDuration, IntOrString, MachineDeletionRemediationTemplate, MeatwareRemediation,
    MeatwareRemediationTemplate, NodeHealthCheck, NodeMaintenance, SelfNodeRemediation,
    SelfNodeRemediationConfig, SelfNodeRemediationTemplate, StorageBasedRemediationConfig, foreign,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Reads `value` as a `T` and expects it unchanged when written.
fn keeps<T: Serialize + DeserializeOwned>(value: &Value) -> T {
    let object: T =
        serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"));
    assert_eq!(&serde_json::to_value(&object).unwrap(), value);
    object
}

fn nhc(spec: &Value) -> Value {
    json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1",
        "kind": "NodeHealthCheck",
        "metadata": { "name": "workers" },
        "spec": spec,
    })
}

#[test]
fn a_full_node_health_check() {
    let mut value = nhc(&json!({
        "selector": {
            "matchLabels": { "role": "worker" },
            "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["a", "b"] }],
        },
        "unhealthyConditions": [{ "type": "Ready", "status": "False", "duration": "1h1.5m" }],
        "minHealthy": "51%",
        "stormCooldownDuration": "5m0s",
        "escalatingRemediations": [{
            "remediationTemplate": {
                "apiVersion": "self-node-remediation.medik8s.io/v1alpha1",
                "kind": "SelfNodeRemediationTemplate",
                "name": "t",
                "namespace": "n",
            },
            "order": -3,
            "timeout": "60s",
        }],
        "pauseRequests": ["upgrade"],
        "healthyDelay": "-1s",
    }));
    value["status"] = json!({
        "observedNodes": 3,
        "healthyNodes": 0,
        "unhealthyNodes": [{
            "name": "a",
            "remediations": [{
                "resource": { "kind": "SelfNodeRemediation", "name": "a", "uid": "1" },
                "started": "2026-01-02T03:04:05Z",
                "timedOut": "2026-01-02T03:05:05Z",
                "templateName": "t",
            }],
            "conditionsHealthyTimestamp": "2026-01-02T03:04:05Z",
            "healthyDelayed": false,
        }],
        "inFlightRemediations": { "a": "2026-01-02T03:04:05Z" },
        "conditions": [{
            "type": "Disabled",
            "status": "False",
            "reason": "NodeHealthCheckEnabled",
            "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }],
        "phase": "Remediating",
        "reason": "NHC is remediating 1 nodes",
        "lastUpdateTime": "2026-01-02T03:04:05Z",
    });
    let object: NodeHealthCheck = keeps(&value);
    assert_eq!(object.spec.min_healthy, Some("51%".into()));
    assert_eq!(object.spec.healthy_delay, Some("-1s".into()));
}

#[test]
fn counts_of_any_size_and_form() {
    for count in [
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!("8"),
        json!("100%"),
        json!(""),
    ] {
        keeps::<NodeHealthCheck>(&nhc(&json!({ "minHealthy": count, "maxUnhealthy": count })));
    }
}

#[test]
fn durations_keep_the_text_of_the_user() {
    for text in [
        "1h30m",
        "90m",
        "5400s",
        "1.5h",
        "0s",
        "1µs",
        "99999999999h",
        "",
    ] {
        let object: NodeHealthCheck = keeps(&nhc(&json!({ "stormCooldownDuration": text })));
        assert_eq!(
            object.spec.storm_cooldown_duration,
            Some(GoDuration::from(text))
        );
    }
}

#[test]
fn one_odd_object_does_not_hide_the_others() {
    let list = json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1",
        "kind": "NodeHealthCheckList",
        "metadata": { "resourceVersion": "7" },
        "items": [
            nhc(&json!({})),
            nhc(&json!({ "minHealthy": 99_999_999_999_i64 })),
            nhc(&json!({ "minHealthy": u64::MAX })),
            nhc(&json!({ "stormCooldownDuration": "99999999999999999999h" })),
            nhc(&json!({ "healthyDelay": 300 })),
            nhc(&json!(null)),
            { "metadata": { "name": "without-spec" } },
            { "metadata": { "name": "odd-status" }, "status": { "lastUpdateTime": "yesterday" } },
        ],
    });
    let list: ObjectList<NodeHealthCheck> = serde_json::from_value(list).unwrap();
    assert_eq!(list.items.len(), 8);
    assert_eq!(
        list.items[1].spec.min_healthy,
        Some(IntOrString::Int(99_999_999_999))
    );
    assert_eq!(
        list.items[2].spec.min_healthy,
        Some(u64::MAX.to_string().as_str().into())
    );
    assert_eq!(list.items[4].spec.healthy_delay, Some("300".into()));
    assert_eq!(list.items[6].spec.selector, None);
    assert_eq!(list.items[7].status.clone().unwrap().last_update_time, None);
}

#[test]
fn false_and_zero_are_written_out() {
    let value = json!({
        "apiVersion": "self-node-remediation.medik8s.io/v1alpha1",
        "kind": "SelfNodeRemediationConfig",
        "metadata": { "name": "self-node-remediation-config" },
        "spec": {
            "isSoftwareRebootEnabled": false,
            "minPeersForRemediation": 0,
            "watchdogTimeout": "20s",
            "endpointHealthCheckUrl": "",
            "customDsTolerations": [{ "operator": "Exists", "tolerationSeconds": 5 }],
            "customDsNodeSelectorRequirements": [{ "key": "a", "operator": "Exists" }],
        },
    });
    keeps::<SelfNodeRemediationConfig>(&value);
}

#[test]
fn values_of_a_newer_release_are_kept() {
    let value = json!({
        "apiVersion": "self-node-remediation.medik8s.io/v1alpha1",
        "kind": "SelfNodeRemediation",
        "metadata": { "name": "a" },
        "spec": { "remediationStrategy": "Newer" },
        "status": { "phase": "Pre-Reboot-Completed", "lastError": "", "timeAssumedRebooted": "2026-01-02T03:04:05Z" },
    });
    let object: SelfNodeRemediation = keeps(&value);
    let strategy = object.spec.remediation_strategy.unwrap();
    assert_eq!(strategy.as_str(), "Newer");
    assert!(!medik8s_api::self_node_remediation::RemediationStrategy::VALUES.contains(&"Newer"));
}

#[test]
fn node_maintenance_keeps_its_odd_spelling() {
    let value = json!({
        "apiVersion": "nodemaintenance.medik8s.io/v1beta1",
        "kind": "NodeMaintenance",
        "metadata": { "generateName": "nm-" },
        "spec": {
            "nodeName": "node02",
            "reason": "disk",
            "drain": {
                "gracePeriodSeconds": 1,
                "podSelector": { "matchLabels": { "a": "b" } },
                "skipWaitForDeleteTimeoutSeconds": 30,
            },
        },
        "status": {
            "phase": "Running",
            "drainProgress": 33,
            "lastUpdate": "2026-01-02T03:04:05Z",
            "lastError": "x",
            "pendingPods": ["a"],
            "pendingPodsRefs": [{ "name": "a", "namespace": "n" }],
            "totalpods": 9,
            "evictionPods": 3,
            "errorOnLeaseCount": 1,
            "observedGeneration": 2,
        },
    });
    keeps::<NodeMaintenance>(&value);
}

#[test]
fn the_other_kinds() {
    let object = |group: &str, kind: &str, spec: Value| {
        json!({
            "apiVersion": format!("{group}.medik8s.io/v1alpha1"),
            "kind": kind,
            "metadata": { "name": "a" },
            "spec": spec,
        })
    };
    keeps::<SelfNodeRemediationTemplate>(&object(
        "self-node-remediation",
        "SelfNodeRemediationTemplate",
        json!({ "template": { "spec": {} } }),
    ));
    keeps::<SelfNodeRemediationTemplate>(&object(
        "self-node-remediation",
        "SelfNodeRemediationTemplate",
        json!({ "template": { "spec": { "remediationStrategy": "Automatic" } } }),
    ));
    let far = json!({
        "agent": "fence_ipmilan",
        "retrycount": 0,
        "retryinterval": "5s",
        "timeout": "60s",
        "sharedparameters": { "--username": "admin" },
        "nodeparameters": { "--ipport": { "a": "6230" } },
        "remediationStrategy": "OutOfServiceTaint",
        "nodeSecretNames": { "a": "s" },
        "sharedSecretName": "s",
    });
    keeps::<FenceAgentsRemediation>(&object(
        "fence-agents-remediation",
        "FenceAgentsRemediation",
        far.clone(),
    ));
    keeps::<FenceAgentsRemediationTemplate>(&object(
        "fence-agents-remediation",
        "FenceAgentsRemediationTemplate",
        json!({ "statusValidationSample": "5%", "template": { "spec": far } }),
    ));
    keeps::<MachineDeletionRemediationTemplate>(&object(
        "machine-deletion-remediation",
        "MachineDeletionRemediationTemplate",
        json!({ "template": { "spec": {} } }),
    ));
    keeps::<StorageBasedRemediationConfig>(&object(
        "storage-based-remediation",
        "StorageBasedRemediationConfig",
        json!({ "maxConsecutiveFailures": 7, "detectOnlyMode": "Enabled", "nodeSelector": { "a": "" } }),
    ));
    keeps::<CustomizedUserRemediationConfig>(&object(
        "customized-user-remediation",
        "CustomizedUserRemediationConfig",
        json!({}),
    ));
    keeps::<MeatwareRemediation>(&object(
        "meatware-remediation",
        "MeatwareRemediation",
        json!({
            "mode": "ApproveRemediation",
            "remediationTemplate": { "apiVersion": "v1", "kind": "XTemplate", "name": "x" },
            "decision": { "action": "Deny", "token": "abc123", "comment": "no" },
        }),
    ));
}

#[test]
fn a_template_cannot_carry_a_decision() {
    let template: MeatwareRemediationTemplate = serde_json::from_value(json!({
        "metadata": { "name": "a" },
        "spec": { "template": { "spec": { "decision": { "action": "Confirm", "token": "x" } } } },
    }))
    .unwrap();
    assert_eq!(
        serde_json::to_value(template.spec).unwrap(),
        json!({ "template": { "spec": {} } })
    );
}

#[test]
fn foreign_kinds_are_read_whatever_else_they_hold() {
    let machine: foreign::Machine = serde_json::from_value(json!({
        "apiVersion": "machine.openshift.io/v1beta1",
        "kind": "Machine",
        "metadata": { "name": "m" },
        "spec": { "providerID": "aws:///x", "taints": [] },
        "status": { "nodeRef": { "kind": "Node", "name": "a" }, "phase": "Running", "lastUpdated": "x" },
    }))
    .unwrap();
    let status = machine.status.unwrap();
    assert_eq!(status.node_ref.unwrap().name, "a");
    assert_eq!(status.last_updated, None);

    let empty: foreign::ClusterVersion =
        serde_json::from_value(json!({ "metadata": { "name": "version" } })).unwrap();
    assert_eq!(empty.status, None);
}
