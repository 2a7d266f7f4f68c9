//! From objects of the API to facts: everything is parsed here, once, at the door.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use kube::api::DynamicObject;
use medik8s_api::names::contract::{
    CONTROL_PLANE_NODE_LABEL, HEALTHY_DELAY_ANNOTATION, MANUALLY_CONFIRMED_HEALTHY_ANNOTATION,
    NHC_TIMED_OUT_ANNOTATION, NODE_NAME_ANNOTATION, OLD_REMEDIATION_ANNOTATION,
    PERMANENT_NODE_DELETION_EXPECTED, SUCCEEDED, TEMPLATE_NAME_ANNOTATION,
};
use medik8s_api::names::openshift::{
    CURRENT_CONFIG_ANNOTATION, DESIRED_CONFIG_ANNOTATION, MACHINE_ANNOTATION,
};
use medik8s_core::conditions::Status;
use medik8s_runtime::read;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::check::ResourceKind;
use crate::node::{MachineRef, NodeCondition, NodeFacts};
use crate::remediation::{Owner, Remediation, spec_of, supports_multiple_templates};

#[cfg(test)]
mod tests;

/// A Node, reduced to its facts while it is read: thousands of them are kept.
#[derive(Debug, Clone)]
pub struct WatchedNode {
    metadata: ObjectMeta,
    /// The facts.
    pub facts: Arc<NodeFacts>,
}

impl WatchedNode {
    /// Reduces a Node's fields.
    fn new(node: WireNode) -> Self {
        let WireNode { metadata, status } = node;
        let annotations = metadata.annotations.unwrap_or_default();
        let text = |key: &str| annotations.get(key).filter(|text| !text.is_empty());
        let desired = text(DESIRED_CONFIG_ANNOTATION);
        let name = metadata.name.clone().unwrap_or_default();
        let status = status.unwrap_or_default();
        let facts = NodeFacts {
            uid: metadata.uid.clone().unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            conditions: status
                .conditions
                .unwrap_or_default()
                .into_iter()
                .map(|condition| NodeCondition {
                    type_: condition.type_,
                    status: condition.status,
                    since: condition.last_transition_time.map(|time| time.0),
                })
                .collect(),
            machine: text(MACHINE_ANNOTATION).and_then(|text| MachineRef::parse(text)),
            kubelet_version: status
                .node_info
                .and_then(|info| info.kubelet_version)
                .filter(|version| !version.is_empty()),
            confirmed_healthy: annotations.contains_key(MANUALLY_CONFIRMED_HEALTHY_ANNOTATION),
            config_change_pending: desired.is_some()
                && desired != annotations.get(CURRENT_CONFIG_ANNOTATION),
            name,
        };
        Self {
            metadata: ObjectMeta {
                name: metadata.name,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                ..ObjectMeta::default()
            },
            facts: Arc::new(facts),
        }
    }
}

/// The fields of a Node that are read at all.
#[derive(Deserialize)]
struct WireNode {
    #[serde(deserialize_with = "read::metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    status: Option<WireStatus>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct WireStatus {
    #[serde(default)]
    conditions: Option<Vec<WireCondition>>,
    #[serde(default)]
    node_info: Option<WireInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireInfo {
    #[serde(default)]
    kubelet_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    #[serde(default)]
    last_transition_time: Option<Time>,
}

impl<'de> Deserialize<'de> for WatchedNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WireNode::deserialize(deserializer).map(Self::new)
    }
}

/// Only what identifies the node: nobody writes a Node back from this.
impl Serialize for WatchedNode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": self.metadata}).serialize(serializer)
    }
}

impl Resource for WatchedNode {
    type DynamicType = ();
    type Scope = <Node as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        Node::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Node::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Node::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Node::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Drops from a remediation what is never read: it may be large, and there may be a thousand.
pub fn prune_remediation(object: &mut DynamicObject) {
    prune(&mut object.metadata);
    let conditions = object
        .data
        .get_mut("status")
        .and_then(|status| status.get_mut("conditions"))
        .map_or(Value::Null, Value::take);
    object.data = json!({"status": {"conditions": conditions}});
}

/// Drops from a template what is never read from the cache: a new remediation is made from the
/// template as it is read at that moment.
pub fn prune_template(object: &mut DynamicObject) {
    prune(&mut object.metadata);
    let usable = spec_of(object).is_some();
    object.data = if usable {
        json!({"spec": {"template": {}}})
    } else {
        json!({})
    };
}

/// Drops what is never read of a machine.
pub fn prune_machine(object: &mut medik8s_api::foreign::Machine) {
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
    object.metadata.finalizers = None;
}

/// Drops all but identity from an object of which only the existence matters.
pub fn prune_identity<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    *meta = ObjectMeta {
        name: meta.name.take(),
        uid: meta.uid.take(),
        resource_version: meta.resource_version.take(),
        ..ObjectMeta::default()
    };
}

fn prune(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.finalizers = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key.contains("medik8s.io/"));
    }
}

/// The facts of a remediation, from its metadata and its status.
pub fn remediation(kind: &ResourceKind, metadata: &ObjectMeta, data: &Value) -> Remediation {
    let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).cloned();
    Remediation {
        kind: kind.clone(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        created: metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting_since: metadata.deletion_timestamp.as_ref().map(|time| time.0),
        node_annotation: annotation(NODE_NAME_ANNOTATION),
        template: annotation(TEMPLATE_NAME_ANNOTATION),
        timed_out: annotation(NHC_TIMED_OUT_ANNOTATION),
        healthy_delay: annotation(HEALTHY_DELAY_ANNOTATION),
        reported_old: annotation(OLD_REMEDIATION_ANNOTATION).is_some(),
        control_plane_label: metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(CONTROL_PLANE_NODE_LABEL)),
        owners: metadata
            .owner_references
            .iter()
            .flatten()
            .map(owner)
            .collect(),
        succeeded: condition(data, SUCCEEDED),
        node_deletion_expected: condition(data, PERMANENT_NODE_DELETION_EXPECTED)
            == Some(Status::True),
    }
}

fn owner(reference: &OwnerReference) -> Owner {
    Owner {
        kind: ResourceKind::new(reference.api_version.clone(), reference.kind.clone()),
        name: reference.name.clone(),
        uid: reference.uid.clone(),
    }
}

/// Status of a condition of an object of unknown kind. What does not look like a condition is none.
fn condition(data: &Value, type_: &str) -> Option<Status> {
    let conditions = data.get("status")?.get("conditions")?.as_array()?;
    let found = conditions
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(type_))?;
    found
        .get("status")
        .and_then(Value::as_str)
        .map(Status::parse)
}

/// What a health check needs to know of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateFacts {
    /// Whether it has a `spec.template`.
    pub usable: bool,
    /// Whether several templates of its kind may be used for one node.
    pub multiple: bool,
}

/// The facts of a template.
pub fn template(object: &DynamicObject) -> TemplateFacts {
    TemplateFacts {
        usable: spec_of(object).is_some(),
        multiple: supports_multiple_templates(object),
    }
}

/// A merge patch that sets or removes annotations of one incarnation of an object. With a resource
/// version it fails when the object changed since.
pub fn annotations_patch(
    uid: &str,
    resource_version: Option<&str>,
    annotations: &[(&str, Option<&str>)],
) -> Value {
    let values: BTreeMap<&str, Option<&str>> = annotations.iter().copied().collect();
    let mut metadata = json!({"uid": uid, "annotations": values});
    if let (Some(version), Some(metadata)) = (resource_version, metadata.as_object_mut()) {
        metadata.insert("resourceVersion".to_owned(), json!(version));
    }
    json!({ "metadata": metadata })
}
