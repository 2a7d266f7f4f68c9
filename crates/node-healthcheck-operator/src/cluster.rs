//! Facts of the cluster as a whole: platform, topology, upgrades, MachineHealthChecks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Api, Client};
use medik8s_api::foreign::{ClusterVersion, Infrastructure, MachineHealthCheck};
use medik8s_core::conditions::Status;
use medik8s_runtime::capabilities::{self, Capabilities, Capability};
use medik8s_runtime::controller::Backoff;
use medik8s_runtime::informer::{Cache, Informer};
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::process::Spawner;
use medik8s_runtime::read;
use medik8s_runtime::shutdown::Shutdown;
use tokio::sync::{Notify, OnceCell};

use crate::facts::MachineHealthChecks;
use crate::machine::MACHINE_API;
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

const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// How long the start waits for what must be known, before health checks say that it is not.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a cluster with Machines but without MachineHealthChecks is asked for them.
const LATER: Duration = Duration::from_mins(1);

/// Answers questions about the cluster on every replica. Cheap to clone.
#[derive(Clone)]
pub struct ClusterWatch {
    client: Client,
    capability: Capability,
    topology: Arc<OnceCell<String>>,
    followed: Arc<Mutex<BTreeSet<Topic>>>,
}

/// What is followed once the platform has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Topology,
    Versions,
    Gates,
    MachineHealthChecks,
}

impl Topic {
    const fn name(self) -> &'static str {
        match self {
            Self::Topology => "control plane topology",
            Self::Versions => "cluster versions",
            Self::Gates => "feature gates",
            Self::MachineHealthChecks => "machine health checks",
        }
    }
}

impl ClusterWatch {
    /// Asks with `client`.
    pub fn new(client: Client, capability: Capability) -> Self {
        Self {
            client,
            capability,
            topology: Arc::default(),
            followed: Arc::default(),
        }
    }

    /// A kind of the platform came, changed or went.
    pub fn platform_changed(&self) {
        self.capability.look_again();
    }

    /// Whether the topic is new; it is followed from now on.
    fn is_new(&self, topic: Topic) -> bool {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.insert(topic)
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

    /// Takes in what the cluster offers. What the platform has is followed once and then for good.
    async fn apply(&self, found: &Capabilities, scene: &Scene, stop: &Shutdown) -> bool {
        let (openshift, machine_api) = (found.is_openshift(), found.has_machine_api());
        let wakes = scene
            .world
            .edit_cluster(|cluster| cluster.openshift = openshift);
        scene.queues.wake(wakes);
        if openshift && self.is_new(Topic::Topology) {
            let (this, inner) = (self.clone(), scene.clone());
            self.learn(Topic::Topology, scene, stop, |stop| async move {
                this.learn_topology(&inner, &stop).await;
            })
            .await;
        }
        let gated = openshift && machine_api && found.version.has_machine_health_check_gate();
        if gated && self.is_new(Topic::Gates) {
            scene.gate.follow();
        }
        if openshift && self.is_new(Topic::Versions) {
            // An upgrade that is under way postpones everything, also the first pass. Versions that
            // cannot be read postpone nothing.
            let versions = self.follow_versions(scene);
            if tokio::time::timeout(PATIENCE, versions.synced(stop))
                .await
                .is_err()
            {
                let topic = Topic::Versions.name();
                tracing::error!(topic, "cannot be read; taken for no upgrade until then");
            }
        }
        if machine_api && self.is_new(Topic::MachineHealthChecks) {
            if scene.world.conflicts_by_nodes() {
                scene.gate.watch_conflicts();
            }
            // Before the first list nobody knows whether nodes are ours to judge.
            scene.judge(MachineHealthChecks::Unknown);
            let (this, inner) = (self.clone(), scene.clone());
            self.learn(Topic::MachineHealthChecks, scene, stop, |stop| async move {
                this.learn_machine_health_checks(&inner, &stop).await;
            })
            .await;
        }
        !stop.is_triggered()
    }

    /// Learns what must be known before anything is remediated. When it takes long, health checks
    /// say so instead of saying nothing.
    async fn learn<F>(
        &self,
        topic: Topic,
        scene: &Scene,
        stop: &Shutdown,
        learn: impl FnOnce(Shutdown) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let known = Arc::new(Notify::new());
        let (told, inner) = (Arc::clone(&known), scene.clone());
        let learning = learn(stop.clone());
        scene.unknown(topic, Some(format!("{} cannot be read", topic.name())));
        scene.spawner.worker(topic.name(), |stop| async move {
            if stop.or_stop(learning).await.is_some() {
                inner.unknown(topic, None);
                told.notify_one();
            }
            Ok(())
        });
        let wait = tokio::time::timeout(PATIENCE, known.notified());
        if let Some(Err(_)) = stop.or_stop(wait).await {
            tracing::error!(
                topic = topic.name(),
                "cannot be read; nothing is remediated before"
            );
        }
    }

    /// Reads the topology, as often as it takes.
    async fn learn_topology(&self, scene: &Scene, stop: &Shutdown) {
        let mut failures = 0;
        loop {
            if let Some(topology) = self.topology().await {
                let odd = (!is_supported_topology(&topology)).then_some(topology);
                let wakes = scene
                    .world
                    .edit_cluster(|cluster| cluster.unsupported_topology = odd);
                scene.queues.wake(wakes);
                return;
            }
            failures += 1;
            let pause = tokio::time::sleep(RETRY.delay(failures, 0.0));
            if stop.or_stop(pause).await.is_none() {
                return;
            }
        }
    }

    /// Returns when all MachineHealthChecks are known. A platform can have Machines without them.
    async fn learn_machine_health_checks(&self, scene: &Scene, stop: &Shutdown) {
        let mut failures = 0;
        loop {
            let served = capabilities::resolve(&self.client, MACHINE_API, "MachineHealthCheck");
            match served.await {
                Ok(Some(_)) => {
                    self.follow_machine_health_checks(scene).synced(stop).await;
                    return;
                }
                Ok(None) => {
                    let (this, inner) = (self.clone(), scene.clone());
                    scene.judge(MachineHealthChecks::None);
                    scene
                        .spawner
                        .worker("machine health checks come later", |stop| async move {
                            this.await_machine_health_checks(&inner, &stop).await;
                            Ok(())
                        });
                    return;
                }
                Err(error) => {
                    failures += 1;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "could not find out whether there are machine health checks"
                    );
                }
            }
            let pause = tokio::time::sleep(RETRY.delay(failures, 0.0));
            if stop.or_stop(pause).await.is_none() {
                return;
            }
        }
    }

    async fn await_machine_health_checks(&self, scene: &Scene, stop: &Shutdown) {
        while stop.or_stop(tokio::time::sleep(LATER)).await.is_some() {
            let served = capabilities::resolve(&self.client, MACHINE_API, "MachineHealthCheck");
            if let Ok(Some(_)) = served.await {
                self.follow_machine_health_checks(scene);
                return;
            }
        }
    }

    fn follow_versions(&self, scene: &Scene) -> Cache<ClusterVersion> {
        let mut informer = Informer::new(
            "clusterversions",
            Api::<ClusterVersion>::all(self.client.clone()),
            watcher::Config::default(),
            &scene.metrics,
        );
        let cache = informer.cache();
        let (known, inner) = (cache.clone(), scene.clone());
        informer.on_change(move |change| {
            let upgrading = known.list().iter().find_map(|version| upgrading(version));
            inner.queues.wake(
                inner
                    .world
                    .edit_cluster(|cluster| cluster.upgrading = upgrading),
            );
            inner.gate.version_changed(change.new.clone());
        });
        scene
            .spawner
            .worker("watch cluster versions", |stop| informer.run(stop));
        cache
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
            if !wakes.is_empty() {
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
        self.judge(machine_health_checks(&cache.list()));
    }

    /// Something must be known and is not, or is known now.
    fn unknown(&self, topic: Topic, why: Option<String>) {
        let wakes = self.world.edit_cluster(|cluster| match why {
            Some(why) => {
                cluster.unknown.insert(topic.name(), why);
            }
            None => {
                cluster.unknown.remove(topic.name());
            }
        });
        self.queues.wake(wakes);
    }

    fn judge(&self, state: MachineHealthChecks) {
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
