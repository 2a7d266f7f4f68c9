//! Keeps nodes in maintenance: cordoned, tainted and drained while a NodeMaintenance exists.
//!
//! # Purpose
//! `kubectl drain` as an object: started by creating a NodeMaintenance, ended by deleting it, safe
//! to interrupt at any moment, honest about why it waits.
//!
//! # Guarantees
//! State lives in the cluster: the objects, their annotations and statuses, the node and its lease.
//! Whatever this process remembers may be lost at any time; [`plan`] then begins from what is there.
//! The rules are in [`plan`], [`drain::machine`], [`status`] and [`validate`], which do no I/O.
//!
//! # Caveats
//! The lease of a node is what keeps health checkers off it. Clusters whose health checker does not
//! use these leases rely on the label that excludes the node from remediation alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use kube::{Api, Client, ResourceExt, runtime::watcher};
use medik8s_api::{
    NodeMaintenance,
    names::{lease, nmo},
};
use medik8s_core::backoff::Backoff;
use medik8s_runtime::{
    capabilities::Capability,
    cli::{CommonArgs, Product},
    client::Profile,
    clock::Clock,
    controller::{Queue, run as work_on},
    events::Recorder,
    guard::{self, Guard},
    informer::Informer,
    metrics::Metrics,
    node_lease::NodeLeases,
    olm::Upgradeable,
    operator::{About, Operator},
    process::Spawner,
    settings::Env,
    shutdown::Shutdown,
    webhook::{self, Hook},
    write::Writer,
};

use crate::{
    admission::Admission,
    controller::Context,
    drain::{driver::Tools, machine::Options, pod::Key, share::Active},
    drains::Drains,
    effects::Effects,
    index::Index,
    metrics::OperatorMetrics,
    nodes::Nodes,
    quorum::Turn,
};

pub mod admission;
pub mod controller;
pub mod drain;
pub mod drains;
pub mod effects;
pub mod error;
pub mod facts;
pub mod index;
pub mod metrics;
pub mod nodes;
pub mod overlay;
pub mod plan;
pub mod quorum;
pub mod rbac;
pub mod status;
pub mod validate;
pub mod watches;

/// What runs.
pub const PRODUCT: Product = Product::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// The webhooks of this operator.
pub const fn webhooks() -> &'static [Hook] {
    &[admission::HOOK]
}

/// Refuses the deletion of the installation while a node is in maintenance.
pub const GUARD: Guard = Guard {
    name: "guard.nodemaintenance.medik8s.io",
    path: "/guard-node-maintenance-operator",
    label: ("node-maintenance-operator", ""),
    configuration: rbac::WEBHOOK_CONFIGURATION,
    finalizer: "nodemaintenance.medik8s.io/open-maintenance",
    look: "kubectl get nodemaintenances",
    dependents: None,
};

/// Whether a maintenance was begun and is not ended.
pub fn is_open(maintenance: &NodeMaintenance) -> bool {
    maintenance
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == nmo::FINALIZER)
}

/// Whether a drain goes on. A node that is drained may stay in maintenance for weeks: that must not
/// keep the operator from being updated.
fn is_draining(maintenance: &NodeMaintenance) -> bool {
    let status = maintenance.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some(nmo::PHASE_RUNNING)
}

/// Nodes worked on at the same time. A pass is short: drains run beside it.
const WORKERS: usize = 16;

/// 1 s doubling to 60 s (specification 5.5), spread so that nodes do not return together.
const BACKOFF: Backoff =
    Backoff::new(Duration::from_secs(1), Duration::from_mins(1)).with_spread(0.2);

/// Pause between attempts to create the namespace of the leases.
const NAMESPACE_RETRY: Duration = Duration::from_secs(2);

const ABOUT: About = About {
    product: PRODUCT,
    event_source: nmo::EVENT_SOURCE,
    leader_lease: nmo::LEADER_ELECTION_ID,
    webhook_secret: rbac::WEBHOOK_CERTIFICATE,
    webhook_service: "node-maintenance-operator-webhook-service",
    validating: &[rbac::WEBHOOK_CONFIGURATION],
    mutating: &[],
};

/// What the environment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The operator's own namespace.
    pub namespace: String,
    /// Namespace of the node leases.
    pub lease_namespace: String,
    /// The pod this process runs in, which is evicted last.
    pub own_pod: Option<Key>,
}

impl Settings {
    /// Reads the environment.
    pub fn read(env: &Env) -> anyhow::Result<Self> {
        let namespace = env.own_namespace("OPERATOR_NAMESPACE")?;
        let own_pod = env
            .optional("POD_NAME")
            .map(|name| Key::new(namespace.clone(), name));
        let lease_namespace = env
            .optional(lease::NAMESPACE_ENV)
            .unwrap_or(lease::NAMESPACE);
        Ok(Self {
            lease_namespace: lease_namespace.to_owned(),
            namespace,
            own_pod,
        })
    }
}

/// Runs the operator until `shutdown`.
pub async fn run(args: CommonArgs, env: Env, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings = Settings::read(&env)?;
    let mut operator = Operator::prepare(ABOUT, &args, &env, &settings.namespace, shutdown).await?;
    let client = operator.access.client(Profile::NoRetry)?;

    // Every metadata patch on a NodeMaintenance passes through our own webhook: it is served first.
    let admission = Admission {
        client: client.clone(),
        capability: operator.capability.clone(),
    };
    let server = webhook::Server::new(&operator.metrics, operator.clock.clone())
        .route(&admission::HOOK, move |request| {
            admission.clone().judge(request)
        });
    let server = GUARD.route(server, &operator.client, is_open);
    operator.serve_webhooks(server);

    let parts = Parts {
        client,
        writer: operator.writer.clone(),
        recorder: operator.recorder.clone(),
        capability: operator.capability.clone(),
        clock: operator.clock.clone(),
        metrics: operator.metrics.clone(),
        spawner: operator.process.spawner(),
    };
    let namespace = settings.namespace.clone();
    let controller = parts.assemble(settings)?;
    let (client, writer) = (operator.client.clone(), operator.writer.clone());
    let known = controller.informer.cache();
    let olm = Upgradeable::find(
        &env,
        client.clone(),
        &namespace,
        writer.clone(),
        operator.clock.clone(),
    );
    operator.lead("what is open", move |stop| async move {
        if !known.synced(&stop).await {
            return Ok(());
        }
        if let Some(olm) = olm {
            let busy = || guard::first_open(&known, is_draining);
            olm.keep(busy, stop).await;
        } else {
            GUARD
                .keep(client, writer, known, is_open, || false, stop)
                .await;
        }
        Ok(())
    });
    operator.lead("nodemaintenance controller", move |stop| {
        controller.lead(stop)
    });
    operator.run().await
}

/// What the controller is made of.
#[derive(Clone)]
pub struct Parts {
    /// Client without retry.
    pub client: Client,
    /// Writes only while this process leads.
    pub writer: Writer,
    /// Events.
    pub recorder: Recorder,
    /// What the cluster offers.
    pub capability: Capability,
    /// Time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Metrics,
    /// Runs watches and drains.
    pub spawner: Spawner,
}

/// The controller, not yet at work.
pub struct Controller {
    context: Arc<Context>,
    informer: Informer<NodeMaintenance>,
    spawner: Spawner,
}

impl Parts {
    /// Puts the controller together.
    pub fn assemble(self, settings: Settings) -> anyhow::Result<Controller> {
        let Self {
            client,
            writer,
            recorder,
            capability,
            clock,
            metrics,
            spawner,
        } = self;
        let own = OperatorMetrics::new(&metrics).context("could not set up own metrics")?;
        let queue: Queue<String> = Queue::new("nodemaintenance", BACKOFF, clock.clone(), &metrics);
        let index = Index::default();
        let waker = queue.clone();
        let wake: Arc<dyn Fn(&str) + Send + Sync> =
            Arc::new(move |node: &str| waker.add(node.to_owned()));

        let all: Api<NodeMaintenance> = Api::all(client.clone());
        let mut informer = Informer::new(
            "nodemaintenances",
            all,
            watcher::Config::default(),
            &metrics,
        );
        let (waker, known) = (queue.clone(), index.clone());
        informer.on_change(move |change| {
            known.watched(change);
            for node in watches::woken_by(change.old.as_deref(), change.new.as_deref()) {
                waker.add(node);
            }
        });

        let woken = Arc::clone(&wake);
        let effects = Effects {
            leases: NodeLeases::new(
                client.clone(),
                settings.lease_namespace,
                writer.clone(),
                clock.clone(),
            ),
            nodes: Nodes::new(client.clone(), spawner.clone(), move |node| woken(node)),
            tools: Tools {
                client: client.clone(),
                writer: writer.clone(),
                clock: clock.clone(),
                spawner: spawner.clone(),
                metrics: own.drains.clone(),
                active: Active::default(),
            },
            turn: Turn::default(),
            client,
            writer,
            recorder,
            clock,
            index,
            drains: Drains::default(),
            metrics: own,
            wake,
        };
        let context = Arc::new(Context {
            effects,
            capability,
            queue,
            base: Options {
                own_pod: settings.own_pod,
                ..Options::default()
            },
            memory: Mutex::new(BTreeMap::new()),
            maintained: Mutex::new(BTreeSet::new()),
        });
        Ok(Controller {
            context,
            informer,
            spawner,
        })
    }
}

impl Controller {
    /// What only the leader does, until `stop`.
    pub async fn lead(self, stop: Shutdown) -> anyhow::Result<()> {
        let Self {
            context,
            informer,
            spawner,
        } = self;
        while let Err(error) = context.effects.leases.ensure_namespace().await {
            let (namespace, error) = (context.effects.leases.namespace(), error::chain(&error));
            tracing::warn!(
                namespace,
                error,
                "the namespace of the leases is not there yet"
            );
            if stop
                .or_stop(tokio::time::sleep(NAMESPACE_RETRY))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
        let known = informer.cache();
        spawner.worker("watch of nodemaintenances", |stop| informer.run(stop));
        if known.synced(&stop).await {
            let queue = context.queue.clone();
            let reconcile = |node, _| controller::reconcile(node, Arc::clone(&context));
            work_on(&queue, WORKERS, reconcile, &stop).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_documented() {
        let read = |pairs: &[(&str, &str)]| {
            Settings::read(&Env::from_pairs(pairs.iter().copied())).unwrap()
        };
        let plain = read(&[("OPERATOR_NAMESPACE", "nmo"), ("LEASE_NAMESPACE", "")]);
        assert_eq!(plain.lease_namespace, "medik8s-leases");
        assert_eq!((plain.namespace.as_str(), plain.own_pod), ("nmo", None));
        let full = read(&[
            ("OPERATOR_NAMESPACE", "nmo"),
            ("LEASE_NAMESPACE", "leases"),
            ("POD_NAME", "me"),
        ]);
        assert_eq!(full.lease_namespace, "leases");
        assert_eq!(full.own_pod, Some(Key::new("nmo", "me")));
    }
}
