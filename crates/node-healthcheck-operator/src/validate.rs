//! The rules of the admission webhook.
//!
//! # Guarantees
//! Messages are those of the original. Rules of one group report their first failure only, several
//! groups are joined. What the original accepted in `spec` and what is unchanged stays accepted, so
//! that labels and finalizers of an old object can be edited.
//!
//! # Caveats
//! What depends on other objects comes in as [`Surroundings`], read directly by the caller.
//! Warnings are best effort: what could not be read gives none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use medik8s_api::remediation::{EscalatingRemediation, NodeHealthCheck, NodeHealthCheckSpec};
use medik8s_core::go_duration;
use medik8s_core::int_or_percent::{HealthThreshold, IntOrPercent};
use medik8s_core::selector;

use crate::check::{MIN_STEP_TIMEOUT, ResourceKind, TemplateRef};

#[cfg(test)]
mod tests;

/// Kind of the template that deletes machines; the number of nodes changes while it works.
const MACHINE_DELETION_TEMPLATE_KIND: &str = "MachineDeletionRemediationTemplate";

/// Control-plane topologies that are supported on OpenShift.
const SUPPORTED_TOPOLOGIES: [&str; 4] = [
    "HighlyAvailable",
    "SingleReplica",
    "HighlyAvailableArbiter",
    "External",
];

/// What is known around the object that is judged.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The control-plane topology; `None` off OpenShift.
    pub topology: Option<String>,
    /// For kinds that several steps use: whether all templates of the kind (and at least one)
    /// support that, or why this is not known.
    pub multiple_templates: BTreeMap<ResourceKind, Result<bool, String>>,
    /// The selected nodes, if they could be read.
    pub selected: Option<Vec<SelectedNode>>,
    /// Other health checks that select some of these nodes.
    pub overlapping: BTreeSet<String>,
    /// Referenced templates that do not exist.
    pub missing_templates: Vec<String>,
}

/// A selected node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedNode {
    /// Whether it belongs to the control plane.
    pub control_plane: bool,
    /// Whether it is a worker.
    pub worker: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, with things worth knowing.
    Allow(Vec<String>),
    /// No, and why.
    Deny(String),
}

/// Whether a control-plane topology is supported.
pub fn is_supported_topology(topology: &str) -> bool {
    SUPPORTED_TOPOLOGIES.contains(&topology)
}

/// Judges the creation of a health check.
pub fn create(new: &NodeHealthCheck, around: &Surroundings) -> Verdict {
    judge(&new.spec, around)
}

/// Judges a change of a health check.
pub fn update(old: &NodeHealthCheck, new: &NodeHealthCheck, around: &Surroundings) -> Verdict {
    if same_spec(&old.spec, &new.spec) {
        return Verdict::Allow(Vec::new());
    }
    if is_remediating(new)
        && let Some(field) = restricted_change(&old.spec, &new.spec)
    {
        return Verdict::Deny(format!(
            "{field} update prohibited due to running remediation"
        ));
    }
    judge(&new.spec, around)
}

/// Judges the deletion of a health check.
pub fn delete(old: &NodeHealthCheck) -> Verdict {
    if is_remediating(old) {
        Verdict::Deny("deletion prohibited due to running remediation".to_owned())
    } else {
        Verdict::Allow(Vec::new())
    }
}

/// Whether an update needs to be judged at all; if not, nothing around it need be read.
pub fn needs_judgement(old: &NodeHealthCheck, new: &NodeHealthCheck) -> bool {
    !same_spec(&old.spec, &new.spec)
}

/// The kinds of templates that more than one step of a health check uses, whatever the version.
pub fn repeated_kinds(spec: &NodeHealthCheckSpec) -> BTreeSet<ResourceKind> {
    let mut seen = BTreeSet::new();
    references(spec)
        .filter_map(|reference| TemplateRef::parse(reference).ok())
        .filter(|template| !seen.insert(group_and_kind(template)))
        .map(|template| template.kind)
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

/// Versions of a kind are views of the same objects.
fn group_and_kind(template: &TemplateRef) -> (String, String) {
    let kind = &template.kind;
    (kind.group().to_owned(), kind.kind.clone())
}

/// All references to templates.
pub fn references(spec: &NodeHealthCheckSpec) -> impl Iterator<Item = &ObjectReference> {
    spec.remediation_template
        .iter()
        .chain(steps(spec).iter().map(|step| &step.remediation_template))
}

fn steps(spec: &NodeHealthCheckSpec) -> &[EscalatingRemediation] {
    spec.escalating_remediations.as_deref().unwrap_or_default()
}

fn is_remediating(object: &NodeHealthCheck) -> bool {
    object
        .status
        .iter()
        .flat_map(|status| status.unhealthy_nodes.iter().flatten())
        .any(|node| {
            node.remediations
                .as_ref()
                .is_some_and(|list| !list.is_empty())
        })
}

fn judge(spec: &NodeHealthCheckSpec, around: &Surroundings) -> Verdict {
    let mut problems = Vec::new();
    problems.extend(thresholds(spec));
    problems.extend(selector_problem(spec));
    problems.extend(template_choice(spec));
    problems.extend(template_references(spec));
    problems.extend(escalation(spec, around));
    problems.extend(durations(spec));
    problems.extend(topology(around));
    match joined(problems) {
        Some(message) => Verdict::Deny(message),
        None => Verdict::Allow(warnings(spec, around)),
    }
}

/// Joins messages as the original's error lists print: without repetition, in brackets if several.
fn joined(problems: Vec<String>) -> Option<String> {
    let mut distinct: Vec<String> = Vec::new();
    for problem in problems {
        if !distinct.contains(&problem) {
            distinct.push(problem);
        }
    }
    match distinct.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

fn thresholds(spec: &NodeHealthCheckSpec) -> Option<String> {
    if let Err(error) =
        HealthThreshold::parse(spec.min_healthy.as_ref(), spec.max_unhealthy.as_ref())
    {
        return Some(error.to_string());
    }
    spec.max_unhealthy.as_ref()?;
    let deletes_machines = |reference: &ObjectReference| {
        let kind = reference.kind.as_deref().unwrap_or_default();
        kind.eq_ignore_ascii_case(MACHINE_DELETION_TEMPLATE_KIND)
    };
    let message = format!("maxUnhealthy can't be used with {MACHINE_DELETION_TEMPLATE_KIND}");
    if spec
        .remediation_template
        .as_ref()
        .is_some_and(deletes_machines)
    {
        return Some(message);
    }
    steps(spec)
        .iter()
        .any(|step| deletes_machines(&step.remediation_template))
        .then(|| format!("{message} escalating remediation"))
}

fn selector_problem(spec: &NodeHealthCheckSpec) -> Option<String> {
    let selector = spec.selector.clone().unwrap_or_default();
    if selector::is_empty(&selector) {
        return Some("Selector is mandatory".to_owned());
    }
    selector::parse(&selector)
        .err()
        .map(|error| format!("Invalid selector: {error}"))
}

fn template_choice(spec: &NodeHealthCheckSpec) -> Option<String> {
    match (&spec.remediation_template, steps(spec)) {
        (None, []) => Some(
            "Either RemediationTemplate or at least one EscalatingRemediations must be set"
                .to_owned(),
        ),
        (Some(_), [_, ..]) => Some(
            "RemediationTemplate and EscalatingRemediations usage is mutual exclusive".to_owned(),
        ),
        (Some(_), []) | (None, [_, ..]) => None,
    }
}

/// The original cuts the kind blindly: it panics on a short one, and creates an object of the
/// template's own kind for one with another ending.
fn template_references(spec: &NodeHealthCheckSpec) -> Option<String> {
    references(spec)
        .find_map(|reference| TemplateRef::parse(reference).err())
        .map(|error| error.to_string())
}

fn escalation(spec: &NodeHealthCheckSpec, around: &Surroundings) -> Vec<String> {
    let steps = steps(spec);
    let mut problems = Vec::new();
    let mut orders = BTreeSet::new();
    if let Some(step) = steps.iter().find(|step| !orders.insert(step.order)) {
        problems.push(format!(
            "EscalatingRemediation Order must be unique: found duplicate order {}",
            step.order
        ));
    }
    problems.extend(steps.iter().find_map(|step| {
        match go_duration::parse_unsigned(step.timeout.as_str()) {
            Ok(timeout) if timeout >= MIN_STEP_TIMEOUT => None,
            Ok(timeout) => Some(format!(
                "EscalatingRemediation Timeout must be at least one minute: found timeout {}",
                go_duration::format_unsigned(timeout)
            )),
            Err(error) => Some(format!(
                "EscalatingRemediation Timeout is not valid: {error}"
            )),
        }
    }));
    let mut kinds = BTreeSet::new();
    let mut templates = BTreeSet::new();
    for step in steps {
        let Ok(template) = TemplateRef::parse(&step.remediation_template) else {
            continue;
        };
        let kind = template.kind.clone();
        let group_and_kind = group_and_kind(&template);
        let identity = (
            group_and_kind.clone(),
            template.namespace.clone(),
            template.name.clone(),
        );
        let repeated_template = !templates.insert(identity);
        if !kinds.insert(group_and_kind) {
            let problem = match around.multiple_templates.get(&kind) {
                _ if repeated_template => Some(format!(
                    "EscalatingRemediations must not use {template} more than once"
                )),
                Some(Ok(true)) => None,
                Some(Err(error)) => Some(format!(
                    "Whether multiple templates of kind {} are supported could not be found out: \
                     {error}",
                    kind.kind
                )),
                Some(Ok(false)) | None => Some(format!(
                    "Using multiple templates of same kind is not supported for this template: \
                     duplicate template kind: {}",
                    kind.kind
                )),
            };
            if let Some(problem) = problem {
                problems.push(problem);
                break;
            }
        }
    }
    problems
}

/// Durations that match the schema's pattern and still cannot be held.
fn durations(spec: &NodeHealthCheckSpec) -> Option<String> {
    let conditions = spec.unhealthy_conditions.iter().flatten().map(|condition| {
        let field = format!(
            "unhealthyConditions duration of {}={}",
            condition.type_, condition.status
        );
        (
            field,
            go_duration::parse_unsigned(condition.duration.as_str()).err(),
        )
    });
    let storm = spec.storm_cooldown_duration.iter().map(|text| {
        let error = go_duration::parse_unsigned(text.as_str()).err();
        ("stormCooldownDuration".to_owned(), error)
    });
    let delay = spec.healthy_delay.iter().map(|text| {
        (
            "healthyDelay".to_owned(),
            go_duration::parse(text.as_str()).err(),
        )
    });
    conditions
        .chain(storm)
        .chain(delay)
        .find_map(|(field, error)| error.map(|error| format!("{field} is not valid: {error}")))
}

fn topology(around: &Surroundings) -> Option<String> {
    around
        .topology
        .as_deref()
        .is_some_and(|topology| !is_supported_topology(topology))
        .then(|| "Unsupported control plane topology".to_owned())
}

fn warnings(spec: &NodeHealthCheckSpec, around: &Surroundings) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(selected) = &around.selected {
        let control_plane = selected.iter().filter(|node| node.control_plane).count();
        let workers = selected
            .iter()
            .filter(|node| node.worker && !node.control_plane)
            .count();
        if control_plane > 0 && workers > 0 {
            warnings.push(format!(
                "spec.selector selects {control_plane} control plane nodes and {workers} workers: \
                 use separate health checks for them"
            ));
        }
        let maximum = HealthThreshold::parse(None, spec.max_unhealthy.as_ref());
        if let Ok(HealthThreshold::MaxUnhealthy(IntOrPercent::Count(maximum))) = maximum
            && maximum > selected.len() as u64
        {
            warnings.push(format!(
                "spec.maxUnhealthy {maximum} is more than the {} nodes that are selected now: \
                 all of them may be remediated at once",
                selected.len()
            ));
        }
    }
    if !around.overlapping.is_empty() {
        let names: Vec<&str> = around.overlapping.iter().map(String::as_str).collect();
        warnings.push(format!(
            "spec.selector selects nodes that NodeHealthCheck {} selects as well",
            names.join(", ")
        ));
    }
    warnings.extend(
        around
            .missing_templates
            .iter()
            .map(|template| format!("template {template} does not exist (yet)")),
    );
    warnings
}

/// The field whose change is forbidden while a node is remediated.
fn restricted_change(old: &NodeHealthCheckSpec, new: &NodeHealthCheckSpec) -> Option<&'static str> {
    if !same_selector(old, new) {
        return Some("selector");
    }
    if !same_reference(
        old.remediation_template.as_ref(),
        new.remediation_template.as_ref(),
    ) {
        return Some("remediation template");
    }
    (!same_steps(steps(old), steps(new))).then_some("escalating remediations")
}

/// Whether two specs say the same: absent equals empty.
fn same_spec(old: &NodeHealthCheckSpec, new: &NodeHealthCheckSpec) -> bool {
    restricted_change(old, new).is_none()
        && old.min_healthy == new.min_healthy
        && old.max_unhealthy == new.max_unhealthy
        && old.unhealthy_conditions == new.unhealthy_conditions
        && old.storm_cooldown_duration == new.storm_cooldown_duration
        && old.healthy_delay == new.healthy_delay
        && old.pause_requests.as_deref().unwrap_or_default()
            == new.pause_requests.as_deref().unwrap_or_default()
}

fn same_selector(old: &NodeHealthCheckSpec, new: &NodeHealthCheckSpec) -> bool {
    selector::same(
        &old.selector.clone().unwrap_or_default(),
        &new.selector.clone().unwrap_or_default(),
    )
}

fn same_reference(old: Option<&ObjectReference>, new: Option<&ObjectReference>) -> bool {
    let plain = |reference: Option<&ObjectReference>| {
        reference.map(|reference| {
            [
                &reference.api_version,
                &reference.kind,
                &reference.namespace,
                &reference.name,
                &reference.uid,
                &reference.field_path,
                &reference.resource_version,
            ]
            .map(|text| text.clone().unwrap_or_default())
        })
    };
    plain(old) == plain(new)
}

/// Whether two lists have the same steps; where they stand in the list does not matter.
fn same_steps(old: &[EscalatingRemediation], new: &[EscalatingRemediation]) -> bool {
    let sorted = |steps: &[EscalatingRemediation]| {
        let mut steps = steps.to_vec();
        steps.sort_by_key(|step| step.order);
        steps
    };
    old.len() == new.len()
        && sorted(old).iter().zip(&sorted(new)).all(|(old, new)| {
            old.order == new.order
                && same_timeout(old, new)
                && same_reference(
                    Some(&old.remediation_template),
                    Some(&new.remediation_template),
                )
        })
}

/// `2m` and `120s` are the same timeout.
fn same_timeout(old: &EscalatingRemediation, new: &EscalatingRemediation) -> bool {
    let parsed = |step: &EscalatingRemediation| -> Option<Duration> {
        go_duration::parse_unsigned(step.timeout.as_str()).ok()
    };
    old.timeout == new.timeout || (parsed(old).is_some() && parsed(old) == parsed(new))
}
