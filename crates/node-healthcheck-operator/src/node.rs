//! What a health check needs to know of a node.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use medik8s_api::names::contract::{EXCLUDE_FROM_REMEDIATION_LABEL, TRUE};
use medik8s_core::node::Exclusion;
use medik8s_core::roles;

#[cfg(test)]
mod tests;

/// A node condition without its heartbeat, reason and message, which never matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCondition {
    /// Type.
    pub type_: String,
    /// Status.
    pub status: String,
    /// When the status last changed; `None` if the node does not say.
    pub since: Option<Timestamp>,
}

/// Namespace and name of a Machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl MachineRef {
    /// Reads the value of the node annotation `machine.openshift.io/machine`.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return None;
        }
        Some(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for MachineRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The facts of a node, in the little space that thousands of them may take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Name.
    pub name: String,
    /// UID; another one means another node of the same name.
    pub uid: String,
    /// Labels; any of them can be part of a selector.
    pub labels: BTreeMap<String, String>,
    /// Conditions.
    pub conditions: Vec<NodeCondition>,
    /// The Machine behind the node.
    pub machine: Option<MachineRef>,
    /// Version of its kubelet.
    pub kubelet_version: Option<String>,
    /// Whether a person confirmed that the node is healthy.
    pub confirmed_healthy: bool,
    /// Whether the machine config operator wants another configuration than the node has.
    pub config_change_pending: bool,
}

impl NodeFacts {
    /// Whether it is a control-plane node.
    pub fn is_control_plane(&self) -> bool {
        roles::is_control_plane(Some(&self.labels))
    }

    /// What its exclude label says.
    pub fn exclusion(&self) -> Exclusion {
        match self
            .labels
            .get(EXCLUDE_FROM_REMEDIATION_LABEL)
            .map(String::as_str)
        {
            Some(TRUE) => Exclusion::Excluded,
            Some("") => Exclusion::EmptyLabel,
            Some(_) | None => Exclusion::None,
        }
    }

    /// Status of a condition.
    pub fn condition(&self, type_: &str) -> Option<&NodeCondition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    /// Whether the node reports itself ready.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready")
            .is_some_and(|condition| condition.status == "True")
    }

    /// Whether a MachineHealthCheck that terminates machines looks after this node.
    pub fn is_terminating(&self) -> bool {
        self.condition("Terminating")
            .is_some_and(|condition| condition.status == "True")
    }
}
