//! Facts of the cluster as a whole: platform, topology, upgrades, MachineHealthChecks.

use std::sync::Arc;

use kube::runtime::watcher;
use kube::{Api, Client};
use medik8s_api::foreign::{ClusterVersion, Infrastructure, MachineHealthCheck};
use medik8s_core::conditions::Status;
use medik8s_runtime::capabilities::{Capabilities, Capability};
use medik8s_runtime::controller::{Backoff, Queue};
use medik8s_runtime::informer::{Cache, Informer};
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::read;
use medik8s_runtime::shutdown::Shutdown;
use tokio::sync::OnceCell;

use crate::facts::MachineHealthChecks;
use crate::validate::is_supported_topology;
use crate::world::World;

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

    /// Keeps the facts of the cluster up to date in `world`, until `stop`. Leader only.
    ///
    /// Returns once what must be known before nodes may be judged is known.
    pub async fn follow(
        &self,
        world: &World,
        queue: &Queue<String>,
        metrics: &Metrics,
        spawner: &medik8s_runtime::process::Spawner,
        stop: &Shutdown,
    ) -> bool {
        let Some(found) = self.capability.known(stop).await else {
            return false;
        };
        let waits = self
            .apply(&found, world, queue, metrics, spawner, stop)
            .await;
        let (this, world, queue) = (self.clone(), world.clone(), queue.clone());
        let (metrics, inner) = (metrics.clone(), spawner.clone());
        // CRDs that appear later turn a plain cluster into one with the Machine API.
        spawner.worker("cluster capabilities", |stop| async move {
            let mut capability = this.capability.clone();
            let mut before = found;
            while capability.changed(&stop).await {
                let Some(now) = capability.current() else {
                    continue;
                };
                if now.is_openshift() != before.is_openshift()
                    || now.has_machine_api() != before.has_machine_api()
                {
                    this.apply(&now, &world, &queue, &metrics, &inner, &stop)
                        .await;
                    before = now;
                }
            }
            Ok(())
        });
        waits
    }

    async fn apply(
        &self,
        found: &Capabilities,
        world: &World,
        queue: &Queue<String>,
        metrics: &Metrics,
        spawner: &medik8s_runtime::process::Spawner,
        stop: &Shutdown,
    ) -> bool {
        let (openshift, machine_api) = (found.is_openshift(), found.has_machine_api());
        wake(
            queue,
            world.edit_cluster(|cluster| {
                cluster.openshift = openshift;
                cluster.machine_health_checks = if machine_api {
                    MachineHealthChecks::Unknown
                } else {
                    MachineHealthChecks::None
                };
            }),
        );
        if openshift {
            if !self.learn_topology(world, queue, stop).await {
                return false;
            }
            self.follow_upgrades(world, queue, metrics, spawner);
        }
        if machine_api {
            let known = self.follow_machine_health_checks(world, queue, metrics, spawner);
            // Before the first list nobody knows whether nodes are ours to judge.
            return known.synced(stop).await;
        }
        true
    }

    /// Reading the topology must succeed before anything is done on OpenShift.
    async fn learn_topology(&self, world: &World, queue: &Queue<String>, stop: &Shutdown) -> bool {
        let mut failures = 0;
        loop {
            if let Some(topology) = self.topology().await {
                let odd = (!is_supported_topology(&topology)).then_some(topology);
                wake(
                    queue,
                    world.edit_cluster(|cluster| cluster.unsupported_topology = odd),
                );
                return true;
            }
            failures += 1;
            let pause = tokio::time::sleep(RETRY.delay(failures, 0.0));
            if stop.or_stop(pause).await.is_none() {
                return false;
            }
        }
    }

    fn follow_upgrades(
        &self,
        world: &World,
        queue: &Queue<String>,
        metrics: &Metrics,
        spawner: &medik8s_runtime::process::Spawner,
    ) {
        let mut informer = Informer::new(
            "clusterversions",
            Api::<ClusterVersion>::all(self.client.clone()),
            watcher::Config::default(),
            metrics,
        );
        let (cache, world, queue) = (informer.cache(), world.clone(), queue.clone());
        informer.on_change(move |_| {
            let upgrading = cache.list().iter().find_map(|version| upgrading(version));
            wake(
                &queue,
                world.edit_cluster(|cluster| cluster.upgrading = upgrading),
            );
        });
        spawner.worker("watch cluster versions", |stop| informer.run(stop));
    }

    fn follow_machine_health_checks(
        &self,
        world: &World,
        queue: &Queue<String>,
        metrics: &Metrics,
        spawner: &medik8s_runtime::process::Spawner,
    ) -> Cache<MachineHealthCheck> {
        let mut informer = Informer::new(
            "machinehealthchecks",
            Api::<MachineHealthCheck>::all(self.client.clone()),
            watcher::Config::default(),
            metrics,
        );
        let cache = informer.cache();
        let (known, world_of_changes, wakes) = (cache.clone(), world.clone(), queue.clone());
        informer.on_change(move |_| judge_checks(&known, &world_of_changes, &wakes));
        spawner.worker("watch machine health checks", |stop| informer.run(stop));
        // A list without objects brings no change.
        let (known, world, queue) = (cache.clone(), world.clone(), queue.clone());
        spawner.worker("machine health checks listed", |stop| async move {
            if known.synced(&stop).await {
                judge_checks(&known, &world, &queue);
            }
            Ok(())
        });
        cache
    }
}

fn judge_checks(cache: &Cache<MachineHealthCheck>, world: &World, queue: &Queue<String>) {
    let state = machine_health_checks(&cache.list());
    wake(
        queue,
        world.edit_cluster(|cluster| cluster.machine_health_checks = state),
    );
}

fn wake(queue: &Queue<String>, names: crate::world::Wakes) {
    for name in names {
        queue.add(name);
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
