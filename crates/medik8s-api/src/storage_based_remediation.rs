//! Group `storage-based-remediation.medik8s.io`: nodes fenced through shared storage.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::value::{spec_may_be_absent, string_enum};

string_enum! {
    /// Whether agents only watch.
    pub enum DetectOnlyMode {
        /// Agents fence.
        Disabled = "Disabled",
        /// Agents only report what they see.
        Enabled = "Enabled",
    }
}

/// Where the agents run and what they use.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "storage-based-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "StorageBasedRemediationConfig",
    plural = "storagebasedremediationconfigs",
    shortname = "sbrc",
    category = "medik8s",
    namespaced,
    status = "StorageBasedRemediationConfigStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Runs storage based remediation agents on a set of nodes. The agents watch each other through a small file on storage that every node can reach, and fence nodes through it.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether all agents run"
    ),
    printcolumn(
        name = "Storage Class",
        type_ = "string",
        json_path = ".spec.sharedStorageClass",
        description = "StorageClass of the shared volume"
    ),
    printcolumn(
        name = "Detect Only",
        type_ = "string",
        json_path = ".spec.detectOnlyMode",
        description = "Whether agents only watch"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct StorageBasedRemediationConfigSpec {
    /// Path of the watchdog device on each node. Default: /dev/watchdog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "/dev/watchdog"))]
    pub watchdog_path: Option<String>,

    /// Name of the StorageClass from which the shared volume is made. It must support
    /// ReadWriteMany. Needed: without it no agent is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_storage_class: Option<String>,

    /// Labels of the nodes that get an agent. Unset or empty: all workers. Linux is always
    /// required in addition. The selectors of two configurations must not overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("additionalProperties" = { "type": "string", "description": "Value that the label must have." }))]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// Number of failures one after the other, of own reads or writes or of heartbeats of a peer,
    /// after which an agent acts: 2 to 32. Unset: 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "consecutive_failures")]
    pub max_consecutive_failures: Option<i32>,

    /// Enabled: agents report unhealthy nodes as node conditions, but fence nobody and do not arm
    /// the watchdog. Disabled, or unset: agents fence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_only_mode: Option<DetectOnlyMode>,
}
spec_may_be_absent!(StorageBasedRemediationConfigSpec);

fn consecutive_failures(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 2, "maximum": 32 })
}

/// Whether the agents are at work.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageBasedRemediationConfigStatus {
    /// Conditions of the configuration: DaemonSetReady, SharedStorageReady, and Ready when both
    /// hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,
}

/// There is nothing to configure.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "storage-based-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "StorageBasedRemediation",
    plural = "storagebasedremediations",
    shortname = "sbr",
    category = "medik8s",
    namespaced,
    status = "StorageBasedRemediationStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Asks for the fencing of one node through shared storage. The node is the one named by the annotation remediation.medik8s.io/node-name, else the one with the name of this object. Usually created and deleted by a NodeHealthCheck.",
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".metadata.name",
        description = "Node to fence"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether the remediation is complete"
    ),
    printcolumn(
        name = "Fencing Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='FencingSucceeded')].status",
        description = "Whether the node is fenced"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct StorageBasedRemediationSpec {}
spec_may_be_absent!(StorageBasedRemediationSpec);

/// How far the remediation has come.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageBasedRemediationStatus {
    /// Conditions of the remediation: Processing (work in progress), Succeeded (node fenced),
    /// FencingInProgress, FencingSucceeded and Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,
}

/// The template that remediation objects are made from.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "storage-based-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "StorageBasedRemediationTemplate",
    plural = "storagebasedremediationtemplates",
    shortname = "sbrt",
    category = "medik8s",
    namespaced,
    status = "StorageBasedRemediationTemplateStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Template from which a NodeHealthCheck makes a StorageBasedRemediation for each unhealthy node. The remediation is created in the namespace of the template.",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct StorageBasedRemediationTemplateSpec {
    /// The remediation to create. Changes affect only remediations that are created later.
    pub template: StorageBasedRemediationTemplateResource,
}
spec_may_be_absent!(StorageBasedRemediationTemplateSpec);

/// The remediation that is made from a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageBasedRemediationTemplateResource {
    /// Spec of the remediation, copied as it is. There is nothing to configure: use an empty
    /// object.
    pub spec: StorageBasedRemediationSpec,
}

/// Nothing is reported about a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageBasedRemediationTemplateStatus {}
