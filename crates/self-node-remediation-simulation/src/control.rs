//! What the control plane does by itself: node lifecycle, health check, workload, pod garbage collection.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::contract::NODE_NAME_ANNOTATION;
use medik8s_api::names::{kubernetes, snr};
use medik8s_api::self_node_remediation::RemediationStrategy;
use medik8s_core::conditions::Status;
use medik8s_testing::build::{self, MetaExt as _, NodeExt as _, PodExt as _};
use medik8s_testing::fake::FakeApi;
use self_node_remediation_peer::CertificateSet;
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::process::NAMESPACE;
use crate::random::Rng;
use crate::scenario::{Fault, Scenario};

/// A node whose kubelet was not heard for so long is not Ready.
const GRACE: Duration = Duration::from_secs(40);
/// Namespace of the workload.
pub const WORKLOAD: &str = "default";
/// Time until a pod that is gone is replaced, and until an out-of-service node is emptied.
const REPLACE: Duration = Duration::from_secs(2);

/// One application, of which at most one copy may run.
#[derive(Debug)]
pub struct App {
    /// Its number.
    pub index: usize,
    /// Its pod's name.
    pub name: String,
    /// When its pod was first seen to be gone.
    gone: Option<Instant>,
    /// Its pod, as the kubelets read it.
    pub pod: Option<PodSeen>,
}

/// A pod of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Its UID.
    pub uid: String,
    /// The node that it is bound to.
    pub node: String,
    /// It is being deleted.
    pub ends: bool,
}

impl PodSeen {
    /// The pod of this name.
    pub fn read(api: &FakeApi, name: &str) -> Option<Self> {
        let pod = api.get_value("v1", "Pod", Some(WORKLOAD), name)?;
        Some(Self {
            uid: text(&pod, "/metadata/uid")?.to_owned(),
            node: text(&pod, "/spec/nodeName")?.to_owned(),
            ends: is_ending(&pod),
        })
    }
}

impl App {
    /// An application without a pod.
    pub fn new(index: usize) -> Self {
        Self {
            index,
            name: format!("app-{index}"),
            gone: None,
            pod: None,
        }
    }
}

/// What the controllers know of a node.
#[derive(Debug, Clone, Copy)]
struct Seen {
    heard: Instant,
    ready: bool,
    unready_since: Instant,
}

/// The controllers' memory.
#[derive(Debug)]
pub struct Control {
    /// The workload.
    pub apps: Vec<App>,
    nodes: BTreeMap<usize, Seen>,
    /// How long a node may be unready.
    patience: Duration,
    strategy: RemediationStrategy,
    was_down: bool,
    out_of_service: BTreeMap<usize, Instant>,
    /// Faults that are there now.
    pub under_way: Vec<Fault>,
}

impl Control {
    /// Knows nothing yet.
    pub fn new(scenario: &Scenario, now: Instant, rng: &mut Rng) -> Self {
        let unknown = Seen {
            heard: now,
            ready: false,
            unready_since: now,
        };
        let strategies = [
            RemediationStrategy::Automatic,
            RemediationStrategy::ResourceDeletion,
            RemediationStrategy::OutOfServiceTaint,
        ];
        Self {
            apps: Vec::new(),
            nodes: (0..scenario.nodes()).map(|node| (node, unknown)).collect(),
            patience: scenario.patience,
            strategy: rng
                .pick(&strategies)
                .cloned()
                .unwrap_or(RemediationStrategy::Automatic),
            was_down: false,
            out_of_service: BTreeMap::new(),
            under_way: Vec::new(),
        }
    }

    /// The controllers reach nobody either.
    pub const fn api_down(&mut self) {
        self.was_down = true;
    }

    /// Whether a node is Ready, as the API has it.
    pub fn is_ready(&self, node: usize) -> bool {
        self.nodes.get(&node).is_some_and(|seen| seen.ready)
    }
}

impl Cluster {
    /// A kubelet was heard; `boot`: it reports this boot.
    pub(crate) fn heard(&mut self, index: usize, boot: Option<&str>) {
        let now = Instant::now();
        let wall = self.clock.now();
        let Some(machine) = self.machines.get(index) else {
            return;
        };
        let Some(seen) = self.control.nodes.get_mut(&index) else {
            return;
        };
        seen.heard = now;
        if boot.is_some() || !seen.ready {
            self.api.update::<Node>(None, &machine.name, |node| {
                let ready = std::mem::take(node).ready(wall);
                *node = match boot {
                    Some(boot) => ready.boot_id(boot),
                    None => ready,
                };
            });
            if !seen.ready {
                self.trace.say(format!("{} is Ready", machine.name));
            }
            seen.ready = true;
        }
    }

    /// All controllers, once.
    pub(crate) fn control_plane(&mut self) {
        let now = Instant::now();
        if std::mem::take(&mut self.control.was_down) {
            for seen in self.control.nodes.values_mut() {
                seen.heard = now;
            }
        }
        self.lose_nodes(now);
        self.check_health(now);
        self.collect_pods(now);
        self.replace_pods(now);
        for app in &mut self.control.apps {
            app.pod = PodSeen::read(&self.api, &app.name);
        }
    }

    fn lose_nodes(&mut self, now: Instant) {
        let wall = self.clock.now();
        for machine in &self.machines {
            let Some(seen) = self.control.nodes.get_mut(&machine.index) else {
                continue;
            };
            if seen.ready && now >= seen.heard + GRACE {
                seen.ready = false;
                seen.unready_since = now;
                self.api.update::<Node>(None, &machine.name, |node| {
                    *node = std::mem::take(node).not_ready(Status::Unknown, wall);
                });
                self.trace.say(format!("{} is not Ready", machine.name));
            }
        }
    }

    /// A node health check with the default limit of 51 % healthy nodes.
    fn check_health(&mut self, now: Instant) {
        let unready = self
            .control
            .nodes
            .values()
            .filter(|seen| !seen.ready)
            .count();
        let storm = unready * 100 > self.machines.len() * 49;
        for machine in &self.machines {
            let Some(seen) = self.control.nodes.get(&machine.index) else {
                continue;
            };
            let known = self.judge.remediations.contains(&machine.name);
            if seen.ready && known {
                self.api
                    .delete::<SelfNodeRemediation>(Some(NAMESPACE), &machine.name);
            }
            let due = !seen.ready && now >= seen.unready_since + self.control.patience;
            if due && !known && !storm && now >= self.judge.started + crate::scenario::CALM / 2 {
                let mut remediation = build::self_node_remediation(&machine.name)
                    .within(NAMESPACE)
                    .annotated(NODE_NAME_ANNOTATION, &machine.name);
                remediation.spec.remediation_strategy = Some(self.control.strategy.clone());
                self.api.put(&remediation);
                self.trace
                    .say(format!("a remediation for {} is created", machine.name));
                self.trace.count("remediations", 1);
            }
        }
    }

    /// Kubernetes ends the pods of nodes that are out of service.
    fn collect_pods(&mut self, now: Instant) {
        for machine in &self.machines {
            let known = self.judge.remediations.contains(&machine.name);
            if self.control.is_ready(machine.index) || !known {
                self.control.out_of_service.remove(&machine.index);
                continue;
            }
            let node = self.api.get_value("v1", "Node", None, &machine.name);
            let tainted = node.is_some_and(|node| {
                let taints = node
                    .pointer("/spec/taints")
                    .and_then(Value::as_array)
                    .cloned();
                taints.unwrap_or_default().iter().any(|taint| {
                    taint.get("key").and_then(Value::as_str)
                        == Some(kubernetes::OUT_OF_SERVICE_TAINT)
                })
            });
            if !tainted {
                self.control.out_of_service.remove(&machine.index);
                continue;
            }
            let since = *self
                .control
                .out_of_service
                .entry(machine.index)
                .or_insert(now);
            if now < since + REPLACE {
                continue;
            }
            for app in &self.control.apps {
                let pod = PodSeen::read(&self.api, &app.name);
                if pod.is_some_and(|pod| pod.node == machine.name) {
                    self.api.remove::<Pod>(Some(WORKLOAD), &app.name);
                    self.trace.say(format!(
                        "{} is removed: its node is out of service",
                        app.name
                    ));
                }
            }
        }
    }

    /// A controller with one replica and stable names, and the scheduler.
    fn replace_pods(&mut self, now: Instant) {
        let mut nodes = Vec::new();
        for app in &mut self.control.apps {
            if PodSeen::read(&self.api, &app.name).is_some() {
                app.gone = None;
                continue;
            }
            let gone = *app.gone.get_or_insert(now);
            if now < gone + REPLACE {
                continue;
            }
            if nodes.is_empty() {
                let usable = |machine: &&crate::machine::Machine| {
                    let ready = self.control.nodes.get(&machine.index);
                    let node: Option<Node> = self.api.get(None, &machine.name);
                    let spec = node.and_then(|node| node.spec).unwrap_or_default();
                    !machine.control_plane
                        && ready.is_some_and(|seen| seen.ready)
                        && spec.taints.unwrap_or_default().is_empty()
                };
                let names = self.machines.iter().filter(usable);
                nodes = names.map(|machine| machine.name.clone()).collect();
            }
            // At first everybody gets one.
            let own = nodes
                .get(app.index)
                .filter(|_| self.trace.now() < Duration::from_mins(1));
            let Some(node) = own.or_else(|| self.rng.pick(&nodes)).cloned() else {
                return;
            };
            let pod = build::pod(WORKLOAD, &app.name).on(&node);
            self.api.put(&pod);
            self.trace.say(format!("{} is bound to {node}", app.name));
        }
    }
}

/// Stores a set of certificates as the installation's.
pub fn store(api: &FakeApi, set: &CertificateSet) {
    let field = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
    let secret = Secret {
        metadata: build::meta(snr::CERTIFICATES_SECRET),
        immutable: Some(true),
        data: Some(BTreeMap::from([
            field("caPem", &set.ca_pem),
            field("certPem", &set.cert_pem),
            field("keyPem", &set.key_pem),
        ])),
        ..Secret::default()
    };
    api.put(&secret.within(NAMESPACE));
}

/// A text inside an object.
pub fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// Whether an object is being deleted.
pub fn is_ending(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}
