//! Objects for tests.

#![expect(clippy::needless_pass_by_value, reason = "tests build values in place")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use medik8s_api::remediation::{NodeHealthCheck, NodeHealthCheckStatus, UnhealthyNode};
use medik8s_core::conditions::Status;
use serde_json::{Value, json};

use crate::check::{Check, ResourceKind, TemplateState};
use crate::facts::{Cluster, HeldLease, Observed};
use crate::node::{NodeCondition, NodeFacts};
use crate::plan::{self, Plan, Step};
use crate::remediation::{Owner, Remediation};

pub(crate) const NHC_UID: &str = "nhc-uid";
pub(crate) const API: &str = "test.example.com/v1";
pub(crate) const NAMESPACE: &str = "remediators";

/// Noon of a day in 2026.
pub(crate) fn noon() -> Timestamp {
    "2026-03-04T12:00:00Z".parse().unwrap()
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many seconds after (or before) noon.
pub(crate) fn at(seconds: i64) -> Timestamp {
    noon()
        .checked_add(SignedDuration::from_secs(seconds))
        .unwrap()
}

pub(crate) fn owner() -> Owner {
    Owner {
        kind: ResourceKind::new("remediation.medik8s.io/v1alpha1", "NodeHealthCheck"),
        name: "nhc".to_owned(),
        uid: NHC_UID.to_owned(),
    }
}

pub(crate) fn template(kind: &str, name: &str) -> Value {
    json!({"apiVersion": API, "kind": kind, "namespace": NAMESPACE, "name": name})
}

/// A health check over workers with a single template, 51 % and two seconds of patience.
pub(crate) fn spec() -> Value {
    json!({
        "selector": {"matchExpressions": [{"key": "worker", "operator": "Exists"}]},
        "unhealthyConditions": [
            {"type": "Ready", "status": "False", "duration": "10s"},
            {"type": "Ready", "status": "Unknown", "duration": "10s"},
        ],
        "minHealthy": "51%",
        "remediationTemplate": template("FooTemplate", "foo"),
    })
}

/// The same with steps: (kind, template, order, timeout).
pub(crate) fn escalating(steps: &[(&str, &str, i64, &str)]) -> Value {
    let steps: Vec<Value> = steps
        .iter()
        .map(|(kind, name, order, timeout)| {
            json!({"remediationTemplate": template(kind, name), "order": order, "timeout": timeout})
        })
        .collect();
    with(
        spec(),
        &[
            ("remediationTemplate", Value::Null),
            ("escalatingRemediations", json!(steps)),
        ],
    )
}

pub(crate) fn with(mut spec: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields {
        if value.is_null() {
            spec.as_object_mut().unwrap().remove(*name);
        } else {
            spec[*name] = value.clone();
        }
    }
    spec
}

pub(crate) fn health_check(spec: Value) -> NodeHealthCheck {
    serde_json::from_value(json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1",
        "kind": "NodeHealthCheck",
        "metadata": {"name": "nhc", "uid": NHC_UID, "generation": 3, "resourceVersion": "7"},
        "spec": spec,
    }))
    .unwrap()
}

/// A node whose Ready condition has a status since a moment.
pub(crate) fn node(name: &str, ready: &str, since: Timestamp) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        uid: format!("{name}-uid"),
        labels: BTreeMap::from([("worker".to_owned(), String::new())]),
        conditions: vec![
            NodeCondition {
                type_: "DiskPressure".to_owned(),
                status: "False".to_owned(),
                since: Some(at(-3600)),
            },
            NodeCondition {
                type_: "Ready".to_owned(),
                status: ready.to_owned(),
                since: Some(since),
            },
        ],
        ..NodeFacts::default()
    }
}

/// A remediation of ours, made from a template of kind `FooTemplate`.
pub(crate) fn remediation(
    kind: &str,
    template: &str,
    node: &str,
    created: Timestamp,
) -> Remediation {
    Remediation {
        kind: ResourceKind::new(API, kind),
        namespace: NAMESPACE.to_owned(),
        name: format!("{node}-{template}"),
        uid: format!("{kind}-{template}-{node}-{}", created.as_second()),
        resource_version: "5".to_owned(),
        created,
        deleting_since: None,
        node_annotation: Some(node.to_owned()),
        template: Some(template.to_owned()),
        timed_out: None,
        healthy_delay: None,
        reported_old: false,
        control_plane_label: false,
        owners: vec![owner()],
        succeeded: None,
        node_deletion_expected: false,
    }
}

/// A cluster as one health check sees it, with the steps of its plans carried out in memory.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) seen: Observed,
    pub(crate) now: Timestamp,
}

impl World {
    /// Healthy workers `w1` to `w<n>` and a health check.
    pub(crate) fn new(spec: Value, nodes: usize) -> Self {
        let check = Check::parse(&health_check(spec)).unwrap();
        let templates = check
            .templates()
            .map(|template| (template.clone(), TemplateState::Valid))
            .collect();
        Self {
            seen: Observed {
                check: Arc::new(check),
                owner: owner(),
                status: NodeHealthCheckStatus::default(),
                nodes: (1..=nodes)
                    .map(|number| Arc::new(node(&format!("w{number}"), "True", at(-3600))))
                    .collect(),
                remediations: Vec::new(),
                templates,
                unknown_kinds: BTreeMap::new(),
                missing_kinds: std::collections::BTreeSet::new(),
                unselected: std::collections::BTreeSet::new(),
                remediated_by_anyone: std::collections::BTreeSet::new(),
                control_plane: crate::facts::ControlPlane::default(),
                leases: BTreeMap::new(),
                refusals: BTreeMap::new(),
                polled_kinds: BTreeMap::new(),
                cluster: Cluster::default(),
            },
            now: noon(),
        }
    }

    pub(crate) fn set_spec(&mut self, spec: Value) {
        self.seen.check = Arc::new(Check::parse(&health_check(spec)).unwrap());
    }

    pub(crate) fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut NodeFacts)) {
        let node = self
            .seen
            .nodes
            .iter_mut()
            .find(|node| node.name == name)
            .unwrap();
        edit(Arc::make_mut(node));
    }

    pub(crate) fn set_ready(&mut self, name: &str, status: &str, since: Timestamp) {
        self.edit_node(name, |node| {
            let ready = node
                .conditions
                .iter_mut()
                .find(|one| one.type_ == "Ready")
                .unwrap();
            ready.status = status.to_owned();
            ready.since = Some(since);
        });
    }

    /// The node has been unknown for long enough.
    pub(crate) fn break_node(&mut self, name: &str) {
        let since = self.now.checked_sub(SignedDuration::from_secs(60)).unwrap();
        self.set_ready(name, "Unknown", since);
    }

    pub(crate) fn heal_node(&mut self, name: &str) {
        self.set_ready(name, "True", self.now);
    }

    pub(crate) fn make_control_plane(&mut self, name: &str) {
        self.edit_node(name, |node| {
            node.labels.insert(
                "node-role.kubernetes.io/control-plane".to_owned(),
                String::new(),
            );
        });
        self.seen.control_plane.total += 1;
    }

    pub(crate) fn advance(&mut self, seconds: i64) {
        self.now = self
            .now
            .checked_add(SignedDuration::from_secs(seconds))
            .unwrap();
    }

    pub(crate) fn plan(&self) -> Plan {
        plan::plan(&self.seen, self.now)
    }

    /// The remediation whose name this is.
    pub(crate) fn edit_remediation(&mut self, name: &str, edit: impl FnOnce(&mut Remediation)) {
        let found = self
            .seen
            .remediations
            .iter_mut()
            .find(|one| one.name == name)
            .unwrap();
        edit(Arc::make_mut(found));
    }

    fn edit_by_uid(&mut self, uid: &str, edit: impl FnOnce(&mut Remediation)) {
        let found = self
            .seen
            .remediations
            .iter_mut()
            .find(|one| one.uid == uid)
            .unwrap();
        edit(Arc::make_mut(found));
    }

    pub(crate) fn add(&mut self, remediation: Remediation) {
        self.seen.remediations.push(Arc::new(remediation));
        self.refresh();
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.seen.remediations.retain(|one| one.name != name);
        self.refresh();
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.seen
            .remediations
            .iter()
            .map(|one| one.name.as_str())
            .collect()
    }

    pub(crate) fn entry(&self, node: &str) -> Option<&UnhealthyNode> {
        self.seen
            .status
            .unhealthy_nodes
            .iter()
            .flatten()
            .find(|entry| entry.name == node)
    }

    pub(crate) fn condition(&self, type_: &str) -> Option<Status> {
        medik8s_core::conditions::status(self.seen.status.conditions.as_deref()?, type_)
    }

    /// What the index would derive from the remediations.
    fn refresh(&mut self) {
        let seen = &mut self.seen;
        seen.remediated_by_anyone = seen
            .remediations
            .iter()
            .map(|one| one.node().to_owned())
            .collect();
        let control_plane: Vec<&str> = seen
            .nodes
            .iter()
            .filter(|node| node.is_control_plane())
            .map(|node| node.name.as_str())
            .collect();
        seen.control_plane.remediated.clear();
        for one in &seen.remediations {
            if one.control_plane_label || control_plane.contains(&one.node()) {
                let busy = &mut seen.control_plane.remediated;
                *busy.entry(one.node().to_owned()).or_default() |= one.control_plane_label;
            }
        }
    }

    /// Carries out one step as the effects would, if nothing fails.
    pub(crate) fn carry_out(&mut self, step: &Step) {
        let now = self.now;
        match step {
            Step::ReleaseLease { node } => {
                self.seen.leases.remove(node);
            }
            Step::Delete { remediation, .. } => {
                self.seen
                    .remediations
                    .retain(|one| one.uid != remediation.uid);
                self.refresh();
            }
            Step::StartHealthyDelay { remediation } => {
                self.edit_by_uid(&remediation.uid, |one| {
                    one.healthy_delay = Some(now.to_string());
                });
            }
            Step::ClearHealthyDelay { remediation } => {
                self.edit_by_uid(&remediation.uid, |one| one.healthy_delay = None);
            }
            Step::DropConfirmation { node } => {
                self.edit_node(node, |node| node.confirmed_healthy = false);
            }
            Step::RenewLease {
                node,
                node_uid,
                duration,
            } => {
                if let Some(held) = self.seen.leases.get_mut(node) {
                    held.renewed = Some(now);
                    held.duration = Some(*duration);
                    held.node_uid = Some(node_uid.clone());
                }
            }
            Step::TimeOut { remediation, .. } => {
                self.edit_by_uid(&remediation.uid, |one| {
                    one.timed_out = Some(now.to_string());
                });
            }
            Step::ReportOld { remediation, .. } => {
                self.edit_by_uid(&remediation.uid, |one| one.reported_old = true);
            }
            Step::Create(creation) => {
                let kind = creation.template.remediation_kind().kind;
                let mut new = remediation(&kind, &creation.template.name, &creation.node, now);
                new.control_plane_label = creation.control_plane;
                if creation.template.namespace != NAMESPACE {
                    new.uid.push_str(&creation.template.namespace);
                    new.namespace.clone_from(&creation.template.namespace);
                }
                self.seen
                    .leases
                    .entry(creation.node.clone())
                    .and_modify(|held| {
                        if creation.first {
                            held.acquired = Some(now);
                        }
                        held.renewed = Some(now);
                        held.duration = Some(creation.lease);
                    })
                    .or_insert_with(|| HeldLease {
                        node_uid: Some(format!("{}-uid", creation.node)),
                        acquired: Some(now),
                        renewed: Some(now),
                        duration: Some(creation.lease),
                    });
                self.add(new);
            }
        }
    }

    /// One pass of the controller: steps until there are none, then the status.
    pub(crate) fn pass(&mut self) -> Plan {
        let mut steps = Vec::new();
        loop {
            let plan = self.plan();
            let new: Vec<Step> = plan
                .steps
                .iter()
                .filter(|step| !steps.contains(*step))
                .cloned()
                .collect();
            if new.is_empty() {
                self.seen.status = plan.status.clone();
                return Plan { steps, ..plan };
            }
            for step in new {
                self.carry_out(&step);
                steps.push(step);
            }
        }
    }

    /// Passes at each moment that the plans ask for, up to a moment.
    pub(crate) fn run_until(&mut self, end: Timestamp) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..10_000 {
            let plan = self.pass();
            steps.extend(plan.steps);
            match plan.wake {
                Some(wake) if wake <= end => self.now = wake,
                Some(_) | None => {
                    self.now = end;
                    return steps;
                }
            }
        }
        panic!("the plan does not come to rest");
    }
}

/// The nodes that a plan creates remediations for.
pub(crate) fn creations(plan: &Plan) -> Vec<&str> {
    plan.steps
        .iter()
        .filter_map(|step| {
            let Step::Create(creation) = step else {
                return None;
            };
            Some(creation.node.as_str())
        })
        .collect()
}
