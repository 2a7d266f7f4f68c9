//! Group `self-node-remediation.medik8s.io`: nodes that reboot themselves.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{GoDuration, lenient_time, spec_may_be_absent, string_enum};

/// Defaults of [`SelfNodeRemediationConfigSpec`]: the schema states them, and whoever reads a field
/// that is not set takes them from here.
pub mod defaults {
    /// Default of `watchdogFilePath`.
    pub const WATCHDOG_FILE_PATH: &str = "/dev/watchdog";
    /// Default of `peerApiServerTimeout`.
    pub const PEER_API_SERVER_TIMEOUT: &str = "5s";
    /// Default of `apiCheckInterval`.
    pub const API_CHECK_INTERVAL: &str = "15s";
    /// Default of `peerUpdateInterval`.
    pub const PEER_UPDATE_INTERVAL: &str = "15m";
    /// Default of `apiServerTimeout`.
    pub const API_SERVER_TIMEOUT: &str = "5s";
    /// Default of `peerDialTimeout`.
    pub const PEER_DIAL_TIMEOUT: &str = "5s";
    /// Default of `peerRequestTimeout`.
    pub const PEER_REQUEST_TIMEOUT: &str = "7s";
    /// Default of `maxApiErrorThreshold`.
    pub const MAX_API_ERROR_THRESHOLD: i64 = 3;
    /// Default of `isSoftwareRebootEnabled`.
    pub const IS_SOFTWARE_REBOOT_ENABLED: bool = true;
    /// Default of `hostPort`.
    pub const HOST_PORT: i64 = 30001;
    /// Default of `minPeersForRemediation`.
    pub const MIN_PEERS_FOR_REMEDIATION: i64 = 1;
}

string_enum! {
    /// How the workload of a node is freed after its reboot.
    pub enum RemediationStrategy {
        /// The operator chooses: `OutOfServiceTaint` where Kubernetes supports it for good (1.28
        /// and later), else `ResourceDeletion`.
        Automatic = "Automatic",
        /// Delete the pods of the node by force.
        ResourceDeletion = "ResourceDeletion",
        /// Add the taint `node.kubernetes.io/out-of-service`, upon which Kubernetes deletes the
        /// pods and detaches their volumes.
        OutOfServiceTaint = "OutOfServiceTaint",
    }
}

/// How to remediate the node.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "self-node-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "SelfNodeRemediation",
    plural = "selfnoderemediations",
    shortname = "snr",
    shortname = "snremediation",
    category = "medik8s",
    namespaced,
    status = "SelfNodeRemediationStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Asks for the reboot of one node by the agent on it, after which the workload of the node is freed. The node is the one named by the annotation remediation.medik8s.io/node-name, else the one with the name of this object. Usually created and deleted by a NodeHealthCheck.",
    printcolumn(
        name = "Strategy",
        type_ = "string",
        json_path = ".spec.remediationStrategy",
        description = "How the workload is freed after the reboot"
    ),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "How far the remediation has come"
    ),
    printcolumn(
        name = "Processing",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Processing\")].status",
        description = "Whether the remediation is at work"
    ),
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].status",
        description = "Whether the node was fenced and its workload freed"
    ),
    // No date: kubectl prints how long ago a date was, and `<invalid>` for one that lies ahead.
    printcolumn(
        name = "Assumed Rebooted",
        type_ = "string",
        json_path = ".status.timeAssumedRebooted",
        description = "From when on the node counts as rebooted",
        priority = "1"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Processing\")].message",
        description = "What the remediation waits for, or on what evidence the workload was freed",
        priority = "1"
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
pub struct SelfNodeRemediationSpec {
    /// How the workload of the node is freed after its reboot. Automatic (the default) uses
    /// OutOfServiceTaint on Kubernetes 1.28 and later, else ResourceDeletion. ResourceDeletion
    /// deletes the pods of the node by force. OutOfServiceTaint adds the taint
    /// node.kubernetes.io/out-of-service, upon which Kubernetes deletes the pods and detaches
    /// their volumes; it needs Kubernetes 1.26.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Automatic"))]
    pub remediation_strategy: Option<RemediationStrategy>,
}
spec_may_be_absent!(SelfNodeRemediationSpec);

/// How far the remediation has come.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfNodeRemediationStatus {
    /// From when on the node counts as rebooted, unless it was seen rebooted earlier. Its workload
    /// is never freed by time before this moment. Computed from the time limits in the
    /// SelfNodeRemediationConfig when the reboot is ordered.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub time_assumed_rebooted: Option<Time>,

    /// How far the remediation has come. Absent: the reboot is being prepared.
    /// Pre-Reboot-Completed: the node is ordered to reboot. Reboot-Completed: the node has
    /// rebooted or is proven off, its workload is being freed. Fencing-Completed: the workload is
    /// freed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,

    /// Error of the latest attempt, or what the remediation waits for. Empty when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,

    /// Conditions of the remediation: Processing (work in progress), Succeeded (node fenced and
    /// workload freed) and Disabled (there is no SelfNodeRemediationConfig).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,
}

/// The template that remediation objects are made from.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "self-node-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "SelfNodeRemediationTemplate",
    plural = "selfnoderemediationtemplates",
    shortname = "snrt",
    shortname = "snremediationtemplate",
    shortname = "snrtemplate",
    category = "medik8s",
    namespaced,
    status = "SelfNodeRemediationTemplateStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Template from which a NodeHealthCheck or MachineHealthCheck makes a SelfNodeRemediation for each unhealthy node. The remediation is created in the namespace of the template.",
    printcolumn(
        name = "Strategy",
        type_ = "string",
        json_path = ".spec.template.spec.remediationStrategy",
        description = "How the workload is freed after the reboot"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SelfNodeRemediationTemplateSpec {
    /// The remediation to create. Changes affect only remediations that are created later.
    pub template: SelfNodeRemediationTemplateResource,
}

/// The remediation that is made from a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfNodeRemediationTemplateResource {
    /// Spec of the remediation, copied as it is. May be empty.
    pub spec: SelfNodeRemediationSpec,
}

/// Nothing is reported about a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfNodeRemediationTemplateStatus {}

/// How the agents on the nodes judge their connection and reboot.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "self-node-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "SelfNodeRemediationConfig",
    plural = "selfnoderemediationconfigs",
    shortname = "snrc",
    shortname = "snrconfig",
    category = "medik8s",
    namespaced,
    status = "SelfNodeRemediationConfigStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Settings of the self node remediation agents, which run on every node. Exactly one is used: the one named self-node-remediation-config in the namespace of the operator. Deleting it removes the agents and disables remediation.",
    printcolumn(
        name = "Watchdog",
        type_ = "string",
        json_path = ".spec.watchdogFilePath",
        description = "Watchdog device that the agents use"
    ),
    printcolumn(
        name = "Safe Reboot Seconds",
        type_ = "integer",
        json_path = ".spec.safeTimeToAssumeNodeRebootedSeconds",
        description = "Configured time after which a node counts as rebooted"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct SelfNodeRemediationConfigSpec {
    /// Path of the watchdog device on each node. Default: /dev/watchdog. If it does not exist, the
    /// agent loads the softdog module and takes the newest watchdog device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::WATCHDOG_FILE_PATH))]
    pub watchdog_file_path: Option<String>,

    /// Seconds after which a node that was ordered to reboot counts as rebooted. The operator
    /// computes the least safe value from the other settings and the watchdog of the node, and
    /// ignores this one where it is smaller. Unset: the computed value. Changing it restarts no
    /// agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::integer")]
    pub safe_time_to_assume_node_rebooted_seconds: Option<i64>,

    /// Time limit of each call to the API server while the agent refreshes its list of peers. Go
    /// duration, at least 10ms. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::PEER_API_SERVER_TIMEOUT))]
    pub peer_api_server_timeout: Option<GoDuration>,

    /// Pause between two checks of the connection to the API server, counted from the end of a
    /// check. Go duration, at least 1s. Default: 15s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::API_CHECK_INTERVAL))]
    pub api_check_interval: Option<GoDuration>,

    /// How often the agent refreshes its list of peers. Go duration, at least 10s. Default: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::PEER_UPDATE_INTERVAL))]
    pub peer_update_interval: Option<GoDuration>,

    /// Time limit of one check of the connection to the API server. Go duration, at least 10ms.
    /// Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::API_SERVER_TIMEOUT))]
    pub api_server_timeout: Option<GoDuration>,

    /// Time limit for connecting to a peer. Go duration, at least 10ms. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::PEER_DIAL_TIMEOUT))]
    pub peer_dial_timeout: Option<GoDuration>,

    /// Time limit for the answer of a peer. Go duration, at least 10ms. Default: 7s. Values below
    /// apiServerTimeout plus 2s are raised to that, because the peer asks the API server itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::PEER_REQUEST_TIMEOUT))]
    pub peer_request_timeout: Option<GoDuration>,

    /// Number of failed checks of the connection to the API server, one after the other, after
    /// which the agent asks its peers whether its node is healthy. At least 1. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "at_least_one", extend("default" = defaults::MAX_API_ERROR_THRESHOLD))]
    pub max_api_error_threshold: Option<i64>,

    /// Whether the agent may reboot the node by software when no watchdog can be used, or when the
    /// watchdog does not fire in time. Default: true. If false, nodes without a usable watchdog
    /// cannot be remediated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::IS_SOFTWARE_REBOOT_ENABLED))]
    pub is_software_reboot_enabled: Option<bool>,

    /// URL that a control-plane node without connection to the API server probes to find out
    /// whether it has lost its network. Unset or empty: no such probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_health_check_url: Option<String>,

    /// TCP port on which the agents answer their peers, 1 to 65535. Default: 30001. After a change old
    /// and new agents do not reach each other until all are replaced: do it while all nodes are healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "at_least_one", extend("default" = defaults::HOST_PORT))]
    pub host_port: Option<i64>,

    /// Tolerations of the agent pods, added to those for control-plane nodes and for nodes in
    /// remediation. A node whose taints are not tolerated has no agent and cannot be remediated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::tolerations")]
    pub custom_ds_tolerations: Option<Vec<Toleration>>,

    /// Requirements on the labels of the nodes that get an agent, besides the built-in one that
    /// the node is not excluded from remediation. A node that fails one has no agent and cannot be
    /// remediated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::node_selector_requirements")]
    pub custom_ds_node_selector_requirements: Option<Vec<NodeSelectorRequirement>>,

    /// Least number of worker peers that an agent must know before it may reboot its node because
    /// nobody answers. At least 0. Default: 1, so that a single worker never reboots itself for
    /// isolation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "at_least_zero", extend("default" = defaults::MIN_PEERS_FOR_REMEDIATION))]
    pub min_peers_for_remediation: Option<i64>,

    /// Watchdog timeout that the agent sets on the device. Go duration in whole seconds without
    /// fractions, from 5s to 600s, for example 20s or 1m30s. Unset: the timeout of the driver is
    /// left as it is (60s for softdog). A shorter timeout frees workload earlier; below 15s a
    /// kubelet that restarts the agent slowly can cause a needless reboot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "watchdog_timeout")]
    pub watchdog_timeout: Option<GoDuration>,
}
spec_may_be_absent!(SelfNodeRemediationConfigSpec);

/// Whole seconds by the pattern, the range by a rule: the estimated cost of a rule that also
/// compares with the rounded value is beyond what the API server allows.
fn watchdog_timeout(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]+(s|m|h))+$",
        "x-kubernetes-validations": [{
            "rule": "duration(self) >= duration('5s') && duration(self) <= duration('600s')",
            "message": "watchdogTimeout must be from 5s to 600s",
        }],
    })
}

fn at_least_one(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "integer", "minimum": 1 })
}

fn at_least_zero(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "integer", "minimum": 0 })
}

/// Nothing is reported about the configuration.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfNodeRemediationConfigStatus {}
