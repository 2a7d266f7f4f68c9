//! Group `customized-user-remediation.medik8s.io`: nodes that a user's script repairs.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::spec_may_be_absent;

/// What to run on the node.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "customized-user-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "CustomizedUserRemediation",
    plural = "customizeduserremediations",
    category = "medik8s",
    namespaced,
    status = "CustomizedUserRemediationStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Asks for one run of a script on one node, as a privileged Job. It does not fence the node, and needs a node whose kubelet still works. The node is the one named by the annotation remediation.medik8s.io/node-name, else the one with the name of this object.",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct CustomizedUserRemediationSpec {
    /// Text of the bash script that is run once on the node, as root, with the file system of the
    /// node in reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}
spec_may_be_absent!(CustomizedUserRemediationSpec);

/// Nothing is reported about a remediation.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomizedUserRemediationStatus {}

/// The template that remediation objects are made from.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "customized-user-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "CustomizedUserRemediationTemplate",
    plural = "customizeduserremediationtemplates",
    category = "medik8s",
    namespaced,
    status = "CustomizedUserRemediationTemplateStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Template from which a NodeHealthCheck makes a CustomizedUserRemediation for each unhealthy node. The remediation is created in the namespace of the template.",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct CustomizedUserRemediationTemplateSpec {
    /// The remediation to create. Changes affect only remediations that are created later.
    pub template: CustomizedUserRemediationTemplateResource,
}
spec_may_be_absent!(CustomizedUserRemediationTemplateSpec);

/// The remediation that is made from a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomizedUserRemediationTemplateResource {
    /// Spec of the remediation, copied as it is.
    pub spec: CustomizedUserRemediationSpec,
}

/// Nothing is reported about a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomizedUserRemediationTemplateStatus {}

/// There is nothing to configure.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "customized-user-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "CustomizedUserRemediationConfig",
    plural = "customizeduserremediationconfigs",
    category = "medik8s",
    namespaced,
    status = "CustomizedUserRemediationConfigStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Settings of customized user remediation. There are none at present.",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct CustomizedUserRemediationConfigSpec {}
spec_may_be_absent!(CustomizedUserRemediationConfigSpec);

/// Nothing is reported about the configuration.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomizedUserRemediationConfigStatus {}
