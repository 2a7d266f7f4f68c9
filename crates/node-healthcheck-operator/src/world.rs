//! What is known of the cluster, in memory, and who must look when it changes.
//!
//! # Purpose
//! Watches fold their events into [`World`]; passes read one consistent picture out of it. So a
//! pass in which nothing happened makes no request at all.
//!
//! # Guarantees
//! * A change wakes the health checks that it concerns and no others.
//! * What we wrote is visible at once: answers of the API server are folded in like events. An
//!   older event never replaces a newer object.
//!
//! # Caveats
//! The picture lags behind the API server. What must be certain before a remediation is created is
//! read directly (see [`crate::effects`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use medik8s_api::NodeHealthCheck;
use medik8s_api::names::nhc;
use medik8s_api::remediation::NodeHealthCheckStatus;
use medik8s_runtime::capabilities::ServedKind;

use crate::check::{Check, Problem, ResourceKind, TemplateRef};
use crate::facts::{Cluster, HeldLease, MachineHealthChecks, Refused};
use crate::node::NodeFacts;
use crate::notice::{Announcement, Ledger, Notices};
use crate::objects::TemplateFacts;
use crate::remediation::{Handle, Owner, Remediation};

mod kinds;
mod machines;
mod observe;
#[cfg(test)]
mod tests;

pub use kinds::{Key, KindState, Listing};
pub use machines::KnownMachines;
pub use observe::Seen;

/// Health checks to wake: a NodeHealthCheck by its name, a MachineHealthCheck as `namespace/name`.
pub type Wakes = BTreeSet<String>;

/// A health check as stored and as parsed.
#[derive(Debug, Clone)]
pub struct Known {
    /// The object.
    pub object: Arc<NodeHealthCheck>,
    /// What it says.
    pub parsed: Result<Arc<Check>, Problem>,
}

/// The picture. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    checks: BTreeMap<String, Known>,
    nodes: BTreeMap<String, Arc<NodeFacts>>,
    nodes_known: bool,
    /// Kinds of templates and of remediations.
    templates: BTreeMap<ResourceKind, KindState<TemplateFacts>>,
    remediations: BTreeMap<ResourceKind, KindState<Arc<Remediation>>>,
    /// By holder and node.
    leases: BTreeMap<String, BTreeMap<String, HeldLease>>,
    refusals: BTreeMap<String, BTreeMap<String, Refused>>,
    ledgers: BTreeMap<String, Ledger>,
    /// Remediations whose long deletion was noted, by health check.
    long_deletions: BTreeMap<String, BTreeSet<Handle>>,
    waiting_for_control_plane: BTreeSet<String>,
    cluster: Cluster,
    machines: machines::Machines,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a health check. An older version than the known one is ignored.
    pub fn put_check(&self, object: Arc<NodeHealthCheck>) -> Wakes {
        let name = object.metadata.name.clone().unwrap_or_default();
        let mut state = self.lock();
        let known = state.checks.get(&name);
        if known.is_some_and(|known| is_older(&object.metadata, &known.object.metadata)) {
            return Wakes::new();
        }
        let same_spec = known.is_some_and(|known| {
            known.object.metadata.generation == object.metadata.generation
                && known.object.metadata.uid == object.metadata.uid
        });
        let parsed = match known {
            Some(known) if same_spec => known.parsed.clone(),
            Some(_) | None => Check::parse(&object).map(Arc::new),
        };
        state.checks.insert(name.clone(), Known { object, parsed });
        // Our own status writes come back here; they need no pass.
        if same_spec {
            Wakes::new()
        } else {
            [name].into()
        }
    }

    /// Takes in the answer to a write of ours. That the health check is gone may be known already.
    pub fn put_written_check(&self, object: Arc<NodeHealthCheck>) {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let known = self.check(name);
        if known.is_some_and(|known| known.object.metadata.uid == object.metadata.uid) {
            self.put_check(object);
        }
    }

    /// Forgets a health check that is gone. It is woken once more, to give back its leases.
    pub fn remove_check(&self, name: &str) -> Wakes {
        let mut state = self.lock();
        state.checks.remove(name);
        state.refusals.remove(name);
        state.ledgers.remove(name);
        state.long_deletions.remove(name);
        state.waiting_for_control_plane.remove(name);
        [name.to_owned()].into()
    }

    /// A health check.
    pub fn check(&self, name: &str) -> Option<Known> {
        self.lock().checks.get(name).cloned()
    }

    /// Names of all health checks.
    pub fn check_names(&self) -> Wakes {
        self.lock().checks.keys().cloned().collect()
    }

    /// Statuses of all health checks.
    pub fn statuses(&self) -> Vec<NodeHealthCheckStatus> {
        let state = self.lock();
        state
            .checks
            .values()
            .filter_map(|known| known.object.status.clone())
            .collect()
    }

    /// A health check that has a remediation under way, for people.
    pub fn remediating(&self) -> Option<String> {
        let state = self.lock();
        let busy = state.checks.iter().find(|(_, known)| {
            let status = known.object.status.as_ref();
            status.and_then(|status| status.phase.as_deref()) == Some(nhc::PHASE_REMEDIATING)
        });
        busy.map(|(name, _)| format!("a remediation of NodeHealthCheck {name}"))
    }

    /// All nodes that there are have been told.
    pub fn nodes_are_known(&self) -> Wakes {
        let mut state = self.lock();
        state.nodes_known = true;
        state
            .checks
            .keys()
            .chain(state.machines.checks.keys())
            .cloned()
            .collect()
    }

    /// Takes in a change of a node.
    ///
    /// Heartbeats, reasons and messages are not among the facts, so they wake nobody. A node that
    /// leaves a selector is noticed by the health check that selected it before.
    pub fn put_node(&self, name: &str, new: Option<&Arc<NodeFacts>>) -> Wakes {
        let mut state = self.lock();
        let old = match new {
            Some(node) => state.nodes.insert(name.to_owned(), Arc::clone(node)),
            None => state.nodes.remove(name),
        };
        let old = old.as_ref();
        if old == new {
            return Wakes::new();
        }
        state
            .checks
            .iter()
            .filter(|(_, known)| {
                let selects = |node: Option<&Arc<NodeFacts>>| {
                    known
                        .parsed
                        .as_ref()
                        .is_ok_and(|check| node.is_some_and(|n| check.selects(n)))
                };
                selects(old) || selects(new) || is_involved(known, name)
            })
            .map(|(name, _)| name.clone())
            .chain(state.machines.with_node(name))
            .collect()
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<Arc<NodeFacts>> {
        self.lock().nodes.get(name).cloned()
    }

    /// The leases that a holder has, as they were found at the start.
    pub fn set_leases(&self, leases: BTreeMap<String, BTreeMap<String, HeldLease>>) -> Wakes {
        let mut state = self.lock();
        state.leases = leases;
        state.checks.keys().cloned().collect()
    }

    /// Names of health checks that do not exist but still have leases: they were deleted while nobody
    /// led.
    pub fn checks_that_left_leases(&self) -> Wakes {
        let state = self.lock();
        let names = state.leases.keys();
        let names = names.filter_map(|holder| {
            holder.strip_prefix(medik8s_api::names::lease::NODE_HEALTH_CHECK_HOLDER_PREFIX)
        });
        names
            .filter(|name| !state.checks.contains_key(*name))
            .map(ToOwned::to_owned)
            .collect()
    }

    /// A lease was obtained or renewed.
    pub fn put_lease(&self, holder: &str, node: &str, lease: HeldLease) {
        let mut state = self.lock();
        state
            .leases
            .entry(holder.to_owned())
            .or_default()
            .insert(node.to_owned(), lease);
    }

    /// A lease is not ours (any more).
    pub fn remove_lease(&self, holder: &str, node: &str) {
        let mut state = self.lock();
        if let Some(leases) = state.leases.get_mut(holder) {
            leases.remove(node);
            if leases.is_empty() {
                state.leases.remove(holder);
            }
        }
    }

    /// The nodes whose lease a holder has.
    pub fn leased_nodes(&self, holder: &str) -> Vec<String> {
        let state = self.lock();
        state
            .leases
            .get(holder)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .cloned()
            .collect()
    }

    /// A lease that a holder has, as far as it is known.
    pub fn lease(&self, holder: &str, node: &str) -> Option<HeldLease> {
        self.lock().leases.get(holder)?.get(node).cloned()
    }

    /// How often in a row a remediation from a template did not come about because the API server
    /// did not do it.
    pub fn failures(&self, check: &str, node: &str, template: &TemplateRef) -> u32 {
        let state = self.lock();
        let refused = state.refusals.get(check).and_then(|all| all.get(node));
        refused
            .filter(|refused| refused.template == *template)
            .map_or(0, |refused| refused.failures)
    }

    /// A remediation did not come about.
    pub fn refuse(&self, check: &str, node: &str, refused: Refused) {
        let mut state = self.lock();
        state
            .refusals
            .entry(check.to_owned())
            .or_default()
            .insert(node.to_owned(), refused);
    }

    /// A remediation came about.
    pub fn clear_refusal(&self, check: &str, node: &str) {
        let mut state = self.lock();
        if let Some(refusals) = state.refusals.get_mut(check) {
            refusals.remove(node);
        }
    }

    /// Notes what a plan ended with; returns what is new to say.
    pub fn conclude(
        &self,
        check: &str,
        notices: Notices,
        waits_for_control_plane: bool,
        now: Timestamp,
    ) -> Vec<Announcement> {
        let mut state = self.lock();
        if waits_for_control_plane {
            state.waiting_for_control_plane.insert(check.to_owned());
        } else {
            state.waiting_for_control_plane.remove(check);
        }
        if let Some(refusals) = state.refusals.get_mut(check) {
            // What was refused long ago says nothing any more.
            refusals.retain(|_, refused| {
                medik8s_core::time::elapsed(refused.retry_at, now) < FORGET_REFUSAL
            });
        }
        state
            .ledgers
            .entry(check.to_owned())
            .or_default()
            .update(notices)
    }

    /// Notes which remediations are being deleted for long; returns those that were not noted yet.
    pub fn note_long_deletions(&self, check: &str, now: BTreeSet<Handle>) -> BTreeSet<Handle> {
        let mut state = self.lock();
        let noted = state.long_deletions.entry(check.to_owned()).or_default();
        let new = now.difference(noted).cloned().collect();
        *noted = now;
        new
    }

    /// Changes what is known of the cluster as a whole; wakes everybody if that is news.
    pub fn edit_cluster(&self, edit: impl FnOnce(&mut Cluster)) -> Wakes {
        let mut state = self.lock();
        let before = state.cluster.clone();
        edit(&mut state.cluster);
        if state.cluster == before {
            return Wakes::new();
        }
        state.checks.keys().cloned().collect()
    }

    /// What MachineHealthChecks there are.
    pub fn machine_health_checks(&self) -> MachineHealthChecks {
        self.lock().cluster.machine_health_checks
    }

    /// Whether MachineHealthChecks conflict only with health checks that select nodes of theirs.
    pub fn conflicts_by_nodes(&self) -> bool {
        self.lock().cluster.conflict_by_nodes
    }

    /// Whether the cluster is OpenShift.
    pub fn is_openshift(&self) -> bool {
        self.lock().cluster.openshift
    }

    /// The kinds that health checks use: of templates, and of remediations.
    pub fn needed_kinds(&self) -> (BTreeSet<ResourceKind>, BTreeSet<ResourceKind>) {
        self.lock().needed_kinds()
    }

    /// A kind as the cluster serves it.
    pub fn served(&self, kind: &ResourceKind) -> Option<ServedKind> {
        let state = self.lock();
        let template = state
            .templates
            .get(kind)
            .and_then(|state| state.served.clone());
        template.or_else(|| {
            state
                .remediations
                .get(kind)
                .and_then(|state| state.served.clone())
        })
    }
}

impl State {
    fn needed_kinds(&self) -> (BTreeSet<ResourceKind>, BTreeSet<ResourceKind>) {
        let templates = self
            .checks
            .values()
            .filter_map(|known| known.parsed.as_ref().ok())
            .flat_map(|check| check.templates().cloned().collect::<Vec<_>>());
        // Remediations of the platform's own controller, where it may work beside us, count for the
        // control plane as well.
        let followed = self.machines.ours || self.cluster.conflict_by_nodes;
        let of_machines = self
            .machines
            .checks
            .values()
            .filter(|_| followed)
            .filter_map(|known| known.parsed.as_ref().ok()?.template.clone());
        templates
            .chain(of_machines)
            .map(|template| (template.kind.clone(), template.remediation_kind()))
            .unzip()
    }
}

/// How long after its end a refusal is remembered.
const FORGET_REFUSAL: Duration = Duration::from_mins(10);

/// Whether a health check has something to do with a node beyond selecting it.
fn is_involved(known: &Known, node: &str) -> bool {
    let status = known.object.status.as_ref();
    status
        .iter()
        .flat_map(|status| status.unhealthy_nodes.iter().flatten())
        .any(|entry| entry.name == node)
}

/// Whether one version of an object is older than another of the same incarnation.
///
/// Resource versions of one kind can be compared as numbers (Kubernetes documents this since 1.35;
/// etcd revisions have always behaved so). What is no number is not compared.
fn is_older(
    one: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    other: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> bool {
    one.uid == other.uid
        && older_version(
            one.resource_version.as_deref().unwrap_or_default(),
            other.resource_version.as_deref().unwrap_or_default(),
        )
}

fn older_version(one: &str, other: &str) -> bool {
    match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one < other,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// A health check as an owner.
pub fn owner_of(object: &NodeHealthCheck) -> Owner {
    Owner {
        kind: ResourceKind::new("remediation.medik8s.io/v1alpha1", "NodeHealthCheck"),
        name: object.metadata.name.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
    }
}
