//! One health check, as its users wrote it, parsed once.
//!
//! # Guarantees
//! What this module returns needs no further parsing. A health check that cannot be understood becomes a [`Problem`]
//! that is shown in its own status; it never stops the watch and never touches another health check.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ObjectReference;
use medik8s_api::remediation::{NodeHealthCheck, NodeHealthCheckSpec};
use medik8s_core::go_duration;
use medik8s_core::int_or_percent::HealthThreshold;
use medik8s_core::selector::{self, Selector};

use crate::node::NodeFacts;

#[cfg(test)]
mod tests;

/// Kind of the templates of metal3, which need their Machine as an owner of the remediation.
pub const METAL3_TEMPLATE_KIND: &str = "Metal3RemediationTemplate";

/// What the kind of every template ends in.
const TEMPLATE_SUFFIX: &str = "Template";

/// How long a step may take at least.
pub const MIN_STEP_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a remediation without a timeout of its own is expected to take; sizes its node lease.
pub const DEFAULT_REMEDIATION_DURATION: Duration = Duration::from_mins(10);

/// A kind in its group and version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKind {
    /// Group and version, `group/version` or `version` for the core group.
    pub api_version: String,
    /// Kind.
    pub kind: String,
}

impl ResourceKind {
    /// A kind by its apiVersion and name.
    pub fn new(api_version: impl Into<String>, kind: impl Into<String>) -> Self {
        Self {
            api_version: api_version.into(),
            kind: kind.into(),
        }
    }

    /// The API group; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    /// The version.
    pub fn version(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or(self.api_version.as_str(), |(_, version)| version)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group().is_empty() {
            f.write_str(&self.kind)
        } else {
            write!(f, "{}.{}", self.kind, self.group())
        }
    }
}

/// A template that a health check refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateRef {
    /// Kind of the template; always ends in `Template` with something before it.
    pub kind: ResourceKind,
    /// Namespace of the template; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name of the template.
    pub name: String,
}

impl TemplateRef {
    /// Reads a reference, refusing what could not name a template.
    pub fn parse(reference: &ObjectReference) -> Result<Self, BadReference> {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let template = Self {
            kind: ResourceKind::new(text(&reference.api_version), text(&reference.kind)),
            namespace: text(&reference.namespace),
            name: text(&reference.name),
        };
        if template.kind.api_version.is_empty() {
            return Err(BadReference::NoApiVersion);
        }
        if template.name.is_empty() {
            return Err(BadReference::NoName);
        }
        match template.kind.kind.strip_suffix(TEMPLATE_SUFFIX) {
            Some(stem) if !stem.is_empty() => Ok(template),
            Some(_) | None => Err(BadReference::KindIsNoTemplate(template.kind.kind)),
        }
    }

    /// Whether remediations of this template can do nothing without a Machine that owns them.
    pub fn needs_machine(&self) -> bool {
        self.kind.kind == METAL3_TEMPLATE_KIND
    }

    /// The kind of the remediations that are made from this template.
    pub fn remediation_kind(&self) -> ResourceKind {
        let kind = self
            .kind
            .kind
            .strip_suffix(TEMPLATE_SUFFIX)
            .unwrap_or(&self.kind.kind);
        ResourceKind::new(self.kind.api_version.clone(), kind)
    }
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Why a reference cannot name a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// No apiVersion.
    #[error("apiVersion of the template reference is missing")]
    NoApiVersion,
    /// No name.
    #[error("name of the template reference is missing")]
    NoName,
    /// The kind does not end in `Template`, or is nothing else.
    #[error(
        "kind of the template reference must end in \"Template\" after at least one character: found {0:?}"
    )]
    KindIsNoTemplate(String),
}

/// A node condition that makes a node unhealthy when it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Type of the node condition.
    pub type_: String,
    /// Status that counts as unhealthy.
    pub status: String,
    /// How long it must have lasted.
    pub duration: Duration,
}

/// One step: a template and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// Template of the step.
    pub template: TemplateRef,
    /// How long the step may take; `None` for a single template, which is never given up for time alone.
    pub timeout: Option<Duration>,
    /// Sum of the timeouts of the earlier steps.
    pub earlier: Duration,
}

impl Rung {
    /// How long this step is expected to take.
    pub fn expected(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_REMEDIATION_DURATION)
    }
}

/// A health check, parsed.
#[derive(Debug, Clone)]
pub struct Check {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Generation that was parsed.
    pub generation: i64,
    /// Nodes to watch.
    pub selector: Selector,
    /// What makes a node unhealthy; one is enough.
    pub rules: Vec<Rule>,
    /// How many nodes must be healthy.
    pub threshold: HealthThreshold,
    /// The steps in the order in which they run; never empty.
    pub ladder: Vec<Rung>,
    /// Whether the steps escalate; otherwise there is exactly one, without timeout.
    pub escalating: bool,
    /// Why it is paused; empty when it is not.
    pub pause_requests: Vec<String>,
    /// How long a node must have been healthy before its remediations are deleted; negative is for ever.
    pub healthy_delay: SignedDuration,
    /// How long new remediations are held back after a storm; `None` is off.
    pub storm_cooldown: Option<Duration>,
}

/// Why a stored health check cannot be acted upon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Problem {
    /// The field that cannot be understood.
    pub field: String,
    /// Why not.
    pub why: String,
}

impl Problem {
    fn new(field: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            why: why.to_string(),
        }
    }
}

impl Check {
    /// Parses a stored health check.
    pub fn parse(object: &NodeHealthCheck) -> Result<Self, Problem> {
        let spec = &object.spec;
        let (ladder, escalating) = ladder(spec)?;
        Ok(Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            selector: selector::parse(&spec.selector.clone().unwrap_or_default())
                .map_err(|error| Problem::new("spec.selector", error))?,
            rules: rules(spec)?,
            threshold: HealthThreshold::parse(
                spec.min_healthy.as_ref(),
                spec.max_unhealthy.as_ref(),
            )
            .map_err(|error| Problem::new("spec.minHealthy, spec.maxUnhealthy", error))?,
            ladder,
            escalating,
            pause_requests: spec.pause_requests.clone().unwrap_or_default(),
            healthy_delay: spec
                .healthy_delay
                .as_ref()
                .map(|text| go_duration::parse(text.as_str()))
                .transpose()
                .map_err(|error| Problem::new("spec.healthyDelay", error))?
                .unwrap_or(SignedDuration::ZERO),
            storm_cooldown: spec
                .storm_cooldown_duration
                .as_ref()
                .map(|text| go_duration::parse_unsigned(text.as_str()))
                .transpose()
                .map_err(|error| Problem::new("spec.stormCooldownDuration", error))?,
        })
    }

    /// Whether this health check watches a node.
    pub fn selects(&self, node: &NodeFacts) -> bool {
        selector::selects(&self.selector, Some(&node.labels))
    }

    /// All templates, in the order of the steps.
    pub fn templates(&self) -> impl Iterator<Item = &TemplateRef> {
        self.ladder.iter().map(|rung| &rung.template)
    }

    /// Whether a remediation of this kind, namespace and template can be one of this health check's steps.
    pub fn rung_of(&self, kind: &ResourceKind, namespace: &str, template: &str) -> Option<&Rung> {
        self.ladder.iter().find(|rung| {
            rung.template.name == template
                && rung.template.namespace == namespace
                && rung.template.remediation_kind() == *kind
        })
    }

    /// Holder of the node leases of this health check.
    pub fn holder(&self) -> String {
        holder(&self.name)
    }
}

/// Holder of the node leases of the health check of this name.
pub fn holder(name: &str) -> String {
    format!("NodeHealthCheck-{name}")
}

fn rules(spec: &NodeHealthCheckSpec) -> Result<Vec<Rule>, Problem> {
    let Some(conditions) = &spec.unhealthy_conditions else {
        // The API server fills in this default; an object that was stored without a schema has none.
        let ready = |status: &str| Rule {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            duration: Duration::from_mins(5),
        };
        return Ok(vec![ready("False"), ready("Unknown")]);
    };
    conditions
        .iter()
        .map(|condition| {
            Ok(Rule {
                type_: condition.type_.clone(),
                status: condition.status.clone(),
                duration: go_duration::parse_unsigned(condition.duration.as_str()).map_err(
                    |error| {
                        Problem::new(
                            format!(
                                "spec.unhealthyConditions[type={}, status={}].duration",
                                condition.type_, condition.status
                            ),
                            error,
                        )
                    },
                )?,
            })
        })
        .collect()
}

fn ladder(spec: &NodeHealthCheckSpec) -> Result<(Vec<Rung>, bool), Problem> {
    let steps = spec.escalating_remediations.as_deref().unwrap_or_default();
    match (&spec.remediation_template, steps) {
        (None, []) => Err(Problem::new(
            "spec",
            "neither remediationTemplate nor escalatingRemediations is set",
        )),
        (Some(_), [_, ..]) => Err(Problem::new(
            "spec",
            "both remediationTemplate and escalatingRemediations are set",
        )),
        (Some(reference), []) => {
            let template = TemplateRef::parse(reference)
                .map_err(|error| Problem::new("spec.remediationTemplate", error))?;
            Ok((
                vec![Rung {
                    template,
                    timeout: None,
                    earlier: Duration::ZERO,
                }],
                false,
            ))
        }
        (None, steps) => {
            let mut parsed = Vec::with_capacity(steps.len());
            for step in steps {
                let field = format!("spec.escalatingRemediations[order={}]", step.order);
                let template = TemplateRef::parse(&step.remediation_template)
                    .map_err(|error| Problem::new(field.clone(), error))?;
                let timeout = go_duration::parse_unsigned(step.timeout.as_str())
                    .map_err(|error| Problem::new(format!("{field}.timeout"), error))?;
                parsed.push((step.order, template, timeout));
            }
            parsed.sort_by_key(|(order, _, _)| *order);
            let mut earlier = Duration::ZERO;
            let ladder = parsed
                .into_iter()
                .map(|(_, template, timeout)| {
                    let rung = Rung {
                        template,
                        timeout: Some(timeout),
                        earlier,
                    };
                    earlier = earlier.saturating_add(timeout);
                    rung
                })
                .collect();
            Ok((ladder, true))
        }
    }
}

/// State of a template, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateState {
    /// It exists and can be used.
    Valid,
    /// It, its kind or its namespace is missing.
    NotFound(String),
    /// It exists and cannot be used.
    Invalid(String),
    /// It could not be read (yet).
    Unknown(String),
}

/// The state of all templates of a health check.
pub type Templates = BTreeMap<TemplateRef, TemplateState>;
