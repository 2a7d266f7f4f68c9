//! Whom a new remediation is for, read directly.

use std::sync::Arc;

use kube::api::Api;
use medik8s_api::foreign::Machine;
use medik8s_core::node::Exclusion;
use medik8s_runtime::read;

use super::{Effects, Judge, Requester};
use crate::check::{Check, TemplateRef};
use crate::classify::{Class, classify};
use crate::error::Failure;
use crate::facts::Refusal;
use crate::machine::{MachineCheck, MachineFacts, Need, TargetNode, judge};
use crate::node::{MachineRef, NodeFacts};
use crate::objects::WatchedNode;
use crate::plan::Creation;
use crate::remediation::Remediation;

/// A node, or a machine with or without a node.
pub(super) struct Patient {
    /// Name of the node; empty for a machine that has none.
    pub(super) node_name: String,
    /// The node, if it exists.
    pub(super) node: Option<NodeFacts>,
    /// The machine and its UID, if a MachineHealthCheck asks.
    pub(super) machine: Option<(MachineRef, String)>,
    /// Whether the node or the machine is one of the control plane.
    pub(super) control_plane: bool,
}

impl Patient {
    /// Whether a remediation is this patient's.
    pub(super) fn is_of(&self, remediation: &Remediation, template: &TemplateRef) -> bool {
        match &self.machine {
            Some((machine, _)) => remediation.name == machine.name,
            None => remediation.node() == self.node_name && remediation.is_from(template),
        }
    }

    /// Whether its remediation carries the label of control-plane nodes. Those of
    /// MachineHealthChecks do not, as in the original.
    pub(super) fn is_labelled(&self) -> bool {
        self.machine.is_none() && self.control_plane
    }

    /// By what it is counted when control-plane nodes are remediated one at a time.
    pub(super) fn subject(&self) -> &str {
        match &self.machine {
            Some((machine, _)) if self.node_name.is_empty() => &machine.name,
            Some(_) | None => &self.node_name,
        }
    }

    /// For events.
    pub(super) fn describe(&self) -> String {
        match &self.machine {
            None => format!("node {}", self.node_name),
            Some((machine, _)) if self.node_name.is_empty() => format!("machine {}", machine.name),
            Some((machine, _)) => format!("machine {} and node {}", machine.name, self.node_name),
        }
    }
}

impl Effects {
    /// S13: whom the plan means, as it is now, if that still gives reason to remediate.
    pub(super) async fn patient(
        &self,
        requester: &Requester,
        creation: &Creation,
    ) -> Result<Result<Patient, Refusal>, Failure> {
        match (&requester.judge, &creation.machine) {
            (Judge::Nodes(check), _) => self.sick_node(check, &creation.node).await,
            (Judge::Machines(check), Some(machine)) => self.sick_machine(check, machine).await,
            (Judge::Machines(_), None) => {
                Ok(Err(Refusal::NodeChanged("no machine is named".to_owned())))
            }
        }
    }

    async fn sick_node(
        &self,
        check: &Check,
        name: &str,
    ) -> Result<Result<Patient, Refusal>, Failure> {
        let changed = |why: &str| Ok(Err(Refusal::NodeChanged(why.to_owned())));
        let Some(node) = self.live_node(name).await? else {
            return changed("the node is gone");
        };
        if !check.selects(&node) {
            return changed("the node is not selected any more");
        }
        if node.exclusion() == Exclusion::Excluded {
            return changed("the node is excluded");
        }
        match classify(&check.rules, &node.conditions, self.clock.now()) {
            Class::Matching { .. } if self.world.machine_health_checks().look_after(&node) => {
                changed("a MachineHealthCheck looks after the node")
            }
            Class::Matching { .. } => Ok(Ok(Patient {
                node_name: node.name.clone(),
                control_plane: node.is_control_plane(),
                node: Some(node),
                machine: None,
            })),
            Class::Soon { .. } | Class::NotMatching => {
                changed("the node's conditions have changed")
            }
        }
    }

    async fn sick_machine(
        &self,
        check: &MachineCheck,
        id: &MachineRef,
    ) -> Result<Result<Patient, Refusal>, Failure> {
        let changed = |why: &str| Ok(Err(Refusal::NodeChanged(why.to_owned())));
        let api: Api<Machine> = Api::namespaced(self.client.clone(), &id.namespace);
        let Some(machine) = read::get_opt(&api, &id.name).await? else {
            return changed("the machine is gone");
        };
        let machine = MachineFacts::of(&machine);
        if !check.selects(&machine) || machine.deleting {
            return changed("the machine is not selected any more");
        }
        let node = match &machine.node {
            None => None,
            Some(name) => self.live_node(name).await?,
        };
        let target = match (&machine.node, &node) {
            (None, _) => TargetNode::None,
            (Some(name), None) => TargetNode::Missing(name.clone()),
            (Some(_), Some(node)) => TargetNode::Exists(Arc::new(node.clone())),
        };
        if node
            .as_ref()
            .is_some_and(|node| node.exclusion() == Exclusion::Excluded)
        {
            return changed("the node is excluded");
        }
        match judge(check, &machine, &target, self.clock.now()) {
            Need::Remediation { .. } => Ok(Ok(Patient {
                node_name: machine.node.clone().unwrap_or_default(),
                control_plane: machine.is_control_plane()
                    || node.as_ref().is_some_and(NodeFacts::is_control_plane),
                node,
                machine: Some((machine.id, machine.uid)),
            })),
            Need::Healthy | Need::Soon { .. } => changed("the machine has changed"),
        }
    }

    /// The node as it is now.
    async fn live_node(&self, name: &str) -> Result<Option<NodeFacts>, Failure> {
        let api: Api<WatchedNode> = Api::all(self.client.clone());
        let node = read::get_opt(&api, name).await?;
        Ok(node.map(|node| (*node.facts).clone()))
    }

    /// The Machine that is to own the remediation, if it lives beside the template. One that does
    /// not exist is no obstacle.
    pub(super) async fn owner_machine(
        &self,
        patient: &Patient,
        template: &TemplateRef,
    ) -> Result<Option<(MachineRef, String)>, Failure> {
        if patient.machine.is_some() {
            return Ok(patient.machine.clone());
        }
        let Some(machine) = patient.node.as_ref().and_then(|node| node.machine.as_ref()) else {
            return Ok(None);
        };
        if machine.namespace != template.namespace {
            return Ok(None);
        }
        let api: Api<Machine> = Api::namespaced(self.client.clone(), &machine.namespace);
        let found = read::get_metadata_opt(&api, &machine.name).await?;
        Ok(found.and_then(|found| Some((machine.clone(), found.metadata.uid?))))
    }
}
