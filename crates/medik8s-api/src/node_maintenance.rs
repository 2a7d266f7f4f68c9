//! Group `nodemaintenance.medik8s.io`: nodes taken out of service on purpose.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::value::{lenient_time, spec_may_be_absent};

/// Which node is in maintenance, and why.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "nodemaintenance.medik8s.io",
    version = "v1beta1",
    kind = "NodeMaintenance",
    plural = "nodemaintenances",
    shortname = "nm",
    category = "medik8s",
    status = "NodeMaintenanceStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Keeps a node in maintenance while it exists: the node is cordoned, tainted and drained, and other medik8s operators leave it alone. Deleting the object ends the maintenance and makes the node schedulable again.",
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".spec.nodeName",
        description = "Node in maintenance"
    ),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "Running, Succeeded or Failed"
    ),
    printcolumn(
        name = "Drained",
        type_ = "integer",
        json_path = ".status.drainProgress",
        description = "Percent of the pods to evict that are gone"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".spec.reason",
        description = "Why the node is in maintenance"
    ),
    printcolumn(
        name = "Last Error",
        type_ = "string",
        json_path = ".status.lastError",
        description = "Error of the latest attempt",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct NodeMaintenanceSpec {
    /// Name of the node to put into maintenance. The node must exist when the object is created.
    /// Cannot be changed: delete the object and create another one.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf",
        "message": "updating spec.NodeName isn't allowed",
    }]))]
    pub node_name: String,

    /// Why the node is in maintenance, as free text for people. May be changed at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// How the node is drained. Unset: every pod with its own grace period, as kubectl drain
    /// --force --delete-emptydir-data --ignore-daemonsets does. The eviction API, and with it
    /// every PodDisruptionBudget, is always respected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<NodeMaintenanceDrain>,
}
spec_may_be_absent!(NodeMaintenanceSpec);

/// How a node is drained.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeMaintenanceDrain {
    /// Grace period given to every evicted pod, in seconds, at least 1, instead of the pod's own.
    /// Unset: the pod's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "positive_seconds")]
    pub grace_period_seconds: Option<i64>,

    /// Only pods with these labels are evicted; the others stay on the node. Unset: all pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::label_selector")]
    pub pod_selector: Option<LabelSelector>,

    /// Do not wait for a pod that has been terminating for longer than this many seconds, at least
    /// 1. Unset: wait for every pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "positive_seconds")]
    pub skip_wait_for_delete_timeout_seconds: Option<i64>,
}

fn positive_seconds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 1 })
}

/// How far the maintenance has come.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeMaintenanceStatus {
    /// Running while the node is being drained, Succeeded when nothing is left to evict, Failed
    /// when the node is missing, another object already maintains it, or its lease was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,

    /// Percent of the pods to evict, as counted when the maintenance started, that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::integer")]
    pub drain_progress: Option<i64>,

    /// When this status last changed in a meaningful way.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub last_update: Option<Time>,

    /// Error of the latest attempt, for example which pods are blocked by which
    /// PodDisruptionBudget. Absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,

    /// Names of the pods that are still to be evicted. See pendingPodsRefs for their namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("items" = { "type": "string", "description": "Name of a pod." }))]
    pub pending_pods: Option<Vec<String>>,

    /// Pods that are still to be evicted, in the order of pendingPods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_pods_refs: Option<Vec<PodReference>>,

    /// Number of pods that were bound to the node when the maintenance started.
    #[serde(default, rename = "totalpods", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::integer")]
    pub total_pods: Option<i64>,

    /// Number of pods that had to be evicted when the maintenance started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::integer")]
    pub eviction_pods: Option<i64>,

    /// How often in a row the node lease could not be obtained or extended. Beyond 3 the
    /// maintenance is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::integer")]
    pub error_on_lease_count: Option<i64>,

    /// Conditions of the maintenance. Drained is True when nothing is left to evict, so that
    /// kubectl wait --for=condition=Drained works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,

    /// Generation of the object (metadata.generation) that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A pod, by namespace and name.
#[derive(
    JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub struct PodReference {
    /// Name of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Namespace of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}
