//! Group `remediation.medik8s.io`: the node health check.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::value::{GoDuration, IntOrString, lenient_time, spec_may_be_absent};

/// What to watch, when a node counts as unhealthy, how many may be, and who remediates it.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "remediation.medik8s.io",
    version = "v1alpha1",
    kind = "NodeHealthCheck",
    plural = "nodehealthchecks",
    shortname = "nhc",
    category = "medik8s",
    status = "NodeHealthCheckStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Watches a set of nodes and hands each node that stays unhealthy to a remediator: it creates a remediation object from a template, and deletes it when the node is healthy again. It never reboots, taints or drains a node itself.",
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "Disabled, Paused, Remediating or Enabled"
    ),
    printcolumn(
        name = "Observed",
        type_ = "integer",
        json_path = ".status.observedNodes",
        description = "Nodes that the selector matches"
    ),
    printcolumn(
        name = "Healthy",
        type_ = "integer",
        json_path = ".status.healthyNodes",
        description = "Healthy ones of the observed nodes"
    ),
    printcolumn(
        name = "Min Healthy",
        type_ = "string",
        json_path = ".spec.minHealthy",
        description = "Remediation needs at least this many healthy nodes"
    ),
    printcolumn(
        name = "Max Unhealthy",
        type_ = "string",
        json_path = ".spec.maxUnhealthy",
        description = "Remediation needs at most this many unhealthy nodes",
        priority = "1"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
        description = "Why the health check is in this phase",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct NodeHealthCheckSpec {
    /// Nodes to watch, by their labels. Required when the health check is created (a health check
    /// that an older release stored with an empty selector watches all nodes). Do not mix
    /// control-plane nodes and workers in one health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::label_selector")]
    pub selector: Option<LabelSelector>,

    /// Node conditions that make a node unhealthy. One of them is enough, if it has lasted for its
    /// duration. Default: Ready is False or Unknown for 300s. An explicit empty list means that no
    /// node is ever unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = default_unhealthy_conditions()))]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type", "status"],
    ))]
    pub unhealthy_conditions: Option<Vec<UnhealthyCondition>>,

    /// Remediate only while at least this many of the selected nodes are healthy: a number, or a
    /// percentage of the selected nodes, rounded up. 100% never remediates. Give either minHealthy
    /// or maxUnhealthy. Running remediations go on when the number drops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::count_or_percent")]
    pub min_healthy: Option<IntOrString>,

    /// Remediate only while at most this many of the selected nodes are not healthy: a number, or
    /// a percentage of the selected nodes, rounded up. 0 never remediates. Give either minHealthy
    /// or maxUnhealthy. Cannot be used with MachineDeletionRemediationTemplate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::count_or_percent")]
    pub max_unhealthy: Option<IntOrString>,

    /// How long enough nodes must have been healthy again, after too few of them were, before new
    /// remediations start. Protects against remediating nodes that are just coming back after a
    /// large outage. Go duration such as 5m. Unset: no such pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm_cooldown_duration: Option<GoDuration>,

    /// Template of the remediation object for an unhealthy node. Kind must end in Template. Give
    /// either remediationTemplate or escalatingRemediations. Cannot be changed while a node is
    /// being remediated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_reference")]
    pub remediation_template: Option<ObjectReference>,

    /// Remediation steps that are tried one after the other, each for its timeout, until the node
    /// is healthy. Give either remediationTemplate or escalatingRemediations. Cannot be changed
    /// while a node is being remediated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalating_remediations: Option<Vec<EscalatingRemediation>>,

    /// Reasons to pause. While the list has an entry no new remediation starts; running ones go
    /// on. The text is free: name who paused and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("items" = { "type": "string", "description": "Who paused, and why." }))]
    pub pause_requests: Option<Vec<String>>,

    /// How long a node must have been healthy again before its remediation objects are deleted.
    /// Go duration such as 10m. Unset or 0s: at once. Negative: never automatically; confirm by
    /// the node annotation remediation.medik8s.io/manually-confirmed-healthy, which also ends a
    /// running delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::signed_duration")]
    pub healthy_delay: Option<GoDuration>,
}
spec_may_be_absent!(NodeHealthCheckSpec);

/// Default of [`NodeHealthCheckSpec::unhealthy_conditions`], as the schema states it.
fn default_unhealthy_conditions() -> serde_json::Value {
    json!([
        { "type": "Ready", "status": "False", "duration": "300s" },
        { "type": "Ready", "status": "Unknown", "duration": "300s" },
    ])
}

/// One node condition that makes a node unhealthy when it lasts.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnhealthyCondition {
    /// Type of the node condition, for example Ready, or a custom one that a detector sets.
    #[serde(rename = "type")]
    #[schemars(length(min = 1))]
    pub type_: String,

    /// Status of the node condition that counts as unhealthy, for example False or Unknown.
    #[schemars(length(min = 1))]
    pub status: String,

    /// How long the node condition must have had this status. Go duration such as 300s or 5m.
    pub duration: GoDuration,
}

/// One step of an escalating remediation.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EscalatingRemediation {
    /// Template of the remediation object of this step. Kind must end in Template.
    #[schemars(schema_with = "crate::schema::object_reference")]
    pub remediation_template: ObjectReference,

    /// Position of this step: the lowest number runs first. Must be unique in the list; may be
    /// negative.
    #[schemars(schema_with = "crate::schema::integer")]
    pub order: i64,

    /// How long this step may take, at least 1m, as a Go duration such as 5m or 1h30m. When it is
    /// over, or the remediator reports failure, the remediator is told to stop and the next step
    /// starts; what it has done until then is not undone before the node is healthy.
    pub timeout: GoDuration,
}

/// What the health check sees and does.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeHealthCheckStatus {
    /// Number of nodes that the selector matches. 0 while disabled, paused or during a cluster
    /// upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::integer")]
    pub observed_nodes: Option<i64>,

    /// Number of selected nodes that are healthy and have no remediation object left. This is the
    /// number that is compared with minHealthy. 0 while disabled, paused or during a cluster
    /// upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::integer")]
    pub healthy_nodes: Option<i64>,

    /// Nodes that are unhealthy, or still being remediated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub unhealthy_nodes: Option<Vec<UnhealthyNode>>,

    /// Deprecated and always empty: use unhealthyNodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::map_of_times")]
    pub in_flight_remediations: Option<BTreeMap<String, serde_json::Value>>,

    /// Conditions of the health check: Disabled (a template is missing or invalid, or a
    /// MachineHealthCheck conflicts), StormActive and StormCooldownActive (remediation is held
    /// back after too many nodes failed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,

    /// Summary in one word: Disabled, Paused, Remediating or Enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,

    /// Why the health check is in this phase, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// When anything else in this status last changed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub last_update_time: Option<Time>,
}

/// A node that is unhealthy or still being remediated.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnhealthyNode {
    /// Name of the node.
    pub name: String,

    /// Remediation objects that were created for the node, one entry per object. Empty while
    /// remediation is held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediations: Option<Vec<Remediation>>,

    /// Since when the conditions of the node no longer match, while remediation objects still
    /// exist.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub conditions_healthy_timestamp: Option<Time>,

    /// True while the node is healthy again and healthyDelay keeps its remediation objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_delayed: Option<bool>,
}

/// One remediation object that was created for a node.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remediation {
    /// The remediation object.
    #[schemars(schema_with = "crate::schema::object_reference")]
    pub resource: ObjectReference,

    /// When the remediation object was created.
    #[schemars(schema_with = "crate::schema::time")]
    pub started: Time,

    /// When this step ended because its timeout passed or the remediator reported failure.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub timed_out: Option<Time>,

    /// Name of the template that the remediation object was created from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_name: Option<String>,
}
