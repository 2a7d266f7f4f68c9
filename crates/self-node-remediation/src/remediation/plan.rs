//! What to do about a remediation: pure.
//!
//! ```text
//!  timed out ──────────── being deleted: clean up; else withdraw
//!  withdrawn, excluded ── being deleted: clean up; else nothing
//!  no configuration ───── clean-up only, else Disabled
//!
//!  Started                finalizer + boot ID + node ─ taint ─ order (time and phase in one write)
//!  Pre-Reboot-Completed   core::release::decide: record, ask, wait, hold, cancel, release
//!  Reboot-Completed       core::release::removal: by force, gracefully, renew, hold
//!  Fencing-Completed      being deleted: clean up; else nothing
//! ```
//!
//! # Guarantees
//! * Time and phase of an order are one status write, computed right before it.
//! * Nothing of the workload is touched in any phase but Reboot-Completed, without finalizer, or on
//!   a node that is excluded.
//! * The plan for an unchanged world has no step and no change of status, except for deletions that
//!   have not taken effect yet.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use medik8s_api::names::{contract, snr};
use medik8s_api::self_node_remediation::{
    RemediationStrategy, SelfNodeRemediationConfigSpec, SelfNodeRemediationStatus,
};
use medik8s_core::conditions::{self, NewCondition, Refresh, Stage, StageChange, Status};
use medik8s_core::workload::PodDeletion;
use self_node_remediation_core::budget;
use self_node_remediation_core::order::{ORDERED_NODE_ANNOTATION, Phase};
use self_node_remediation_core::release::{By, OrderTimes, Quorum};

use super::error::RemediationError;
use super::observe::{Found, NodeSeen, Observed};
use super::tell::{self, Tale};

mod ordered;
mod removing;
mod starting;
#[cfg(test)]
mod tests;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Tell people.
    Tell(Tale),
    /// Write the finalizer and these annotations on the remediation, at the version that was read.
    Mark {
        /// Whether the finalizer is added.
        finalizer: bool,
        /// Annotations to set.
        annotations: BTreeMap<String, String>,
    },
    /// Add the NoSchedule taint.
    AddTaint,
    /// Add the out-of-service taint, to the very node that was judged.
    AddOutOfService,
    /// Remove the out-of-service taint.
    RemoveOutOfService,
    /// Remove all our taints; on a node that is gone there are none.
    RemoveTaints,
    /// Remove the finalizer.
    RemoveFinalizer,
    /// Ask the members for acknowledgement.
    Ask {
        /// Of this order.
        times: OrderTimes,
        /// Whom.
        quorum: Box<Quorum>,
    },
    /// Delete these pods; by force, or as the pod itself asks.
    DeletePods {
        /// Which.
        pods: Vec<PodDeletion>,
        /// Without waiting for the kubelet.
        force: bool,
    },
    /// Report a release.
    Released(By),
}

/// What follows a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again at once.
    Again,
    /// Look again after this time, or when something changes.
    After(Duration),
    /// When something changes.
    Idle,
}

/// What to do, in order: the steps, then the status.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The status as it should be.
    pub(super) status: SelfNodeRemediationStatus,
    /// The status is an order: its write has a short limit.
    pub(super) is_order: bool,
    /// What may only follow the status.
    pub(super) after: Vec<Step>,
    pub(super) next: Next,
    /// The pass reports this error, after status and steps.
    pub(super) error: Option<RemediationError>,
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    seen: &'a Observed,
    now: Timestamp,
    plan: Plan,
}

/// Plans a pass.
pub(super) fn plan(seen: &Observed, now: Timestamp) -> Plan {
    let status = seen.object.status.clone().unwrap_or_default();
    let plan = Plan {
        steps: Vec::new(),
        status,
        is_order: false,
        after: Vec::new(),
        next: Next::Idle,
        error: None,
    };
    let mut draft = Draft { seen, now, plan };
    if let Err(error) = draft.write() {
        draft.plan.error = Some(error);
    }
    // A pass that went well clears what an earlier one reported.
    draft.plan.status.last_error = draft.plan.error.as_ref().map(RemediationError::full_text);
    draft.plan
}

impl Draft<'_> {
    fn write(&mut self) -> Result<(), RemediationError> {
        let seen = self.seen;
        let remediation = &seen.remediation;
        let clean_up_only = remediation.timed_out
            || remediation.withdrawn
            || matches!(&seen.found, Found::Node(node) if node.excluded)
            || matches!(seen.found, Found::Absent);
        if remediation.deleting && (clean_up_only || remediation.phase == Phase::FencingCompleted) {
            return self.clean_up();
        }
        if remediation.timed_out {
            self.withdraw(snr::REASON_TIMEOUT_BY_NHC, Tale::Stopped);
            return Ok(());
        }
        if remediation.withdrawn {
            return Ok(());
        }
        let Some(config) = seen.config.as_ref() else {
            if self.can_be_cancelled() {
                return self.clean_up();
            }
            self.disable();
            return Ok(());
        };
        // The configuration's own look takes it away as well, which starts this pass, but not while its agents cannot be
        // deployed. Then it is they that are missing.
        conditions::remove(self.conditions(), snr::DISABLED);
        if remediation.phase == Phase::FencingCompleted {
            return Ok(());
        }
        let node = match &seen.found {
            Found::Node(node) => node,
            Found::Absent => {
                self.withdraw(snr::REASON_NODE_NOT_FOUND, Tale::NodeNotFound);
                return Ok(());
            }
            Found::Unresolved(why) => {
                self.explain("");
                return Err(self.unresolved(why));
            }
        };
        if node.excluded {
            self.explain(tell::EXCLUDED);
            self.tell(Tale::Skipped);
            return Ok(());
        }
        let message = self.message();
        self.explain(&message);
        match &remediation.phase {
            Phase::Started => self.start(node, config),
            Phase::PreRebootCompleted => self.follow_order(node, config),
            Phase::RebootCompleted => self.remove_workload(node, config),
            Phase::FencingCompleted => Ok(()),
            Phase::Unknown(phase) => Err(RemediationError::UnknownPhase(phase.clone())),
        }
    }

    fn tell(&mut self, tale: Tale) {
        self.plan.steps.push(Step::Tell(tale));
    }

    fn step(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    fn phase(&mut self, phase: &str) {
        self.plan.status.phase = Some(phase.to_owned());
    }

    /// The message that the conditions have now.
    fn message(&self) -> String {
        let conditions = self.plan.status.conditions.as_deref().unwrap_or_default();
        conditions::get(conditions, contract::PROCESSING)
            .map(|condition| condition.message.clone())
            .unwrap_or_default()
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        self.plan.status.conditions.get_or_insert_default()
    }

    fn stage(&mut self, stage: Stage, reason: &str, message: &str) -> StageChange {
        let now = self.now;
        let conditions = self.conditions();
        // The message changes with what is waited for; the reason only with the statuses.
        let kept = match Stage::read(conditions) {
            Some(known) if known == stage => conditions::get(conditions, contract::PROCESSING)
                .map(|condition| condition.reason.clone()),
            Some(_) | None => None,
        };
        let reason = kept.unwrap_or_else(|| reason.to_owned());
        conditions::set_stage(
            conditions,
            stage,
            &reason,
            message,
            None,
            Refresh::Always,
            now,
        )
    }

    /// Says in the conditions what is waited for.
    fn explain(&mut self, message: &str) {
        self.stage(Stage::Started, contract::REMEDIATION_STARTED, message);
    }

    fn withdraw(&mut self, reason: &str, tale: Tale) {
        if self.stage(Stage::Failed, reason, "") == StageChange::Changed {
            self.tell(tale);
        }
    }

    fn disable(&mut self) {
        let now = self.now;
        let disabled = NewCondition {
            type_: snr::DISABLED,
            status: Status::True,
            reason: snr::REASON_CONFIGURATION_NOT_FOUND,
            message: tell::DISABLED,
            observed_generation: None,
        };
        conditions::set(self.conditions(), &disabled, Refresh::WithStatus, now);
    }

    /// Nothing was ordered yet, or the node is provably up in the boot that was ordered to end.
    fn can_be_cancelled(&self) -> bool {
        let remediation = &self.seen.remediation;
        let same_boot = |node: &NodeSeen| {
            node.facts.ready == Status::True
                && remediation.boot.as_ref().is_some_and(|boot| {
                    node.facts.kubelet_boot.as_ref() == Some(boot)
                        && !node.facts.has_rebooted_since(boot)
                })
        };
        remediation.deleting
            && match remediation.phase {
                Phase::Started => true,
                Phase::PreRebootCompleted => {
                    matches!(&self.seen.found, Found::Node(node) if same_boot(node))
                }
                Phase::RebootCompleted | Phase::FencingCompleted | Phase::Unknown(_) => false,
            }
    }

    fn unresolved(&self, why: &str) -> RemediationError {
        RemediationError::Unresolved {
            target: self.seen.remediation.target.clone(),
            why: why.to_owned(),
        }
    }

    /// Removes our marks and lets the remediation go. While nobody knows which node has them it stays: a node that keeps
    /// its taints for ever is worse than a remediation that says why it cannot end.
    fn clean_up(&mut self) -> Result<(), RemediationError> {
        if !self.seen.remediation.finalizer {
            return Ok(());
        }
        match &self.seen.found {
            Found::Node(node) if node.has_marks() => self.step(Step::RemoveTaints),
            Found::Node(_) | Found::Absent => {}
            Found::Unresolved(why) => return Err(self.unresolved(why)),
        }
        self.step(Step::RemoveFinalizer);
        Ok(())
    }
}

/// The safe time of the user.
fn user_wait(config: &SelfNodeRemediationConfigSpec) -> Option<Duration> {
    budget::user_wait(config)
}

fn annotation(key: &str, value: &impl ToString) -> (String, String) {
    (key.to_owned(), value.to_string())
}

fn api_time(at: Timestamp) -> Time {
    Time(at)
}

/// Annotations that are recorded with the finalizer.
fn order_annotations(boot: &str, node: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        annotation(snr::BOOT_ID_ANNOTATION, &boot),
        annotation(ORDERED_NODE_ANNOTATION, &node),
    ])
}

/// How the workload is removed; `None` while it is not known what the cluster can do.
fn strategy(seen: &Observed) -> Option<RemediationStrategy> {
    match &seen.object.spec.remediation_strategy {
        None | Some(RemediationStrategy::Automatic) => {
            Some(if seen.version?.out_of_service_taint_is_stable() {
                RemediationStrategy::OutOfServiceTaint
            } else {
                RemediationStrategy::ResourceDeletion
            })
        }
        Some(chosen) => Some(chosen.clone()),
    }
}
