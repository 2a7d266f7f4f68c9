//! One consistent picture for a pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use medik8s_api::remediation::NodeHealthCheckStatus;

use super::{Listing, State, World, owner_of};
use crate::check::{Check, Problem, ResourceKind, TemplateRef, TemplateState};
use crate::facts::{Cluster, ControlPlane, MachineHealthChecks, Observed};
use crate::machine::MachineFacts;
use crate::node::NodeFacts;
use crate::remediation::Remediation;

/// How long an object that we created is believed in before a watch confirms it.
const CONFIRMATION: Duration = Duration::from_mins(1);

/// What a pass starts from.
#[derive(Debug, Clone)]
pub enum Seen {
    /// The health check is gone.
    Gone,
    /// The nodes, or the health check's leases, are not known yet.
    TooEarly,
    /// It cannot be understood.
    Broken {
        /// Its status as stored.
        status: Box<NodeHealthCheckStatus>,
        /// Its pause requests.
        pause_requests: Vec<String>,
        /// What is wrong.
        problem: Problem,
        /// The generation that was parsed.
        generation: i64,
    },
    /// Everything.
    Whole(Box<Observed>),
}

impl World {
    /// Whether a remediation, which need not be known, is for a node or machine of the control
    /// plane.
    pub fn is_for_control_plane(&self, remediation: &Remediation) -> bool {
        self.lock().is_for_control_plane(remediation)
    }

    /// Takes the picture for one health check.
    pub fn observe(&self, name: &str, now: Timestamp) -> Seen {
        let mut state = self.lock();
        let Some(known) = state.checks.get(name).cloned() else {
            return Seen::Gone;
        };
        if !state.nodes_known {
            return Seen::TooEarly;
        }
        let status = known.object.status.clone().unwrap_or_default();
        let check = match known.parsed {
            Ok(check) => check,
            Err(problem) => {
                return Seen::Broken {
                    status: Box::new(status),
                    pause_requests: known.object.spec.pause_requests.clone().unwrap_or_default(),
                    problem,
                    generation: known.object.metadata.generation.unwrap_or_default(),
                };
            }
        };
        state.drop_unconfirmed(now);
        Seen::Whole(Box::new(state.whole(
            check,
            owner_of(&known.object),
            status,
        )))
    }
}

impl State {
    /// An object that we created and that no watch has shown for long was deleted while no watch
    /// ran. Should it exist after all, the direct read before a creation finds it.
    pub(super) fn drop_unconfirmed(&mut self, now: Timestamp) {
        for entry in self.remediations.values_mut() {
            if entry.unconfirmed.is_empty() || entry.listing != Listing::Known {
                continue;
            }
            let late: Vec<_> = entry
                .unconfirmed
                .iter()
                .filter(|(_, since)| medik8s_core::time::elapsed(**since, now) > CONFIRMATION)
                .map(|(key, _)| key.clone())
                .collect();
            for key in late {
                entry.unconfirmed.remove(&key);
                entry.objects.remove(&key);
            }
        }
    }

    fn whole(
        &self,
        check: Arc<Check>,
        owner: crate::remediation::Owner,
        status: NodeHealthCheckStatus,
    ) -> Observed {
        let nodes: Vec<_> = self
            .nodes
            .values()
            .filter(|node| check.selects(node))
            .map(Arc::clone)
            .collect();
        let kinds: BTreeSet<ResourceKind> = check
            .templates()
            .map(TemplateRef::remediation_kind)
            .collect();
        let remediations: Vec<Arc<Remediation>> = kinds
            .iter()
            .filter_map(|kind| self.remediations.get(kind))
            .flat_map(|entry| entry.objects.values().cloned())
            .collect();
        let selected: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let named = remediations.iter().map(|one| one.node());
        let tracked = status
            .unhealthy_nodes
            .iter()
            .flatten()
            .map(|entry| entry.name.as_str());
        let unselected = named
            .chain(tracked)
            .filter(|node| !selected.contains(node) && self.nodes.contains_key(*node))
            .map(ToOwned::to_owned)
            .collect();
        let remediated: BTreeSet<&str> = self.all_remediations().map(|one| one.node()).collect();
        let remediated_by_anyone = nodes
            .iter()
            .filter(|node| node.confirmed_healthy)
            .filter(|node| remediated.contains(node.name.as_str()) || self.may_hide(node))
            .map(|node| node.name.clone())
            .collect();
        let leases = self
            .leases
            .get(&check.holder())
            .cloned()
            .unwrap_or_default();
        let refusals = self.refusals.get(&check.name).cloned().unwrap_or_default();
        Observed {
            owner,
            status,
            unselected,
            remediated_by_anyone,
            control_plane: if nodes.iter().any(|node| node.is_control_plane()) {
                self.control_plane()
            } else {
                ControlPlane::default()
            },
            leases,
            refusals,
            polled_kinds: self.polled(&check),
            cluster: self.cluster_for(&nodes),
            templates: check
                .templates()
                .map(|template| (template.clone(), self.template_state(template)))
                .collect(),
            missing_kinds: kinds
                .iter()
                .filter(|kind| {
                    let entry = self.remediations.get(kind);
                    entry.is_some_and(|entry| entry.listing == Listing::Missing)
                })
                .cloned()
                .collect(),
            unknown_kinds: kinds
                .into_iter()
                .filter_map(|kind| {
                    let why = self.why_unknown(&kind)?;
                    Some((kind, why))
                })
                .collect(),
            nodes,
            remediations,
            check,
        }
    }

    /// The facts of the cluster, as far as they concern a health check of these nodes.
    fn cluster_for(&self, nodes: &[Arc<NodeFacts>]) -> Cluster {
        let mut cluster = self.cluster.clone();
        if cluster.conflict_by_nodes
            && cluster.machine_health_checks == MachineHealthChecks::Custom
            && !self.machines.overlap(nodes)
        {
            cluster.machine_health_checks = MachineHealthChecks::None;
        }
        cluster
    }

    /// What is done instead of watching the kinds of a health check.
    fn polled(&self, check: &Check) -> BTreeMap<ResourceKind, String> {
        let mut polled = BTreeMap::new();
        for template in check.templates() {
            let kind = &template.kind;
            let what = self
                .templates
                .get(kind)
                .and_then(|entry| entry.polled.clone());
            polled.extend(what.map(|what| (kind.clone(), what)));
            let kind = template.remediation_kind();
            let what = self
                .remediations
                .get(&kind)
                .and_then(|entry| entry.polled.clone());
            polled.extend(what.map(|what| (kind, what)));
        }
        polled
    }

    /// Whether a health check that selects the node may have a remediation of a kind that cannot be
    /// seen.
    fn may_hide(&self, node: &NodeFacts) -> bool {
        let checks = self.checks.values();
        checks
            .filter_map(|known| known.parsed.as_ref().ok())
            .filter(|check| check.selects(node))
            .flat_map(|check| check.templates())
            .any(|template| self.why_unknown(&template.remediation_kind()).is_some())
    }

    fn all_remediations(&self) -> impl Iterator<Item = &Arc<Remediation>> {
        self.remediations
            .values()
            .flat_map(|entry| entry.objects.values())
    }

    /// A remediation counts for the control plane by its label, by its node, or by the machine that
    /// owns it: those of MachineHealthChecks and of people have no label, and the node may be gone.
    pub(super) fn is_for_control_plane(&self, remediation: &Remediation) -> bool {
        let node = self.nodes.get(remediation.node());
        remediation.control_plane_label
            || node.is_some_and(|node| node.is_control_plane())
            || self
                .machines
                .owning(remediation)
                .any(MachineFacts::is_control_plane)
    }

    pub(super) fn control_plane(&self) -> ControlPlane {
        let mut found = ControlPlane::default();
        for node in self.nodes.values().filter(|node| node.is_control_plane()) {
            found.total += 1;
            if node.is_ready() {
                found.ready.insert(node.name.clone());
            }
        }
        for remediation in self.all_remediations() {
            if self.is_for_control_plane(remediation) {
                let name = remediation.subject().to_owned();
                *found.remediated.entry(name).or_default() |= remediation.control_plane_label;
            }
        }
        found
    }

    pub(super) fn template_state(&self, template: &TemplateRef) -> TemplateState {
        let Some(entry) = self.templates.get(&template.kind) else {
            return TemplateState::Unknown(format!("template {template} has not been read yet"));
        };
        match &entry.listing {
            Listing::Pending => {
                TemplateState::Unknown(format!("template {template} has not been read yet"))
            }
            Listing::Failed(why) => {
                TemplateState::Unknown(format!("could not read template {template}: {why}"))
            }
            Listing::Missing => TemplateState::NotFound(format!(
                "failed to get remediation template {template}: the cluster does not serve kind {} \
                 of {}; is its operator installed?",
                template.kind.kind, template.kind.api_version
            )),
            Listing::Known => {
                self.listed_template(template, entry.served.as_ref().is_none_or(|s| s.namespaced))
            }
        }
    }

    fn listed_template(&self, template: &TemplateRef, namespaced: bool) -> TemplateState {
        if namespaced && template.namespace.is_empty() {
            return TemplateState::NotFound(format!(
                "failed to get remediation template {template}: no namespace is provided, but kind \
                 {} is namespaced",
                template.kind.kind
            ));
        }
        if !namespaced && !template.namespace.is_empty() {
            return TemplateState::Invalid(format!(
                "remediation template {template} has a namespace, but kind {} is cluster-scoped",
                template.kind.kind
            ));
        }
        let remediations = self.remediations.get(&template.remediation_kind());
        if let Some(served) = remediations.and_then(|entry| entry.served.as_ref())
            && served.namespaced != namespaced
        {
            return TemplateState::Invalid(format!(
                "kinds {} and {} must both be namespaced, or both be cluster-scoped",
                template.kind.kind, served.resource.kind
            ));
        }
        if remediations.is_some_and(|entry| entry.listing == Listing::Missing) {
            return TemplateState::NotFound(format!(
                "the cluster does not serve kind {} of {}, which template {template} is for",
                template.remediation_kind().kind,
                template.kind.api_version
            ));
        }
        let key = (template.namespace.clone(), template.name.clone());
        match self
            .templates
            .get(&template.kind)
            .and_then(|entry| entry.objects.get(&key))
        {
            None => TemplateState::NotFound(format!(
                "failed to get remediation template {template}: not found"
            )),
            Some(facts) if facts.usable => TemplateState::Valid,
            Some(_) => TemplateState::Invalid(format!(
                "invalid remediation template {template}: it has no spec.template"
            )),
        }
    }

    pub(super) fn why_unknown(&self, kind: &ResourceKind) -> Option<String> {
        match self.remediations.get(kind).map(|entry| &entry.listing) {
            None | Some(Listing::Pending) => Some(format!(
                "remediations of kind {kind} have not been listed yet"
            )),
            Some(Listing::Failed(why)) => {
                Some(format!("could not list remediations of kind {kind}: {why}"))
            }
            Some(Listing::Missing | Listing::Known) => None,
        }
    }
}
