//! Facts of the cluster as a whole: platform, topology, upgrades, MachineHealthChecks.

use std::sync::Arc;

use kube::runtime::watcher;
use kube::{Api, Client};
use medik8s_api::foreign::{ClusterVersion, Infrastructure, MachineHealthCheck};
use medik8s_core::conditions::Status;
use medik8s_runtime::capabilities::{Capabilities, Capability};
use medik8s_runtime::controller::Backoff;
use medik8s_runtime::informer::{Cache, Informer};
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::process::Spawner;
use medik8s_runtime::read;
use medik8s_runtime::shutdown::Shutdown;
use tokio::sync::OnceCell;

use crate::facts::MachineHealthChecks;
use crate::machine::gate::Gate;
use crate::queues::Queues;
use crate::validate::is_supported_topology;
use crate::world::{Wakes, World};

#[cfg(test)]
mod tests;

/// Name of the one ClusterVersion and of the one Infrastructure.
const INFRASTRUCTURE: &str = "cluster";

/// A node condition type that only a MachineHealthCheck for terminating machines looks for.
const TERMINATING: &str = "Terminating";

const RETRY: Backoff = Backoff::new(
    std::time::Duration::from_secs(1),
    std::time::Duration::from_secs(30),
);

/// Answers questions about the cluster on every replica. Cheap to clone.
#[derive(Clone)]
pub struct ClusterWatch {
    client: Client,
    capability: Capability,
    topology: Arc<OnceCell<String>>,
}

impl ClusterWatch {
    /// Asks with `client`.
    pub fn new(client: Client, capability: Capability) -> Self {
        Self {
            client,
            capability,
            topology: Arc::default(),
        }
    }

    /// The control-plane topology; `None` off OpenShift, or while it cannot be read.
    ///
    /// It never changes in the life of a cluster, so it is read once.
    pub async fn topology(&self) -> Option<String> {
        if !self.capability.current()?.is_openshift() {
            return None;
        }
        let read = self.topology.get_or_try_init(|| async {
            let api: Api<Infrastructure> = Api::all(self.client.clone());
            let found = read::get(&api, INFRASTRUCTURE).await?;
            let status = found.status.unwrap_or_default();
            Ok::<_, read::Error>(status.control_plane_topology.unwrap_or_default())
        });
        match read.await {
            Ok(topology) => Some(topology.clone()),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "could not read the control plane topology");
                None
            }
        }
    }

    /// Keeps the facts of the cluster up to date, until `stop`. Leader only.
    ///
    /// Returns once what must be known before nodes may be judged is known; false when stopped.
    pub async fn follow(&self, scene: &Scene, stop: &Shutdown) -> bool {
        let Some(found) = self.capability.known(stop).await else {
            return false;
        };
        if !self.apply(&found, scene, stop).await {
            return false;
        }
        let (this, inner) = (self.clone(), scene.clone());
        // CRDs that appear later turn a plain cluster into one with the Machine API.
        scene
            .spawner
            .worker("cluster capabilities", |stop| async move {
                let mut capability = this.capability.clone();
                let mut before = found;
                while capability.changed(&stop).await {
                    let Some(now) = capability.current() else {
                        continue;
                    };
                    if now.is_openshift() != before.is_openshift()
                        || now.has_machine_api() != before.has_machine_api()
                    {
                        this.apply(&now, &inner, &stop).await;
                        before = now;
                    }
                }
                Ok(())
            });
        true
    }

    async fn apply(&self, found: &Capabilities, scene: &Scene, stop: &Shutdown) -> bool {
        let (openshift, machine_api) = (found.is_openshift(), found.has_machine_api());
        scene.queues.wake(scene.world.edit_cluster(|cluster| {
            cluster.openshift = openshift;
            cluster.machine_health_checks = if machine_api {
                MachineHealthChecks::Unknown
            } else {
                MachineHealthChecks::None
            };
        }));
        if openshift {
            if !self.learn_topology(scene, stop).await {
                return false;
            }
            let gated = machine_api && found.version.has_machine_health_check_gate();
            if gated {
                scene.gate.follow();
            }
            self.follow_versions(scene, gated);
        }
        if machine_api {
            // Before the first list nobody knows whether nodes are ours to judge.
            return self.follow_machine_health_checks(scene).synced(stop).await;
        }
        true
    }

    /// Reading the topology must succeed before anything is done on OpenShift.
    async fn learn_topology(&self, scene: &Scene, stop: &Shutdown) -> bool {
        let mut failures = 0;
        loop {
            if let Some(topology) = self.topology().await {
                let odd = (!is_supported_topology(&topology)).then_some(topology);
                let wakes = scene
                    .world
                    .edit_cluster(|cluster| cluster.unsupported_topology = odd);
                scene.queues.wake(wakes);
                return true;
            }
            failures += 1;
            let pause = tokio::time::sleep(RETRY.delay(failures, 0.0));
            if stop.or_stop(pause).await.is_none() {
                return false;
            }
        }
    }

    fn follow_versions(&self, scene: &Scene, gated: bool) {
        let mut informer = Informer::new(
            "clusterversions",
            Api::<ClusterVersion>::all(self.client.clone()),
            watcher::Config::default(),
            &scene.metrics,
        );
        let (cache, inner) = (informer.cache(), scene.clone());
        informer.on_change(move |change| {
            let upgrading = cache.list().iter().find_map(|version| upgrading(version));
            inner.queues.wake(
                inner
                    .world
                    .edit_cluster(|cluster| cluster.upgrading = upgrading),
            );
            if gated {
                inner.gate.version_changed(change.new.clone());
            }
        });
        scene
            .spawner
            .worker("watch cluster versions", |stop| informer.run(stop));
    }

    fn follow_machine_health_checks(&self, scene: &Scene) -> Cache<MachineHealthCheck> {
        let mut informer = Informer::new(
            "machinehealthchecks",
            Api::<MachineHealthCheck>::all(self.client.clone()),
            watcher::Config::default(),
            &scene.metrics,
        );
        let cache = informer.cache();
        let (known, inner) = (cache.clone(), scene.clone());
        informer.on_change(move |change| {
            inner.judge_checks(&known);
            let wakes = match (&change.new, &change.old) {
                (Some(new), _) => inner.world.put_machine_check(Arc::clone(new)),
                (None, Some(old)) => inner.world.remove_machine_check(&format!(
                    "{}/{}",
                    old.metadata.namespace.as_deref().unwrap_or_default(),
                    old.metadata.name.as_deref().unwrap_or_default()
                )),
                (None, None) => Wakes::new(),
            };
            if !wakes.is_empty() && inner.world.machines_are_ours() {
                inner.gate.follower.adjust();
            }
            inner.queues.wake(wakes);
        });
        scene
            .spawner
            .worker("watch machine health checks", |stop| informer.run(stop));
        // A list without objects brings no change.
        let (known, inner) = (cache.clone(), scene.clone());
        scene
            .spawner
            .worker("machine health checks listed", |stop| async move {
                if known.synced(&stop).await {
                    inner.judge_checks(&known);
                }
                Ok(())
            });
        cache
    }
}

/// Where facts of the cluster go.
#[derive(Clone)]
pub struct Scene {
    /// What is known.
    pub world: World,
    /// Wakes.
    pub queues: Queues,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Starts watches.
    pub spawner: Spawner,
    /// Who works on MachineHealthChecks.
    pub gate: Gate,
}

impl Scene {
    fn judge_checks(&self, cache: &Cache<MachineHealthCheck>) {
        let state = machine_health_checks(&cache.list());
        let wakes = self
            .world
            .edit_cluster(|cluster| cluster.machine_health_checks = state);
        self.queues.wake(wakes);
    }
}

/// Why a ClusterVersion says that the cluster is being upgraded.
fn upgrading(version: &ClusterVersion) -> Option<String> {
    let status = version.status.as_ref()?;
    let progressing = status
        .conditions
        .iter()
        .flatten()
        .find(|one| one.type_ == "Progressing")?;
    (Status::parse(&progressing.status) == Status::True).then(|| {
        let name = version.metadata.name.as_deref().unwrap_or_default();
        format!("ClusterVersion {name} is progressing")
    })
}

/// What the MachineHealthChecks of the cluster are.
///
/// One that only looks for the node condition `Terminating` (spot instances that are about to be
/// taken away) comes with the platform and deletes machines that are lost anyway.
fn machine_health_checks(list: &[Arc<MachineHealthCheck>]) -> MachineHealthChecks {
    match list {
        [] => MachineHealthChecks::None,
        [one] => {
            let conditions = one.spec.unhealthy_conditions.as_deref().unwrap_or_default();
            match conditions {
                [only] if only.type_ == TERMINATING => MachineHealthChecks::TerminationOnly,
                _ => MachineHealthChecks::Custom,
            }
        }
        [_, _, ..] => MachineHealthChecks::Custom,
    }
}
