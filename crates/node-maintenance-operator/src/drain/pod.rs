//! What the drain has to know of a pod, and nothing more.
//!
//! A node of 250 pods is listed at once and then watched; decoding whole pods (containers, probes,
//! volumes, statuses) would cost most of the CPU and memory of a drain.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use kube::Resource;
use medik8s_api::names::kubernetes::MIRROR_POD_ANNOTATION;
use serde::{Deserialize, Deserializer, Serialize};

/// A pod as it is decoded from a LIST or WATCH: only the fields that [`PodFacts`] needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SlimPod {
    /// Pruned object metadata.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// Pruned spec.
    #[serde(default)]
    pub spec: SlimSpec,
    /// Pruned status.
    #[serde(default)]
    pub status: SlimStatus,
}

/// Pruned pod spec.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SlimSpec {
    /// Volumes; only whether they are emptyDir.
    #[serde(default)]
    pub volumes: Option<Vec<SlimVolume>>,
}

/// Pruned volume.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlimVolume {
    /// Present if the volume is an emptyDir.
    #[serde(default)]
    pub empty_dir: Option<EmptyDir>,
}

/// An emptyDir volume source; its fields do not matter here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EmptyDir {}

/// Pruned pod status.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SlimStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(default)]
    pub phase: Option<String>,
}

/// Metadata without what nobody reads here: managed fields are often larger than all the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<SlimAnnotations>,
    owner_references: Option<Vec<OwnerReference>>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
}

/// The one annotation that matters.
#[derive(Deserialize)]
struct SlimAnnotations {
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let SlimMetadata {
        name,
        namespace,
        uid,
        resource_version,
        labels,
        annotations,
        owner_references,
        deletion_timestamp,
        deletion_grace_period_seconds,
    } = SlimMetadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        labels,
        annotations: annotations
            .and_then(|all| all.mirror)
            .map(|mirror| BTreeMap::from([(MIRROR_POD_ANNOTATION.to_owned(), mirror)])),
        owner_references,
        deletion_timestamp,
        deletion_grace_period_seconds,
        ..ObjectMeta::default()
    })
}

impl Resource for SlimPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Namespace and name of a namespaced object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key made of namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One incarnation of a pod: another UID under the same name is another pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub String);

/// The facts about one pod that the drain decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace and name.
    pub key: Key,
    /// Incarnation.
    pub uid: Uid,
    /// Labels, for PodDisruptionBudgets and the drain's own pod selector.
    pub labels: BTreeMap<String, String>,
    /// The controlling owner, if there is one.
    pub controller: Controller,
    /// It mirrors a static pod of the kubelet.
    pub is_mirror: bool,
    /// It has finished: phase `Succeeded` or `Failed`.
    pub is_finished: bool,
    /// It has an emptyDir volume, whose data is lost.
    pub has_empty_dir: bool,
    /// Its termination, if it has been asked to go.
    pub terminating: Option<Termination>,
}

/// The owner reference with `controller: true`; other owners do not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Controller {
    /// None: nothing will replace the pod.
    None,
    /// An `apps/v1` DaemonSet of this name, in the pod's namespace.
    DaemonSet(Key),
    /// Anything else.
    Other,
}

/// When a pod was asked to go and until when it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// When its deletion was requested.
    pub since: Timestamp,
    /// The deletionTimestamp: when its grace period ends.
    pub deadline: Timestamp,
}

impl PodFacts {
    /// Reads a pod; `None` if it has no name or UID, which no API server sends.
    pub fn read(pod: SlimPod) -> Option<Self> {
        let ObjectMeta {
            name,
            namespace,
            uid,
            labels,
            annotations,
            owner_references,
            deletion_timestamp,
            deletion_grace_period_seconds,
            ..
        } = pod.metadata;
        let key = Key {
            namespace: namespace?,
            name: name?,
        };
        let grace = SignedDuration::from_secs(deletion_grace_period_seconds.unwrap_or(0));
        let terminating = deletion_timestamp.map(|deadline| Termination {
            since: deadline.0.checked_sub(grace).unwrap_or(deadline.0),
            deadline: deadline.0,
        });
        Some(Self {
            controller: controller(&key.namespace, owner_references.unwrap_or_default()),
            key,
            uid: Uid(uid?),
            labels: labels.unwrap_or_default(),
            is_mirror: annotations.is_some_and(|all| all.contains_key(MIRROR_POD_ANNOTATION)),
            is_finished: matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")),
            has_empty_dir: pod
                .spec
                .volumes
                .iter()
                .flatten()
                .any(|v| v.empty_dir.is_some()),
            terminating,
        })
    }
}

fn controller(namespace: &str, owners: Vec<OwnerReference>) -> Controller {
    let Some(owner) = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true))
    else {
        return Controller::None;
    };
    if owner.kind == "DaemonSet" && owner.api_version == "apps/v1" {
        Controller::DaemonSet(Key::new(namespace, owner.name))
    } else {
        Controller::Other
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pod: serde_json::Value) -> PodFacts {
        PodFacts::read(serde_json::from_value(pod).unwrap()).unwrap()
    }

    #[test]
    fn a_whole_pod_is_pruned_to_its_facts() {
        let facts = read(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "u1", "labels": {"a": "b"},
                "deletionTimestamp": "2026-01-01T00:01:20Z", "deletionGracePeriodSeconds": 80,
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "x"},
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "y", "controller": true},
                ],
            },
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "configMap": {"name": "x"}}, {"name": "e", "emptyDir": {}}]},
            "status": {"phase": "Failed", "podIP": "10.0.0.1"},
        }));
        assert_eq!(facts.key, Key::new("ns", "p"));
        assert_eq!(facts.controller, Controller::Other);
        assert!(facts.is_finished && facts.has_empty_dir && !facts.is_mirror);
        let termination = facts.terminating.unwrap();
        assert_eq!(termination.since.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(termination.deadline.to_string(), "2026-01-01T00:01:20Z");
    }

    #[test]
    fn only_the_controller_reference_counts() {
        let owned = |owner: serde_json::Value| {
            read(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "ownerReferences": [owner]}}))
                .controller
        };
        let base = |api: &str, kind: &str, controller: bool| json!({"apiVersion": api, "kind": kind, "name": "o", "uid": "y", "controller": controller});
        assert_eq!(owned(base("apps/v1", "DaemonSet", false)), Controller::None);
        assert_eq!(
            owned(base("apps/v1", "DaemonSet", true)),
            Controller::DaemonSet(Key::new("ns", "o"))
        );
        assert_eq!(
            owned(base("example.com/v1", "DaemonSet", true)),
            Controller::Other
        );
    }

    #[test]
    fn mirror_pods_are_known_by_their_annotation() {
        let annotated = |annotations: serde_json::Value| {
            let metadata = json!({"name": "p", "namespace": "ns", "uid": "u",
                "annotations": annotations,
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]});
            read(json!({ "metadata": metadata }))
        };
        assert!(annotated(json!({MIRROR_POD_ANNOTATION: "x", "a": "b"})).is_mirror);
        assert!(annotated(json!({MIRROR_POD_ANNOTATION: ""})).is_mirror);
        assert!(!annotated(json!({"a": "b"})).is_mirror);
        assert!(!annotated(json!({})).is_mirror);
    }
}
