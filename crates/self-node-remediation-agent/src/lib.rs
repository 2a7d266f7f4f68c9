//! The agent: one process per node that judges its own node.
//!
//! # Purpose
//! The agent proves again and again that nobody has ordered its node to reboot: by reading the API,
//! or, when that fails, by asking the agents of other nodes. While it has proof, it feeds the
//! node's watchdog. Without proof, or on an order, it stops, and the hardware resets the node.
//!
//! ```text
//!  senses ──► driver ──► self_node_remediation_core::agent::step ──► commands ──► device, peers,
//!  (API, peers, watchdog, signals)      (all decisions, pure)                    annotations, state
//! ```
//!
//! # Guarantees
//! * Nothing is decided in this crate: see `self_node_remediation_core`, whose rules the tests, the
//!   model and this process share.
//! * The fencing machinery starts without the API. Nothing is opened or fenced for isolation before
//!   the first contact in this boot.
//! * Everything taken from the machine goes through [`medik8s_watchdog::Host`], whose root is given
//!   at start.
//! * All tasks are watched: the first to fail ends the process, and with it the feeding.
//!
//! # Caveats
//! A node without usable watchdog relies on this process being alive to reset it.

pub mod ask;
pub mod device;
pub mod diagnostics;
pub mod directory;
pub mod driver;
pub mod inbox;
pub mod metrics;
pub mod objects;
pub mod publish;
pub mod questions;
pub mod rbac;
pub mod sense;
pub mod service;
pub mod settings;
pub mod store;
pub mod tell;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::EVENT_PREFIX;
use medik8s_api::names::snr::{AGENT_EVENT_SOURCE, AGENT_SERVICE};
use medik8s_runtime::cli::Product;
use medik8s_runtime::client::{Access, Profile};
use medik8s_runtime::clock::Clock;
use medik8s_runtime::informer::Informer;
use medik8s_runtime::metrics::{Authoriser, Metrics, MetricsServer};
use medik8s_runtime::process::Process;
use medik8s_runtime::settings::Env;
use medik8s_runtime::shutdown::Shutdown;
use medik8s_runtime::tls::{Profile as TlsProfile, ServerTls};
use medik8s_runtime::write::Writer;
use medik8s_runtime::{certs, events, probes};
use medik8s_watchdog::Host;
use self_node_remediation_core::agent::{Evidence, Recorded, Settings as Rules};
use self_node_remediation_core::ids::{BootId, Uid};
use self_node_remediation_core::order::{Own, Remediation};
use self_node_remediation_peer::certificates::{CA_FIELD, CERT_FIELD, KEY_FIELD};
use self_node_remediation_peer::net::{Dialer, Listener};
use self_node_remediation_peer::{CertificateSet, Identity};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::directory::Directory;
use crate::inbox::{Input, Sender};
use crate::objects::AgentSlice;
use crate::settings::{Args, Settings};
use crate::store::{Folder, STATE, Store};

/// Watches: longer than the pause between two bookmarks, which is about a minute.
const WATCH_SILENCE: Duration = Duration::from_secs(90);
const WATCH_CONNECT: Duration = Duration::from_secs(10);
/// How often a successor looks whether its predecessor has ended.
const SUCCESSION: Duration = Duration::from_millis(50);
/// A predecessor that counts on a successor ends at once.
const PREDECESSOR_ENDS: Duration = Duration::from_secs(2);
/// How long a successor that is to end takes at most to open the watchdog; the kubelet kills after 10 s.
const TAKES_OVER: Duration = Duration::from_secs(2);
/// The loop wakes at least once per check; this much later it counts as dead.
const LOOP_RESERVE: Duration = Duration::from_mins(1);

/// Runs the agent until it is told to end. `host` is the machine it guards.
pub async fn run(args: Args, env: Env, product: Product, host: Host) -> anyhow::Result<()> {
    let settings = Settings::read(&args, &env)?;
    let metrics = Metrics::new()?;
    let certificates = read_certificates(&args.certificates_dir);
    let access = Access::resolve(args.kubeconfig.as_deref(), &env, &product, &metrics).await?;
    let api_timeout = settings.timing.api_server_timeout();
    let links = Links {
        checks: access.client(Profile::Agent {
            connect_timeout: api_timeout,
            read_timeout: api_timeout,
        })?,
        watches: access.client(Profile::Agent {
            connect_timeout: WATCH_CONNECT,
            read_timeout: WATCH_SILENCE,
        })?,
    };
    // The peer service comes first: it must be there before the pod reports ready.
    let listener = service::listen(args.peer_bind_address.as_ref(), settings.peer_port)
        .await
        .context("the peer service cannot listen")?;
    let mut process = Process::new(Shutdown::manual());
    let (inbox, receiver) = inbox::channel();
    listen_for_signals(&mut process, &inbox)?;
    let setup = Setup {
        args,
        settings,
        certificates,
        links,
        listener: Box::new(listener),
        dialer: Dialer::tcp(),
        metrics,
        clock: Clock::system(),
        product,
        host: Arc::new(host),
    };
    guard(setup, process, inbox, receiver).await
}

/// Clients of the API server, none of which retries by itself.
#[derive(Clone)]
pub struct Links {
    /// For reads and writes: as impatient as an API check.
    pub checks: Client,
    /// For watches.
    pub watches: Client,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

/// What an agent is made of.
pub struct Setup {
    /// Flags.
    pub args: Args,
    /// Environment.
    pub settings: Settings,
    /// The shared certificates.
    pub certificates: CertificateSet,
    /// The way to the API server.
    pub links: Links,
    /// Where peers ask.
    pub listener: Box<dyn Listener>,
    /// The way to peers.
    pub dialer: Dialer,
    /// Series.
    pub metrics: Metrics,
    /// Time.
    pub clock: Clock,
    /// Name and version.
    pub product: Product,
    /// The machine.
    pub host: Arc<Host>,
}

/// Runs an agent whose messages arrive in `receiver`; `inbox` is their sender. Ends when the rules
/// say so, or when a task fails.
pub async fn guard(
    setup: Setup,
    mut process: Process,
    inbox: Sender,
    receiver: inbox::Receiver,
) -> anyhow::Result<()> {
    let Setup {
        args,
        settings,
        certificates,
        links,
        listener,
        dialer,
        metrics,
        clock,
        product,
        host,
    } = setup;
    let Links { checks, watches } = links;
    let shutdown = process.shutdown().clone();
    let boot = host
        .boot_id()
        .context("could not find out which boot this is")?;
    let boot = BootId::new(boot).context("the boot ID is unusable")?;
    tracing::info!(node = %settings.node, %boot, ?host, version = product.version, "agent starts");

    let api_timeout = settings.timing.api_server_timeout();
    let agent_metrics = metrics::AgentMetrics::new(&metrics, clock.clone())?;
    let directory = Directory::default();

    let (recorder, sink) = events::recorder(
        checks.clone(),
        AGENT_EVENT_SOURCE,
        Writer::new(product.name),
        clock.clone(),
        &metrics,
    );
    process.service("events", |stop| sink.run(stop));
    let teller = tell::Teller {
        recorder: recorder.prefixed(EVENT_PREFIX),
        metrics: agent_metrics.clone(),
        node: settings.node.clone(),
        directory: directory.clone(),
    };
    let (identity, is_somebody) = identity_of(&certificates, &teller, &clock)?;

    let diagnostics = diagnostics::Diagnostics::new(
        settings.endpoint.as_deref(),
        settings.node.clone(),
        directory.clone(),
    )?
    .through(dialer.clone());
    let peers = self_node_remediation_peer::Client::new(
        &identity,
        settings.timing.peer_dial_timeout(),
        settings.timing.peer_request_timeout(),
    )?
    .through(dialer);
    let asker = ask::Asker {
        client: peers,
        node: settings.node.clone(),
        directory: directory.clone(),
        port: settings.peer_port,
        clock: clock.clone(),
        inbox: inbox.clone(),
        metrics: agent_metrics.clone(),
    };

    let standing_by = Arc::new(AtomicBool::new(true));
    process.service("peer service", {
        let (standing_by, inbox) = (Arc::clone(&standing_by), inbox.clone());
        |stop| service::serve(listener, identity, api_timeout, standing_by, inbox, stop)
    });

    let heartbeat = Arc::new(AtomicU64::new(0));
    let probes = probes::Probes::new();
    let patience = settings
        .timing
        .check_period()
        .saturating_mul(2)
        .saturating_add(LOOP_RESERVE);
    probes.live_when(
        "loop",
        loop_is_alive(&standing_by, &heartbeat, &clock, patience),
    );
    // A roll-out ends here: the predecessor's certificates may be good, and a cluster of nobodies resets itself in the
    // next outage of the API server.
    probes.ready_when("certificates", move || is_somebody.clone());
    process.service("probes", {
        let bind = args.health_probe_bind_address.clone();
        |stop| probes.serve(bind, stop)
    });
    let server = MetricsServer {
        bind: args.metrics_bind_address.clone(),
        tls: ServerTls::new(
            certs::self_signed(product.name)?,
            &TlsProfile::default(),
            args.enable_http2,
        )?,
        http2: args.enable_http2,
        authoriser: Some(Authoriser::new(checks.clone(), product.name, clock.clone())),
    };
    process.service("metrics", {
        let metrics = metrics.clone();
        |stop| medik8s_runtime::metrics::serve(metrics, server, stop)
    });

    let senses = sense::Senses::new(
        checks.clone(),
        clock.clone(),
        Arc::clone(&host),
        directory.clone(),
        &settings,
    );
    watch_remediations(&mut process, &watches, &senses, &inbox, &metrics);
    watch_peers(
        &mut process,
        &watches,
        &settings.namespace,
        &directory,
        &inbox,
        &metrics,
    );
    process.worker("endpoint", {
        let diagnostics = diagnostics.clone();
        |stop| async move {
            if stop.or_stop(diagnostics.learn()).await.is_some() {
                stop.triggered().await;
            }
            Ok(())
        }
    });

    let folder = Folder::open(host.state_dir())?;
    let device = device::Device::new(
        Arc::clone(&host),
        settings.watchdog_path.clone(),
        clock.clone(),
        inbox.clone(),
    );
    let publisher = publish::Publisher::new(checks, settings.node.clone(), &product);
    process.worker("agent", {
        let shutdown = shutdown.clone();
        |_stop| async move {
            let mut receiver = receiver;
            let owner = stand_by(folder, &mut receiver).await?;
            let Some(Owner { store, leaving }) = owner.filter(|owner| owner.is_needed(&boot))
            else {
                shutdown.trigger();
                return Ok(());
            };
            heartbeat.store(nanoseconds(clock.boottime()), Ordering::SeqCst);
            standing_by.store(false, Ordering::SeqCst);
            let rules = rules(&settings, boot);
            let end = end_when_armed(leaving, device.clone(), inbox.clone());
            let parts = driver::Parts {
                rules,
                pod: settings.pod,
                clock,
                store,
                senses,
                asker,
                directory,
                diagnostics,
                publisher,
                device,
                teller,
                inbox,
                heartbeat,
            };
            let (done, ()) = tokio::join!(driver::run(parts, receiver), end);
            shutdown.trigger();
            done.map_err(Into::into)
        }
    });
    process.run().await
}

fn rules(settings: &Settings, boot: BootId) -> Rules {
    Rules {
        own: Own {
            node: settings.node.clone(),
            boot,
        },
        timing: settings.timing,
        min_peers: settings.min_peers,
        software_reboot: settings.software_reboot,
        watchdog_timeout: settings.watchdog_timeout.map(device::whole_seconds),
        peer_update_interval: settings.peer_update_interval,
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What cannot be read is left empty, which [`identity_of`] tells.
fn read_certificates(dir: &Path) -> CertificateSet {
    let read = |field: &str| {
        let path = dir.join(field);
        std::fs::read_to_string(&path).unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), %error, "a certificate cannot be read");
            String::new()
        })
    };
    CertificateSet {
        ca_pem: read(CA_FIELD),
        cert_pem: read(CERT_FIELD),
        key_pem: read(KEY_FIELD),
    }
}

/// Who this agent is for its peers, and whether it is ready to be asked. With certificates that cannot be used it is
/// nobody: an identity of its own that no peer accepts. It guards its node all the same, for an agent that ends lets the
/// watchdog reset a healthy node.
fn identity_of(
    certificates: &CertificateSet,
    teller: &tell::Teller,
    clock: &Clock,
) -> anyhow::Result<(Identity, Result<(), String>)> {
    match certificates.validate(clock.now()) {
        Ok(validity) => teller.metrics.certificates_expire(validity.first_expiry),
        Err(error) => teller.certificates_unusable(&error),
    }
    // Peers with another clock may still accept what is not valid now.
    match certificates.identity() {
        Ok(identity) => Ok((identity, Ok(()))),
        Err(error) => {
            let nobody = CertificateSet::create(clock.now())?;
            Ok((nobody.identity()?, Err(error.to_string())))
        }
    }
}

/// Liveness reflects the own loop and nothing else: restarting agents because the API is away would
/// leave nodes unguarded exactly when it matters.
fn loop_is_alive(
    standing_by: &Arc<AtomicBool>,
    heartbeat: &Arc<AtomicU64>,
    clock: &Clock,
    patience: Duration,
) -> impl Fn() -> Result<(), String> + Send + 'static {
    let (standing_by, heartbeat, clock) = (
        Arc::clone(standing_by),
        Arc::clone(heartbeat),
        clock.clone(),
    );
    move || {
        let last = Duration::from_nanos(heartbeat.load(Ordering::SeqCst));
        let silent = clock.boottime().saturating_sub(last);
        if standing_by.load(Ordering::SeqCst) || silent <= patience {
            Ok(())
        } else {
            Err(format!(
                "the loop has not come round for {} s",
                silent.as_secs()
            ))
        }
    }
}

fn watch_remediations(
    process: &mut Process,
    client: &Client,
    senses: &sense::Senses,
    inbox: &Sender,
    metrics: &Metrics,
) {
    let api = Api::<SelfNodeRemediation>::all(client.clone());
    let mut informer = Informer::new(
        "selfnoderemediations",
        api,
        watcher::Config::default(),
        metrics,
    );
    let (senses, inbox) = (senses.clone(), inbox.clone());
    let spawner = process.spawner();
    informer.on_change(move |change| {
        let Some(remediation) = change.new.as_deref().and_then(Remediation::parse) else {
            // A deletion proves nothing: only a consistent list shows an order gone. But it is a reason to make one.
            let gone = change
                .old
                .as_deref()
                .and_then(|old| old.metadata.uid.as_deref());
            if let Some(uid) = gone.and_then(Uid::new) {
                inbox.evidence(Evidence::WatchedGone(uid));
            }
            return;
        };
        let (senses, inbox) = (senses.clone(), inbox.clone());
        if remediation.target.node().is_some() {
            inbox.evidence(Evidence::Watched(remediation));
            return;
        }
        // Its Machine has to be looked up first, which must not hold up the watch.
        spawner.worker("machine", move |stop| async move {
            // Whose node stays unknown is told too: who has seen an order must not say "API error" about anybody.
            if let Some(resolved) = stop.or_stop(senses.resolve(vec![remediation])).await {
                for remediation in resolved.remediations {
                    inbox.evidence(Evidence::Watched(remediation));
                }
            }
            Ok(())
        });
    });
    process.worker("selfnoderemediations", |stop| informer.run(stop));
}

fn watch_peers(
    process: &mut Process,
    client: &Client,
    namespace: &str,
    directory: &Directory,
    inbox: &Sender,
    metrics: &Metrics,
) {
    let api = Api::<AgentSlice>::namespaced(client.clone(), namespace);
    let of_service = format!("kubernetes.io/service-name={AGENT_SERVICE}");
    let config = watcher::Config::default().labels(&of_service);
    let mut informer =
        Informer::new("endpointslices", api, config, metrics).prune(directory::prune);
    let (directory, inbox) = (directory.clone(), inbox.clone());
    informer.on_change(move |change| {
        let changed = match (change.new.as_deref(), change.old.as_deref()) {
            (Some(slice), _) => directory.slice_changed(&slice.name_any(), Some(slice)),
            (None, Some(gone)) => directory.slice_changed(&gone.name_any(), None),
            (None, None) => false,
        };
        if changed {
            inbox.send(Input::PeersChanged);
        }
    });
    process.worker("endpointslices", |stop| informer.run(stop));
}

fn listen_for_signals(process: &mut Process, inbox: &Sender) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let inbox = inbox.clone();
    process.worker("signals", |stop| async move {
        loop {
            let next = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            if stop.or_stop(next).await.is_none() {
                return Ok(());
            }
            inbox.send(Input::Signal);
        }
    });
    Ok(())
}

/// Who owns the state folder.
struct Owner {
    store: Store,
    /// It was told to end before it became the owner.
    leaving: bool,
}

impl Owner {
    /// Whether there is anything to do before the end: a watchdog that a predecessor may have left armed. One that it
    /// has stopped properly must not be started again.
    fn is_needed(&self, boot: &BootId) -> bool {
        let record = || self.store.read::<Recorded>(STATE, boot);
        !self.leaving || record().is_some_and(|record| record.may_be_armed())
    }
}

/// Becomes the owner of the state folder; waits for a predecessor. `None`: told to end meanwhile. A predecessor that is
/// told to end at the same time may have left the watchdog armed for this process, so that is waited for a little: then
/// this one takes over, and ends as an owner does. One that is told later must not count on this one any more.
async fn stand_by(folder: Folder, inbox: &mut inbox::Receiver) -> anyhow::Result<Option<Owner>> {
    if let Some(store) = folder.try_own()? {
        let leaving = false;
        return Ok(Some(Owner { store, leaving }));
    }
    tracing::info!("another agent owns this node; standing by");
    let mut successor = folder.stand_by();
    let mut look = tokio::time::interval(SUCCESSION);
    let mut leaves = None;
    loop {
        tokio::select! {
            biased;
            _ = look.tick() => {
                if let Some(store) = successor.try_own()? {
                    tracing::info!("the predecessor has ended; taking over");
                    let leaving = leaves.is_some();
                    return Ok(Some(Owner { store, leaving }));
                }
                if leaves.is_some_and(|at| Instant::now() >= at) {
                    return Ok(None);
                }
            },
            input = inbox.recv() => match input {
                Some(Input::Signal) => {
                    leaves = leaves.or_else(|| Some(Instant::now() + PREDECESSOR_ENDS));
                    successor.is_no_more_awaiting();
                }
                None => return Ok(None),
                // What is learnt now is learnt again by the first list.
                Some(
                    Input::Evidence(_)
                    | Input::Feeder(_)
                    | Input::Question(..)
                    | Input::Relay(..)
                    | Input::ListedForPeers { .. }
                    | Input::PeersChanged,
                ) => {}
            }
        }
    }
}

/// Repeats the signal that came before this process was the owner: when it has the watchdog, which only then can be
/// stopped; soon in any case.
async fn end_when_armed(leaving: bool, device: device::Device, inbox: Sender) {
    if !leaving {
        return;
    }
    let armed = async {
        while device.used().is_none() {
            tokio::time::sleep(SUCCESSION).await;
        }
    };
    let _in_time = tokio::time::timeout(TAKES_OVER, armed).await.is_ok();
    inbox.send(Input::Signal);
}
