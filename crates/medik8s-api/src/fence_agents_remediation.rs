//! Group `fence-agents-remediation.medik8s.io`: nodes fenced by power and storage devices.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{GoDuration, IntOrString, lenient_time, spec_may_be_absent, string_enum};

string_enum! {
    /// How the workload of a node is freed after it was fenced.
    pub enum RemediationStrategy {
        /// Delete the pods of the node by force.
        ResourceDeletion = "ResourceDeletion",
        /// Add the taint `node.kubernetes.io/out-of-service`, upon which Kubernetes deletes the
        /// pods and detaches their volumes.
        OutOfServiceTaint = "OutOfServiceTaint",
    }
}

/// Which fence agent to run for the node, and how.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "fence-agents-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "FenceAgentsRemediation",
    plural = "fenceagentsremediations",
    shortname = "far",
    category = "medik8s",
    namespaced,
    status = "FenceAgentsRemediationStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Asks for the fencing of one node by a fence agent, after which the workload of the node is freed. The node is the one named by the annotation remediation.medik8s.io/node-name, else the one with the name of this object. Usually created and deleted by a NodeHealthCheck.",
    printcolumn(
        name = "Agent",
        type_ = "string",
        json_path = ".spec.agent",
        description = "Fence agent"
    ),
    printcolumn(
        name = "Processing",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Processing\")].status",
        description = "Whether the remediation is at work"
    ),
    printcolumn(
        name = "Fenced",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"FenceAgentActionSucceeded\")].status",
        description = "Whether the fence agent reported success"
    ),
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].status",
        description = "Whether the node was fenced and its workload freed"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct FenceAgentsRemediationSpec {
    /// File name of the fence agent to run, for example fence_ipmilan. It must be one of those in
    /// the image of the operator.
    #[schemars(regex(pattern = "fence_.+"))]
    pub agent: String,

    /// How often the fence agent is run at most until it reports success. Default: 5.
    #[serde(
        default,
        rename = "retrycount",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::schema::integer", extend("default" = 5))]
    pub retry_count: Option<i64>,

    /// Pause between two runs of the fence agent. Go duration. Default: 5s.
    #[serde(
        default,
        rename = "retryinterval",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("default" = "5s"))]
    pub retry_interval: Option<GoDuration>,

    /// Time limit of one run of the fence agent. Go duration. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "60s"))]
    pub timeout: Option<GoDuration>,

    /// Parameters of the fence agent that hold for every node, by parameter name. A value may
    /// contain {{.NodeName}}, which becomes the name of the node. Put passwords into a Secret, see
    /// sharedSecretName.
    #[serde(
        default,
        rename = "sharedparameters",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("additionalProperties" = { "type": "string", "description": "Value of the parameter." }))]
    pub shared_parameters: Option<BTreeMap<String, String>>,

    /// Parameters of the fence agent that differ between nodes, by parameter name and node name.
    /// They take precedence over sharedparameters.
    #[serde(
        default,
        rename = "nodeparameters",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("additionalProperties" = {
        "type": "object",
        "description": "Values of the parameter, by node name.",
        "additionalProperties": { "type": "string", "description": "Value of the parameter for this node." },
    }))]
    pub node_parameters: Option<BTreeMap<String, BTreeMap<String, String>>>,

    /// How the workload of the node is freed after it was fenced. ResourceDeletion (the default)
    /// deletes the pods of the node by force. OutOfServiceTaint adds the taint
    /// node.kubernetes.io/out-of-service, upon which Kubernetes deletes the pods and detaches
    /// their volumes; it needs Kubernetes 1.26.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "ResourceDeletion"))]
    pub remediation_strategy: Option<RemediationStrategy>,

    /// Names of Secrets with parameters that differ between nodes, by node name. The Secrets must
    /// be in the namespace of this object; each key of their data is a parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("additionalProperties" = { "type": "string", "description": "Name of the Secret with the parameters of this node." }))]
    pub node_secret_names: Option<BTreeMap<String, String>>,

    /// Name of a Secret with parameters that hold for every node. It must be in the namespace of
    /// this object; each key of its data is a parameter. A value may contain {{.NodeName}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_secret_name: Option<String>,
}
spec_may_be_absent!(FenceAgentsRemediationSpec);

/// How far the remediation has come.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceAgentsRemediationStatus {
    /// Conditions of the remediation: Processing (work in progress), FenceAgentActionSucceeded
    /// (the fence agent reported success) and Succeeded (node fenced and workload freed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,

    /// When a condition last changed its status.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub last_update_time: Option<Time>,
}

/// The template that remediation objects are made from.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "fence-agents-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "FenceAgentsRemediationTemplate",
    plural = "fenceagentsremediationtemplates",
    shortname = "fartemplate",
    category = "medik8s",
    namespaced,
    status = "FenceAgentsRemediationTemplateStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Template from which a NodeHealthCheck makes a FenceAgentsRemediation for each unhealthy node. The remediation is created in the namespace of the template.",
    printcolumn(
        name = "Agent",
        type_ = "string",
        json_path = ".spec.template.spec.agent",
        description = "Fence agent"
    ),
    printcolumn(
        name = "Strategy",
        type_ = "string",
        json_path = ".spec.template.spec.remediationStrategy",
        description = "How the workload is freed after the node was fenced"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct FenceAgentsRemediationTemplateSpec {
    /// On how many nodes the parameters are tried out with the status action of the fence agent: a
    /// number, or a percentage from 0% to 100%. Unset: the template is not tried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "type(self) == int && self >= 0 || type(self) == string && self.matches('^([0-9]|[1-9][0-9]|100)%$')",
        "message": "Value must be an integer >=0, or string between 0% and 100%",
    }]))]
    pub status_validation_sample: Option<IntOrString>,

    /// The remediation to create. Changes affect only remediations that are created later.
    pub template: FenceAgentsRemediationTemplateResource,
}
spec_may_be_absent!(FenceAgentsRemediationTemplateSpec);

/// The remediation that is made from a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceAgentsRemediationTemplateResource {
    /// Spec of the remediation, copied as it is.
    pub spec: FenceAgentsRemediationSpec,
}

/// What trying out the template has shown.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceAgentsRemediationTemplateStatus {
    /// Conditions of the template: FenceAgentStatusValidationSucceeded says whether the status
    /// action worked on all nodes that were tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,

    /// Why the status action failed, by node name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("additionalProperties" = { "type": "string", "description": "Why the status action failed on this node." }))]
    pub validation_failed: Option<BTreeMap<String, String>>,

    /// Nodes on which the status action worked, while the template is being tried out. Emptied at
    /// the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("additionalProperties" = { "type": "string", "description": "Success, for a node on which the status action worked." }))]
    pub validation_passed: Option<BTreeMap<String, String>>,
}
