//! Kinds of other projects: only what our operators read or write of them.
//!
//! # Caveats
//! The types know a few fields of each kind. Never write one of these objects back as a whole: use
//! patches, or the fields that are missing here are lost. They have no schema; their CRDs belong to
//! their projects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::value::{GoDuration, IntOrString, lenient_time, spec_may_be_absent};

/// The node that belongs to a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReference {
    /// Name of the node.
    #[serde(default)]
    pub name: String,
    /// UID of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Wanted state of an OpenShift machine.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "machine.openshift.io",
    version = "v1beta1",
    kind = "Machine",
    plural = "machines",
    namespaced,
    status = "MachineStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "A machine of the OpenShift Machine API."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct MachineSpec {
    /// Identity of the instance at its provider; begins with `baremetal` on bare metal.
    #[serde(
        default,
        rename = "providerID",
        skip_serializing_if = "Option::is_none"
    )]
    pub provider_id: Option<String>,
}

/// Observed state of an OpenShift machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// The node of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ref: Option<NodeReference>,
    /// Phase, for example `Running` or `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// When the status last changed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    pub last_updated: Option<Time>,
}

/// Wanted state of an OpenShift machine set.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "machine.openshift.io",
    version = "v1beta1",
    kind = "MachineSet",
    plural = "machinesets",
    namespaced,
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "A set of equal machines of the OpenShift Machine API."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct MachineSetSpec {
    /// Number of machines that there should be; unset means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
}

/// Wanted state of the OpenShift control plane's machine set.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "machine.openshift.io",
    version = "v1",
    kind = "ControlPlaneMachineSet",
    plural = "controlplanemachinesets",
    namespaced,
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "The machines of the control plane in the OpenShift Machine API."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct ControlPlaneMachineSetSpec {
    /// Number of machines that there should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
}

/// Which machines to watch, and when they are unhealthy.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "machine.openshift.io",
    version = "v1beta1",
    kind = "MachineHealthCheck",
    plural = "machinehealthchecks",
    namespaced,
    status = "MachineHealthCheckStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "A health check of the OpenShift Machine API."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct MachineHealthCheckSpec {
    /// Machines to watch; an empty selector matches all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Node conditions that make a machine unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_conditions: Option<Vec<MachineUnhealthyCondition>>,
    /// Remediate only while at most this many machines are unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unhealthy: Option<IntOrString>,
    /// How long a machine may take to get a node; `0` switches the check off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_startup_timeout: Option<GoDuration>,
    /// Template of the remediation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation_template: Option<ObjectReference>,
}

/// One node condition that makes a machine unhealthy when it lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineUnhealthyCondition {
    /// Type of the node condition.
    #[serde(default, rename = "type")]
    pub type_: String,
    /// Status of the node condition.
    #[serde(default)]
    pub status: String,
    /// How long it must last.
    #[serde(default)]
    pub timeout: GoDuration,
}

/// Observed state of a machine health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineHealthCheckStatus {
    /// Machines that the selector matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_machines: Option<i64>,
    /// Healthy ones of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_healthy: Option<i64>,
    /// How many more may be remediated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediations_allowed: Option<i64>,
    /// Conditions, in the form of the Machine API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<MachineCondition>>,
}

/// A condition in the form of the Machine API: with a severity, without an observed generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineCondition {
    /// What the condition is about.
    #[serde(default, rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// How bad it is, while the status is `False`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Why the status last changed, as one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why the status last changed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the status last changed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    pub last_transition_time: Option<Time>,
}

/// Wanted state of the cluster's version.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "config.openshift.io",
    version = "v1",
    kind = "ClusterVersion",
    plural = "clusterversions",
    status = "ClusterVersionStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "The version of an OpenShift cluster."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct ClusterVersionSpec {}

/// Observed version of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterVersionStatus {
    /// Version that the cluster is going to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Release>,
    /// Versions that the cluster had, newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<UpdateHistory>>,
    /// Conditions; `Progressing` is `True` during an upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<MachineCondition>>,
}

/// A release of OpenShift.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Its version.
    #[serde(default)]
    pub version: String,
}

/// One version that the cluster had or is getting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateHistory {
    /// `Completed` or `Partial`.
    #[serde(default)]
    pub state: String,
    /// The version.
    #[serde(default)]
    pub version: String,
}

/// Wanted infrastructure of the cluster.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "config.openshift.io",
    version = "v1",
    kind = "Infrastructure",
    plural = "infrastructures",
    status = "InfrastructureStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "What an OpenShift cluster runs on."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct InfrastructureSpec {}

/// Observed infrastructure of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InfrastructureStatus {
    /// For example `HighlyAvailable` or `SingleReplica`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane_topology: Option<String>,
}

/// Wanted feature gates of the cluster.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "config.openshift.io",
    version = "v1",
    kind = "FeatureGate",
    plural = "featuregates",
    status = "FeatureGateStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "The feature gates of an OpenShift cluster."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct FeatureGateSpec {}

/// Observed feature gates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureGateStatus {
    /// Gates by version of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_gates: Option<Vec<FeatureGatesOfVersion>>,
}

/// Feature gates of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureGatesOfVersion {
    /// Version of the cluster.
    #[serde(default)]
    pub version: String,
    /// Gates that are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<Vec<FeatureGateName>>,
    /// Gates that are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Vec<FeatureGateName>>,
}

/// A feature gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureGateName {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// Wanted settings of the API server.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "config.openshift.io",
    version = "v1",
    kind = "APIServer",
    plural = "apiservers",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "Settings of the API server of an OpenShift cluster."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct APIServerSpec {
    /// TLS settings that all servers of the cluster should follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_security_profile: Option<TlsSecurityProfile>,
}

/// TLS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecurityProfile {
    /// `Old`, `Intermediate`, `Modern` or `Custom`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// The settings, if `Custom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomTlsProfile>,
}

/// Custom TLS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomTlsProfile {
    /// Ciphers by their OpenSSL names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphers: Option<Vec<String>>,
    /// Least version, for example `VersionTLS12`.
    #[serde(
        default,
        rename = "minTLSVersion",
        skip_serializing_if = "Option::is_none"
    )]
    pub min_tls_version: Option<String>,
}

/// Template of a Metal3 remediation.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1beta1",
    kind = "Metal3RemediationTemplate",
    plural = "metal3remediationtemplates",
    namespaced,
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "Template of a Metal3 remediation."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct Metal3RemediationTemplateSpec {
    /// The remediation to create, copied as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<BTreeMap<String, serde_json::Value>>,
}

/// Wanted state of OLM's record about one operator.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "operators.coreos.com",
    version = "v2",
    kind = "OperatorCondition",
    plural = "operatorconditions",
    namespaced,
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq",
    doc = "What an operator tells the Operator Lifecycle Manager about itself."
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct OperatorConditionSpec {
    /// What the operator says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

spec_may_be_absent!(
    MachineSpec,
    MachineSetSpec,
    ControlPlaneMachineSetSpec,
    MachineHealthCheckSpec,
    ClusterVersionSpec,
    InfrastructureSpec,
    FeatureGateSpec,
    APIServerSpec,
    Metal3RemediationTemplateSpec,
    OperatorConditionSpec,
);

/// Cluster API kinds (`cluster.x-k8s.io`), in a module of their own because one of them is also
/// called Machine.
pub mod cluster_api {
    use kube::CustomResource;
    use serde::{Deserialize, Serialize};

    use super::NodeReference;
    use crate::value::spec_may_be_absent;

    /// Node annotation: name of the Cluster API machine of the node.
    pub const MACHINE_ANNOTATION: &str = "cluster.x-k8s.io/machine";
    /// Node annotation: namespace of the Cluster API objects of the node.
    pub const NAMESPACE_ANNOTATION: &str = "cluster.x-k8s.io/cluster-namespace";

    /// Wanted state of a Cluster API machine.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[kube(
        group = "cluster.x-k8s.io",
        version = "v1beta1",
        kind = "Machine",
        plural = "machines",
        namespaced,
        status = "MachineStatus",
        schema = "disabled",
        derive = "Default",
        derive = "PartialEq",
        doc = "A machine of the Cluster API."
    )]
    #[serde(rename_all = "camelCase", remote = "Self")]
    pub struct MachineSpec {
        /// Identity of the instance at its provider.
        #[serde(
            default,
            rename = "providerID",
            skip_serializing_if = "Option::is_none"
        )]
        pub provider_id: Option<String>,
    }
    spec_may_be_absent!(MachineSpec);

    /// Observed state of a Cluster API machine.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct MachineStatus {
        /// The node of the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub node_ref: Option<NodeReference>,
        /// Phase, for example `Running` or `Failed`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub phase: Option<String>,
    }
}
