//! Group `meatware-remediation.medik8s.io`: remediation that waits for a person.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::value::{GoDuration, lenient_time, spec_may_be_absent, string_enum};

string_enum! {
    /// What a person is asked for.
    pub enum Mode {
        /// A person powers the machine off, or resets it, and says so.
        ConfirmFenced = "ConfirmFenced",
        /// A person allows another remediator to run.
        ApproveRemediation = "ApproveRemediation",
    }
}

string_enum! {
    /// How the workload of a node is freed after a person has confirmed that it is off.
    pub enum RemediationStrategy {
        /// Delete the pods of the node by force.
        ResourceDeletion = "ResourceDeletion",
        /// Add the taint `node.kubernetes.io/out-of-service`, upon which Kubernetes deletes the
        /// pods and detaches their volumes.
        OutOfServiceTaint = "OutOfServiceTaint",
    }
}

string_enum! {
    /// What a person decided.
    pub enum DecisionAction {
        /// Go on.
        Confirm = "Confirm",
        /// Give up.
        Deny = "Deny",
    }
}

/// What a person is asked for, and what happens then.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeatwareRemediationParameters {
    /// What a person is asked for. ConfirmFenced (the default): to power the machine off or reset
    /// it, and to confirm that; then the workload of the node is freed. ApproveRemediation: to
    /// allow the remediation in remediationTemplate to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "ConfirmFenced"))]
    pub mode: Option<Mode>,

    /// How the workload of the node is freed in mode ConfirmFenced. ResourceDeletion (the default)
    /// deletes the pods of the node by force. OutOfServiceTaint adds the taint
    /// node.kubernetes.io/out-of-service, upon which Kubernetes deletes the pods and detaches
    /// their volumes; it needs Kubernetes 1.26.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "ResourceDeletion"))]
    pub remediation_strategy: Option<RemediationStrategy>,

    /// Template of the remediation that runs after approval. Required in mode ApproveRemediation,
    /// not allowed otherwise. It must be in the namespace of this object, and its kind must end in
    /// Template and must not be a meatware kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "template_reference")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.kind.endsWith('Template') && self.kind != 'Template' && !self.kind.startsWith('Meatware')",
        "message": "the kind must end in Template and must not be a meatware kind",
    }]))]
    pub remediation_template: Option<ObjectReference>,

    /// Text for the person who is asked, shown in events, for example where the machine stands and
    /// whom to call. At most 4096 characters. Default: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), extend("default" = ""))]
    pub instructions: Option<String>,

    /// How long to wait for a decision before the remediation fails. Go duration. Default: 0s,
    /// which waits for ever. Silence is never taken for consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "0s"))]
    pub confirmation_timeout: Option<GoDuration>,

    /// How often the request is repeated as an event while nobody decides. Go duration, at least
    /// 1m. Default: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("default" = "15m"))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "duration(self) >= duration('1m')",
        "message": "reminderInterval must be at least 1m",
    }]))]
    pub reminder_interval: Option<GoDuration>,
}

fn template_reference(_: &mut SchemaGenerator) -> Schema {
    let field = |description: &str| serde_json::json!({ "type": "string", "maxLength": 253, "description": description });
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "required": ["apiVersion", "kind", "name"],
        "properties": {
            "apiVersion": field("API group and version of the template."),
            "kind": field("Kind of the template. It must end in Template."),
            "name": field("Name of the template."),
        },
    })
}

/// The request and, later, the decision about it.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "meatware-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "MeatwareRemediation",
    plural = "meatwareremediations",
    shortname = "mwr",
    category = "medik8s",
    namespaced,
    status = "MeatwareRemediationStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Asks a person to confirm that one node is off, or to allow another remediation of it. Nothing is done before a valid decision. The node is the one named by the annotation remediation.medik8s.io/node-name, else the one with the name of this object. Usually created and deleted by a NodeHealthCheck.",
    validation = kube::core::Rule::new("!has(oldSelf.spec) || !has(oldSelf.spec.decision) || !has(oldSelf.status) || !has(oldSelf.status.challenge) || oldSelf.spec.decision.token != oldSelf.status.challenge || (has(self.spec) && has(self.spec.decision) && self.spec.decision == oldSelf.spec.decision)").message("a decision with the right token is final"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName", description = "Node that needs a decision"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", description = "What a person is asked for"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "How far the remediation has come"),
    printcolumn(name = "Processing", type_ = "string", json_path = ".status.conditions[?(@.type==\"Processing\")].status", description = "Whether the remediation is at work"),
    printcolumn(name = "Succeeded", type_ = "string", json_path = ".status.conditions[?(@.type==\"Succeeded\")].status", description = "Whether the remediation succeeded"),
    printcolumn(name = "Challenge", type_ = "string", json_path = ".status.challenge", description = "Token that a decision must repeat", priority = "1"),
    printcolumn(name = "Requested", type_ = "date", json_path = ".status.requestedAt", description = "When a person was first asked", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[schemars(extend("x-kubernetes-validations" = [{
        "rule": "(has(self.mode) && self.mode == 'ApproveRemediation') == has(self.remediationTemplate)",
        "message": "remediationTemplate is required in mode ApproveRemediation and not allowed otherwise",
    }]))]
pub struct MeatwareRemediationSpec {
    /// What a person is asked for, as the template says it.
    #[serde(flatten)]
    pub parameters: MeatwareRemediationParameters,

    /// The decision. Give it after looking at the machine: a decision that was there when the
    /// object was created, or that does not repeat the challenge of this very request, does not
    /// count. A decision with the right token is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}
spec_may_be_absent!(MeatwareRemediationSpec);

/// What a person decided.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Confirm: the machine is off or was reset (mode ConfirmFenced), or the other remediation may
    /// run (mode ApproveRemediation). Deny: the remediation fails, so that a health check with
    /// further steps moves on.
    pub action: DecisionAction,

    /// The challenge from the status of this object. It proves that the decision is about this
    /// request.
    #[schemars(length(max = 64))]
    pub token: String,

    /// Remark of the person who decided, for the record. At most 1024 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub comment: Option<String>,
}

/// What was asked, and what came of it.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeatwareRemediationStatus {
    /// Conditions of the remediation: Processing (work in progress), Succeeded (node fenced and
    /// workload freed) and AwaitingConfirmation (a person has to decide).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Option<Vec<Condition>>,

    /// Name of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,

    /// UID of the node when a person was first asked. If it differs later the machine was replaced
    /// and nothing is done.
    #[serde(default, rename = "nodeUID", skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<String>,

    /// Boot ID of the node when a person was first asked. A node that is Ready in the same boot is
    /// demonstrably running, and confirming that it is off is refused.
    #[serde(default, rename = "bootID", skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,

    /// Random token that a decision must repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub challenge: Option<String>,

    /// When a person was first asked.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub requested_at: Option<Time>,

    /// When the request was last repeated.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub reminded_at: Option<Time>,

    /// When the decision was accepted.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_time"
    )]
    #[schemars(schema_with = "crate::schema::time")]
    pub decided_at: Option<Time>,

    /// User who decided. Only known where the optional webhook records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,

    /// Remediation that was created after approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_reference")]
    pub child_ref: Option<ObjectReference>,

    /// How far the remediation has come: Waiting, Confirmed, Recovering, Done, Denied, Stopped or
    /// Expired. For display only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

/// The template that remediation objects are made from.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "meatware-remediation.medik8s.io",
    version = "v1alpha1",
    kind = "MeatwareRemediationTemplate",
    plural = "meatwareremediationtemplates",
    shortname = "mwrt",
    category = "medik8s",
    namespaced,
    status = "MeatwareRemediationTemplateStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Template from which a NodeHealthCheck makes a MeatwareRemediation for each unhealthy node. It cannot carry a decision, so that nothing can be approved in advance.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.template.spec.mode",
        description = "What a person is asked for"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct MeatwareRemediationTemplateSpec {
    /// The remediation to create. Changes affect only remediations that are created later.
    pub template: MeatwareRemediationTemplateResource,
}
spec_may_be_absent!(MeatwareRemediationTemplateSpec);

/// The remediation that is made from a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeatwareRemediationTemplateResource {
    /// Spec of the remediation, copied as it is.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "(has(self.mode) && self.mode == 'ApproveRemediation') == has(self.remediationTemplate)",
        "message": "remediationTemplate is required in mode ApproveRemediation and not allowed otherwise",
    }]))]
    pub spec: MeatwareRemediationParameters,
}

/// Nothing is reported about a template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeatwareRemediationTemplateStatus {}
