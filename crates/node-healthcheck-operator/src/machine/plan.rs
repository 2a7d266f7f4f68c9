//! The plan for one MachineHealthCheck.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use medik8s_api::foreign::{MachineCondition, MachineHealthCheckStatus};
use medik8s_api::names::{contract, nhc};
use medik8s_core::int_or_percent::allowed_unhealthy;
use medik8s_core::node::Exclusion;
use medik8s_core::time::{after, whole_second};

use super::{MachineCheck, MachineFacts, Need, TargetNode, judge, needs_node};
use crate::check::{DEFAULT_REMEDIATION_DURATION, Rung, TemplateRef, TemplateState};
use crate::facts::{ControlPlane, HeldLease, Refusal, Refused};
use crate::notice::{Notice, Notices, Severity, Topic};
use crate::plan::{Creation, LEASE_BUFFER, RETRY, Removal, Step, TEMPLATE_RETRY, leases};
use crate::remediation::{Owner, Ownership, Remediation};

/// Type of the condition that tells whether remediation is allowed.
const REMEDIATION_ALLOWED: &str = "RemediationAllowed";

/// A machine with its node.
#[derive(Debug, Clone)]
pub struct Target {
    /// The machine.
    pub machine: Arc<MachineFacts>,
    /// Its node.
    pub node: TargetNode,
}

/// Everything that a plan for one MachineHealthCheck depends on.
#[derive(Debug, Clone)]
pub struct MachinesObserved {
    /// The health check.
    pub check: Arc<MachineCheck>,
    /// As an owner.
    pub owner: Owner,
    /// Its status as stored.
    pub status: MachineHealthCheckStatus,
    /// The machines that it selects, by name.
    pub targets: Vec<Target>,
    /// The remediations of its kind, whoever owns them.
    pub remediations: Vec<Arc<Remediation>>,
    /// Its template.
    pub template: TemplateState,
    /// Why the remediations of its kind are not known, if they are not.
    pub unknown: Option<String>,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The node leases that it holds.
    pub leases: BTreeMap<String, HeldLease>,
    /// Whether another health check, in another namespace, holds its leases by the same name.
    pub shares_holder: bool,
    /// Why remediating a machine was refused lately.
    pub refusals: BTreeMap<String, Refused>,
}

/// What to do, to say and to store.
#[derive(Debug, Clone, PartialEq)]
pub struct MachinePlan {
    /// Steps, in this order.
    pub steps: Vec<Step>,
    /// The status as it should be.
    pub status: MachineHealthCheckStatus,
    /// What is worth saying as long as it is true.
    pub notices: Notices,
    /// When to look again.
    pub wake: Option<Timestamp>,
    /// Whether too many machines are unhealthy.
    pub short_circuit: bool,
    /// Whether a remediation is held back because of another control-plane node.
    pub waits_for_control_plane: bool,
}

/// Makes the plan. `None` if the health check has no template or is paused: then nothing is done.
pub fn plan(seen: &MachinesObserved, now: Timestamp) -> Option<MachinePlan> {
    let template = seen.check.template.as_ref()?;
    if seen.check.paused {
        return None;
    }
    let mut draft = Draft {
        seen,
        now,
        template,
        steps: Vec::new(),
        notices: Notices::new(),
        wake: None,
        waits_for_control_plane: false,
    };
    draft.end_orphans();
    let mut sick = Vec::new();
    let mut healthy = 0_u64;
    for target in &seen.targets {
        match judge(&seen.check, &target.machine, &target.node, now) {
            Need::Healthy => {
                draft.end(target);
                healthy += 1;
            }
            Need::Soon { why, until } => {
                draft.wake_at(until);
                draft.detected(target, &why);
                draft.keep_lease(target);
            }
            Need::Remediation { why } => {
                draft.detected(target, &why);
                sick.push(target);
            }
        }
    }
    let total = seen.targets.len() as u64;
    let unhealthy = total - healthy;
    let allowed = match allowed_unhealthy(seen.check.max_unhealthy.as_ref(), total) {
        Ok(allowed) => allowed,
        // Not understood: nothing is allowed, and it says so.
        Err(error) => {
            draft.skipped("", format!("Skipped remediation: {error}"));
            0
        }
    };
    let short_circuit = unhealthy > allowed;
    if short_circuit {
        draft.skipped(
            "",
            format!(
                "Skipped remediation because {unhealthy} of {total} machines are unhealthy, at most \
                 {allowed} may be"
            ),
        );
    }
    let mut planned = None;
    for target in sick {
        if short_circuit {
            draft.keep_lease(target);
        } else {
            draft.remediate(target, &mut planned);
        }
    }
    let status = draft.status(total, healthy, allowed, unhealthy, short_circuit);
    Some(MachinePlan {
        steps: draft.steps,
        status,
        notices: draft.notices,
        wake: draft.wake,
        short_circuit,
        waits_for_control_plane: draft.waits_for_control_plane,
    })
}

struct Draft<'a> {
    seen: &'a MachinesObserved,
    now: Timestamp,
    template: &'a TemplateRef,
    steps: Vec<Step>,
    notices: Notices,
    wake: Option<Timestamp>,
    waits_for_control_plane: bool,
}

impl<'a> Draft<'a> {
    fn wake_at(&mut self, at: Timestamp) {
        let at = if at > self.now {
            at
        } else {
            after(self.now, Duration::from_secs(1))
        };
        self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
    }

    fn step(&mut self, step: Step) {
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }

    fn skipped(&mut self, subject: &str, message: String) {
        let topic = Topic {
            reason: contract::REMEDIATION_SKIPPED,
            subject: subject.to_owned(),
        };
        self.notices.insert(
            topic,
            Notice {
                severity: Severity::Warning,
                message,
            },
        );
    }

    fn detected(&mut self, target: &Target, why: &str) {
        if self.own(target).is_some() {
            return;
        }
        let machine = &target.machine.id.name;
        let topic = Topic {
            reason: nhc::EVENT_DETECTED_UNHEALTHY,
            subject: machine.clone(),
        };
        let message = format!("Machine {machine:?} is unhealthy: {why}");
        self.notices.insert(
            topic,
            Notice {
                severity: Severity::Normal,
                message,
            },
        );
    }

    /// The remediation of a machine, whoever owns it: it is named after the machine.
    fn existing(&self, target: &Target) -> Option<&'a Remediation> {
        let kind = self.template.remediation_kind();
        self.seen
            .remediations
            .iter()
            .find(|one| {
                one.kind == kind
                    && one.namespace == self.template.namespace
                    && one.name == target.machine.id.name
            })
            .map(AsRef::as_ref)
    }

    fn own(&self, target: &Target) -> Option<&'a Remediation> {
        self.existing(target)
            .filter(|one| one.ownership(&self.seen.owner) == Ownership::Ours)
    }

    /// Remediations whose machine is gone or has left the selector end, unless the machine's
    /// replacement is part of the cure.
    fn end_orphans(&mut self) {
        let seen = self.seen;
        let machines: BTreeSet<&str> = seen
            .targets
            .iter()
            .map(|target| target.machine.id.name.as_str())
            .collect();
        for one in &seen.remediations {
            if one.ownership(&seen.owner) != Ownership::Ours
                || one.deleting_since.is_some()
                || machines.contains(one.name.as_str())
                || (one.node_deletion_expected && !one.has_succeeded())
            {
                continue;
            }
            self.step(Step::Delete {
                remediation: one.handle(),
                node: one.node().to_owned(),
                cause: Removal::MachineGone,
            });
        }
        // Not before the remediation is gone: until then its remediator works on the node. Those of
        // nodes that are not ours may be the other one's. Ours end by themselves then.
        if seen.shares_holder {
            return;
        }
        let nodes: BTreeSet<&str> = seen
            .targets
            .iter()
            .filter_map(|target| target.machine.node.as_deref())
            .chain(seen.remediations.iter().map(|one| one.node()))
            .collect();
        for node in seen.leases.keys() {
            if !nodes.contains(node.as_str()) {
                self.release(node);
            }
        }
    }

    fn release(&mut self, node: &str) {
        if self.seen.leases.contains_key(node) {
            self.step(Step::ReleaseLease {
                node: node.to_owned(),
            });
        }
    }

    /// A healthy machine: its remediation ends, and its lease when that is gone.
    fn end(&mut self, target: &Target) {
        match self.own(target) {
            Some(one) if one.deleting_since.is_none() => self.step(Step::Delete {
                remediation: one.handle(),
                node: one.node().to_owned(),
                cause: Removal::Recovered,
            }),
            Some(_) => {}
            None if self.seen.unknown.is_some() => {}
            None => {
                if let Some(node) = &target.machine.node {
                    self.release(node);
                }
            }
        }
    }

    fn rung(&self) -> Rung {
        Rung {
            template: self.template.clone(),
            timeout: None,
            earlier: Duration::ZERO,
        }
    }

    fn keep_lease(&mut self, target: &Target) {
        let (TargetNode::Exists(node), Some(_)) = (&target.node, self.own(target)) else {
            return;
        };
        let Some(held) = self.seen.leases.get(&node.name) else {
            return;
        };
        let duration = self.rung().expected().saturating_add(LEASE_BUFFER);
        match leases::renewal(held, &node.uid, duration, self.now) {
            Some(due) => self.wake_at(due),
            None => self.step(Step::RenewLease {
                node: node.name.clone(),
                node_uid: node.uid.clone(),
                duration,
            }),
        }
    }

    fn remediate(&mut self, target: &Target, planned: &mut Option<String>) {
        let machine = &target.machine;
        if machine.deleting {
            self.keep_lease(target);
            return;
        }
        match self.existing(target) {
            Some(one) if one.ownership(&self.seen.owner) == Ownership::Ours => {
                self.manage(target, one);
            }
            // Somebody else's, or one that garbage collection takes.
            Some(_) => {}
            None => self.propose(target, planned),
        }
    }

    /// A remediation that has held its lease for too long is told to stop, once.
    fn manage(&mut self, target: &Target, one: &Remediation) {
        let TargetNode::Exists(node) = &target.node else {
            return;
        };
        let held = self.seen.leases.get(&node.name);
        let overdue = held.and_then(|held| leases::overdue_from(held, &self.rung()));
        if let Some(overdue) = overdue {
            if self.now > overdue {
                if one.timed_out.is_none() && !one.has_succeeded() && one.deleting_since.is_none() {
                    self.step(Step::TimeOut {
                        remediation: one.handle(),
                        version: one.resource_version.clone(),
                    });
                } else {
                    self.release(&node.name);
                }
                return;
            }
            self.wake_at(after(overdue, Duration::from_millis(1)));
        }
        self.keep_lease(target);
    }

    fn propose(&mut self, target: &Target, planned: &mut Option<String>) {
        let machine = &target.machine;
        if let Some(why) = self.obstacle(target, planned.as_deref()) {
            let retry_at = match (&why, self.seen.refusals.get(&machine.id.name)) {
                (_, Some(refused)) if refused.why == why => refused.retry_at,
                (Refusal::TemplateChanged(_), _) => after(self.now, TEMPLATE_RETRY),
                (_, _) => after(self.now, RETRY),
            };
            self.wake_at(retry_at);
            self.waits_for_control_plane |= matches!(why, Refusal::ControlPlaneBusy(_));
            self.skipped(
                &machine.id.name,
                format!(
                    "Skipped remediation of machine {} because {why}",
                    machine.id.name
                ),
            );
            return;
        }
        let control_plane = is_control_plane(target);
        if control_plane {
            *planned = Some(machine.subject().to_owned());
        }
        self.step(Step::Create(Creation {
            node: machine.node.clone().unwrap_or_default(),
            machine: Some(machine.id.clone()),
            template: self.template.clone(),
            lease: DEFAULT_REMEDIATION_DURATION.saturating_add(LEASE_BUFFER),
            control_plane,
            first: true,
        }));
    }

    /// What is in the way of a new remediation.
    fn obstacle(&self, target: &Target, planned: Option<&str>) -> Option<Refusal> {
        let seen = self.seen;
        match &seen.template {
            TemplateState::Valid => {}
            TemplateState::NotFound(why)
            | TemplateState::Invalid(why)
            | TemplateState::Unknown(why) => return Some(Refusal::TemplateChanged(why.clone())),
        }
        if let Some(why) = &seen.unknown {
            return Some(Refusal::TemplateChanged(why.clone()));
        }
        let kind = self.template.remediation_kind();
        if !matches!(target.node, TargetNode::Exists(_)) && needs_node(&kind) {
            return Some(Refusal::Unsuitable(format!(
                "it has no node, which {} needs",
                kind.kind
            )));
        }
        if let TargetNode::Exists(node) = &target.node
            && node.exclusion() == Exclusion::Excluded
        {
            return Some(Refusal::Unsuitable(format!(
                "node {} is excluded",
                node.name
            )));
        }
        let (busy, subject) = (&seen.control_plane.remediated, target.machine.subject());
        if is_control_plane(target) && busy.get(subject) != Some(&true) {
            let other = busy
                .keys()
                .map(String::as_str)
                .chain(planned)
                .find(|other| *other != subject);
            if let Some(other) = other {
                return Some(Refusal::ControlPlaneBusy(other.to_owned()));
            }
        }
        let refused = seen.refusals.get(&target.machine.id.name)?;
        (refused.template == *self.template && self.now < refused.retry_at)
            .then(|| refused.why.clone())
    }

    fn status(
        &self,
        total: u64,
        healthy: u64,
        allowed: u64,
        unhealthy: u64,
        short_circuit: bool,
    ) -> MachineHealthCheckStatus {
        let number = |count: u64| Some(i64::try_from(count).unwrap_or(i64::MAX));
        let mut status = self.seen.status.clone();
        status.expected_machines = number(total);
        status.current_healthy = number(healthy);
        status.remediations_allowed = number(allowed.saturating_sub(unhealthy));
        let list = status.conditions.get_or_insert_default();
        let wanted = if short_circuit { "False" } else { "True" };
        let old = list.iter().find(|one| one.type_ == REMEDIATION_ALLOWED);
        let since = old
            .filter(|old| old.status == wanted)
            .and_then(|old| old.last_transition_time.clone())
            .unwrap_or_else(|| whole_second(self.now));
        let new = MachineCondition {
            type_: REMEDIATION_ALLOWED.to_owned(),
            status: wanted.to_owned(),
            severity: short_circuit.then(|| "Warning".to_owned()),
            reason: short_circuit.then(|| "TooManyUnhealthy".to_owned()),
            message: short_circuit.then(|| {
                format!(
                    "Remediation is not allowed, the number of not started or unhealthy machines \
                     exceeds maxUnhealthy (total: {total}, unhealthy: {unhealthy}, maxUnhealthy: \
                     {allowed})"
                )
            }),
            last_transition_time: Some(since),
        };
        list.retain(|one| one.type_ != REMEDIATION_ALLOWED);
        list.push(new);
        status
    }
}

fn is_control_plane(target: &Target) -> bool {
    target.machine.is_control_plane()
        || matches!(&target.node, TargetNode::Exists(node) if node.is_control_plane())
}
