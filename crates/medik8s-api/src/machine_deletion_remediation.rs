//! Group `machine-deletion-remediation.medik8s.io`: nodes whose machine is replaced.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::spec_may_be_absent;

/// There is nothing to configure.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "machine-deletion-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "MachineDeletionRemediation",
    plural = "machinedeletionremediations",
    shortname = "mdr",
    category = "medik8s",
    namespaced,
    status = "MachineDeletionRemediationStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Asks for the deletion of the machine of one node, so that its owner replaces it. The node is the one named by the annotation remediation.medik8s.io/node-name, else the one with the name of this object. Usually created and deleted by a NodeHealthCheck.",
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
        description = "Whether the machine was replaced"
    ),
    printcolumn(
        name = "Node Deletion Expected",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"PermanentNodeDeletionExpected\")].status",
        description = "Whether the node will come back under another name",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct MachineDeletionRemediationSpec {}
spec_may_be_absent!(MachineDeletionRemediationSpec);

/// How far the remediation has come.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineDeletionRemediationStatus {
    /// Conditions of the remediation: Processing (work in progress), Succeeded (machine replaced)
    /// and PermanentNodeDeletionExpected (the node will come back under another name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,
}

/// The template that remediation objects are made from.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "machine-deletion-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "MachineDeletionRemediationTemplate",
    plural = "machinedeletionremediationtemplates",
    shortname = "mdrt",
    category = "medik8s",
    namespaced,
    status = "MachineDeletionRemediationTemplateStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Template from which a NodeHealthCheck makes a MachineDeletionRemediation for each unhealthy node. The remediation is created in the namespace of the template.",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct MachineDeletionRemediationTemplateSpec {
    /// The remediation to create. Changes affect only remediations that are created later.
    pub template: MachineDeletionRemediationTemplateResource,
}
spec_may_be_absent!(MachineDeletionRemediationTemplateSpec);

/// The remediation that is made from a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineDeletionRemediationTemplateResource {
    /// Spec of the remediation, copied as it is. There is nothing to configure: use an empty
    /// object.
    pub spec: MachineDeletionRemediationSpec,
}

/// Nothing is reported about a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDeletionRemediationTemplateStatus {}
