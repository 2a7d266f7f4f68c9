//! What the plan has to know: objects of the cluster, read once into plain values.
//!
//! # Guarantees
//! Reading never fails: what a user or another program wrote wrongly becomes a value that says so.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use medik8s_api::{
    NodeMaintenance,
    names::{
        contract::{EXCLUDE_FROM_REMEDIATION_LABEL, TRUE},
        kubernetes::EXCLUDE_FROM_LOAD_BALANCERS_LABEL,
        nmo,
    },
    node_maintenance::{NodeMaintenanceDrain, NodeMaintenanceStatus},
};
use medik8s_core::{conditions::Status, node, roles, selector, taints};
use serde::{Deserialize, Serialize};

use crate::drain::machine::{Options, Report};

#[cfg(test)]
mod tests;

/// Value of the label [`EXCLUDE_FROM_LOAD_BALANCERS_LABEL`] when this operator set it. Kubernetes
/// looks at the key only, so the value can tell whose label it is.
pub const LOAD_BALANCER_MARK: &str = "node-maintenance-operator";

/// How far a maintenance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not begun.
    None,
    /// The node is being taken out of service.
    Running,
    /// Nothing is left to evict.
    Succeeded,
    /// The maintenance could not be carried out.
    Failed,
}

impl Phase {
    /// Reads a phase; what nobody writes counts as not begun.
    pub fn read(text: Option<&str>) -> Self {
        match text {
            Some(nmo::PHASE_RUNNING) => Self::Running,
            Some(nmo::PHASE_SUCCEEDED) => Self::Succeeded,
            Some(nmo::PHASE_FAILED) => Self::Failed,
            Some(_) | None => Self::None,
        }
    }
}

/// What a node was like before its maintenance (specification 7.3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreviousState {
    /// It was cordoned.
    pub unschedulable: bool,
    /// It carried the label that excludes it from remediation.
    pub exclude_from_remediation: bool,
    /// Value of that label if it was one that does not exclude.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_label: Option<String>,
}

impl PreviousState {
    /// What a node is like.
    pub fn of(node: &NodeFacts) -> Self {
        Self {
            unschedulable: node.is_unschedulable,
            exclude_from_remediation: node.is_excluded(),
            exclude_label: node.exclude_label.clone().filter(|_| !node.is_excluded()),
        }
    }

    /// Value of the label that excludes from remediation.
    pub fn label(self) -> Option<String> {
        if self.exclude_from_remediation {
            Some(TRUE.to_owned())
        } else {
            self.exclude_label
        }
    }
}

/// A NodeMaintenance.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each named by the rules"
)]
pub struct Maintenance {
    /// Its name.
    pub name: String,
    /// Its incarnation.
    pub uid: String,
    /// The version that was read: the precondition of every write.
    pub resource_version: String,
    /// When it was created.
    pub created: Timestamp,
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// Somebody deleted it.
    pub is_deleting: bool,
    /// Our finalizer is there.
    pub has_finalizer: bool,
    /// All finalizers, in order.
    pub finalizers: Vec<String>,
    /// What the node was like, once that is recorded.
    pub record: Option<PreviousState>,
    /// Keep a cordon that was there before (opt-in).
    pub restores_cordon: bool,
    /// Take the node out of external load balancers as well (opt-in).
    pub leaves_load_balancers: bool,
    /// The user's orders for the drain, or what is wrong with them.
    pub drain: Result<DrainOrders, String>,
    /// Its status as it is stored.
    pub status: NodeMaintenanceStatus,
}

/// What `spec.drain` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DrainOrders {
    /// Grace period for every pod.
    pub grace_seconds: Option<u32>,
    /// Which pods are evicted.
    pub selector: Option<selector::Selector>,
    /// How long to wait for pods that should have ended.
    pub skip_wait: Option<Duration>,
}

impl DrainOrders {
    /// Checks and reads `spec.drain`; the error names the field, the value and what is allowed.
    pub fn read(drain: Option<&NodeMaintenanceDrain>) -> Result<Self, String> {
        let Some(drain) = drain else {
            return Ok(Self::default());
        };
        let seconds = |field: &str, value: Option<i64>| {
            value
                .map(|seconds| {
                    u32::try_from(seconds).ok().filter(|seconds| *seconds > 0).ok_or_else(|| {
                        format!(
                            "spec.drain.{field}: Invalid value: {seconds}: must be between 1 and {}",
                            u32::MAX
                        )
                    })
                })
                .transpose()
        };
        let selector = drain
            .pod_selector
            .as_ref()
            .map(|chosen| {
                selector::parse(chosen).map_err(|error| format!("spec.drain.podSelector: {error}"))
            })
            .transpose()?;
        let skip_wait = seconds(
            "skipWaitForDeleteTimeoutSeconds",
            drain.skip_wait_for_delete_timeout_seconds,
        )?;
        Ok(Self {
            grace_seconds: seconds("gracePeriodSeconds", drain.grace_period_seconds)?,
            selector,
            skip_wait: skip_wait.map(|seconds| Duration::from_secs(u64::from(seconds))),
        })
    }

    /// The options of a drain by these orders.
    pub fn options(&self, base: &Options) -> Options {
        Options {
            grace_seconds: self.grace_seconds,
            selector: self.selector.clone(),
            skip_wait: self.skip_wait,
            ..base.clone()
        }
    }
}

impl Maintenance {
    /// Reads a NodeMaintenance; `None` for one that no API server sent.
    pub fn read(object: &NodeMaintenance) -> Option<Self> {
        let meta = &object.metadata;
        let finalizers = meta.finalizers.clone().unwrap_or_default();
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key));
        let is_true = |key: &str| annotation(key).is_some_and(|value| value == TRUE);
        Some(Self {
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            resource_version: meta.resource_version.clone()?,
            created: meta
                .creation_timestamp
                .as_ref()
                .map_or(Timestamp::MAX, |time| time.0),
            generation: meta.generation,
            is_deleting: meta.deletion_timestamp.is_some(),
            has_finalizer: finalizers
                .iter()
                .any(|finalizer| finalizer == nmo::FINALIZER),
            finalizers,
            // That there is a record matters most; one that cannot be read says what the original
            // would assume.
            record: annotation(nmo::PREVIOUS_NODE_STATE_ANNOTATION)
                .map(|json| serde_json::from_str(json).unwrap_or_default()),
            restores_cordon: is_true(nmo::RESTORE_CORDON_ANNOTATION),
            leaves_load_balancers: is_true(nmo::EXCLUDE_FROM_LOAD_BALANCERS_ANNOTATION),
            drain: DrainOrders::read(object.spec.drain.as_ref()),
            status: object.status.clone().unwrap_or_default(),
        })
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        Phase::read(self.status.phase.as_deref())
    }

    /// Failures in a row to get or keep the lease.
    pub fn lease_failures(&self) -> i64 {
        self.status.error_on_lease_count.unwrap_or(0)
    }

    /// It was given up because its lease was lost. Nothing brings it back.
    pub fn is_lost(&self) -> bool {
        self.phase() == Phase::Failed && self.lease_failures() > LEASE_FAILURES
    }

    /// Order among the maintenances of one node: the oldest counts.
    pub fn seniority(&self) -> (Timestamp, &str) {
        (self.created, &self.name)
    }
}

/// Failures beyond this number give the node back.
pub const LEASE_FAILURES: i64 = 3;

/// What is known of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeView {
    /// Nothing yet.
    Unknown,
    /// There is none of that name.
    Missing,
    /// It is there.
    Present(NodeFacts),
}

/// Whose label takes the node out of external load balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadBalancerLabel {
    /// There is none.
    Absent,
    /// This operator's.
    Ours,
    /// Somebody else's.
    Foreign,
}

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each named by the rules"
)]
pub struct NodeFacts {
    /// Its incarnation.
    pub uid: String,
    /// It is cordoned.
    pub is_unschedulable: bool,
    /// It has the taint `medik8s.io/drain`.
    pub has_drain_taint: bool,
    /// It has the taint `node.kubernetes.io/unschedulable`.
    pub has_unschedulable_taint: bool,
    /// Value of the label that excludes it from remediation if it says so.
    pub exclude_label: Option<String>,
    /// Who took it out of external load balancers.
    pub load_balancer_label: LoadBalancerLabel,
    /// Whether its kubelet reports.
    pub ready: Status,
    /// It belongs to the control plane.
    pub is_control_plane: bool,
}

impl NodeFacts {
    /// Reads a Node.
    pub fn read(object: &Node) -> Self {
        let labels = object.metadata.labels.as_ref();
        let label = |key: &str| {
            labels
                .and_then(|labels| labels.get(key))
                .map(String::as_str)
        };
        Self {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            is_unschedulable: node::is_unschedulable(object),
            has_drain_taint: taints::has(object, taints::DRAIN),
            has_unschedulable_taint: taints::has(object, taints::UNSCHEDULABLE),
            exclude_label: label(EXCLUDE_FROM_REMEDIATION_LABEL).map(str::to_owned),
            load_balancer_label: match label(EXCLUDE_FROM_LOAD_BALANCERS_LABEL) {
                None => LoadBalancerLabel::Absent,
                Some(LOAD_BALANCER_MARK) => LoadBalancerLabel::Ours,
                Some(_) => LoadBalancerLabel::Foreign,
            },
            ready: node::ready(object),
            is_control_plane: roles::is_control_plane(labels),
        }
    }

    /// It is excluded from remediation.
    pub fn is_excluded(&self) -> bool {
        self.exclude_label.as_deref() == Some(TRUE)
    }

    /// New pods can land on it.
    pub const fn is_open(&self) -> bool {
        !(self.is_unschedulable && self.has_drain_taint && self.has_unschedulable_taint)
    }
}

/// What is known of the node's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseView {
    /// Nothing: it was not asked for since this process started.
    Unchecked,
    /// It was ours when last looked at.
    Ours {
        /// When that was.
        checked: Timestamp,
        /// When it has to be renewed.
        renew_at: Timestamp,
        /// When others may take it, unless it could be renewed.
        ends_at: Timestamp,
        /// The incarnation of the node that owns it.
        node_uid: String,
    },
    /// Somebody else had it when last looked at.
    Foreign {
        /// Who.
        holder: String,
        /// When that was.
        checked: Timestamp,
        /// Whether the status says so already.
        is_told: bool,
    },
    /// It was given back.
    Released,
}

/// Numbers at the beginning of a maintenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// All pods bound to the node.
    pub total: usize,
    /// Pods that have to go, in order.
    pub pending: Vec<crate::drain::pod::Key>,
}

/// The drain of the node, if there is one.
#[derive(Debug, Clone, PartialEq)]
pub enum DrainView {
    /// There is none.
    None,
    /// It runs, or has completed and was not yet acknowledged.
    Running {
        /// UID of the maintenance it runs for.
        owner: String,
        /// The options it was started with.
        options: Box<Options>,
        /// How far it is.
        report: Box<Report>,
    },
}

/// Whether etcd can do without the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuorumView {
    /// Not asked.
    Unchecked,
    /// Yes, then.
    Allowed(Timestamp),
    /// No, then.
    Denied(Timestamp),
}

/// What this process remembers about a node. It may be lost at any time.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// The lease.
    pub lease: LeaseView,
    /// The etcd guard.
    pub quorum: QuorumView,
    /// For which maintenance and which incarnation of the node this process has seen the drain
    /// complete.
    pub drained: Option<Drained>,
    /// When a status was last written.
    pub status_written: Option<Timestamp>,
    /// When somebody was last told that the drain is blocked.
    pub blocked_told: Option<Timestamp>,
}

/// See [`Memory::drained`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// UID of the maintenance.
    pub maintenance: String,
    /// UID of the node.
    pub node: String,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            lease: LeaseView::Unchecked,
            quorum: QuorumView::Unchecked,
            drained: None,
            status_written: None,
            blocked_told: None,
        }
    }
}

/// Everything that is known about one node and its maintenances.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Name of the node.
    pub node_name: String,
    /// Its maintenances, the oldest first.
    pub maintenances: Vec<Maintenance>,
    /// The node.
    pub node: NodeView,
    /// The drain.
    pub drain: DrainView,
    /// Whether the cluster is OpenShift, if that is known.
    pub is_openshift: Option<bool>,
    /// Pods of the node, if they were listed in this pass.
    pub counts: Option<Counts>,
    /// Memory of this process.
    pub memory: Memory,
    /// UIDs of maintenances with which something went wrong in this pass.
    pub failed: BTreeSet<String>,
    /// What every drain of this process has in common.
    pub base: Options,
}

impl Seen {
    /// The maintenance that counts: the oldest that nobody deleted.
    pub fn primary(&self) -> Option<&Maintenance> {
        self.maintenances
            .iter()
            .find(|maintenance| !maintenance.is_deleting)
    }

    /// The node, if it is there.
    pub const fn present(&self) -> Option<&NodeFacts> {
        match &self.node {
            NodeView::Present(node) => Some(node),
            NodeView::Unknown | NodeView::Missing => None,
        }
    }

    /// Whether the node was put into maintenance for this object, or by the original (7.3).
    pub fn is_entered(&self, maintenance: &Maintenance) -> bool {
        maintenance.record.is_some() || self.present().is_some_and(|node| node.has_drain_taint)
    }
}

/// Whether a Node can have this name (RFC 1123 subdomain); anything else is not looked for.
pub fn is_node_name(name: &str) -> bool {
    let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            label.bytes().all(|c| is_inner(c) || c == b'-')
                && label.bytes().next().is_some_and(is_inner)
                && label.bytes().last().is_some_and(is_inner)
        })
}
