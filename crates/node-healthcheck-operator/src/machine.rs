//! MachineHealthChecks, where the platform leaves them to us.
//!
//! # Purpose
//! On OpenShift a feature gate can switch the platform's own controller of MachineHealthChecks off.
//! Then machines are judged here: by their phase, by whether they have a node in time, and by the
//! conditions of their node. There are no steps and no healthy delay; the remediation is named
//! after the machine.
//!
//! # Guarantees
//! The same as for node health checks, by the same code: direct reads and one lock before anything
//! is created, one control-plane node at a time over all health checks of both kinds, the lease of
//! the node if there is one.
//!
//! # Caveats
//! Deleting machines without a template is the platform controller's business and is not done here.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use medik8s_api::foreign::{ClusterVersion, FeatureGate, Machine, MachineHealthCheck};
use medik8s_api::names::lease::MACHINE_HEALTH_CHECK_HOLDER_PREFIX;
use medik8s_api::names::openshift::{DISABLE_MHC_FEATURE_GATE, PAUSED_ANNOTATION};
use medik8s_api::value::IntOrString;
use medik8s_core::go_duration;
use medik8s_core::selector::{self, Selector};

use crate::check::{Problem, ResourceKind, Rule, TemplateRef};
use crate::classify::{self, Class};
use crate::node::{MachineRef, NodeFacts};
use crate::remediation::Owner;

pub mod controller;
pub mod gate;
pub mod plan;
#[cfg(test)]
mod tests;

/// How long a machine may take to get a node, unless its health check says otherwise.
pub const NODE_STARTUP_TIMEOUT: Duration = Duration::from_mins(10);

/// Groups of remediators that fence nodes; only others may know what to do about a mere machine.
const NEED_A_NODE: [&str; 2] = [
    "self-node-remediation.medik8s.io",
    "fence-agents-remediation.medik8s.io",
];

/// Label by which the platform says what a machine is for, and its value for the control plane.
const ROLE_LABEL: &str = "machine.openshift.io/cluster-api-machine-role";
const CONTROL_PLANE_ROLE: &str = "master";

/// Group and version of machines and their health checks.
pub const MACHINE_API: &str = "machine.openshift.io/v1beta1";

/// What is needed of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFacts {
    /// Namespace and name.
    pub id: MachineRef,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Name of its node, if it has one.
    pub node: Option<String>,
    /// Whether its phase is `Failed`.
    pub failed: bool,
    /// When its status last changed.
    pub last_updated: Option<Timestamp>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl MachineFacts {
    /// Reduces a Machine to its facts.
    pub fn of(machine: &Machine) -> Self {
        let meta = &machine.metadata;
        let status = machine.status.clone().unwrap_or_default();
        Self {
            id: MachineRef {
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
            },
            uid: meta.uid.clone().unwrap_or_default(),
            labels: meta.labels.clone().unwrap_or_default(),
            node: status
                .node_ref
                .map(|node| node.name)
                .filter(|name| !name.is_empty()),
            failed: status.phase.as_deref() == Some("Failed"),
            last_updated: status.last_updated.map(|time| time.0),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    /// Whether the machine is one of the control plane, also while it has no node.
    pub fn is_control_plane(&self) -> bool {
        self.labels.get(ROLE_LABEL).map(String::as_str) == Some(CONTROL_PLANE_ROLE)
    }

    /// By what it is counted when control-plane nodes are remediated one at a time: its node, as
    /// long as it has one.
    pub fn subject(&self) -> &str {
        self.node.as_deref().unwrap_or(&self.id.name)
    }
}

/// A MachineHealthCheck, parsed.
#[derive(Debug, Clone)]
pub struct MachineCheck {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Generation that was parsed.
    pub generation: i64,
    /// Machines to watch, in its namespace; an empty selector matches all.
    pub selector: Selector,
    /// What makes a node unhealthy; one is enough.
    pub rules: Vec<Rule>,
    /// How many may be unhealthy.
    pub max_unhealthy: Option<IntOrString>,
    /// How long a machine may take to get a node; `None` is for ever.
    pub startup_timeout: Option<Duration>,
    /// Template of the remediation; without one nothing is done here.
    pub template: Option<TemplateRef>,
    /// Whether it is paused.
    pub paused: bool,
}

impl MachineCheck {
    /// Parses a stored MachineHealthCheck.
    pub fn parse(object: &MachineHealthCheck) -> Result<Self, Problem> {
        let (meta, spec) = (&object.metadata, &object.spec);
        let problem = |field: &str, why: &dyn std::fmt::Display| Problem {
            field: field.to_owned(),
            why: why.to_string(),
        };
        let namespace = meta.namespace.clone().unwrap_or_default();
        let mut rules = Vec::new();
        for condition in spec.unhealthy_conditions.iter().flatten() {
            let duration = go_duration::parse_unsigned(condition.timeout.as_str())
                .map_err(|error| problem("spec.unhealthyConditions.timeout", &error))?;
            rules.push(Rule {
                type_: condition.type_.clone(),
                status: condition.status.clone(),
                duration,
            });
        }
        let timeout = match &spec.node_startup_timeout {
            None => NODE_STARTUP_TIMEOUT,
            Some(text) => go_duration::parse_unsigned(text.as_str())
                .map_err(|error| problem("spec.nodeStartupTimeout", &error))?,
        };
        let template = match &spec.remediation_template {
            None => None,
            Some(reference) => {
                let mut template = TemplateRef::parse(reference)
                    .map_err(|error| problem("spec.remediationTemplate", &error))?;
                if template.namespace.is_empty() {
                    template.namespace.clone_from(&namespace);
                }
                // A namespaced owner must live beside what it owns: garbage collection deletes the
                // remediation otherwise, again and again.
                if template.namespace != namespace {
                    let why = format!("must be in the namespace {namespace} of the health check");
                    return Err(problem("spec.remediationTemplate", &why));
                }
                Some(template)
            }
        };
        Ok(Self {
            selector: selector::parse(&spec.selector.clone().unwrap_or_default())
                .map_err(|error| problem("spec.selector", &error))?,
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            rules,
            max_unhealthy: spec.max_unhealthy.clone(),
            startup_timeout: (!timeout.is_zero()).then_some(timeout),
            template,
            paused: meta
                .annotations
                .as_ref()
                .is_some_and(|annotations| annotations.contains_key(PAUSED_ANNOTATION)),
            namespace,
        })
    }

    /// Whether this health check watches a machine.
    pub fn selects(&self, machine: &MachineFacts) -> bool {
        machine.id.namespace == self.namespace
            && selector::selects(&self.selector, Some(&machine.labels))
    }

    /// Namespace and name, which no node health check can be called.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Holder of the node leases of this health check.
    pub fn holder(&self) -> String {
        holder(&self.name)
    }

    /// This health check as an owner.
    pub fn owner(&self) -> Owner {
        Owner {
            kind: ResourceKind::new(MACHINE_API, "MachineHealthCheck"),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

/// Whether remediators of a kind of ours can do nothing for a machine without a node. Of other
/// kinds that is not known.
pub fn needs_node(kind: &ResourceKind) -> bool {
    NEED_A_NODE.contains(&kind.group())
}

/// Holder of the node leases of the machine health check of this name.
pub fn holder(name: &str) -> String {
    format!("{MACHINE_HEALTH_CHECK_HOLDER_PREFIX}{name}")
}

/// The node of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetNode {
    /// The machine has none (yet).
    None,
    /// It has one that does not exist (any more).
    Missing(String),
    /// It has this one.
    Exists(std::sync::Arc<NodeFacts>),
}

/// What a machine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Healthy,
    /// Remediation, unless something changes until then.
    Soon {
        /// Why.
        why: String,
        /// When.
        until: Timestamp,
    },
    /// Remediation.
    Remediation {
        /// Why.
        why: String,
    },
}

/// Judges a machine.
pub fn judge(
    check: &MachineCheck,
    machine: &MachineFacts,
    node: &TargetNode,
    now: Timestamp,
) -> Need {
    let remediation = |why: &str| Need::Remediation {
        why: why.to_owned(),
    };
    if machine.failed {
        return remediation("the machine's phase is Failed");
    }
    match node {
        TargetNode::Missing(name) => Need::Remediation {
            why: format!("node {name} is gone"),
        },
        TargetNode::None => match check.startup_timeout {
            None => Need::Healthy,
            Some(timeout) => {
                let since = machine.last_updated.unwrap_or(now);
                let until = medik8s_core::time::after(since, timeout);
                if now > until {
                    remediation("the machine has no node")
                } else {
                    // Exceeded, like the durations of conditions.
                    let until = medik8s_core::time::after(until, Duration::from_millis(1));
                    Need::Soon {
                        why: "the machine has no node".to_owned(),
                        until,
                    }
                }
            }
        },
        TargetNode::Exists(node) => match classify::classify(&check.rules, &node.conditions, now) {
            Class::Matching { type_, status } => Need::Remediation {
                why: format!("node {} has {type_}={status}", node.name),
            },
            Class::Soon {
                type_,
                status,
                until,
            } => Need::Soon {
                why: format!("node {} has {type_}={status}", node.name),
                until,
            },
            Class::NotMatching => Need::Healthy,
        },
    }
}

/// Whether the feature gates leave MachineHealthChecks to us; `None` if they do not say.
///
/// Gates are listed per version of the cluster: the one that the cluster is going to counts, or
/// else the newest that it had.
pub fn are_ours(gates: Option<&FeatureGate>, version: Option<&ClusterVersion>) -> Option<bool> {
    let status = version?.status.as_ref()?;
    let desired = status
        .desired
        .as_ref()
        .map(|release| release.version.as_str());
    let newest = || {
        status
            .history
            .iter()
            .flatten()
            .next()
            .map(|update| update.version.as_str())
    };
    let version = desired
        .filter(|version| !version.is_empty())
        .or_else(newest)?;
    let listed = gates?.status.as_ref()?.feature_gates.as_ref()?;
    let gates = listed.iter().find(|gates| gates.version == version)?;
    let has = |list: &Option<Vec<medik8s_api::foreign::FeatureGateName>>| {
        list.iter()
            .flatten()
            .any(|gate| gate.name == DISABLE_MHC_FEATURE_GATE)
    };
    Some(has(&gates.enabled))
}
