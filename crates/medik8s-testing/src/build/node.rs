//! Nodes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use medik8s_api::names::contract::{EXCLUDE_FROM_REMEDIATION_LABEL, TRUE};
use medik8s_api::names::kubernetes::{CONTROL_PLANE_ROLE_LABEL, HOSTNAME_LABEL, WORKER_ROLE_LABEL};
use medik8s_core::conditions::Status;

use super::{MetaExt, meta};

/// A node with its hostname label, no role and no status.
pub fn node(name: &str) -> Node {
    let node = Node {
        metadata: meta(name),
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus::default()),
    };
    node.labelled(HOSTNAME_LABEL, name)
}

/// Changes of a node.
pub trait NodeExt: Sized {
    /// Changes the spec.
    #[must_use]
    fn with_spec(self, change: impl FnOnce(&mut NodeSpec)) -> Self;

    /// Changes the status.
    #[must_use]
    fn with_status(self, change: impl FnOnce(&mut NodeStatus)) -> Self;

    /// Gives it the worker role.
    #[must_use]
    fn worker(self) -> Self;

    /// Gives it the control-plane role.
    #[must_use]
    fn control_plane(self) -> Self;

    /// Excludes it from remediation.
    #[must_use]
    fn excluded(self) -> Self;

    /// Sets a condition.
    #[must_use]
    fn condition(self, type_: &str, status: Status, since: Timestamp) -> Self {
        self.with_status(|node| {
            let conditions = node.conditions.get_or_insert_default();
            conditions.retain(|condition| condition.type_ != type_);
            conditions.push(NodeCondition {
                type_: type_.to_owned(),
                status: status.as_str().to_owned(),
                last_heartbeat_time: Some(Time(since)),
                last_transition_time: Some(Time(since)),
                ..NodeCondition::default()
            });
        })
    }

    /// Makes it Ready.
    #[must_use]
    fn ready(self, since: Timestamp) -> Self {
        self.condition("Ready", Status::True, since)
    }

    /// Makes its readiness false or unknown.
    #[must_use]
    fn not_ready(self, status: Status, since: Timestamp) -> Self {
        self.condition("Ready", status, since)
    }

    /// Sets its boot ID.
    #[must_use]
    fn boot_id(self, id: &str) -> Self {
        self.with_status(|node| {
            let info = node.node_info.get_or_insert_with(NodeSystemInfo::default);
            id.clone_into(&mut info.boot_id);
        })
    }

    /// Adds an internal address.
    #[must_use]
    fn internal_ip(self, address: &str) -> Self {
        self.with_status(|node| {
            node.addresses.get_or_insert_default().push(NodeAddress {
                type_: "InternalIP".to_owned(),
                address: address.to_owned(),
            });
        })
    }

    /// Adds a taint.
    #[must_use]
    fn tainted(self, taint: Taint) -> Self {
        self.with_spec(|node| node.taints.get_or_insert_default().push(taint))
    }

    /// Cordons it.
    #[must_use]
    fn cordoned(self) -> Self {
        self.with_spec(|node| node.unschedulable = Some(true))
    }
}

impl NodeExt for Node {
    fn with_spec(mut self, change: impl FnOnce(&mut NodeSpec)) -> Self {
        change(self.spec.get_or_insert_default());
        self
    }

    fn with_status(mut self, change: impl FnOnce(&mut NodeStatus)) -> Self {
        change(self.status.get_or_insert_default());
        self
    }

    fn worker(self) -> Self {
        self.labelled(WORKER_ROLE_LABEL, "")
    }

    fn control_plane(self) -> Self {
        self.labelled(CONTROL_PLANE_ROLE_LABEL, "")
    }

    fn excluded(self) -> Self {
        self.labelled(EXCLUDE_FROM_REMEDIATION_LABEL, TRUE)
    }
}
