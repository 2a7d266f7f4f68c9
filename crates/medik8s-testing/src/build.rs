//! Kubernetes objects in one expression.
//!
//! ```
//! use medik8s_testing::build::{MetaExt, NodeExt, PodExt, at, node, pod};
//!
//! let node = node("n1").worker().ready(at(0)).boot_id("boot-1").annotated("a", "b");
//! let pod = pod("default", "web-0").on("n1").controlled_by("apps/v1", "StatefulSet", "web");
//! ```

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use medik8s_api::node_maintenance::NodeMaintenanceSpec;
use medik8s_api::remediation::NodeHealthCheckSpec;
use medik8s_api::self_node_remediation::SelfNodeRemediationSpec;
use medik8s_api::{NodeHealthCheck, NodeMaintenance, SelfNodeRemediation};

pub use crate::build::lease::lease;
pub use crate::build::node::{NodeExt, node};
pub use crate::build::pod::{PodExt, pod};

mod lease;
mod node;
mod pod;

/// Second 0 of [`at`].
const BASE: i64 = 1_767_225_600;

/// A moment, in seconds after the beginning of 2026: tests count from zero.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BASE.saturating_add(second)).expect("tests stay within known time")
}

/// A moment as metadata holds it.
pub fn time(second: i64) -> Time {
    Time(at(second))
}

/// Metadata with a name, a UID made of it, and a resource version, as if it was read.
pub fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("1".to_owned()),
        creation_timestamp: Some(time(0)),
        ..ObjectMeta::default()
    }
}

/// A reference to an owner; its UID is `uid-<name>`, as [`meta`] makes it.
pub fn owner(api_version: &str, kind: &str, name: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        controller: None,
        block_owner_deletion: None,
    }
}

/// Changes of the metadata of any object.
pub trait MetaExt: kube::Resource + Sized {
    /// Changes the metadata.
    #[must_use]
    fn with_meta(mut self, change: impl FnOnce(&mut ObjectMeta)) -> Self {
        change(self.meta_mut());
        self
    }

    /// Puts it into a namespace.
    #[must_use]
    fn within(self, namespace: &str) -> Self {
        self.with_meta(|meta| meta.namespace = Some(namespace.to_owned()))
    }

    /// Gives it a UID.
    #[must_use]
    fn with_uid(self, uid: &str) -> Self {
        self.with_meta(|meta| meta.uid = Some(uid.to_owned()))
    }

    /// Gives it a resource version.
    #[must_use]
    fn with_version(self, version: &str) -> Self {
        self.with_meta(|meta| meta.resource_version = Some(version.to_owned()))
    }

    /// Sets a label.
    #[must_use]
    fn labelled(self, key: &str, value: &str) -> Self {
        self.with_meta(|meta| {
            meta.labels
                .get_or_insert_default()
                .insert(key.to_owned(), value.to_owned());
        })
    }

    /// Sets an annotation.
    #[must_use]
    fn annotated(self, key: &str, value: &str) -> Self {
        self.with_meta(|meta| {
            meta.annotations
                .get_or_insert_default()
                .insert(key.to_owned(), value.to_owned());
        })
    }

    /// Adds a finalizer.
    #[must_use]
    fn finalized_by(self, finalizer: &str) -> Self {
        self.with_meta(|meta| {
            meta.finalizers
                .get_or_insert_default()
                .push(finalizer.to_owned());
        })
    }

    /// Adds an owner.
    #[must_use]
    fn owned_by(self, owner: OwnerReference) -> Self {
        self.with_meta(|meta| meta.owner_references.get_or_insert_default().push(owner))
    }

    /// Sets the creation time.
    #[must_use]
    fn created(self, at: Timestamp) -> Self {
        self.with_meta(|meta| meta.creation_timestamp = Some(Time(at)))
    }

    /// Marks it as being deleted.
    #[must_use]
    fn deleted(self, at: Timestamp) -> Self {
        self.with_meta(|meta| meta.deletion_timestamp = Some(Time(at)))
    }
}

impl<K: kube::Resource> MetaExt for K {}

/// A remediation of a node by itself, named after the node, in namespace `medik8s`.
pub fn self_node_remediation(name: &str) -> SelfNodeRemediation {
    SelfNodeRemediation::new(name, SelfNodeRemediationSpec::default())
        .with_meta(|object| *object = meta(name))
        .within("medik8s")
}

/// A node health check without rules.
pub fn node_health_check(name: &str) -> NodeHealthCheck {
    NodeHealthCheck::new(name, NodeHealthCheckSpec::default())
        .with_meta(|object| *object = meta(name))
}

/// A maintenance of a node.
pub fn node_maintenance(name: &str, node: &str) -> NodeMaintenance {
    let spec = NodeMaintenanceSpec {
        node_name: node.to_owned(),
        ..NodeMaintenanceSpec::default()
    };
    NodeMaintenance::new(name, spec).with_meta(|object| *object = meta(name))
}
