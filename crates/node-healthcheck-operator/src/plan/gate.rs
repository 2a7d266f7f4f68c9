//! What keeps a whole health check from remediating.

use std::collections::BTreeSet;

use medik8s_api::names::nhc;
use medik8s_api::names::openshift::MACHINE_API_NAMESPACE;

use crate::check::{METAL3_TEMPLATE_KIND, TemplateState};
use crate::classify::Class;
use crate::facts::{MachineHealthChecks, Observed};
use crate::node::NodeFacts;

/// Reason of condition `Disabled`: the control plane is of a kind that is not supported.
pub(super) const REASON_UNSUPPORTED_TOPOLOGY: &str = "UnsupportedControlPlaneTopology";

/// Reason of condition `Disabled`: the spec cannot be understood.
pub(super) const REASON_INVALID_SPEC: &str = "InvalidSpec";

/// Whether new remediations may be considered at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// They may.
    Open,
    /// Something must be repaired first.
    Disabled {
        /// Reason of the condition.
        reason: &'static str,
        /// Its message.
        message: String,
    },
    /// A template or the remediations of a kind could not be read.
    Unknown(String),
    /// The cluster is being upgraded.
    Upgrading(String),
    /// Somebody paused the health check.
    Paused(Vec<String>),
}

impl Gate {
    /// Reads the facts, in the order in which the reasons count.
    pub(super) fn of(seen: &Observed, judged: &[(&NodeFacts, Class)]) -> Self {
        let disabled = |reason, message| Self::Disabled { reason, message };
        if seen.cluster.machine_health_checks == MachineHealthChecks::Custom {
            return disabled(
                nhc::REASON_CONFLICTING_MHC,
                "Custom MachineHealthCheck(s) detected, which would remediate the same nodes; \
                 delete them to use node health checks"
                    .to_owned(),
            );
        }
        if let Some(topology) = &seen.cluster.unsupported_topology {
            return disabled(
                REASON_UNSUPPORTED_TOPOLOGY,
                format!("control plane topology {topology} is not supported"),
            );
        }
        let mut unknown = seen.cluster.unknown.values().next().cloned();
        for template in seen.check.templates() {
            if template.kind.kind == METAL3_TEMPLATE_KIND
                && template.namespace != MACHINE_API_NAMESPACE
            {
                return disabled(
                    nhc::REASON_TEMPLATE_INVALID,
                    format!(
                        "template {template} must be in namespace {MACHINE_API_NAMESPACE}: its \
                         remediations are owned by Machines, which live there"
                    ),
                );
            }
            match seen.templates.get(template) {
                Some(TemplateState::Valid) => {}
                Some(TemplateState::NotFound(why)) => {
                    return disabled(nhc::REASON_TEMPLATE_NOT_FOUND, why.clone());
                }
                Some(TemplateState::Invalid(why)) => {
                    return disabled(nhc::REASON_TEMPLATE_INVALID, why.clone());
                }
                Some(TemplateState::Unknown(why)) => unknown = Some(why.clone()),
                None => unknown = Some(format!("template {template} has not been read yet")),
            }
        }
        if let Some(why) = unknown.or_else(|| seen.unknown_kinds.values().next().cloned()) {
            return Self::Unknown(why);
        }
        if let Some(why) = upgrading(seen, judged) {
            return Self::Upgrading(why);
        }
        if !seen.check.pause_requests.is_empty() {
            return Self::Paused(seen.check.pause_requests.clone());
        }
        Self::Open
    }

    /// Whether observed and healthy nodes are published as 0.
    pub(super) fn hides_counters(&self) -> bool {
        match self {
            Self::Disabled { .. } | Self::Upgrading(_) | Self::Paused(_) => true,
            Self::Open | Self::Unknown(_) => false,
        }
    }
}

/// Upgrades matter only while a node is unhealthy: they may be what makes it so.
fn upgrading(seen: &Observed, judged: &[(&NodeFacts, Class)]) -> Option<String> {
    let mut matching = judged
        .iter()
        .filter(|(_, class)| matches!(class, Class::Matching { .. }))
        .peekable();
    matching.peek()?;
    if let Some((node, _)) = matching.find(|(node, _)| node.config_change_pending) {
        return Some(format!(
            "node {} is getting a new machine configuration",
            node.name
        ));
    }
    seen.cluster
        .upgrading
        .clone()
        .or_else(|| different_kubelets(seen))
}

/// Off OpenShift nothing says that the cluster is being upgraded; kubelets of different versions do,
/// if the administrator wants them to count.
fn different_kubelets(seen: &Observed) -> Option<String> {
    if !seen.cluster.watch_kubelet_versions {
        return None;
    }
    let versions: BTreeSet<&str> = seen
        .nodes
        .iter()
        .filter_map(|node| node.kubelet_version.as_deref())
        .collect();
    (versions.len() > 1).then(|| {
        let versions: Vec<&str> = versions.into_iter().collect();
        format!("its kubelets have the versions {}", versions.join(", "))
    })
}
