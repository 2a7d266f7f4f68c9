//! The processes under test: agents and managers, as production makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::runtime::watcher;
use medik8s_api::names::snr;
use medik8s_api::{SelfNodeRemediation, SelfNodeRemediationConfig};
use medik8s_core::backoff::Backoff;
use medik8s_core::version::ServerVersion;
use medik8s_runtime::capabilities::{Capabilities, Capability};
use medik8s_runtime::cli::{self, Product};
use medik8s_runtime::clock::Clock;
use medik8s_runtime::controller::{self, ObjectKey, Queue};
use medik8s_runtime::events::{self, REMEDIATION_PREFIX};
use medik8s_runtime::informer::Informer;
use medik8s_runtime::leader::{self, Params};
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::process::Process;
use medik8s_runtime::settings::Env;
use medik8s_runtime::shutdown::Shutdown;
use medik8s_runtime::write::Writer;
use medik8s_testing::fake::FakeApi;
use medik8s_watchdog::Host;
use self_node_remediation::install::effects::{Install, Told};
use self_node_remediation::remediation::{
    self, Memory, NodeMetadata, Reach, RemediationMetrics, Remediator, keep_roles,
};
use self_node_remediation::settings::Settings as ManagerSettings;
use self_node_remediation_agent::inbox::{self, Input, Sender};
use self_node_remediation_agent::settings::Settings;
use self_node_remediation_agent::store::{Folder, Store};
use self_node_remediation_agent::{Links, Setup, guard};
use self_node_remediation_peer::CertificateSet;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::api;
use crate::network::{Network, Place};
use crate::watchdog::{Dog, VirtualThreads};

/// The operator's namespace.
pub const NAMESPACE: &str = "medik8s";
/// Where agents listen.
pub const PORT: u16 = 30_001;
const AGENT: Product = Product::new("self-node-remediation-agent", "1.0.0");
/// As the production clients have it.
const WATCH_SILENCE: Duration = Duration::from_secs(90);
/// Turns of the runtime after which a task that was ended is gone for certain.
const LETTING_GO: usize = 100;
const MANAGER_SILENCE: Duration = Duration::from_mins(1);

/// A running agent.
pub struct Agent {
    inbox: Sender,
    task: JoinHandle<anyhow::Result<()>>,
    hang: Arc<Notify>,
    threads: VirtualThreads,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

/// What an agent is started with.
pub struct AgentStart<'a> {
    /// Its node.
    pub node: usize,
    /// The API server.
    pub api: &'a FakeApi,
    /// The network.
    pub net: &'a Network,
    /// The machine's clock.
    pub clock: &'a Clock,
    /// The machine's files.
    pub root: &'a Path,
    /// The machine's watchdog.
    pub dog: &'a Dog,
    /// Environment of its container.
    pub env: &'a BTreeMap<String, String>,
    /// What the kubelet mounted.
    pub certificates: &'a CertificateSet,
    /// Its pod's address.
    pub address: IpAddr,
}

impl Agent {
    /// Starts one.
    pub fn start(start: &AgentStart<'_>) -> anyhow::Result<Self> {
        let flags = [
            "manager",
            "--is-manager=false",
            "--metrics-bind-address=0",
            "--health-probe-bind-address=0",
        ];
        let args = cli::parse(&AGENT, flags, |command| command)?;
        let pairs = start
            .env
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let settings = Settings::read(&args, &Env::from_pairs(pairs))?;
        let place = Place::Node(start.node);
        let client = |patience| {
            let server = start.api.client_as(&format!("agent-{}", start.node));
            api::client(start.net, place, server, patience)
        };
        let threads = VirtualThreads::default();
        let host = Host::with_watchdogs(start.root, Box::new(start.dog.clone()))
            .with_threads(Box::new(threads.clone()));
        let state = Folder::open(host.state_dir())?;
        let setup = Setup {
            args,
            certificates: start.certificates.clone(),
            links: Links {
                checks: client(settings.timing.api_server_timeout()),
                watches: client(WATCH_SILENCE),
            },
            settings,
            listener: start.net.listen(SocketAddr::new(start.address, PORT)),
            dialer: start.net.dialer(place),
            metrics: Metrics::new()?,
            clock: start.clock.clone(),
            product: AGENT,
            host: Arc::new(host),
        };
        let (sender, receiver) = inbox::channel();
        let inbox = sender.clone();
        let hang = Arc::new(Notify::new());
        let hung = Arc::clone(&hang);
        let task = tokio::spawn(async move {
            let process = Process::new(Shutdown::manual());
            tokio::select! {
                done = guard(setup, process, sender, receiver) => return done,
                () = hung.notified() => {}
            }
            let _owner = keep_owning(&state).await?;
            std::future::pending().await
        });
        Ok(Self {
            inbox,
            task,
            hang,
            threads,
        })
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.inbox.send(Input::Signal);
    }

    /// Its loop and everything that is asked of it stop; its feeder does not, and it keeps what it owns.
    pub fn hang(&self) {
        self.hang.notify_one();
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.task.abort();
        self.threads.kill();
    }

    /// Whether it has ended; with what went wrong in it.
    pub async fn ended(&mut self) -> Option<Result<(), String>> {
        if !self.task.is_finished() {
            return None;
        }
        Some(match (&mut self.task).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(error) if error.is_panic() => Err(format!("panic: {error}")),
            Err(_aborted) => Ok(()),
        })
    }
}

/// Takes back the lock of an agent that is made to hang, as soon as its tasks have let go of it; nothing if it stood by.
async fn keep_owning(state: &Folder) -> anyhow::Result<Option<Store>> {
    for _ in 0..LETTING_GO {
        if let Some(owner) = state.try_own()? {
            return Ok(Some(owner));
        }
        tokio::task::yield_now().await;
    }
    Ok(None)
}

/// Gives agents that were made to hang the time to take back their lock, before anybody else may; no time passes.
pub async fn settle() {
    for _ in 0..2 * LETTING_GO {
        tokio::task::yield_now().await;
    }
}

/// A replica of the manager.
#[derive(Debug)]
pub struct Manager {
    task: JoinHandle<anyhow::Result<()>>,
}

impl Manager {
    /// Starts one.
    pub fn start(index: usize, life: u64, api: &FakeApi, net: &Network, clock: &Clock) -> Self {
        let place = Place::Manager(index);
        let name = format!("manager-{index}");
        let client = api::client(net, place, api.client_as(&name), MANAGER_SILENCE);
        let parts = ManagerParts {
            identity: format!("{name}_{life}"),
            client,
            net: net.clone(),
            place,
            clock: clock.clone(),
        };
        Self {
            task: tokio::spawn(Box::pin(parts.run())),
        }
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.task.abort();
    }

    /// Whether it has ended; with what went wrong in it.
    pub async fn ended(&mut self) -> Option<String> {
        if !self.task.is_finished() {
            return None;
        }
        Some(match (&mut self.task).await {
            Ok(Ok(())) => "ended".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) if error.is_panic() => format!("panic: {error}"),
            Err(_aborted) => "killed".to_owned(),
        })
    }
}

struct ManagerParts {
    identity: String,
    client: kube::Client,
    net: Network,
    place: Place,
    clock: Clock,
}

impl ManagerParts {
    /// What `self_node_remediation::run` makes of its parts, without webhooks, policies and templates.
    async fn run(self) -> anyhow::Result<()> {
        let Self {
            identity,
            client,
            net,
            place,
            clock,
        } = self;
        let metrics = Metrics::new()?;
        let mut process = Process::new(Shutdown::manual());
        let (leadership, elector) = leader::elector(leader::Settings {
            client: client.clone(),
            namespace: NAMESPACE.to_owned(),
            name: snr::LEADER_ELECTION_ID.to_owned(),
            identity,
            field_manager: "self-node-remediation",
            clock: clock.clone(),
            metrics: metrics.clone(),
            params: Params::default(),
        });
        let writer = Writer::new("self-node-remediation").gated(leadership.clone());
        let (recorder, sink) = events::recorder(
            client.clone(),
            snr::EVENT_SOURCE,
            Writer::new("self-node-remediation"),
            clock.clone(),
            &metrics,
        );
        let recorder = recorder.prefixed(REMEDIATION_PREFIX);
        let everything = watcher::Config::default;
        let mut configs = Informer::new(
            "configs",
            Api::<SelfNodeRemediationConfig>::namespaced(client.clone(), NAMESPACE),
            everything(),
            &metrics,
        );
        let mut daemon_sets = Informer::new(
            "daemonsets",
            Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE),
            everything(),
            &metrics,
        );
        let mut remediations = Informer::new(
            "remediations",
            Api::<SelfNodeRemediation>::all(client.clone()),
            everything(),
            &metrics,
        );
        let nodes = Api::<NodeMetadata>::all(client.clone());
        let mut nodes = Informer::new("nodes", nodes, everything(), &metrics).prune(keep_roles);
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let queue = |name| {
            Arc::new(Queue::<ObjectKey>::new(
                name,
                backoff,
                clock.clone(),
                &metrics,
            ))
        };
        let (installing, remediating) = (queue("config"), queue("remediation"));
        let the_config = ObjectKey::namespaced(NAMESPACE, snr::CONFIG_NAME);
        let (wake, key) = (Arc::clone(&installing), the_config.clone());
        configs.on_change(move |_| wake.add(key.clone()));
        let (wake, key) = (Arc::clone(&installing), the_config.clone());
        daemon_sets.on_change(move |_| wake.add(key.clone()));
        remediation::wake_on_changes(&mut remediations, &mut nodes, &remediating);
        let install = Install {
            client: client.clone(),
            writer: writer.clone(),
            recorder: recorder.clone(),
            clock: clock.clone(),
            settings: ManagerSettings {
                namespace: NAMESPACE.to_owned(),
                image: "example.com/self-node-remediation:1".to_owned(),
                node_name: None,
            },
            configs: configs.cache(),
            daemon_sets: daemon_sets.cache(),
            told: Told::default(),
        };
        let remediator = Arc::new(Remediator {
            client: client.clone(),
            writer,
            recorder: recorder.clone(),
            dialer: net.dialer(place),
            clock: clock.clone(),
            namespace: NAMESPACE.to_owned(),
            capability: Capability::fixed(Capabilities {
                version: ServerVersion::parse("1", "33")?,
                group_versions: BTreeSet::new(),
            }),
            configs: configs.cache(),
            remediations: remediations.cache(),
            nodes: nodes.cache(),
            memory: Memory::default(),
            cleaning: Arc::default(),
            metrics: RemediationMetrics::new(&metrics)?,
        });
        let reach = Reach {
            client,
            namespace: NAMESPACE.to_owned(),
            dialer: net.dialer(place),
            configs: configs.cache(),
            nodes: nodes.cache(),
            recorder,
            clock,
        };
        process.service("events", |stop| sink.run(stop));
        process.service("leader", |stop| async move { Ok(elector.run(stop).await?) });
        process.worker("watch configurations", |stop| configs.run(stop));
        process.worker("watch agents", |stop| daemon_sets.run(stop));
        process.worker("watch remediations", |stop| remediations.run(stop));
        process.worker("watch nodes", |stop| nodes.run(stop));
        let leads = leadership.clone();
        process.worker("reach", |stop| async move {
            if leads.acquired(&stop).await {
                reach.run(stop).await?;
            }
            Ok(())
        });
        let leads = leadership.clone();
        process.worker("remediations", |stop| async move {
            let ready = leads.acquired(&stop).await
                && remediator.configs.synced(&stop).await
                && remediator.remediations.synced(&stop).await
                && remediator.nodes.synced(&stop).await;
            if ready {
                let reconcile = |key, _attempt| Arc::clone(&remediator).reconcile(key);
                controller::run(&remediating, 32, reconcile, &stop).await;
            }
            Ok(())
        });
        process.worker("agents", |stop| async move {
            let ready = leadership.acquired(&stop).await
                && install.configs.synced(&stop).await
                && install.daemon_sets.synced(&stop).await;
            if ready {
                installing.add(the_config);
                let install = Arc::new(install);
                let reconcile = |_key, _attempt| {
                    let install = Arc::clone(&install);
                    async move { install.reconcile().await }
                };
                controller::run(&installing, 1, reconcile, &stop).await;
            }
            Ok(())
        });
        process.run().await
    }
}
