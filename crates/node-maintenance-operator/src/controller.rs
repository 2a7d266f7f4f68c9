//! The loop around the plan: look, ask, do, look again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use medik8s_core::time::until;
use medik8s_runtime::{
    capabilities::Capability,
    controller::{Action, Class, Classify, Queue},
};

use crate::{
    drain::machine::Options,
    effects::{Effects, Pass},
    error::{StepError, chain},
    facts::{DrainView, Memory, Seen},
    plan::{self, Next, Outcome, Step},
};

/// More steps in one pass are a mistake in the plan, not work.
const STEPS: usize = 60;

/// What reconciling a node needs.
pub struct Context {
    /// Carries out steps.
    pub effects: Effects,
    /// Whether the cluster is OpenShift.
    pub capability: Capability,
    /// The nodes to work on.
    pub queue: Queue<String>,
    /// What every drain has in common.
    pub base: Options,
    /// What is remembered of each node.
    pub memory: Mutex<BTreeMap<String, Memory>>,
    /// Nodes that are cordoned and tainted.
    pub maintained: Mutex<BTreeSet<String>>,
}

/// One pass over a node and its maintenances.
pub async fn reconcile(node: String, context: Arc<Context>) -> Result<Action, StepError> {
    let Context { effects, .. } = &*context;
    if effects.index.of_node(&node).is_empty() {
        effects.drains.stop(&node).await;
        effects.nodes.forget(&node);
        lock(&context.memory).remove(&node);
        context.account(&node, None);
        return Ok(Action::done());
    }
    effects.nodes.ensure(&node);
    let mut pass = Pass::default();
    let mut seen = context.look(&node);
    let mut failure = None;
    let mut rest = None;
    for step in 0.. {
        if step >= STEPS {
            failure.get_or_insert(StepError::Restless {
                node: node.clone(),
                steps: STEPS,
            });
            break;
        }
        context.refresh(&mut seen);
        let now = effects.clock.now();
        match plan::next(&seen, now) {
            Next::Rest(wake) => {
                rest = wake;
                break;
            }
            Next::Do(step) => match effects.perform(&step, &seen, &mut pass).await {
                Ok(outcome) => context.note(&mut seen, &step, outcome),
                Err(error) => {
                    let concerned = plan::concerned(&seen, &step).map(|of| of.uid.clone());
                    context.report(&mut seen, &step, &error).await;
                    failure.get_or_insert(error);
                    // The others need not wait for this one.
                    let Some(uid) = concerned else { break };
                    seen.failed.insert(uid);
                }
            },
        }
    }
    lock(&context.memory).insert(node.clone(), seen.memory.clone());
    context.account(&node, Some(&seen));
    context.conclude(&node, failure, rest)
}

impl Context {
    /// What is known of a node at the beginning of a pass.
    fn look(&self, node: &str) -> Seen {
        Seen {
            node_name: node.to_owned(),
            maintenances: Vec::new(),
            node: self.effects.nodes.view(node),
            drain: DrainView::None,
            is_openshift: None,
            counts: None,
            memory: lock(&self.memory).get(node).cloned().unwrap_or_default(),
            failed: BTreeSet::new(),
            base: self.base.clone(),
        }
    }

    /// Looks again at everything that others or this process may have changed.
    fn refresh(&self, seen: &mut Seen) {
        seen.maintenances = self.effects.index.of_node(&seen.node_name);
        seen.node = self.effects.nodes.view(&seen.node_name);
        seen.drain = self.effects.drains.view(&seen.node_name);
        seen.is_openshift = self
            .capability
            .current()
            .map(|cluster| cluster.is_openshift());
    }

    fn note(&self, seen: &mut Seen, step: &Step, outcome: Outcome) {
        tracing::debug!(node = seen.node_name, ?step, "done");
        seen.absorb(step, outcome, self.effects.clock.now());
    }

    /// Writes a failure into the status of the maintenance it happened to.
    async fn report(&self, seen: &mut Seen, step: &Step, error: &StepError) {
        // Losing a race is nothing to tell people; without the lease nothing may be written.
        if matches!(error.class(), Class::Conflict | Class::NotLeader) {
            return;
        }
        let now = self.effects.clock.now();
        self.refresh(seen);
        let why = chain(error);
        if let Some(tell) = plan::told_failure(seen, step, &why, now)
            && let Ok(outcome) = self
                .effects
                .perform(&tell, seen, &mut Pass::default())
                .await
        {
            self.note(seen, &tell, outcome);
        }
        let Some((uid, status)) = plan::after_failure(seen, step, &why, now) else {
            return;
        };
        let Some(of) = seen.maintenances.iter().find(|one| one.uid == uid) else {
            return;
        };
        if let Err(error) = self.effects.write_status(of, &status).await {
            let (node, error) = (&seen.node_name, chain(&error));
            tracing::warn!(
                node,
                error,
                "the failure could not be written into the status"
            );
        }
    }

    fn conclude(
        &self,
        node: &str,
        failure: Option<StepError>,
        rest: Option<Timestamp>,
    ) -> Result<Action, StepError> {
        let wait = rest.map(|at| until(at, self.effects.clock.now()));
        match failure {
            None => Ok(Action::after_if(wait)),
            Some(error) => {
                // The pause after a failure must not delay what has its own time.
                if let Some(wait) = wait {
                    self.queue.add_after(node.to_owned(), wait);
                }
                Err(error)
            }
        }
    }

    /// Keeps the series about nodes up to date.
    fn account(&self, node: &str, seen: Option<&Seen>) {
        let is_maintained = seen.is_some_and(|seen| {
            seen.primary()
                .is_some_and(|primary| primary.record.is_some())
                && seen.present().is_some_and(|node| node.has_drain_taint)
        });
        let pending = seen.and_then(|seen| match &seen.drain {
            DrainView::None => None,
            DrainView::Running { report, .. } => Some(report.pending.len()),
        });
        let mut maintained = lock(&self.maintained);
        if is_maintained {
            maintained.insert(node.to_owned());
        } else {
            maintained.remove(node);
        }
        self.effects.metrics.in_maintenance(maintained.len());
        self.effects.metrics.pending(node, pending);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
