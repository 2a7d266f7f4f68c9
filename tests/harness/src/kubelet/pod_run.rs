//! One pod on one machine, from its first start to its end.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Container, Pod, Probe, Secret, ServiceAccount},
};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    Shared, is_writer,
    launch::{self, Places},
    probe::{Check, Patience},
    report::{self, Report},
    volumes,
};
use crate::{
    child::PodNetwork,
    machine::{Machine, What},
    process::Process,
    writers,
};

/// Pause before a container that died is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
/// Pause before it is looked again whether the volumes are attached.
const VOLUMES_PAUSE: Duration = Duration::from_millis(500);
/// How often probes are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Handle of one pod on one machine.
#[derive(Debug)]
pub(crate) struct PodRun {
    order: watch::Sender<Order>,
    process: Current,
    task: JoinHandle<()>,
    writer: bool,
    name: String,
}

/// What the pod is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    /// End the process within the grace, then the object.
    End {
        grace: Duration,
    },
    /// The object is gone: end the process.
    Abandon,
    /// The machine is dead.
    PowerCut,
}

/// The process of now; shared so that a power cut reaches it at once.
type Current = Arc<Mutex<Option<Process>>>;

impl PodRun {
    /// Starts the life of a pod.
    pub(super) fn start(shared: Arc<Shared>, machine: Arc<Machine>, pod: Arc<Pod>) -> Self {
        let (order, orders) = watch::channel(Order::Run);
        let process = Current::default();
        let (writer, name) = (is_writer(&pod), full_name(&pod));
        let life = Life {
            pods: Api::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default()),
            address: machine.pod_address(),
            started: now(),
            restarts: 0,
            told: None,
            process: Arc::clone(&process),
            orders,
            shared,
            machine,
            pod,
        };
        Self {
            order,
            process,
            task: tokio::spawn(life.live()),
            writer,
            name,
        }
    }

    /// Namespace and name of the pod.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is a writer.
    pub(super) const fn is_writer(&self) -> bool {
        self.writer
    }

    /// Whether its life is over.
    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// The deletion of the pod was asked for.
    pub(super) fn end(&self, grace: Duration) {
        self.order.send_if_modified(|order| {
            let first = *order == Order::Run;
            if first {
                *order = Order::End { grace };
            }
            first
        });
    }

    /// The pod's object is gone.
    pub(super) fn abandon(&self) {
        self.order.send_if_modified(|order| {
            let first = *order == Order::Run;
            if first {
                *order = Order::Abandon;
            }
            first
        });
    }

    /// The machine lost its power: the process dies now.
    pub(crate) fn cut_power(&self) {
        self.order.send_replace(Order::PowerCut);
        self.kill_container();
    }

    /// The process id of the container, while it runs.
    pub(crate) fn process_id(&self) -> Option<i32> {
        lock(&self.process)
            .as_ref()
            .filter(|process| process.is_running())
            .map(Process::id)
    }

    /// Kills the process; the kubelet restarts it.
    pub(crate) fn kill_container(&self) {
        if let Some(process) = &*lock(&self.process) {
            process.signal(nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn gone(self) {
        // The task ends by itself after a power cut; a panic in it is an end too.
        drop(self.task.await);
    }
}

struct Life {
    shared: Arc<Shared>,
    machine: Arc<Machine>,
    pod: Arc<Pod>,
    pods: Api<Pod>,
    address: Ipv4Addr,
    started: Timestamp,
    restarts: u32,
    told: Option<Report>,
    process: Current,
    orders: watch::Receiver<Order>,
}

impl Life {
    async fn live(mut self) {
        if self.pod.metadata.deletion_timestamp.is_some() {
            // Found ending and not running here: after a reset, for example.
            return self.finish().await;
        }
        while self.order() == Order::Run {
            if let Err(error) = volumes::attached(&self.shared, &self.machine, &self.pod).await {
                self.note(&format!("waits for its volumes: {error:#}"));
                drop(timeout(VOLUMES_PAUSE, self.orders.changed()).await);
                continue;
            }
            match self.start().await {
                Ok(process) => {
                    *lock(&self.process) = Some(process.clone());
                    // A power cut may have come while the process was being started.
                    if self.order() == Order::PowerCut {
                        process.kill().await;
                        return;
                    }
                    self.machine.tell(What::Started {
                        pod: full_name(&self.pod),
                    });
                    self.attend(&process).await;
                }
                Err(error) => self.note(&format!("could not start: {error:#}")),
            }
            if self.order() == Order::Run {
                self.restarts += 1;
                self.tell(Report {
                    ready: false,
                    restarts: self.restarts,
                    running_since: None,
                })
                .await;
                // A changed order ends the pause.
                drop(timeout(RESTART_PAUSE, self.orders.changed()).await);
            }
        }
        if matches!(self.order(), Order::End { .. }) {
            self.finish().await;
        }
    }

    fn order(&self) -> Order {
        *self.orders.borrow()
    }

    /// While the process runs: probes, status, and the order to end it.
    async fn attend(&mut self, process: &Process) {
        let pod = Arc::clone(&self.pod);
        let container = launch::container(&pod).ok();
        let address = self.address;
        let check = |probe: fn(&Container) -> Option<&Probe>| {
            container.and_then(|container| Check::of(probe(container), container, address))
        };
        let readiness = check(|container| container.readiness_probe.as_ref());
        let liveness = check(|container| container.liveness_probe.as_ref());
        let startup = check(|container| container.startup_probe.as_ref());
        let (mut begun, mut ready) = (startup.is_none(), readiness.is_none() && startup.is_none());
        let mut patience = Patience::new(Instant::now());
        let mut doubt = Patience::new(Instant::now());
        let since = now();
        loop {
            self.tell(Report {
                ready,
                restarts: self.restarts,
                running_since: Some(since),
            })
            .await;
            tokio::select! {
                _ = process.wait() => {
                    self.machine.tell(What::Ended { pod: full_name(&self.pod) });
                    return self.note("the process ended");
                }
                changed = self.orders.changed() => {
                    let grace = match (changed, self.order()) {
                        (Ok(()), Order::End { grace }) => grace,
                        (Ok(()), Order::Run) => continue,
                        (Ok(()), Order::Abandon) => Duration::from_secs(30),
                        (Ok(()), Order::PowerCut) | (Err(_), _) => Duration::ZERO,
                    };
                    return process.stop(grace).await;
                }
                () = sleep(TICK) => {}
            }
            if !begun {
                begun = match &startup {
                    Some(check) => check.passes().await,
                    None => true,
                };
            }
            if !begun {
                continue;
            }
            ready = match &readiness {
                // As often as the manifest says: what the probes cost is part of what the benches measure.
                Some(_) if ready && !doubt.is_due(Instant::now()) => true,
                Some(check) => {
                    let passed = check.passes().await;
                    let lost = doubt.lost(passed, check, Instant::now());
                    passed || (ready && !lost)
                }
                None => true,
            };
            if let Some(check) = &liveness
                && patience.is_due(Instant::now())
                && patience.lost(check.passes().await, check, Instant::now())
            {
                self.note("liveness probe failed: restarting");
                return process.stop(Duration::from_secs(10)).await;
            }
        }
    }

    async fn start(&mut self) -> anyhow::Result<Process> {
        let folder = self
            .shared
            .pods_folder
            .join(self.pod.uid().unwrap_or_default());
        fs::create_dir_all(&folder)?;
        let log = self
            .shared
            .logs_folder
            .join(format!("{}.log", full_name(&self.pod).replace('/', "_")));
        if is_writer(&self.pod) {
            let (pod, node) = (self.pod.uid().unwrap_or_default(), self.machine.name());
            let written = &self.shared.writers_log;
            return Process::start_writer(written, &pod, node, writers::PERIOD, &log).await;
        }
        let kubeconfig = folder.join("kubeconfig");
        let mut volumes = BTreeMap::new();
        if self.machine.is_heard() {
            self.write_credentials(&kubeconfig)
                .await
                .context("get a token")?;
        }
        for (volume, secret) in secrets(&self.pod) {
            let mounted = folder.join(&volume);
            if self.machine.is_heard() {
                self.write_secret(&secret, &mounted)
                    .await
                    .with_context(|| format!("mount Secret {secret}"))?;
            }
            volumes.insert(volume, mounted);
        }
        let places = Places {
            address: self.address,
            node_address: self.machine.address(),
            host_root: self.machine.host_root(),
            kubeconfig: &kubeconfig,
            volumes: &volumes,
            log,
        };
        let launch = launch::launch(&self.pod, &self.shared.images, &places)?;
        Process::start_in_pod(
            launch,
            &self.shared.fabric,
            PodNetwork {
                address: self.address,
            },
        )
        .await
    }

    /// A token of the pod's ServiceAccount, bound to the pod, as a kubelet mounts it.
    async fn write_credentials(&self, kubeconfig: &PathBuf) -> anyhow::Result<()> {
        let account = account(&self.pod);
        let token = token(&self.shared.client, &self.pod).await?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {
                "server": self.shared.server, "certificate-authority-data": self.shared.ca_data}}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": account,
                "namespace": self.pod.namespace()}}],
            "current-context": "c",
        });
        fs::write(kubeconfig, serde_json::to_vec_pretty(&config)?)?;
        Ok(())
    }

    async fn write_secret(&self, name: &str, folder: &PathBuf) -> anyhow::Result<()> {
        let secrets: Api<Secret> = Api::namespaced(
            self.shared.client.clone(),
            &self.pod.namespace().unwrap_or_default(),
        );
        let secret = secrets.get(name).await?;
        fs::create_dir_all(folder)?;
        for (key, value) in secret.data.iter().flatten() {
            fs::write(folder.join(key), &value.0)?;
        }
        Ok(())
    }

    /// Tells the API once per change; tried again at the next tick when it does not answer.
    async fn tell(&mut self, report: Report) {
        if self.told.as_ref() == Some(&report) || !self.machine.is_heard() {
            return;
        }
        let host = self.machine.address();
        let published = report::publish(
            &self.pods,
            &self.pod,
            &report,
            [self.address, host],
            self.started,
        )
        .await;
        match published {
            Ok(()) => self.told = Some(report),
            // The pod is gone or replaced: whoever removed it gives the order.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                self.told = Some(report);
            }
            Err(error) => self.note(&format!("could not report: {error}")),
        }
    }

    async fn finish(&self) {
        loop {
            if self.order() == Order::PowerCut {
                return;
            }
            if self.machine.is_heard() && report::finish(&self.pods, &self.pod).await {
                return;
            }
            sleep(TICK).await;
        }
    }

    /// Into the container's log: that is where one looks when a pod does not come up.
    fn note(&self, text: &str) {
        let file = format!("{}.log", full_name(&self.pod).replace('/', "_"));
        let path = self.shared.logs_folder.join(file);
        if let Ok(mut log) = fs::OpenOptions::new().append(true).create(true).open(path) {
            // A full disk shows elsewhere.
            drop(std::io::Write::write_all(
                &mut log,
                format!("harness: {text}\n").as_bytes(),
            ));
        }
    }
}

fn account(pod: &Pod) -> String {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone())
        .unwrap_or_else(|| "default".to_owned())
}

/// A token of the pod's ServiceAccount, bound to the pod.
pub(crate) async fn token(client: &Client, pod: &Pod) -> anyhow::Result<String> {
    let namespace = pod.namespace().unwrap_or_default();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(24 * 3600),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(&account(pod), &PostParams::default(), &request)
        .await?;
    Ok(answer.status.context("the answer has no token")?.token)
}

/// Volumes that are Secrets: name of the volume, name of the Secret.
pub(crate) fn secrets(pod: &Pod) -> Vec<(String, String)> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| {
            Some((
                volume.name.clone(),
                volume.secret.as_ref()?.secret_name.clone()?,
            ))
        })
        .collect()
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

fn now() -> Timestamp {
    // Whole seconds, as Kubernetes keeps its times.
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn lock(process: &Mutex<Option<Process>>) -> std::sync::MutexGuard<'_, Option<Process>> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}
