//! Work queues and the loop that works on them.
//!
//! # Purpose
//! What client-go's rate-limiting queue and controller-runtime's controller do, over keys instead
//! of objects: a key is worked on by one worker at a time, wakes that come together are one run,
//! and failures wait longer each time. What woke the key does not matter: `reconcile` looks at
//! everything again, so a deleted object is just one that is not found.
//!
//! # Guarantees
//! - Never two runs of one key at once; a wake during a run leads to another run after it.
//! - The number of runs at once is bounded.
//! - The earliest wake wins; the pause that collects bursts never delays a wake with a set time.
//! - A failed run is repeated after a pause that grows with the number of failures in a row.
//! - On stop no run begins; runs in progress are finished.
//!
//! # Caveats
//! Callers wait for their caches before they call [`run`].

use std::{fmt, hash::Hash, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kube::{Resource, ResourceExt};
pub use medik8s_core::backoff::Backoff;

mod queue;

pub use queue::Queue;

pub use crate::error::{Class, Classify};
use crate::{metrics::ReconcileResult, shutdown::Shutdown};

/// What a key must be able to do.
pub trait Key: Clone + Eq + Ord + Hash + fmt::Display + Send + Sync + 'static {}

impl<T: Clone + Eq + Ord + Hash + fmt::Display + Send + Sync + 'static> Key for T {}

/// Namespace and name of an object, as a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; `None` for cluster-scoped objects.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self {
            namespace: object.namespace(),
            name: object.name_any(),
        }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self {
            namespace: None,
            name: name.into(),
        }
    }

    /// The key of a namespaced object.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What a run that went well wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Action(Option<Duration>);

impl Action {
    /// Nothing until something changes.
    pub const fn done() -> Self {
        Self(None)
    }

    /// Another look after this time, or earlier if something changes.
    pub const fn after(wait: Duration) -> Self {
        Self(Some(wait))
    }

    /// Another look after this time if there is one.
    pub const fn after_if(wait: Option<Duration>) -> Self {
        Self(wait)
    }
}

/// Works on `queue` until `stop`, at most `workers` keys at a time.
///
/// `reconcile` gets the key and how often it failed in a row just before. What it returns decides
/// about the next run of that key; its class goes into the log.
pub async fn run<K, E, F>(
    queue: &Queue<K>,
    workers: usize,
    reconcile: impl Fn(K, u32) -> F + Send + Sync,
    stop: &Shutdown,
) where
    K: Key,
    E: std::error::Error + Classify + Send + 'static,
    F: Future<Output = Result<Action, E>> + Send,
{
    let name = queue.name();
    queue
        .metrics()
        .controller_started(name, i64::try_from(workers).unwrap_or(i64::MAX));
    tracing::info!(controller = name, workers, "starting controller");
    let mut running: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    loop {
        let (free, busy) = (running.len() < workers.max(1), !running.is_empty());
        tokio::select! {
            biased;
            () = stop.triggered() => break,
            Some(()) = running.next(), if busy => {}
            key = queue.next(), if free => running.push(one(queue, &reconcile, key).boxed()),
        }
    }
    while running.next().await.is_some() {}
}

async fn one<K, E, F>(queue: &Queue<K>, reconcile: &(impl Fn(K, u32) -> F + Send + Sync), key: K)
where
    K: Key,
    E: std::error::Error + Classify + Send + 'static,
    F: Future<Output = Result<Action, E>> + Send,
{
    let (metrics, name) = (queue.metrics(), queue.name());
    let attempt = queue.failures(&key);
    metrics.reconcile_started(name);
    let started = queue.clock().boottime();
    let result = reconcile(key.clone(), attempt).await;
    let seconds = queue
        .clock()
        .boottime()
        .saturating_sub(started)
        .as_secs_f64();
    let outcome = match result {
        Ok(Action(Some(wait))) => {
            queue.finish(&key, Some(wait));
            ReconcileResult::RequeueAfter
        }
        Ok(Action(None)) => {
            queue.finish(&key, None);
            ReconcileResult::Success
        }
        Err(error) => {
            let wait = queue.fail(&key);
            let class = error.class();
            let error = &error as &dyn std::error::Error;
            // Losing a race is how optimistic writes work; it is worth a look only if it goes on.
            if class == Class::Conflict && attempt < 3 {
                tracing::debug!(controller = name, %key, %class, error, ?wait, "run failed");
            } else {
                tracing::warn!(controller = name, %key, %class, error, ?wait, attempt, "run failed");
            }
            ReconcileResult::Error
        }
    };
    metrics.reconcile_ended(name, outcome, seconds);
}

#[cfg(test)]
mod tests;
