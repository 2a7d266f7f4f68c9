//! What an order to reboot is: one definition for the manager, the agents and the proofs.
//!
//! # Purpose
//! fencing-safety section 4. An **order** is a remediation in phase Pre-Reboot-Completed or later, with our finalizer,
//! not withdrawn. It is an order for a boot of its node if it recorded that boot.
//!
//! # Guarantees
//! * A deletion timestamp and the annotation nhc-timed-out do not end an order (H6): only the manager does, by removing
//!   the finalizer (cancel) or by reporting Processing=False with Succeeded=False.
//! * The target of an order is recorded with it, so it cannot move while the order is in force, and no agent has to look
//!   up a Machine to understand it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::contract::{PROCESSING, SUCCEEDED};
use medik8s_api::names::snr::{
    BOOT_ID_ANNOTATION, FINALIZER, PHASE_FENCING_COMPLETED, PHASE_FENCING_STARTED,
    PHASE_PRE_REBOOT_COMPLETED, PHASE_REBOOT_COMPLETED,
};
use medik8s_core::conditions::{self, Status};
use medik8s_core::remediation::{self, NoTarget};
use medik8s_core::time;
use serde::{Deserialize, Serialize};

use crate::ids::{BootId, NodeName, Uid};
use crate::permit::NoOrder;
use crate::time::BootInstant;

#[cfg(test)]
mod tests;

/// Remediation annotation of the manager: the node that the order is for, recorded with the finalizer and the boot ID.
pub const ORDERED_NODE_ANNOTATION: &str = "self-node-remediation.medik8s.io/ordered-node";

/// How far a remediation is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The reboot is being prepared.
    Started,
    /// The node is ordered to reboot.
    PreRebootCompleted,
    /// The node has rebooted or is proven off.
    RebootCompleted,
    /// The workload is freed.
    FencingCompleted,
    /// A value that no release writes.
    Unknown(String),
}

impl Phase {
    /// Reads `status.phase`.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            None | Some("" | PHASE_FENCING_STARTED) => Self::Started,
            Some(PHASE_PRE_REBOOT_COMPLETED) => Self::PreRebootCompleted,
            Some(PHASE_REBOOT_COMPLETED) => Self::RebootCompleted,
            Some(PHASE_FENCING_COMPLETED) => Self::FencingCompleted,
            Some(other) => Self::Unknown(other.to_owned()),
        }
    }

    /// Whether the order has been written in this phase.
    pub fn is_ordered(&self) -> bool {
        match self {
            Self::PreRebootCompleted | Self::RebootCompleted | Self::FencingCompleted => true,
            Self::Started | Self::Unknown(_) => false,
        }
    }
}

/// Which node a remediation is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// This node.
    Node(NodeName),
    /// The node of this Machine, which may not be known (yet).
    Machine {
        /// API group of the Machine.
        group: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its node, once looked up.
        node: Option<NodeName>,
    },
    /// No node: the health checker says that its machine has none.
    Nobody,
}

impl Target {
    /// The node, if it is known.
    pub const fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Node(node)
            | Self::Machine {
                node: Some(node), ..
            } => Some(node),
            Self::Machine { node: None, .. } | Self::Nobody => None,
        }
    }

    /// Whether the remediation is for the node of this name, or of this machine (section 9).
    pub fn matches(&self, node: &str, machine: &str) -> Match {
        if let Self::Machine { name, .. } = self
            && !machine.is_empty()
            && name == machine
        {
            return Match::Yes;
        }
        match self {
            Self::Node(own)
            | Self::Machine {
                node: Some(own), ..
            } => {
                if own.as_str() == node {
                    Match::Yes
                } else {
                    Match::No
                }
            }
            Self::Machine { node: None, .. } => Match::Unknown,
            Self::Nobody => Match::No,
        }
    }

    fn of(metadata: &ObjectMeta) -> Self {
        let annotations = metadata.annotations.as_ref();
        let ordered = annotations.and_then(|all| all.get(ORDERED_NODE_ANNOTATION));
        if let Some(node) = ordered.and_then(|text| NodeName::new(text.as_str())) {
            return Self::Node(node);
        }
        match remediation::target(metadata) {
            remediation::Target::Node(name) => NodeName::new(name).map_or(Self::Nobody, Self::Node),
            remediation::Target::Machine(machine) => {
                Self::machine(&machine.api_version, machine.namespace, machine.name)
            }
            remediation::Target::None(NoTarget::EmptyAnnotation) => Self::Nobody,
            // Its node cannot be found out, so nobody may say that it is not the one asked about.
            remediation::Target::None(NoTarget::UnknownMachineApi(version)) => {
                Self::machine(&version, String::new(), String::new())
            }
        }
    }

    fn machine(api_version: &str, namespace: String, name: String) -> Self {
        let group = remediation::group(api_version).to_owned();
        Self::Machine {
            group,
            namespace,
            name,
            node: None,
        }
    }
}

/// Whether a remediation is for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Its node could not be found out.
    Unknown,
}

/// A SelfNodeRemediation, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent fact about the object"
)]
pub struct Remediation {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
    /// The node it is for.
    pub target: Target,
    /// How far it is.
    pub phase: Phase,
    /// Whether it has our finalizer.
    pub finalizer: bool,
    /// Whether the manager gave it up: Processing=False and Succeeded=False.
    pub withdrawn: bool,
    /// Whether somebody deleted it.
    pub deleting: bool,
    /// Whether the health checker told us to stop.
    pub timed_out: bool,
    /// The boot that the order is for; `None` on orders of an old manager.
    pub boot: Option<BootId>,
    /// When it was created, by the API server's clock.
    pub created: Option<Timestamp>,
}

impl Remediation {
    /// Parses an object. `None`: it has no UID, so it did not come from an API server.
    pub fn parse(object: &SelfNodeRemediation) -> Option<Self> {
        let metadata = &object.metadata;
        let status = object.status.as_ref();
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let annotations = metadata.annotations.as_ref();
        let annotation = |key: &str| annotations.and_then(|all| all.get(key));
        Some(Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: Uid::new(metadata.uid.as_deref()?)?,
            target: Target::of(metadata),
            phase: Phase::parse(status.and_then(|status| status.phase.as_deref())),
            finalizer: metadata
                .finalizers
                .iter()
                .flatten()
                .any(|name| name == FINALIZER),
            withdrawn: is_withdrawn(conditions),
            deleting: metadata.deletion_timestamp.is_some(),
            timed_out: remediation::is_timed_out(metadata),
            boot: annotation(BOOT_ID_ANNOTATION).and_then(|id| BootId::new(id.as_str())),
            created: metadata
                .creation_timestamp
                .as_ref()
                .map(|created| created.0),
        })
    }

    /// Fills in the node of a Machine-owned remediation.
    #[must_use]
    pub fn resolved(mut self, nodes: &BTreeMap<(String, String, String), NodeName>) -> Self {
        if let Target::Machine {
            group,
            namespace,
            name,
            node,
        } = &mut self.target
            && node.is_none()
        {
            *node = nodes
                .get(&(group.clone(), namespace.clone(), name.clone()))
                .cloned();
        }
        self
    }

    /// Whether it is an order, for whatever boot.
    pub fn is_order(&self) -> bool {
        self.phase.is_ordered() && self.finalizer && !self.withdrawn
    }

    /// Whether it is an order for this boot. A boot ID names one boot of one machine, so it decides also where the name
    /// of the node could not be found out.
    pub fn is_order_for(&self, boot: &BootId) -> bool {
        self.is_order() && self.boot.as_ref() == Some(boot)
    }
}

fn is_withdrawn(conditions: &[Condition]) -> bool {
    conditions::is(conditions, PROCESSING, Status::False)
        && conditions::is(conditions, SUCCEEDED, Status::False)
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Own {
    /// Name of its Node.
    pub node: NodeName,
    /// Its present boot.
    pub boot: BootId,
}

/// Clocks of the agent's machine when a list was judged: only for orders of managers that record no boot ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uptime {
    /// The wall clock.
    pub wall: Timestamp,
    /// How long the machine is up.
    pub up: std::time::Duration,
}

/// What a complete, consistent list of all remediations says to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Nobody orders this boot to end: a proof that extends the permit.
    NoOrder(NoOrder),
    /// Only orders that an earlier boot has carried out; no proof until the announcement of this boot has been accepted
    /// (H11).
    DoneButUnannounced,
    /// This boot must end.
    Order(Uid),
}

/// Judges a list that was asked for at `started`. `announced`: an announcement of this boot has been accepted before
/// that.
pub fn read(
    own: &Own,
    list: &[Remediation],
    started: BootInstant,
    announced: bool,
    uptime: Uptime,
) -> Reading {
    let mut done = false;
    for remediation in list.iter().filter(|remediation| remediation.is_order()) {
        match &remediation.boot {
            Some(boot) if *boot == own.boot => return Reading::Order(remediation.uid.clone()),
            recorded => {
                if remediation.target.node() != Some(&own.node) {
                    continue;
                }
                if recorded.is_none() && !rebooted_since(remediation.created, uptime) {
                    return Reading::Order(remediation.uid.clone());
                }
                done = true;
            }
        }
    }
    if done && !announced {
        return Reading::DoneButUnannounced;
    }
    Reading::NoOrder(NoOrder::read_at(started))
}

/// The original's rule (section 13): the machine is up for less whole seconds than the remediation exists.
fn rebooted_since(created: Option<Timestamp>, uptime: Uptime) -> bool {
    created
        .is_some_and(|created| uptime.up.as_secs() < time::elapsed(created, uptime.wall).as_secs())
}
