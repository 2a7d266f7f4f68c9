//! Whether MachineHealthChecks are left to us, and the watches that are needed then.

use std::sync::{Arc, Mutex, PoisonError};

use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use medik8s_api::foreign::{ClusterVersion, FeatureGate, Machine};
use medik8s_runtime::informer::Informer;
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::process::Spawner;
use medik8s_runtime::shutdown::Shutdown;

use super::{MachineFacts, are_ours};
use crate::follow::Follower;
use crate::metrics::MachineSeries;
use crate::node::MachineRef;
use crate::objects;
use crate::queues::Queues;
use crate::world::World;

/// Follows the feature gate, at run time. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    /// Client for watches.
    pub client: Client,
    /// What is known.
    pub world: World,
    /// Wakes.
    pub queues: Queues,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Starts watches.
    pub spawner: Spawner,
    /// Follows kinds.
    pub follower: Follower,
    /// Series of MachineHealthChecks.
    pub series: MachineSeries,
    /// What it has learned.
    pub state: Arc<Mutex<GateState>>,
}

/// What the gate has learned, each as far as it is known.
#[derive(Default)]
pub struct GateState {
    gates: Option<Arc<FeatureGate>>,
    version: Option<Arc<ClusterVersion>>,
    /// Whether conflicts with MachineHealthChecks depend on their machines.
    conflicts: bool,
    /// The watch of machines, while it is needed.
    machines: Option<Shutdown>,
}

impl Gate {
    /// Starts to follow. As long as the gates say nothing, MachineHealthChecks are not ours.
    pub fn follow(&self) {
        let mut gates = Informer::new(
            "featuregates",
            Api::<FeatureGate>::all(self.client.clone()),
            watcher::Config::default().fields("metadata.name=cluster"),
            &self.metrics,
        );
        let this = self.clone();
        gates.on_change(move |change| {
            let mut state = this.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.gates.clone_from(&change.new);
            this.decide(&mut state);
        });
        self.spawner
            .worker("watch feature gates", |stop| gates.run(stop));
    }

    /// From now on machines are watched also for conflicts.
    pub fn watch_conflicts(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.conflicts = true;
        self.decide(&mut state);
    }

    /// The cluster is going to another version, for which other gates are listed. Without gates that
    /// is only remembered.
    pub fn version_changed(&self, version: Option<Arc<ClusterVersion>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.version = version;
        self.decide(&mut state);
    }

    fn decide(&self, state: &mut GateState) {
        let ours = are_ours(state.gates.as_deref(), state.version.as_deref()).unwrap_or(false);
        let needed = ours || state.conflicts;
        match (needed, &state.machines) {
            (true, None) => {
                state.machines = Some(self.watch_machines());
            }
            (false, Some(stop)) => {
                stop.trigger();
                state.machines = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
        if ours && let Err(error) = self.series.register() {
            tracing::warn!(error = &error as &dyn std::error::Error, "no metrics");
        }
        self.queues.wake(self.world.set_machines_ours(ours));
        self.follower.adjust();
    }

    fn watch_machines(&self) -> Shutdown {
        let mut informer = Informer::new(
            "machines",
            Api::<Machine>::all(self.client.clone()),
            watcher::Config::default(),
            &self.metrics,
        )
        .prune(objects::prune_machine);
        let cache = informer.cache();
        let (world, queues) = (self.world.clone(), self.queues.clone());
        informer.on_change(move |change| {
            let Some(object) = change.object() else {
                return;
            };
            let id = MachineRef {
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            };
            let new = change.new.as_ref().map(|machine| MachineFacts::of(machine));
            queues.wake(world.put_machine(&id, new));
        });
        let (world, queues) = (self.world.clone(), self.queues.clone());
        self.spawner.worker("watch machines", |stop| async move {
            let listed = async {
                if cache.synced(&stop).await {
                    queues.wake(world.machines_are_known());
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                ended = informer.run(stop.clone()) => ended,
                () = listed => Ok(()),
            }
        })
    }
}
