//! One pass over one MachineHealthCheck.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::Api;
use medik8s_api::foreign::{MachineHealthCheck, MachineHealthCheckStatus};
use medik8s_api::names::contract;
use medik8s_runtime::controller::{Action, Queue};
use medik8s_runtime::write::merge_diff;

use super::plan::{MachinePlan, MachinesObserved, plan};
use super::{MachineCheck, holder};
use crate::effects::{Effects, Requester, reference};
use crate::error::Failure;
use crate::metrics::MachineSeries;
use crate::notice::{Notice, Notices, Severity, Topic};
use crate::plan::{NEXT_STEP_DELAY, Removal, Step};
use crate::world::World;

/// How often a pass plans again after it has done something.
const ROUNDS: usize = 4;

/// Works on MachineHealthChecks.
pub struct MachineController {
    /// What is known.
    pub world: World,
    /// Hands; their events come from the MachineHealthCheck controller.
    pub effects: Effects,
    /// Wakes.
    pub queue: Queue<String>,
    /// Metrics.
    pub series: MachineSeries,
}

impl MachineController {
    /// Looks at one MachineHealthCheck, does what is to be done, and says when to look again.
    pub async fn reconcile(&self, key: String) -> Result<Action, Failure> {
        let Some(known) = self.world.machine_check(&key) else {
            return self.forget(&key).await;
        };
        if !self.world.machines_are_ours() {
            return Ok(Action::done());
        }
        let check = match &known.parsed {
            Ok(check) => Arc::clone(check),
            Err(problem) => {
                self.complain(
                    &key,
                    &known.object,
                    &format!("it cannot be understood: {problem}"),
                );
                return Ok(Action::done());
            }
        };
        if check.paused {
            return Ok(Action::done());
        }
        if check.template.is_none() {
            let why = "it has no remediationTemplate, and deleting machines is not done here";
            self.complain(&key, &known.object, why);
            return Ok(Action::done());
        }
        let Some((seen, plan, failed)) = self.act(&key).await else {
            return Ok(Action::done());
        };
        let about = reference(&seen.owner, Some(&check.namespace));
        self.say(&key, &about, &plan);
        self.series.show(
            &check.namespace,
            &check.name,
            seen.targets.len(),
            plan.short_circuit,
        );
        let stored = self.store(&check, &seen.status, &plan.status).await;
        let now = self.effects.clock.now();
        let wait = plan.wake.map(|at| medik8s_core::time::until(at, now));
        match (failed, stored) {
            (None, Ok(())) => Ok(Action::after_if(wait)),
            (Some(error), _) | (None, Err(error)) => {
                if let Some(wait) = wait {
                    self.queue.add_after(key, wait);
                }
                Err(error)
            }
        }
    }

    async fn act(&self, key: &str) -> Option<(MachinesObserved, MachinePlan, Option<Failure>)> {
        let mut tried: BTreeSet<Step> = BTreeSet::new();
        let mut failed = None;
        for round in 0..=ROUNDS {
            let now = self.effects.clock.now();
            let seen = self.world.observe_machines(key, now)?;
            let mut plan = plan(&seen, now)?;
            let requester = Requester::of_machines(&seen);
            if round == 0 {
                self.say(key, &requester.reference, &plan);
            }
            let steps: Vec<Step> = plan
                .steps
                .iter()
                .filter(|step| !tried.contains(*step))
                .cloned()
                .collect();
            if steps.is_empty() || round == ROUNDS {
                if !steps.is_empty() {
                    let soon = medik8s_core::time::after(now, NEXT_STEP_DELAY);
                    plan.wake = Some(plan.wake.map_or(soon, |at| at.min(soon)));
                }
                return Some((seen, plan, failed));
            }
            if let Err(error) = self.effects.run(&requester, &steps).await {
                failed.get_or_insert(error);
            }
            self.count_successes(&seen, &steps);
            tried.extend(steps);
        }
        None
    }

    /// A remediation that was deleted because its machine has recovered was a success.
    fn count_successes(&self, seen: &MachinesObserved, steps: &[Step]) {
        for step in steps {
            let Step::Delete {
                remediation,
                cause: Removal::Recovered,
                ..
            } = step
            else {
                continue;
            };
            let known = self.world.remediation(remediation);
            if known.is_none_or(|known| known.deleting_since.is_some()) {
                self.series
                    .succeeded(&seen.check.namespace, &seen.check.name);
            }
        }
    }

    fn say(&self, key: &str, about: &ObjectReference, plan: &MachinePlan) {
        let now = self.effects.clock.now();
        let waits = plan.waits_for_control_plane;
        let news = self.world.conclude(key, plan.notices.clone(), waits, now);
        self.effects.announce(about, &news);
    }

    /// Tells once why nothing is done.
    fn complain(&self, key: &str, object: &MachineHealthCheck, why: &str) {
        let topic = Topic {
            reason: contract::REMEDIATION_SKIPPED,
            subject: String::new(),
        };
        let notice = Notice {
            severity: Severity::Warning,
            message: format!("Skipped remediation: {why}"),
        };
        let news = self.world.conclude(
            key,
            Notices::from([(topic, notice)]),
            false,
            self.effects.clock.now(),
        );
        self.effects
            .announce(&medik8s_runtime::events::reference(object), &news);
    }

    async fn store(
        &self,
        check: &MachineCheck,
        old: &MachineHealthCheckStatus,
        new: &MachineHealthCheckStatus,
    ) -> Result<(), Failure> {
        let encode =
            |status| serde_json::to_value(status).unwrap_or_else(|_| serde_json::json!({}));
        let Some(diff) = merge_diff(&encode(old), &encode(new)) else {
            return Ok(());
        };
        let api: Api<MachineHealthCheck> =
            Api::namespaced(self.effects.client.clone(), &check.namespace);
        let stored: MachineHealthCheck = self
            .effects
            .writer
            .merge_patch_status(&api, &check.name, &diff, None)
            .await?;
        self.world.put_written_machine_check(Arc::new(stored));
        Ok(())
    }

    /// A MachineHealthCheck is gone: its series end, and its leases are given back unless another
    /// one of its name still needs them.
    async fn forget(&self, key: &str) -> Result<Action, Failure> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        self.series.gone(namespace, name);
        if self.world.machine_check_named(name) {
            return Ok(Action::done());
        }
        let holder = holder(name);
        for node in self.world.leased_nodes(&holder) {
            self.effects.release_lease(&holder, &node).await?;
        }
        Ok(Action::done())
    }
}
