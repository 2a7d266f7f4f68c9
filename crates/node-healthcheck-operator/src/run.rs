//! Sets the manager up and runs it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use medik8s_api::NodeHealthCheck;
use medik8s_api::names::{lease, nhc};
use medik8s_api::remediation::NodeHealthCheckStatus;
use medik8s_core::backoff::Backoff;
use medik8s_runtime::capabilities::Capability;
use medik8s_runtime::certs::CertFiles;
use medik8s_runtime::client::Profile;
use medik8s_runtime::clock::Clock;
use medik8s_runtime::controller::{self, Queue};
use medik8s_runtime::events::{self, REMEDIATION_PREFIX, Recorder};
use medik8s_runtime::informer::{Cache, Informer};
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::node_lease::NodeLeases;
use medik8s_runtime::olm::Upgradeable;
use medik8s_runtime::operator::{About, Operator};
use medik8s_runtime::process::Spawner;
use medik8s_runtime::settings::Env;
use medik8s_runtime::shutdown::Shutdown;
use medik8s_runtime::webhook::{Hook, Server};
use medik8s_runtime::write::Writer;

use crate::aggregation;
use crate::cluster::{ClusterWatch, Scene};
use crate::controller::Controller;
use crate::effects::{Effects, held};
use crate::facts::HeldLease;
use crate::follow::Follower;
use crate::hooks::{Admission, VALIDATE};
use crate::machine::controller::MachineController;
use crate::machine::gate::Gate;
use crate::metrics::{MachineSeries, Series};
use crate::objects::WatchedNode;
use crate::queues::Queues;
use crate::rbac::{WEBHOOK_CERTIFICATE, WEBHOOK_CONFIGURATION};
use crate::settings::{Args, PRODUCT, Settings};
use crate::setup::{Setup, SetupParts};
use crate::world::{Wakes, World};

const ABOUT: About = About {
    product: PRODUCT,
    event_source: nhc::EVENT_SOURCE,
    leader_lease: nhc::LEADER_ELECTION_ID,
    webhook_secret: WEBHOOK_CERTIFICATE,
    webhook_service: "node-healthcheck-webhook-service",
    validating: &[WEBHOOK_CONFIGURATION],
    mutating: &[],
};

/// Pause that collects bursts of changes; due moments are not delayed by it.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Back-off of failed passes.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// How many health checks are worked on at once. Creations are serialised beyond this.
const WORKERS: usize = 4;

/// All webhooks; the manifests are generated from this.
pub fn webhooks() -> &'static [Hook] {
    &[VALIDATE]
}

/// Runs the manager until `shutdown`, or until something ends that should not.
pub async fn run(args: Args, env: Env, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings = Settings::from_env(&env)?;
    let metrics_files = CertFiles::in_dir(&args.metrics_cert_path);
    let mut operator = Operator::prepare_with(
        ABOUT,
        &args.common,
        &env,
        &settings.namespace,
        metrics_files.exist().then_some(metrics_files),
        shutdown,
    )
    .await?;
    let cluster = ClusterWatch::new(operator.client.clone(), operator.capability.clone());
    let admission = Admission::new(operator.client.clone(), cluster.clone());
    let server = Server::new(&operator.metrics, operator.clock.clone())
        .route(&VALIDATE, move |request| admission.clone().judge(request));
    operator.serve_webhooks(server);
    operator.follow_tls_profile();
    ready_when_known(&operator.capability, &operator);

    let (machine_recorder, sink) = events::recorder(
        operator.access.client(Profile::NoRetry)?,
        nhc::MHC_EVENT_SOURCE,
        Writer::new(PRODUCT.name),
        operator.clock.clone(),
        &operator.metrics,
    );
    operator
        .process
        .service("events of machine health checks", |stop| sink.run(stop));
    let mut lead = Lead::new(Parts {
        machine_recorder,
        client: operator.client.clone(),
        writer: operator.writer.clone(),
        recorder: operator.recorder.clone(),
        clock: operator.clock.clone(),
        metrics: operator.metrics.clone(),
        spawner: operator.process.spawner(),
        cluster,
        lease_namespace: settings.lease_namespace,
        guard_control_plane_quorum: args.guard_control_plane_quorum,
        watch_kubelet_versions: args.pause_while_kubelet_versions_differ,
        conflict_by_nodes: args.allow_machine_health_checks_of_other_nodes,
    })?;
    lead.olm = Upgradeable::find(
        &env,
        operator.client.clone(),
        &settings.namespace,
        operator.writer.clone(),
        operator.clock.clone(),
    );
    operator.lead("health checks", move |stop| lead.run(stop));
    if env.is_under_olm() {
        let (client, writer) = (operator.client.clone(), operator.writer.clone());
        let namespace = settings.namespace.clone();
        operator.lead("aggregation", move |stop| async move {
            aggregation::keep(client, writer, namespace, stop).await;
            Ok(())
        });
    }
    let setup = Setup::new(SetupParts {
        client: operator.client.clone(),
        writer: operator.writer.clone(),
        capability: operator.capability.clone(),
        namespace: settings.namespace,
        pod: settings.pod,
        registry: operator.metrics.registry().clone(),
    })?;
    operator.lead("setup of the platform", move |stop| setup.run(stop));
    operator.run().await
}

/// Ready means also that it is known what the cluster offers.
fn ready_when_known(capability: &Capability, operator: &Operator) {
    let capability = capability.clone();
    operator.probes.ready_when("capabilities", move || {
        capability
            .current()
            .map(|_| ())
            .ok_or_else(|| "not known yet".to_owned())
    });
}

/// What the leader's part is made of.
pub struct Parts {
    /// Client for reads and watches.
    pub client: Client,
    /// Writes while we lead.
    pub writer: Writer,
    /// Events about NodeHealthChecks.
    pub recorder: Recorder,
    /// Events about MachineHealthChecks, which have another source.
    pub machine_recorder: Recorder,
    /// Time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Metrics,
    /// Starts watches while the process runs.
    pub spawner: Spawner,
    /// Facts of the cluster as a whole.
    pub cluster: ClusterWatch,
    /// Namespace of the node leases.
    pub lease_namespace: String,
    /// Off OpenShift, spare a serving control-plane node when the others are no majority.
    pub guard_control_plane_quorum: bool,
    /// Count kubelets of different versions as an upgrade in progress.
    pub watch_kubelet_versions: bool,
    /// MachineHealthChecks disable only health checks that select nodes of theirs.
    pub conflict_by_nodes: bool,
}

/// What only the leader does. Its watches start with it, so that their first lists show everything
/// that an earlier leader wrote.
pub struct Lead {
    controller: Arc<Controller>,
    machines: Arc<MachineController>,
    queues: Queues,
    cluster: ClusterWatch,
    metrics: Metrics,
    spawner: Spawner,
    olm: Option<Upgradeable>,
}

impl Lead {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> anyhow::Result<Self> {
        let world = World::default();
        let guard_quorum = parts.guard_control_plane_quorum;
        let watch_kubelets = parts.watch_kubelet_versions;
        let conflict_by_nodes = parts.conflict_by_nodes;
        world.edit_cluster(|cluster| {
            cluster.guard_quorum = guard_quorum;
            cluster.watch_kubelet_versions = watch_kubelets;
            cluster.conflict_by_nodes = conflict_by_nodes;
        });
        let queue = |name| {
            Queue::with_debounce(name, BACKOFF, DEBOUNCE, parts.clock.clone(), &parts.metrics)
        };
        let queues = Queues {
            checks: queue("nodehealthcheck"),
            machine_checks: queue("machinehealthcheck"),
        };
        let effects = Effects {
            leases: NodeLeases::new(
                parts.client.clone(),
                parts.lease_namespace,
                parts.writer.clone(),
                parts.clock.clone(),
            ),
            client: parts.client,
            writer: parts.writer,
            recorder: parts.recorder.prefixed(REMEDIATION_PREFIX),
            world: world.clone(),
            clock: parts.clock,
            series: Series::new(parts.metrics.registry())?,
            creating: Arc::default(),
        };
        let machines = MachineController {
            world: world.clone(),
            effects: Effects {
                recorder: parts.machine_recorder.prefixed(REMEDIATION_PREFIX),
                ..effects.clone()
            },
            queue: queues.machine_checks.clone(),
            series: MachineSeries::new(parts.metrics.registry())?,
        };
        let controller = Controller {
            world,
            effects,
            queue: queues.checks.clone(),
        };
        Ok(Self {
            controller: Arc::new(controller),
            machines: Arc::new(machines),
            queues,
            cluster: parts.cluster,
            metrics: parts.metrics,
            spawner: parts.spawner,
            olm: None,
        })
    }

    /// Works until `stop`.
    pub async fn run(mut self, stop: Shutdown) -> anyhow::Result<()> {
        let olm = self.olm.take();
        let (client, world) = (
            self.controller.effects.client.clone(),
            &self.controller.world,
        );
        let follower = Follower::new(
            client.clone(),
            world.clone(),
            self.queues.clone(),
            self.metrics.clone(),
            self.spawner.clone(),
        );
        follower.watch_definitions(self.cluster.clone());
        let checks = self.watch_checks(&follower);
        self.watch_nodes();
        let scene = Scene {
            world: world.clone(),
            queues: self.queues.clone(),
            metrics: self.metrics.clone(),
            spawner: self.spawner.clone(),
            gate: Gate {
                client,
                world: world.clone(),
                queues: self.queues.clone(),
                metrics: self.metrics.clone(),
                spawner: self.spawner.clone(),
                follower,
                series: self.machines.series.clone(),
                state: Arc::default(),
            },
        };
        if !self.cluster.follow(&scene, &stop).await || !self.find_leases(&stop).await {
            return Ok(());
        }
        // What is not known now does not exist.
        if !checks.synced(&stop).await {
            return Ok(());
        }
        self.queues.wake(world.check_names());
        self.queues.wake(world.checks_that_left_leases());
        let nodes = |name: String, _failures| {
            let controller = Arc::clone(&self.controller);
            async move { controller.reconcile(name).await }
        };
        let machines = |key: String, _failures| {
            let controller = Arc::clone(&self.machines);
            async move { controller.reconcile(key).await }
        };
        let tell_olm = async {
            if let Some(olm) = olm {
                olm.keep(|| world.remediating(), stop.clone()).await;
            }
        };
        tokio::join!(
            tell_olm,
            controller::run(&self.queues.checks, WORKERS, nodes, &stop),
            controller::run(&self.queues.machine_checks, WORKERS, machines, &stop),
        );
        Ok(())
    }

    fn watch_checks(&self, follower: &Follower) -> Cache<NodeHealthCheck> {
        let mut informer = Informer::new(
            "nodehealthchecks",
            Api::<NodeHealthCheck>::all(self.controller.effects.client.clone()),
            watcher::Config::default(),
            &self.metrics,
        );
        let cache = informer.cache();
        let (world, queues) = (self.controller.world.clone(), self.queues.clone());
        let (follower, series) = (follower.clone(), self.controller.effects.series.clone());
        informer.on_change(move |change| {
            let wakes = match (&change.new, &change.old) {
                (Some(new), _) => world.put_check(Arc::clone(new)),
                (None, Some(old)) => {
                    world.remove_check(old.metadata.name.as_deref().unwrap_or_default())
                }
                (None, None) => Wakes::new(),
            };
            if change.old.is_none()
                && let Some(new) = &change.new
            {
                // The series of remediations that go on are there again after a restart.
                let (name, now) = (
                    new.metadata.name.as_deref().unwrap_or_default(),
                    &new.status,
                );
                let (none, now) = (
                    NodeHealthCheckStatus::default(),
                    now.clone().unwrap_or_default(),
                );
                series.status_changed(name, &none, &now, |_| true, jiff::Timestamp::UNIX_EPOCH);
            }
            if !wakes.is_empty() {
                follower.adjust();
            }
            queues.wake(wakes);
        });
        self.spawner
            .worker("watch health checks", |stop| informer.run(stop));
        cache
    }

    fn watch_nodes(&self) {
        let mut informer = Informer::new(
            "nodes",
            Api::<WatchedNode>::all(self.controller.effects.client.clone()),
            watcher::Config::default(),
            &self.metrics,
        )
        .prune(|_| {});
        let cache = informer.cache();
        let (world, queues) = (self.controller.world.clone(), self.queues.clone());
        let series = self.controller.effects.series.clone();
        informer.on_change(move |change| {
            let Some(object) = change.object() else {
                return;
            };
            let name = object.facts.name.clone();
            let new = change.new.as_ref().map(|node| Arc::clone(&node.facts));
            let gone = new.is_none();
            queues.wake(world.put_node(&name, new.as_ref()));
            if gone {
                series.node_gone(&name, &world.statuses());
            }
        });
        let (world, queues) = (self.controller.world.clone(), self.queues.clone());
        self.spawner.worker("watch nodes", |stop| async move {
            let listed = async {
                if cache.synced(&stop).await {
                    queues.wake(world.nodes_are_known());
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                ended = informer.run(stop.clone()) => ended,
                () = listed => Ok(()),
            }
        });
    }

    /// Leases that an earlier leader took for our health checks. Without them nothing is done: a
    /// lease that is not known to be ours is never given back.
    async fn find_leases(&self, stop: &Shutdown) -> bool {
        let effects = &self.controller.effects;
        let mut failures = 0;
        loop {
            let Some(listed) = stop.or_stop(effects.leases.list()).await else {
                return false;
            };
            match listed {
                Ok(found) => {
                    effects.world.set_leases(by_holder(&found));
                    return true;
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "could not list the node leases"
                    );
                    let pause = tokio::time::sleep(BACKOFF.delay(failures, 0.0));
                    if stop.or_stop(pause).await.is_none() {
                        return false;
                    }
                }
            }
        }
    }
}

/// Leases of health checks, by holder and node.
fn by_holder(
    leases: &[k8s_openapi::api::coordination::v1::Lease],
) -> BTreeMap<String, BTreeMap<String, HeldLease>> {
    let mut found: BTreeMap<String, BTreeMap<String, HeldLease>> = BTreeMap::new();
    for one in leases {
        let Some(holder) = one.spec.as_ref().and_then(medik8s_core::lease::holder) else {
            continue;
        };
        let prefixes = [
            lease::NODE_HEALTH_CHECK_HOLDER_PREFIX,
            lease::MACHINE_HEALTH_CHECK_HOLDER_PREFIX,
        ];
        if !prefixes.iter().any(|prefix| holder.starts_with(prefix)) {
            continue;
        }
        // The object's name is in lower case; its owner has the node's name as it is.
        let owner = one.metadata.owner_references.iter().flatten().next();
        let named = || {
            one.metadata
                .name
                .as_deref()?
                .strip_prefix(lease::NODE_PREFIX)
                .map(ToOwned::to_owned)
        };
        let Some(node) = owner.map(|owner| owner.name.clone()).or_else(named) else {
            continue;
        };
        found
            .entry(holder.to_owned())
            .or_default()
            .insert(node, held(one));
    }
    found
}
