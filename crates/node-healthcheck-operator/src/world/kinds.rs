//! Templates and remediations, by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use medik8s_runtime::capabilities::ServedKind;

use super::{State, Wakes, World, is_involved, older_version};
use crate::check::{ResourceKind, TemplateRef};
use crate::objects::TemplateFacts;
use crate::remediation::{Handle, Remediation};

/// How much is known of the objects of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Listing {
    /// Nothing yet.
    #[default]
    Pending,
    /// The cluster does not serve the kind: there are none.
    Missing,
    /// All of them.
    Known,
    /// They could not be listed.
    Failed(String),
}

/// Namespace and name; the namespace is empty for cluster-scoped kinds.
pub type Key = (String, String);

/// The objects of a kind.
#[derive(Debug, Clone)]
pub struct KindState<T> {
    /// How much is known.
    pub listing: Listing,
    /// How the cluster serves the kind.
    pub served: Option<ServedKind>,
    /// What is done instead of watching, if that is not permitted.
    pub polled: Option<String>,
    /// What is known.
    pub(super) objects: BTreeMap<Key, T>,
    /// Objects that we wrote and that no watch has confirmed yet, with the time of the write.
    pub(super) unconfirmed: BTreeMap<Key, Timestamp>,
}

impl<T> Default for KindState<T> {
    fn default() -> Self {
        Self {
            listing: Listing::default(),
            served: None,
            polled: None,
            objects: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
        }
    }
}

impl World {
    /// Sets how much is known of a kind of templates. Wakes whom it concerns.
    pub fn set_template_listing(
        &self,
        kind: &ResourceKind,
        listing: Listing,
        served: Option<ServedKind>,
    ) -> Wakes {
        let mut state = self.lock();
        let entry = state.templates.entry(kind.clone()).or_default();
        if !turn(entry, listing, served) {
            return Wakes::new();
        }
        let is_used = |template: &TemplateRef| template.kind == *kind;
        users(&state, is_used)
    }

    /// Sets how much is known of a kind of remediations. Wakes whom it concerns.
    pub fn set_remediation_listing(
        &self,
        kind: &ResourceKind,
        listing: Listing,
        served: Option<ServedKind>,
    ) -> Wakes {
        let mut state = self.lock();
        let entry = state.remediations.entry(kind.clone()).or_default();
        if !turn(entry, listing, served) {
            return Wakes::new();
        }
        users(&state, |template| template.remediation_kind() == *kind)
    }

    /// Notes what is done instead of watching a kind of templates.
    pub fn set_template_polled(&self, kind: &ResourceKind, polled: Option<String>) -> Wakes {
        let mut state = self.lock();
        let entry = state.templates.entry(kind.clone()).or_default();
        if entry.polled == polled {
            return Wakes::new();
        }
        entry.polled = polled;
        users(&state, |template| template.kind == *kind)
    }

    /// Notes what is done instead of watching a kind of remediations.
    pub fn set_remediation_polled(&self, kind: &ResourceKind, polled: Option<String>) -> Wakes {
        let mut state = self.lock();
        let entry = state.remediations.entry(kind.clone()).or_default();
        if entry.polled == polled {
            return Wakes::new();
        }
        entry.polled = polled;
        users(&state, |template| template.remediation_kind() == *kind)
    }

    /// Forgets the templates of a kind that a look at all of them did not show.
    pub fn retain_templates(&self, kind: &ResourceKind, seen: &BTreeSet<Key>) -> Wakes {
        let gone: Vec<Key> = {
            let state = self.lock();
            let known = state.templates.get(kind);
            let keys = known.into_iter().flat_map(|entry| entry.objects.keys());
            keys.filter(|key| !seen.contains(*key)).cloned().collect()
        };
        gone.into_iter()
            .flat_map(|(namespace, name)| self.put_template(kind, &namespace, &name, None))
            .collect()
    }

    /// The remediations of a kind that we wrote and that no watch has confirmed yet.
    pub fn unconfirmed(&self, kind: &ResourceKind) -> BTreeSet<Key> {
        let state = self.lock();
        let entry = state.remediations.get(kind);
        let keys = entry.into_iter().flat_map(|entry| entry.unconfirmed.keys());
        keys.cloned().collect()
    }

    /// Forgets the remediations of a kind that a look at all of them did not show. What was written
    /// since that look began (`before` has what was not confirmed then) may be newer.
    pub fn retain_remediations(
        &self,
        kind: &ResourceKind,
        seen: &BTreeSet<Key>,
        before: &BTreeSet<Key>,
    ) -> Wakes {
        let gone: Vec<Handle> = {
            let state = self.lock();
            let Some(entry) = state.remediations.get(kind) else {
                return Wakes::new();
            };
            let written_since =
                |key: &Key| entry.unconfirmed.contains_key(key) && !before.contains(key);
            let gone = entry
                .objects
                .iter()
                .filter(|(key, _)| !seen.contains(*key) && !written_since(key));
            gone.map(|(_, known)| known.handle()).collect()
        };
        gone.iter()
            .flat_map(|handle| self.remove_remediation(handle))
            .collect()
    }

    /// The templates of a kind that are in use.
    pub fn templates_in_use(&self, kind: &ResourceKind) -> BTreeSet<Key> {
        let state = self.lock();
        let of_nodes = state
            .checks
            .values()
            .filter_map(|known| known.parsed.as_ref().ok());
        let of_nodes = of_nodes.flat_map(|check| check.templates().cloned().collect::<Vec<_>>());
        let of_machines = state.machines.active();
        let of_machines =
            of_machines.filter_map(|(_, known)| known.parsed.as_ref().ok()?.template.clone());
        of_nodes
            .chain(of_machines)
            .filter(|template| template.kind == *kind)
            .map(|template| (template.namespace, template.name))
            .collect()
    }

    /// Namespaces and names of the templates in use from which remediations of a kind are made.
    pub fn templates_of(&self, remediation: &ResourceKind) -> BTreeSet<Key> {
        let template = format!("{}Template", remediation.kind);
        self.templates_in_use(&ResourceKind::new(&remediation.api_version, template))
    }

    /// All remediations of a kind that are known.
    pub fn remediations_of(&self, kind: &ResourceKind) -> Vec<Remediation> {
        let state = self.lock();
        let entry = state.remediations.get(kind);
        let objects = entry.into_iter().flat_map(|entry| entry.objects.values());
        objects.map(|one| (**one).clone()).collect()
    }

    /// Namespaces and names that remediations of a kind have if they are for the control plane and
    /// named after their node, or after its machine.
    pub fn control_plane_keys(&self, kind: &ResourceKind) -> BTreeSet<Key> {
        let templates = self.templates_of(kind);
        let state = self.lock();
        let nodes = state.nodes.values().filter(|node| node.is_control_plane());
        let names: BTreeSet<&String> = nodes
            .flat_map(|node| [Some(&node.name), node.machine.as_ref().map(|one| &one.name)])
            .flatten()
            .collect();
        templates
            .iter()
            .flat_map(|(namespace, _)| {
                names
                    .iter()
                    .map(|name| (namespace.clone(), (*name).clone()))
            })
            .collect()
    }

    /// The remediations of a kind that there may be, by the names that they must have: those that
    /// are known, those that a status names, and one for each unhealthy node. `None` if their names
    /// say nothing, since several of them are allowed for a node.
    pub fn remediations_in_question(&self, kind: &ResourceKind) -> Option<BTreeSet<Key>> {
        let state = self.lock();
        let mut keys: BTreeSet<Key> = state
            .remediations
            .get(kind)
            .map(|entry| entry.objects.keys().cloned().collect())
            .unwrap_or_default();
        for known in state.checks.values() {
            let Ok(check) = &known.parsed else { continue };
            for template in check
                .templates()
                .filter(|one| one.remediation_kind() == *kind)
            {
                let key = (template.namespace.clone(), template.name.clone());
                let facts = state.templates.get(&template.kind);
                if facts.and_then(|entry| entry.objects.get(&key))?.multiple {
                    return None;
                }
                let status = known.object.status.as_ref();
                let nodes = status
                    .iter()
                    .flat_map(|s| s.unhealthy_nodes.iter().flatten());
                keys.extend(nodes.map(|node| (template.namespace.clone(), node.name.clone())));
            }
        }
        Some(keys)
    }

    /// Forgets kinds that nobody needs any more.
    pub fn retain_kinds(
        &self,
        templates: &BTreeSet<ResourceKind>,
        remediations: &BTreeSet<ResourceKind>,
    ) {
        let mut state = self.lock();
        state.templates.retain(|kind, _| templates.contains(kind));
        state
            .remediations
            .retain(|kind, _| remediations.contains(kind));
    }

    /// Takes in a change of a template.
    pub fn put_template(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        name: &str,
        new: Option<TemplateFacts>,
    ) -> Wakes {
        let mut state = self.lock();
        let entry = state.templates.entry(kind.clone()).or_default();
        let key = (namespace.to_owned(), name.to_owned());
        let old = match new {
            Some(facts) => entry.objects.insert(key, facts),
            None => entry.objects.remove(&key),
        };
        if old == new {
            return Wakes::new();
        }
        let template = TemplateRef {
            kind: kind.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        users(&state, |used| *used == template)
    }

    /// Takes in a remediation, from a watch or from an answer to a write of ours.
    pub fn put_remediation(&self, new: Remediation) -> Wakes {
        self.take_remediation(new, None)
    }

    /// Takes in a remediation that we wrote just now.
    pub fn put_written(&self, new: Remediation, now: Timestamp) -> Wakes {
        self.take_remediation(new, Some(now))
    }

    fn take_remediation(&self, new: Remediation, written: Option<Timestamp>) -> Wakes {
        let mut state = self.lock();
        // A late answer about a kind that nobody needs any more.
        let Some(entry) = state.remediations.get_mut(&new.kind) else {
            return Wakes::new();
        };
        let key = (new.namespace.clone(), new.name.clone());
        let old = entry.objects.get(&key).cloned();
        if let Some(old) = &old
            && old.uid == new.uid
            && older_version(&new.resource_version, &old.resource_version)
        {
            return Wakes::new();
        }
        match written {
            Some(now) if old.is_none() => {
                entry.unconfirmed.insert(key.clone(), now);
            }
            Some(_) => {}
            None => {
                entry.unconfirmed.remove(&key);
            }
        }
        let new = Arc::new(new);
        entry.objects.insert(key, Arc::clone(&new));
        // Only what is judged counts, not each update of its remediator's status.
        let same = old.as_ref().is_some_and(|old| {
            let version = old.resource_version.clone();
            Remediation {
                resource_version: version,
                ..(*new).clone()
            } == **old
        });
        if same || written.is_some() {
            return Wakes::new();
        }
        concerned(&state, old.as_deref().into_iter().chain([&*new]))
    }

    /// A remediation is gone.
    pub fn remove_remediation(&self, gone: &Handle) -> Wakes {
        let mut state = self.lock();
        let Some(entry) = state.remediations.get_mut(&gone.kind) else {
            return Wakes::new();
        };
        let key = (gone.namespace.clone(), gone.name.clone());
        if entry
            .objects
            .get(&key)
            .is_none_or(|known| known.uid != gone.uid)
        {
            return Wakes::new();
        }
        entry.unconfirmed.remove(&key);
        let Some(old) = entry.objects.remove(&key) else {
            return Wakes::new();
        };
        let mut wakes = concerned(&state, [&*old]);
        // Whoever waited because a control-plane node was remediated may go on now.
        wakes.extend(state.waiting_for_control_plane.iter().cloned());
        wakes
    }

    /// A delete was accepted: the object waits for its finalizers, if it has any.
    pub fn mark_deleting(&self, handle: &Handle, now: Timestamp) {
        let mut state = self.lock();
        let Some(entry) = state.remediations.get_mut(&handle.kind) else {
            return;
        };
        let key = (handle.namespace.clone(), handle.name.clone());
        if let Some(known) = entry.objects.get_mut(&key)
            && known.uid == handle.uid
            && known.deleting_since.is_none()
        {
            Arc::make_mut(known).deleting_since = Some(now);
        }
    }

    /// A remediation as it is known.
    pub fn remediation(&self, handle: &Handle) -> Option<Arc<Remediation>> {
        let state = self.lock();
        let entry = state.remediations.get(&handle.kind)?;
        let known = entry
            .objects
            .get(&(handle.namespace.clone(), handle.name.clone()))?;
        (known.uid == handle.uid).then(|| Arc::clone(known))
    }

    /// All kinds of remediations that health checks use, with how much is known of each. Of a kind
    /// that nobody has looked at yet nothing is known, which does not mean that there are none.
    pub fn remediation_kinds(&self) -> Vec<(ResourceKind, Listing)> {
        let state = self.lock();
        let (_, needed) = state.needed_kinds();
        let listing = |kind: &ResourceKind| {
            let entry = state.remediations.get(kind);
            entry.map_or(Listing::Pending, |entry| entry.listing.clone())
        };
        needed
            .into_iter()
            .map(|kind| (kind.clone(), listing(&kind)))
            .collect()
    }
}

/// Sets the state of a kind; tells whether that is news. Objects of a kind that is not served any
/// more are gone, and a watch that begins tells all of them anew.
fn turn<T>(entry: &mut KindState<T>, listing: Listing, served: Option<ServedKind>) -> bool {
    if matches!(listing, Listing::Missing | Listing::Pending) {
        entry.objects.clear();
        entry.unconfirmed.clear();
    }
    let news = entry.listing != listing || entry.served != served;
    entry.listing = listing;
    entry.served = served;
    news
}

fn users(state: &State, is_used: impl Fn(&TemplateRef) -> bool) -> Wakes {
    let checks = state.checks.iter().filter(|(_, known)| {
        known
            .parsed
            .as_ref()
            .is_ok_and(|check| check.templates().any(&is_used))
    });
    let of_machines = state.machines.active().filter(|(_, known)| {
        known
            .parsed
            .as_ref()
            .is_ok_and(|check| check.template.as_ref().is_some_and(&is_used))
    });
    let names = checks
        .map(|(name, _)| name)
        .chain(of_machines.map(|(key, _)| key));
    names.cloned().collect()
}

/// The health checks that a remediation concerns: its owners, and those that track its node and use
/// its kind (it may be in their way).
fn concerned<'a>(state: &State, versions: impl IntoIterator<Item = &'a Remediation>) -> Wakes {
    let mut wakes = Wakes::new();
    for remediation in versions {
        for owner in &remediation.owners {
            if owner.kind.kind == "NodeHealthCheck"
                && owner.kind.group() == "remediation.medik8s.io"
                && state.checks.contains_key(&owner.name)
            {
                wakes.insert(owner.name.clone());
            }
        }
        let of_machines = state.machines.active().filter(|(_, known)| {
            known.parsed.as_ref().is_ok_and(|check| {
                let template = check.template.as_ref();
                template.is_some_and(|one| one.remediation_kind() == remediation.kind)
            })
        });
        wakes.extend(of_machines.map(|(key, _)| key.clone()));
        let in_the_way = state.checks.iter().filter(|(_, known)| {
            is_involved(known, remediation.node())
                && known.parsed.as_ref().is_ok_and(|check| {
                    check
                        .templates()
                        .any(|one| one.remediation_kind() == remediation.kind)
                })
        });
        wakes.extend(in_the_way.map(|(name, _)| name.clone()));
    }
    wakes
}
