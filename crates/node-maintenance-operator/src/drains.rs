//! The drains of this process, at most one for each node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{drain::driver::Drain, facts::DrainView};

struct Running {
    owner: String,
    drain: Drain,
}

/// The drains. Cheap to clone; clones are the same set.
#[derive(Clone, Default)]
pub struct Drains(Arc<Mutex<BTreeMap<String, Running>>>);

impl Drains {
    /// Keeps a drain that was started for a maintenance.
    pub fn keep(&self, node: &str, owner: String, drain: Drain) {
        self.lock()
            .insert(node.to_owned(), Running { owner, drain });
    }

    /// How the drain of a node is doing.
    pub fn view(&self, node: &str) -> DrainView {
        self.lock()
            .get(node)
            .map_or(DrainView::None, |running| DrainView::Running {
                owner: running.owner.clone(),
                options: Box::new(running.drain.options().clone()),
                report: Box::new(running.drain.report()),
            })
    }

    /// Stops the drain of a node, if there is one. When this returns no further eviction can be
    /// sent. Returns when, by boot time, it was started.
    pub async fn stop(&self, node: &str) -> Option<Duration> {
        let running = self.lock().remove(node)?;
        let started = running.drain.started();
        running.drain.stop().await;
        Some(started)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
