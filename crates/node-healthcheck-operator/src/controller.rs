//! One pass over one health check.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use medik8s_runtime::controller::{Action, Queue};

use crate::effects::{Effects, Requester, reference};
use crate::error::Failure;
use crate::plan::{self, Plan, Standing, Step};
use crate::world::{Seen, World};

/// How often a pass plans again after it has done something. A pass that is not at rest by then goes
/// on in the next one.
const ROUNDS: usize = 4;

/// Works on health checks.
pub struct Controller {
    /// What is known.
    pub world: World,
    /// Hands.
    pub effects: Effects,
    /// Wakes.
    pub queue: Queue<String>,
}

impl Controller {
    /// Looks at one health check, does what is to be done, and says when to look again.
    pub async fn reconcile(&self, name: String) -> Result<Action, Failure> {
        let Some(known) = self.world.check(&name) else {
            return self.forget(&name).await;
        };
        let now = self.effects.clock.now();
        let (plan, failed) = match self.world.observe(&name, now) {
            Seen::Gone => return self.forget(&name).await,
            Seen::TooEarly => return Ok(Action::done()),
            Seen::Broken {
                status,
                pause_requests,
                problem,
                generation,
            } => {
                tracing::warn!(nodehealthcheck = name, %problem, "cannot be understood");
                (
                    plan::broken(&status, &pause_requests, &problem, generation, now),
                    None,
                )
            }
            Seen::Whole(seen) => match self.act(&name, Requester::of(&seen)).await {
                Some(done) => done,
                None => return self.forget(&name).await,
            },
        };
        let stored = self.conclude(&name, &known.object, &plan).await;
        // The next wake-up counts also when something failed: the back-off must not delay it.
        let now = self.effects.clock.now();
        let wait = plan.wake.map(|at| medik8s_core::time::until(at, now));
        match (failed, stored) {
            (None, Ok(())) => Ok(Action::after_if(wait)),
            (Some(error), _) | (None, Err(error)) => {
                if let Some(wait) = wait {
                    self.queue.add_after(name, wait);
                }
                Err(error)
            }
        }
    }

    /// Plans and acts until there is nothing left to do. `None` if the health check is gone.
    ///
    /// A step that was tried in this pass is not tried again in it: it failed, or its success does
    /// not show yet.
    async fn act(&self, name: &str, requester: Requester) -> Option<(Plan, Option<Failure>)> {
        let mut tried: BTreeSet<Step> = BTreeSet::new();
        let mut failed = None;
        for round in 0..ROUNDS {
            let plan = self.plan(name)?;
            if round == 0 {
                // What is true now may be over when the steps are done: a sick node is told before
                // its remediation exists.
                self.say(&requester.reference, name, &plan);
            }
            let steps: Vec<Step> = plan
                .steps
                .iter()
                .filter(|step| !tried.contains(*step))
                .cloned()
                .collect();
            if steps.is_empty() {
                return Some((plan, failed));
            }
            if let Err(error) = self.effects.run(&requester, &steps).await {
                failed.get_or_insert(error);
            }
            tried.extend(steps);
        }
        let mut plan = self.plan(name)?;
        if plan.steps.iter().any(|step| !tried.contains(step)) {
            let soon = medik8s_core::time::after(self.effects.clock.now(), plan::NEXT_STEP_DELAY);
            plan.wake = Some(plan.wake.map_or(soon, |at| at.min(soon)));
        }
        Some((plan, failed))
    }

    fn plan(&self, name: &str) -> Option<Plan> {
        let now = self.effects.clock.now();
        match self.world.observe(name, now) {
            Seen::Whole(seen) => {
                let plan = plan::plan(&seen, now);
                tracing::trace!(nodehealthcheck = name, ?seen, %now, "observed");
                tracing::debug!(nodehealthcheck = name, steps = ?plan.steps, wake = ?plan.wake, "plan");
                Some(plan)
            }
            Seen::Gone | Seen::TooEarly | Seen::Broken { .. } => None,
        }
    }

    /// Stores what the plan ended in, and tells what is new about it.
    async fn conclude(
        &self,
        name: &str,
        object: &Arc<medik8s_api::NodeHealthCheck>,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let about = reference(&crate::world::owner_of(object), None);
        self.say(&about, name, plan);
        if let Some(why) = &plan.incomplete {
            tracing::warn!(nodehealthcheck = name, why, "something cannot be read");
        }
        let long = plan.standings.values().filter_map(|standing| {
            let Standing::AwaitingDeletion {
                remediation,
                overdue: true,
                ..
            } = standing
            else {
                return None;
            };
            Some(remediation.clone())
        });
        for remediation in self.world.note_long_deletions(name, long.collect()) {
            tracing::info!(nodehealthcheck = name, %remediation, "still being deleted");
        }
        let current = self
            .world
            .check(name)
            .map_or_else(|| Arc::clone(object), |known| known.object);
        self.effects.store_status(&current, &plan.status).await?;
        // A change is told when it is stored: otherwise it would be told again by the next pass.
        self.effects.announce(&about, &plan.announcements);
        Ok(())
    }

    /// Tells what the plan notices and what was not told yet.
    fn say(&self, about: &ObjectReference, name: &str, plan: &Plan) {
        let now = self.effects.clock.now();
        let waits = plan.waits_for_control_plane;
        let news = self.world.conclude(name, plan.notices.clone(), waits, now);
        self.effects.announce(about, &news);
    }

    /// A health check is gone: garbage collection takes its remediations, and its leases are given
    /// back. One that is only not known (nobody can read it) keeps them.
    async fn forget(&self, name: &str) -> Result<Action, Failure> {
        let holder = crate::check::holder(name);
        self.effects.series.check_gone(name);
        let nodes = self.world.leased_nodes(&holder);
        if !nodes.is_empty() && self.effects.exists(name).await? {
            return Ok(Action::after(plan::RETRY));
        }
        for node in nodes {
            self.effects.release_lease(&holder, &node).await?;
        }
        Ok(Action::done())
    }
}
