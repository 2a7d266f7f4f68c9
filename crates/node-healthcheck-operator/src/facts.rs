//! What a pass over one health check starts from.
//!
//! # Guarantees
//! Plain data without a client, a clock or a lock: together with `now` it determines the plan, so
//! that a printed [`Observed`] replays what the operator did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use medik8s_api::remediation::NodeHealthCheckStatus;

use crate::check::{Check, ResourceKind, TemplateRef, Templates};
use crate::node::NodeFacts;
use crate::remediation::{Owner, Remediation};

/// Everything that a plan for one health check depends on.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The health check.
    pub check: Arc<Check>,
    /// The health check as an owner.
    pub owner: Owner,
    /// Its status as stored.
    pub status: NodeHealthCheckStatus,
    /// The nodes that it selects, by name.
    pub nodes: Vec<Arc<NodeFacts>>,
    /// The remediations of its kinds, whoever owns them.
    pub remediations: Vec<Arc<Remediation>>,
    /// Its templates.
    pub templates: Templates,
    /// Those of its remediation kinds whose objects are not known, and why.
    pub unknown_kinds: BTreeMap<ResourceKind, String>,
    /// Those of its remediation kinds that the cluster does not serve.
    pub missing_kinds: BTreeSet<ResourceKind>,
    /// Nodes that exist but are not selected, as far as a remediation or the status names them.
    pub unselected: BTreeSet<String>,
    /// Selected nodes that a person confirmed and for which a remediation of any health check exists,
    /// or may exist since the kind of one that selects them cannot be seen.
    pub remediated_by_anyone: BTreeSet<String>,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The node leases that this health check holds.
    pub leases: BTreeMap<String, HeldLease>,
    /// Why remediating a node was refused lately.
    pub refusals: BTreeMap<String, Refused>,
    /// Those of its kinds that may not be watched, and what is done instead.
    pub polled_kinds: BTreeMap<ResourceKind, String>,
    /// The cluster.
    pub cluster: Cluster,
}

/// The control plane nodes of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlPlane {
    /// Control-plane nodes (or machines without a node) for which a remediation of any known kind exists (also one that is being
    /// deleted), with whether one of these carries the label of control-plane nodes. One without it
    /// was made by hand or for a machine, and nobody asked whether the node can be spared.
    pub remediated: BTreeMap<String, bool>,
    /// Number of control-plane nodes.
    pub total: usize,
    /// Those that are ready, by name.
    pub ready: BTreeSet<String>,
}

/// A node lease that is ours, as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// UID of the node that it belongs to.
    pub node_uid: Option<String>,
    /// Since when it is ours.
    pub acquired: Option<Timestamp>,
    /// When it was renewed.
    pub renewed: Option<Timestamp>,
    /// For how long.
    pub duration: Option<Duration>,
}

/// An attempt to remediate a node that did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The template that was to be used.
    pub template: TemplateRef,
    /// Why not.
    pub why: Refusal,
    /// When to try again.
    pub retry_at: Timestamp,
    /// How often in a row the API server did not do it.
    pub failures: u32,
}

/// Why a remediation was not created although the plan asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else holds the node's lease.
    LeaseTaken {
        /// Who.
        holder: String,
    },
    /// The control plane cannot spare the node.
    Quorum(String),
    /// Another control-plane node is being remediated.
    ControlPlaneBusy(String),
    /// Whether another control-plane node is being remediated is not known yet: the remediations of
    /// this kind have not been listed.
    NotListedYet(String),
    /// The node itself, read directly, no longer gives reason to remediate it.
    NodeChanged(String),
    /// There is a remediation already that we did not know of, or one of that name is in the way.
    AlreadyThere(String),
    /// The node has no Machine, without which the remediator can do nothing.
    NoMachine(String),
    /// The remediator is not for such a node or machine, or it is excluded.
    Unsuitable(String),
    /// The health check itself, read directly, is not the one that the plan was made for.
    CheckChanged(String),
    /// While others were created the plan came to say something else.
    Overtaken,
    /// The template, read directly, is gone or unusable.
    TemplateChanged(String),
    /// The API server did not do it.
    Failed(String),
}

impl Refusal {
    /// Whether users are told by an event; the others pass by themselves within seconds.
    pub fn is_announced(&self) -> bool {
        match self {
            Self::LeaseTaken { .. }
            | Self::Quorum(_)
            | Self::ControlPlaneBusy(_)
            | Self::NoMachine(_)
            | Self::Unsuitable(_)
            | Self::Failed(_) => true,
            Self::NotListedYet(_)
            | Self::NodeChanged(_)
            | Self::CheckChanged(_)
            | Self::Overtaken
            | Self::AlreadyThere(_)
            | Self::TemplateChanged(_) => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseTaken { holder } => write!(f, "its node lease is held by {holder}"),
            Self::Quorum(why) => write!(f, "the control plane cannot spare it: {why}"),
            Self::ControlPlaneBusy(other) => {
                write!(f, "control plane node {other} is being remediated")
            }
            Self::NotListedYet(kind) => write!(
                f,
                "remediations of kind {kind}, perhaps of another control plane node, have not been \
                 listed yet"
            ),
            Self::NodeChanged(what) => write!(f, "read directly, {what}"),
            Self::AlreadyThere(what) => write!(f, "{what} exists already"),
            Self::NoMachine(why) | Self::Unsuitable(why) => f.write_str(why),
            Self::CheckChanged(what) => write!(f, "read directly, the health check {what}"),
            Self::Overtaken => f.write_str("things have changed meanwhile"),
            Self::TemplateChanged(what) => f.write_str(what),
            Self::Failed(error) => f.write_str(error),
        }
    }
}

/// What MachineHealthChecks there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MachineHealthChecks {
    /// Not known yet.
    Unknown,
    /// None, or no Machine API.
    #[default]
    None,
    /// One, which only looks after terminating machines.
    TerminationOnly,
    /// Anything else: they would remediate the same nodes.
    Custom,
}

impl MachineHealthChecks {
    /// Whether a node is left to them.
    pub fn look_after(self, node: &NodeFacts) -> bool {
        match self {
            Self::Unknown | Self::TerminationOnly => node.is_terminating(),
            Self::None | Self::Custom => false,
        }
    }
}

/// Facts of the cluster as a whole.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts and options"
)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Whether it is OpenShift: then etcd's disruption budget is asked before a control-plane node
    /// is remediated.
    pub openshift: bool,
    /// The control-plane topology, if it is one that is not supported.
    pub unsupported_topology: Option<String>,
    /// MachineHealthChecks.
    pub machine_health_checks: MachineHealthChecks,
    /// Whether MachineHealthChecks conflict only with health checks that select nodes of theirs.
    pub conflict_by_nodes: bool,
    /// What must be known before anything is remediated and is not: by topic, why not.
    pub unknown: BTreeMap<&'static str, String>,
    /// Why the cluster counts as being upgraded, apart from what single nodes say.
    pub upgrading: Option<String>,
    /// Whether nodes whose kubelets have different versions count as an upgrade in progress.
    pub watch_kubelet_versions: bool,
    /// Whether, off OpenShift, a control-plane node that still serves is spared when the others are
    /// too few.
    pub guard_quorum: bool,
}
