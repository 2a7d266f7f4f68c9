//! MachineHealthChecks and machines.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use medik8s_api::foreign::MachineHealthCheck;

use super::{State, Wakes, World};
use crate::check::{Problem, ResourceKind};
use crate::machine::plan::{MachinesObserved, Target};
use crate::machine::{MACHINE_API, MachineCheck, MachineFacts, TargetNode};
use crate::node::{MachineRef, NodeFacts};
use crate::remediation::Remediation;

/// A MachineHealthCheck as stored and as parsed.
#[derive(Debug, Clone)]
pub struct KnownMachines {
    /// The object.
    pub object: Arc<MachineHealthCheck>,
    /// What it says.
    pub parsed: Result<Arc<MachineCheck>, Problem>,
}

/// What is known of machines.
#[derive(Debug, Default)]
pub(super) struct Machines {
    /// Whether MachineHealthChecks are ours.
    pub(super) ours: bool,
    /// Whether all machines are known.
    known: bool,
    /// By `namespace/name`.
    pub(super) checks: BTreeMap<String, KnownMachines>,
    all: BTreeMap<MachineRef, Arc<MachineFacts>>,
}

impl Machines {
    /// MachineHealthChecks that are worked on here.
    pub(super) fn active(&self) -> impl Iterator<Item = (&String, &KnownMachines)> {
        self.checks.iter().filter(|_| self.ours)
    }

    fn selecting(&self, machine: &MachineFacts) -> Wakes {
        self.active()
            .filter(|(_, known)| {
                known
                    .parsed
                    .as_ref()
                    .is_ok_and(|check| check.selects(machine))
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Whether a MachineHealthCheck looks after one of these nodes, or may do so for all that is
    /// known.
    pub(super) fn overlap(&self, nodes: &[Arc<NodeFacts>]) -> bool {
        let mut checks = self.checks.values();
        !self.known
            || checks.any(|known| {
                let Ok(check) = &known.parsed else {
                    return true;
                };
                let mut selected = self.all.values().filter(|machine| check.selects(machine));
                selected.any(|machine| nodes.iter().any(|n| machine.node.as_ref() == Some(&n.name)))
            })
    }

    /// The known machines that own a remediation.
    pub(super) fn owning<'a>(
        &'a self,
        remediation: &'a Remediation,
    ) -> impl Iterator<Item = &'a MachineFacts> {
        let owners = remediation.owners.iter();
        owners
            .filter(|owner| owner.kind == ResourceKind::new(MACHINE_API, "Machine"))
            .filter_map(|owner| {
                let id = MachineRef {
                    namespace: remediation.namespace.clone(),
                    name: owner.name.clone(),
                };
                self.all.get(&id).map(AsRef::as_ref)
            })
    }

    /// Whom a change of a node concerns.
    pub(super) fn with_node(&self, node: &str) -> Wakes {
        if !self.ours {
            return Wakes::new();
        }
        self.all
            .values()
            .filter(|machine| machine.node.as_deref() == Some(node))
            .flat_map(|machine| self.selecting(machine))
            .collect()
    }
}

impl World {
    /// Whether MachineHealthChecks are ours. Wakes all of them when they become so.
    pub fn set_machines_ours(&self, ours: bool) -> Wakes {
        let mut state = self.lock();
        if state.machines.ours == ours {
            return Wakes::new();
        }
        state.machines.ours = ours;
        tracing::info!(ours, "who works on MachineHealthChecks");
        state.machines.checks.keys().cloned().collect()
    }

    /// Whether MachineHealthChecks are ours.
    pub fn machines_are_ours(&self) -> bool {
        self.lock().machines.ours
    }

    /// All machines have been told.
    pub fn machines_are_known(&self) -> Wakes {
        let mut state = self.lock();
        state.machines.known = true;
        let wakes = state.machines.checks.keys().cloned().collect();
        state.with_conflicts(wakes)
    }

    /// Takes in a MachineHealthCheck.
    pub fn put_machine_check(&self, object: Arc<MachineHealthCheck>) -> Wakes {
        let meta = &object.metadata;
        let key = format!(
            "{}/{}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        );
        let mut state = self.lock();
        let known = state.machines.checks.get(&key);
        if known.is_some_and(|known| super::is_older(meta, &known.object.metadata)) {
            return Wakes::new();
        }
        // Our own status writes come back here; an annotation (pause) has no generation.
        let same = known.is_some_and(|known| {
            let old = &known.object.metadata;
            old.generation == meta.generation
                && old.uid == meta.uid
                && old.annotations == meta.annotations
        });
        let parsed = MachineCheck::parse(&object).map(Arc::new);
        state
            .machines
            .checks
            .insert(key.clone(), KnownMachines { object, parsed });
        if same {
            Wakes::new()
        } else {
            state.with_conflicts([key].into())
        }
    }

    /// Takes in the answer to a write of ours. That it is gone may be known already.
    pub fn put_written_machine_check(&self, object: Arc<MachineHealthCheck>) {
        let meta = &object.metadata;
        let key = format!(
            "{}/{}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        );
        let known = self.machine_check(&key);
        if known.is_some_and(|known| known.object.metadata.uid == meta.uid) {
            self.put_machine_check(object);
        }
    }

    /// A MachineHealthCheck is gone.
    pub fn remove_machine_check(&self, key: &str) -> Wakes {
        let mut state = self.lock();
        state.machines.checks.remove(key);
        state.refusals.remove(key);
        state.ledgers.remove(key);
        state.waiting_for_control_plane.remove(key);
        [key.to_owned()].into()
    }

    /// A MachineHealthCheck.
    pub fn machine_check(&self, key: &str) -> Option<KnownMachines> {
        self.lock().machines.checks.get(key).cloned()
    }

    /// Takes in a change of a machine.
    pub fn put_machine(&self, id: &MachineRef, new: Option<MachineFacts>) -> Wakes {
        let mut state = self.lock();
        let new = new.map(Arc::new);
        let old = match &new {
            Some(machine) => state.machines.all.insert(id.clone(), Arc::clone(machine)),
            None => state.machines.all.remove(id),
        };
        if old == new {
            return Wakes::new();
        }
        let wakes = old.iter().chain(&new);
        let wakes = wakes.flat_map(|machine| state.machines.selecting(machine));
        state.with_conflicts(wakes.collect())
    }

    /// The picture for one MachineHealthCheck; `None` while machines, nodes or their rules are not
    /// known, or when there is no template.
    pub fn observe_machines(&self, key: &str, now: Timestamp) -> Option<MachinesObserved> {
        let mut state = self.lock();
        if !state.machines.ours || !state.machines.known || !state.nodes_known {
            return None;
        }
        state.drop_unconfirmed(now);
        let known = state.machines.checks.get(key)?.clone();
        let check = known.parsed.ok()?;
        let status = known.object.status.clone().unwrap_or_default();
        state.machines_picture(check, status)
    }
}

impl State {
    /// How many MachineHealthChecks have this name, in all namespaces.
    fn machine_checks_named(&self, name: &str) -> usize {
        let keys = self.machines.checks.keys();
        keys.filter(|key| key.split_once('/').is_some_and(|(_, known)| known == name))
            .count()
    }

    /// Where conflicts depend on machines, every node health check looks at them again.
    fn with_conflicts(&self, mut wakes: Wakes) -> Wakes {
        if self.cluster.conflict_by_nodes {
            wakes.extend(self.checks.keys().cloned());
        }
        wakes
    }

    fn machines_picture(
        &self,
        check: Arc<MachineCheck>,
        status: medik8s_api::foreign::MachineHealthCheckStatus,
    ) -> Option<MachinesObserved> {
        let template = check.template.as_ref()?;
        let kind = template.remediation_kind();
        let targets = self
            .machines
            .all
            .values()
            .filter(|machine| check.selects(machine))
            .map(|machine| Target {
                machine: Arc::clone(machine),
                node: match &machine.node {
                    None => TargetNode::None,
                    Some(name) => self.nodes.get(name).map_or_else(
                        || TargetNode::Missing(name.clone()),
                        |node| TargetNode::Exists(Arc::clone(node)),
                    ),
                },
            })
            .collect();
        let remediations = self
            .remediations
            .get(&kind)
            .into_iter()
            .flat_map(|entry| entry.objects.values().cloned())
            .collect();
        Some(MachinesObserved {
            owner: check.owner(),
            status,
            targets,
            remediations,
            template: self.template_state(template),
            unknown: self.why_unknown(&kind),
            control_plane: self.control_plane(),
            leases: self
                .leases
                .get(&check.holder())
                .cloned()
                .unwrap_or_default(),
            shares_holder: self.machine_checks_named(&check.name) > 1,
            refusals: self.refusals.get(&check.key()).cloned().unwrap_or_default(),
            check,
        })
    }
}

impl World {
    /// Whether there is a MachineHealthCheck of this name in any namespace.
    pub fn machine_check_named(&self, name: &str) -> bool {
        self.lock().machine_checks_named(name) > 0
    }
}
