//! The nodes that are named by some NodeMaintenance, each with a watch of its own.
//!
//! # Purpose
//! A watch over all nodes would decode every heartbeat of the cluster; maintenances are few.
//!
//! # Guarantees
//! A node is `Unknown` until the API server has answered. What is kept of a node is what rules
//! read and what a patch is made from; the rest is dropped.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use medik8s_core::node;
use medik8s_runtime::{informer::prune_metadata, process::Spawner, shutdown::Shutdown};
use tokio::sync::watch;

use crate::{
    error::chain,
    facts::{NodeFacts, NodeView, is_node_name},
    overlay::Overlay,
    watches,
};

/// What the API server said about a node.
#[derive(Debug)]
enum State {
    Unknown,
    Missing,
    Present(Overlay<Node>),
}

impl State {
    /// The watch alone tells that a node is there (again): an answer may be older.
    fn answered(&mut self, base: &Node, node: Option<Node>) {
        let base = base
            .metadata
            .resource_version
            .as_deref()
            .unwrap_or_default();
        let Self::Present(known) = self else { return };
        if !known.is_at(base) {
            return;
        }
        match node {
            Some(mut node) => {
                prune(&mut node);
                known.answered(base, Arc::new(node));
            }
            None => *self = Self::Missing,
        }
    }
}

#[derive(Debug)]
struct Watch {
    state: Arc<Mutex<State>>,
    is_known: watch::Receiver<bool>,
    stop: Shutdown,
}

/// The watched nodes. Cheap to clone; clones are the same set.
#[derive(Clone)]
pub struct Nodes {
    client: Client,
    spawner: Spawner,
    watches: Arc<Mutex<BTreeMap<String, Watch>>>,
    wake: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Nodes {
    /// No node yet. `wake` is called with the name of a node after a change that matters.
    pub fn new(
        client: Client,
        spawner: Spawner,
        wake: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            client,
            spawner,
            watches: Arc::default(),
            wake: Arc::new(wake),
        }
    }

    /// Watches a node from now on.
    pub fn ensure(&self, name: &str) {
        let mut watches = self.lock();
        if watches.contains_key(name) {
            return;
        }
        let (told, is_known) = watch::channel(false);
        let state = Arc::new(Mutex::new(State::Unknown));
        let stop = if is_node_name(name) {
            let follower = Follower {
                api: Api::all(self.client.clone()),
                name: name.to_owned(),
                state: Arc::clone(&state),
                told,
                wake: Arc::clone(&self.wake),
            };
            self.spawner
                .worker(format!("watch of node {name}"), |stop| async move {
                    stop.or_stop(follower.follow()).await;
                    Ok(())
                })
        } else {
            // No node can have this name, so nobody has to be asked.
            *lock(&state) = State::Missing;
            told.send_replace(true);
            Shutdown::manual()
        };
        watches.insert(
            name.to_owned(),
            Watch {
                state,
                is_known,
                stop,
            },
        );
    }

    /// Watches a node no longer.
    pub fn forget(&self, name: &str) {
        if let Some(watch) = self.lock().remove(name) {
            watch.stop.trigger();
        }
    }

    /// What is known of a node.
    pub fn view(&self, name: &str) -> NodeView {
        self.with(name, |state| match state {
            State::Unknown => NodeView::Unknown,
            State::Missing => NodeView::Missing,
            State::Present(node) => NodeView::Present(NodeFacts::read(node.newest())),
        })
        .unwrap_or(NodeView::Unknown)
    }

    /// The node itself, pruned, for making a patch.
    pub fn get(&self, name: &str) -> Option<Arc<Node>> {
        self.with(name, |state| match state {
            State::Unknown | State::Missing => None,
            State::Present(node) => Some(Arc::clone(node.newest())),
        })
        .flatten()
    }

    /// Waits until something is known of a node; false if that takes too long.
    pub async fn known(&self, name: &str, limit: Duration) -> bool {
        let Some(mut is_known) = self.lock().get(name).map(|watch| watch.is_known.clone()) else {
            return false;
        };
        let known = is_known.wait_for(|known| *known);
        tokio::time::timeout(limit, known)
            .await
            .is_ok_and(|told| told.is_ok())
    }

    /// Takes in the answer to a patch or read that was sent while `base` was the newest state: the
    /// node, or that there is none.
    pub fn answered(&self, name: &str, base: &Node, node: Option<Node>) {
        self.with(name, |state| state.answered(base, node));
    }

    fn with<T>(&self, name: &str, look: impl FnOnce(&mut State) -> T) -> Option<T> {
        let state = Arc::clone(&self.lock().get(name)?.state);
        let mut state = lock(&state);
        Some(look(&mut state))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Watch>> {
        lock(&self.watches)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows one node.
struct Follower {
    api: Api<Node>,
    name: String,
    state: Arc<Mutex<State>>,
    told: watch::Sender<bool>,
    wake: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Follower {
    async fn follow(self) {
        let mut events = Box::pin(watch_object(self.api.clone(), &self.name).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(node) => self.take(node),
                Err(error) => {
                    tracing::warn!(node = self.name, error = chain(&error), "watch failed");
                }
            }
        }
    }

    fn take(&self, node: Option<Node>) {
        let node = node.map(|mut node| {
            prune(&mut node);
            node
        });
        let is_news = {
            let mut state = lock(&self.state);
            let before = facts(&state);
            match (node, &mut *state) {
                (Some(node), State::Present(known)) => {
                    known.watched(Arc::new(node));
                }
                (Some(node), State::Unknown | State::Missing) => {
                    *state = State::Present(Overlay::new(Arc::new(node)));
                }
                (None, _) => *state = State::Missing,
            }
            watches::node_matters(before.as_ref(), facts(&state).as_ref())
        };
        let was_known = self.told.send_replace(true);
        if is_news || !was_known {
            (self.wake)(&self.name);
        }
    }
}

fn facts(state: &State) -> Option<NodeFacts> {
    match state {
        State::Unknown | State::Missing => None,
        State::Present(node) => Some(NodeFacts::read(node.newest())),
    }
}

/// Drops what no rule reads: images, addresses, annotations and managed fields can be large.
fn prune(object: &mut Node) {
    prune_metadata(object);
    object.metadata.annotations = None;
    let ready = node::condition(object, node::READY).cloned();
    object.status = Some(NodeStatus {
        conditions: ready.map(|ready| vec![ready]),
        ..NodeStatus::default()
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pruning_keeps_what_rules_and_patches_need() {
        let mut node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"},
                "annotations": {"big": "x"}, "managedFields": [{"manager": "kubelet"}]},
            "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {"images": [{"names": ["i"]}], "conditions": [
                {"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        let before = NodeFacts::read(&node);
        prune(&mut node);
        assert_eq!(NodeFacts::read(&node), before);
        assert_eq!(node.metadata.resource_version.as_deref(), Some("7"));
        let text = serde_json::to_string(&node).unwrap();
        assert!(!text.contains("images") && !text.contains("kubelet") && !text.contains("big"));
    }

    fn node(version: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "resourceVersion": version}}))
            .unwrap()
    }

    fn version(state: &State) -> Option<&str> {
        match state {
            State::Present(known) => known.newest().metadata.resource_version.as_deref(),
            State::Unknown | State::Missing => None,
        }
    }

    #[test]
    fn an_answer_that_the_watch_has_overtaken_does_not_count() {
        let present = |version| State::Present(Overlay::new(Arc::new(node(version))));
        let mut state = present("1");
        state.answered(&node("1"), Some(node("2")));
        assert_eq!(version(&state), Some("2"));
        state.answered(&node("1"), Some(node("9")));
        state.answered(&node("1"), None);
        assert_eq!(version(&state), Some("2"), "the watch knows better");
        state.answered(&node("2"), None);
        assert!(matches!(state, State::Missing));
        state.answered(&node("2"), Some(node("3")));
        assert!(matches!(state, State::Missing), "it was deleted meanwhile");
    }
}
