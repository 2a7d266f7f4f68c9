//! The kubelet of a guest, played on the host: it starts and ends the agent's pods in the guest and tells
//! the API server of them and of the node.
//!
//! # Guarantees
//! * The agent gets the arguments and environment of its pod, its ServiceAccount and its Secret at the
//!   paths where a kubelet mounts them. Added are only addresses to listen on: the pods of a guest share
//!   one network namespace, and two agents run side by side while one replaces the other.
//! * With the cable out it neither hears nor tells anything, and restarts what dies, as a real one does.
//! * The new boot ID is in the API before a pod is started in that boot.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use medik8s_api::names::snr;
use medik8s_guest::Order;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{
    guest::{Guest, PODS},
    initramfs,
};
use crate::{
    kubelet::{
        self,
        launch::{self, Places},
        pod_run,
        report::{self, Report},
    },
    kwok::{ALIVE, DEAD, SIMULATED},
};

const TICK: Duration = Duration::from_millis(300);
/// The API server is cut off in some scenarios.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause before a container that died is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PROBES: u16 = 8081;

/// Plays until it is dropped.
#[expect(clippy::infinite_loop, reason = "a task that is ended with its guest")]
pub(super) async fn run(guest: Arc<Guest>, client: Client, api: SocketAddr, ca: String) {
    let mut kubelet = Kubelet {
        guest,
        client,
        api,
        ca,
        boot: None,
        told: Told::Nothing,
        pods: BTreeMap::new(),
        next_pod: 0,
    };
    loop {
        sleep(TICK).await;
        if let Err(error) = kubelet.sync().await {
            kubelet.note(&format!("{error:#}"));
        }
    }
}

struct Kubelet {
    guest: Arc<Guest>,
    client: Client,
    api: SocketAddr,
    ca: String,
    /// The boot that is set up.
    boot: Option<String>,
    told: Told,
    pods: BTreeMap<String, Run>,
    next_pod: u8,
}

/// What the API knows of the node.
#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    Silent,
    Heard { boot: String },
}

/// One pod of the agent.
struct Run {
    pod: Pod,
    address: Ipv4Addr,
    start: Order,
    since: Timestamp,
    ended: Option<Instant>,
    /// When its end was asked for.
    terminated: Option<Instant>,
    told: Option<Report>,
}

impl Kubelet {
    async fn sync(&mut self) -> anyhow::Result<()> {
        let boot = self.guest.boot();
        if self.boot != boot {
            self.pods.clear();
            if boot.is_some() {
                self.guest.set_up().await?;
            }
            self.boot.clone_from(&boot);
        }
        let works = boot.is_some() && self.guest.has_kubelet();
        let heard = works && self.guest.is_linked();
        let tell = match boot.filter(|_| heard) {
            Some(boot) => Told::Heard { boot },
            None => Told::Silent,
        };
        self.tell_of_node(tell).await?;
        if works {
            self.restart_what_died().await?;
        }
        if heard {
            self.sync_pods().await?;
        }
        Ok(())
    }

    /// The heartbeats of a node that is heard come from kwok.
    async fn tell_of_node(&mut self, tell: Told) -> anyhow::Result<()> {
        if self.told == tell {
            return Ok(());
        }
        let nodes = Api::<Node>::all(self.client.clone());
        let (name, params) = (self.guest.name(), PatchParams::default());
        if self.told == Told::Nothing {
            let node = node(name)?;
            nodes.create(&PostParams::default(), &node).await?;
        }
        let mut label = DEAD;
        if let Told::Heard { boot } = &tell {
            label = ALIVE;
            let address = self.guest.addresses().first().copied();
            let status = status(name, boot, address.unwrap_or(Ipv4Addr::UNSPECIFIED));
            nodes
                .patch_status(name, &params, &Patch::Strategic(status))
                .await?;
        }
        let labels = json!({"metadata": {"labels": {SIMULATED: label}}});
        nodes.patch(name, &params, &Patch::Merge(labels)).await?;
        self.told = tell;
        // The node controller has called the pods of a silent node unready.
        for run in self.pods.values_mut() {
            run.told = None;
        }
        Ok(())
    }

    async fn restart_what_died(&mut self) -> anyhow::Result<()> {
        for (name, run) in &mut self.pods {
            if self.guest.is_running(name) {
                continue;
            }
            let ended = *run.ended.get_or_insert_with(Instant::now);
            if run.terminated.is_none() && ended.elapsed() >= RESTART_PAUSE {
                run.ended = None;
                self.guest.order(run.start.clone()).await?;
            }
        }
        Ok(())
    }

    async fn sync_pods(&mut self) -> anyhow::Result<()> {
        let all = Api::<Pod>::all(self.client.clone());
        let own = ListParams::default()
            .fields(&format!("spec.nodeName={}", self.guest.name()))
            .labels(snr::AGENT_SELECTOR);
        let pods = timeout(ANSWER, all.list(&own)).await??;
        for pod in pods {
            let name = pod.name_any();
            let ending = pod.metadata.deletion_timestamp.is_some();
            match (self.pods.contains_key(&name), ending) {
                (false, false) => self.start(pod).await?,
                (false, true) => {
                    report::finish(&self.of(&pod), &pod).await;
                }
                (true, false) => self.report(&name).await?,
                (true, true) => self.end(&name).await?,
            }
        }
        Ok(())
    }

    fn of(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }

    async fn start(&mut self, pod: Pod) -> anyhow::Result<()> {
        self.next_pod = self.next_pod % PODS + 1;
        let address = self.guest.addresses().get(usize::from(self.next_pod));
        let address = *address.context("no address for the pod")?;
        let container = launch::container(&pod)?;
        self.mount(&pod).await?;
        let places = Places {
            address,
            node_address: address,
            host_root: Path::new("/"),
            kubeconfig: Path::new(""),
            volumes: &BTreeMap::new(),
            log: self.guest.folder().to_owned(),
        };
        let mut env = launch::environment(&pod, container, &places)?;
        env.insert("KUBERNETES_SERVICE_HOST".into(), self.api.ip().to_string());
        env.insert(
            "KUBERNETES_SERVICE_PORT".into(),
            self.api.port().to_string(),
        );
        let port = env.get("HOST_PORT").context("no HOST_PORT")?;
        let mut args: Vec<String> = container.args.clone().unwrap_or_default();
        args.push(format!("--peer-bind-address={address}:{port}"));
        args.push(format!("--health-probe-bind-address={address}:{PROBES}"));
        args.push(format!("--metrics-bind-address={address}:8443"));
        let start = Order::Start {
            name: pod.name_any(),
            program: initramfs::AGENT.into(),
            args,
            env,
        };
        self.guest.order(start.clone()).await?;
        let run = Run {
            address,
            start,
            since: Timestamp::now(),
            ended: None,
            terminated: None,
            told: None,
            pod,
        };
        self.pods.insert(run.pod.name_any(), run);
        Ok(())
    }

    /// The ServiceAccount and the Secret of the pod.
    async fn mount(&self, pod: &Pod) -> anyhow::Result<()> {
        let namespace = pod.namespace().unwrap_or_default();
        let mut files = vec![
            (
                format!("{ACCOUNT}/token"),
                pod_run::token(&self.client, pod).await?,
            ),
            (format!("{ACCOUNT}/ca.crt"), self.ca.clone()),
            (format!("{ACCOUNT}/namespace"), namespace.clone()),
        ];
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &namespace);
        let mounts = launch::container(pod)?.volume_mounts.iter().flatten();
        for (volume, secret) in pod_run::secrets(pod) {
            let secret = secrets.get(&secret).await?;
            for mount in mounts.clone().filter(|mount| mount.name == volume) {
                for (key, value) in secret.data.iter().flatten() {
                    let value = String::from_utf8(value.0.clone())?;
                    files.push((format!("{}/{key}", mount.mount_path), value));
                }
            }
        }
        for (path, content) in files {
            let path = path.into();
            self.guest.order(Order::Write { path, content }).await?;
        }
        Ok(())
    }

    async fn report(&mut self, name: &str) -> anyhow::Result<()> {
        let running = self.guest.is_running(name);
        let (client, host) = (self.client.clone(), self.guest.addresses().first().copied());
        let run = self.pods.get_mut(name).context("no such pod")?;
        let probed = SocketAddr::from((run.address, PROBES));
        let ready = running
            && matches!(
                kubelet::get(probed, "/readyz", Duration::from_secs(1)).await,
                Ok(200..=399)
            );
        let report = Report {
            ready,
            restarts: 0,
            running_since: running.then_some(run.since),
        };
        if run.told.as_ref() == Some(&report) {
            return Ok(());
        }
        let pods = Api::namespaced(client, &run.pod.namespace().unwrap_or_default());
        let addresses = [run.address, host.unwrap_or(run.address)];
        report::publish(&pods, &run.pod, &report, addresses, run.since).await?;
        run.told = Some(report);
        Ok(())
    }

    async fn end(&mut self, name: &str) -> anyhow::Result<()> {
        let running = self.guest.is_running(name);
        let run = self.pods.get_mut(name).context("no such pod")?;
        let grace = run.pod.spec.as_ref();
        let grace = grace.and_then(|spec| spec.termination_grace_period_seconds);
        let grace = Duration::from_secs(u64::try_from(grace.unwrap_or(30))?);
        match run.terminated {
            _ if !running => {
                let pod = run.pod.clone();
                if report::finish(&self.of(&pod), &pod).await {
                    self.pods.remove(name);
                }
            }
            None => {
                run.terminated = Some(Instant::now());
                self.guest.signal(name, Signal::SIGTERM).await?;
            }
            Some(since) if since.elapsed() >= grace => {
                self.guest.signal(name, Signal::SIGKILL).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Into a log of the guest's folder: that is where one looks when an agent does not come up.
    fn note(&self, text: &str) {
        let file = self.guest.folder().join("kubelet.log");
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file);
        if let Ok(mut log) = log {
            drop(writeln!(log, "{} {text}", Timestamp::now()));
        }
    }
}

fn node(name: &str) -> anyhow::Result<Node> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "node-role.kubernetes.io/worker": "",
        }},
    }))?)
}

fn status(name: &str, boot: &str, address: Ipv4Addr) -> serde_json::Value {
    let room = json!({"cpu": "1", "memory": "256Mi", "pods": PODS});
    json!({"status": {
        "capacity": room,
        "allocatable": room,
        "addresses": [
            {"type": "InternalIP", "address": address.to_string()},
            {"type": "Hostname", "address": name},
        ],
        "nodeInfo": {
            "architecture": "amd64",
            "bootID": boot,
            "containerRuntimeVersion": "guest://1",
            "kernelVersion": "6.1.0",
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.36.3",
            "machineID": name,
            "operatingSystem": "linux",
            "osImage": "guest",
            "systemUUID": name,
        },
    }})
}
