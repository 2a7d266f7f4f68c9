//! A token that tells every task to stop.
//!
//! # Guarantees
//! Cheap to clone; triggering is final; a child stops when its parent does but not the other way
//! round.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells when to stop, and can itself ask for it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    own: watch::Sender<bool>,
    parents: Vec<watch::Receiver<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::manual()
    }
}

impl Shutdown {
    /// A token that only [`Shutdown::trigger`] sets off.
    pub fn manual() -> Self {
        Self {
            own: watch::Sender::new(false),
            parents: Vec::new(),
        }
    }

    /// A token that SIGTERM and SIGINT set off.
    ///
    /// Must be called inside a tokio runtime; the task that waits for the signals ends with it.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::manual();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let trigger = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            trigger.trigger();
        });
        Ok(shutdown)
    }

    /// A token that stops with this one or on its own.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut parents = self.parents.clone();
        parents.push(self.own.subscribe());
        Self {
            own: watch::Sender::new(false),
            parents,
        }
    }

    /// Asks everybody who holds this token, or a child of it, to stop.
    pub fn trigger(&self) {
        self.own.send_replace(true);
    }

    /// Whether it is time to stop.
    pub fn is_triggered(&self) -> bool {
        *self.own.borrow() || self.parents.iter().any(|parent| *parent.borrow())
    }

    /// Waits until it is time to stop.
    pub async fn triggered(&self) {
        let mut waits = Vec::with_capacity(self.parents.len() + 1);
        for mut receiver in self
            .parents
            .iter()
            .cloned()
            .chain(std::iter::once(self.own.subscribe()))
        {
            waits.push(Box::pin(async move {
                // A parent that was dropped without being triggered can never stop us.
                if receiver.wait_for(|stopped| *stopped).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }));
        }
        futures::future::select_all(waits).await;
    }

    /// Runs `work` until it is time to stop; `None` when stopped first.
    pub async fn or_stop<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.triggered() => None,
            done = work => Some(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_stops_with_its_parent() {
        let parent = Shutdown::manual();
        let child = parent.child().child();
        assert!(!child.is_triggered());
        parent.trigger();
        child.triggered().await;
        assert!(child.is_triggered());
    }

    #[tokio::test]
    async fn a_parent_outlives_its_child() {
        let parent = Shutdown::manual();
        let child = parent.child();
        child.trigger();
        child.triggered().await;
        assert!(!parent.is_triggered());
        assert_eq!(parent.or_stop(async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn work_is_dropped_when_stopped_first() {
        let token = Shutdown::manual();
        token.trigger();
        assert_eq!(token.or_stop(async { 7 }).await, None);
    }
}
