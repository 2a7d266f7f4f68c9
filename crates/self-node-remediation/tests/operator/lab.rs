//! A fake API server, a clock, agents that answer over the real wire, and managers that can be started and killed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Secret, Taint};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::runtime::watcher;
use kube::{Api, ResourceExt as _};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::{kubernetes, snr};
use medik8s_api::self_node_remediation::{SelfNodeRemediationConfig, SelfNodeRemediationStatus};
use medik8s_core::conditions::{self, Status};
use medik8s_core::version::ServerVersion;
use medik8s_runtime::capabilities::{Capabilities, Capability};
use medik8s_runtime::clock::{Clock, ManualClock};
use medik8s_runtime::controller::ObjectKey;
use medik8s_runtime::events;
use medik8s_runtime::informer::Informer;
use medik8s_runtime::leader::Leadership;
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::shutdown::Shutdown;
use medik8s_runtime::write::Writer;
use medik8s_testing::build::{self, MetaExt as _, NodeExt as _, PodExt as _};
use medik8s_testing::fake::FakeApi;
use medik8s_testing::wire::Recorded;
use self_node_remediation::remediation::{
    Memory, NodeMetadata, RemediationMetrics, Remediator, keep_roles,
};
use self_node_remediation_core::order::Remediation;
use self_node_remediation_peer::net::Dialer;
use self_node_remediation_peer::server::{self, Settings as ServerSettings};
use self_node_remediation_peer::{CertificateSet, HealthRequest, HealthResponse, Status as Said};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The operator's namespace.
pub(crate) const NAMESPACE: &str = "medik8s";
/// The node that is remediated, and the others.
pub(crate) const NODE: &str = "x";
const OTHERS: [&str; 3] = ["a", "b", "c"];
/// How far the clock moves between two passes.
const STEP: Duration = Duration::from_secs(2);
/// D of the announcement in the lab: 90 + 20 + 30.
pub(crate) const BOUND: i64 = 140;

/// What the agents of the other nodes look at.
#[derive(Default)]
struct World {
    api: Option<FakeApi>,
    silent: bool,
}

/// The agents of the other nodes: real servers that acknowledge the orders which are in the API.
pub(crate) struct Agents {
    certificates: CertificateSet,
    port: u16,
    addresses: Vec<(String, IpAddr)>,
    world: Arc<Mutex<World>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Agents {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Agents {
    pub(crate) async fn start() -> Self {
        static NEXT: OnceLock<std::sync::atomic::AtomicU8> = OnceLock::new();
        let subnet = NEXT
            .get_or_init(|| std::sync::atomic::AtomicU8::new(1))
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let certificates = CertificateSet::create(start()).unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let address = |number: usize| {
            let number = u8::try_from(number + 1).unwrap();
            IpAddr::V4(Ipv4Addr::new(127, 11, subnet, number))
        };
        let mut tasks = Vec::new();
        let mut addresses = Vec::new();
        let mut port = 0;
        for (number, name) in OTHERS.iter().enumerate() {
            let listener = TcpListener::bind((address(number), port)).await.unwrap();
            port = listener.local_addr().unwrap().port();
            addresses.push(((*name).to_owned(), address(number)));
            let identity = certificates.identity().unwrap();
            let world = Arc::clone(&world);
            tasks.push(tokio::spawn(async move {
                let answer = move |question: HealthRequest| {
                    let answer = answer(&world.lock().unwrap(), &question);
                    async move { answer }
                };
                let settings = ServerSettings::answering_within(Duration::from_secs(5));
                server::serve(
                    listener,
                    &identity,
                    settings,
                    answer,
                    std::future::pending(),
                )
                .await
                .unwrap();
            }));
        }
        Self {
            certificates,
            port,
            addresses,
            world,
            tasks,
        }
    }

    /// The agents have no API any more and remember nothing, or answer again.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.world.lock().unwrap().silent = silent;
    }
}

fn answer(world: &World, question: &HealthRequest) -> Result<HealthResponse, tonic::Status> {
    let Some(api) = world.api.as_ref().filter(|_| !world.silent) else {
        return Err(tonic::Status::unavailable("nothing can be said"));
    };
    let known = api
        .list::<SelfNodeRemediation>()
        .iter()
        .filter_map(Remediation::parse)
        .any(|known| known.is_order() && known.uid.as_str() == question.order_uid);
    Ok(if known {
        HealthResponse::acknowledging(&question.order_uid)
    } else {
        HealthResponse::of(Said::Healthy)
    })
}

/// Whether the request would put an order in place.
pub(crate) fn is_order(request: &Recorded) -> bool {
    request.method == "PATCH"
        && request
            .body
            .to_string()
            .contains(snr::PHASE_PRE_REBOOT_COMPLETED)
}

fn start() -> Timestamp {
    build::at(10_000)
}

/// What was seen between the passes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When the order was first in place.
    pub(crate) ordered: Option<Timestamp>,
    /// When the first thing of the workload was touched.
    pub(crate) freed: Option<Timestamp>,
    assumed: Option<Timestamp>,
}

#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) api: FakeApi,
    /// Events go to a server of their own: they are no writes that anything depends on.
    pub(crate) events: FakeApi,
    pub(crate) clock: Clock,
    hands: ManualClock,
    pub(crate) seen: Arc<Mutex<Seen>>,
    /// Kinds of requests that must never be made, as they were made.
    pub(crate) wrong: Arc<Mutex<Vec<String>>>,
}

/// A manager that leads. Dropping it does not stop it.
pub(crate) struct Manager {
    remediator: Arc<Remediator>,
    stop: Shutdown,
    tasks: Vec<JoinHandle<()>>,
}

impl Manager {
    /// `kill -9`.
    pub(crate) fn kill(self) {
        self.stop.trigger();
        for task in self.tasks {
            task.abort();
        }
    }
}

impl Lab {
    /// Four workers with agents of ours; `x` runs pods and is cut off: its kubelet is not heard any more.
    pub(crate) fn new(agents: &Agents) -> Self {
        let (clock, hands) = Clock::manual(start());
        let api = FakeApi::with_medik8s_kinds();
        api.add_kind::<EndpointSlice>();
        api.add_kind::<VolumeAttachment>();
        let time = clock.clone();
        api.follow_clock(move || time.now());
        let lab = Self {
            api,
            events: FakeApi::with_medik8s_kinds(),
            clock,
            hands,
            seen: Arc::default(),
            wrong: Arc::default(),
        };
        lab.install(agents);
        lab.watch_requests();
        agents.world.lock().unwrap().api = Some(lab.api.clone());
        lab
    }

    fn install(&self, agents: &Agents) {
        let now = self.clock.now();
        for name in OTHERS {
            let node = build::node(name).worker().ready(now).boot_id("b0");
            let version = snr::AGENT_VERSION_ANNOTATION;
            self.api.put(&node.annotated(version, "1"));
        }
        let node = build::node(NODE).worker().not_ready(Status::Unknown, now);
        self.api.put(&announcing(node, "b1", now));
        let labels = [
            (snr::AGENT_NAME_LABEL, snr::AGENT_NAME_VALUE),
            (snr::AGENT_COMPONENT_LABEL, snr::AGENT_COMPONENT_VALUE),
        ];
        let agent = build::pod(NAMESPACE, "agent-x")
            .on(NODE)
            .of_daemon_set(snr::DAEMON_SET_NAME)
            .tolerating_everything()
            .annotated(snr::AGENT_POD_MARKER_ANNOTATION, snr::AGENT_POD_MARKER);
        let agent = labels
            .iter()
            .fold(agent, |pod, (key, value)| pod.labelled(key, value));
        self.api.put(&agent);
        for name in ["ledger", "shop", "cache"] {
            self.api.put(&build::pod("default", name).on(NODE));
        }
        let mut config = SelfNodeRemediationConfig {
            metadata: build::meta(snr::CONFIG_NAME),
            ..SelfNodeRemediationConfig::default()
        };
        config.metadata.namespace = Some(NAMESPACE.to_owned());
        config.spec.host_port = Some(agents.port.into());
        self.api.put(&config);
        let set = &agents.certificates;
        self.api.put::<Secret>(&from(json!({
            "metadata": {"name": snr::CERTIFICATES_SECRET, "namespace": NAMESPACE},
            "stringData": {},
            "data": {
                "caPem": base64(&set.ca_pem), "certPem": base64(&set.cert_pem), "keyPem": base64(&set.key_pem),
            },
        })));
        let endpoints: Vec<_> = agents
            .addresses
            .iter()
            .map(|(name, address)| json!({"addresses": [address], "nodeName": name}))
            .collect();
        self.api.put::<EndpointSlice>(&from(json!({
            "metadata": {"name": "agents", "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": snr::AGENT_SERVICE}},
            "addressType": "IPv4",
            "endpoints": endpoints,
        })));
    }

    /// Looks at every request for what must never be.
    fn watch_requests(&self) {
        let wrong = Arc::clone(&self.wrong);
        self.api.intercept(move |request: &Recorded| {
            let body = request.body.to_string();
            if is_order(request) && !body.contains("timeAssumedRebooted") {
                wrong
                    .lock()
                    .unwrap()
                    .push(format!("order without time: {request}"));
            }
            let deletes_pod = request.method == "DELETE" && request.path.contains("/pods/");
            if deletes_pod && !body.contains("\"uid\"") {
                wrong.lock().unwrap().push(format!("no UID: {request}"));
            }
            if request.method == "DELETE" && request.path.ends_with("/pods") {
                wrong
                    .lock()
                    .unwrap()
                    .push(format!("deletecollection: {request}"));
            }
            None
        });
    }

    /// A new process, which remembers nothing.
    pub(crate) async fn manager(&self) -> Manager {
        let metrics = Metrics::new().unwrap();
        let client = self.api.client();
        let stop = Shutdown::manual();
        let writer = Writer::new("self-node-remediation");
        let (recorder, sink) = events::recorder(
            self.events.client(),
            snr::EVENT_SOURCE,
            writer.clone(),
            self.clock.clone(),
            &metrics,
        );
        let everything = watcher::Config::default;
        let configs = Informer::new(
            "configs",
            Api::<SelfNodeRemediationConfig>::namespaced(client.clone(), NAMESPACE),
            everything(),
            &metrics,
        );
        let remediations = Informer::new(
            "remediations",
            Api::<SelfNodeRemediation>::all(client.clone()),
            everything(),
            &metrics,
        );
        let nodes = Informer::new(
            "nodes",
            Api::<NodeMetadata>::all(client.clone()),
            everything(),
            &metrics,
        )
        .prune(keep_roles);
        let remediator = Arc::new(Remediator {
            client,
            writer: writer.gated(Leadership::always(self.clock.clone())),
            recorder: recorder.prefixed("[remediation] "),
            dialer: Dialer::tcp(),
            clock: self.clock.clone(),
            namespace: NAMESPACE.to_owned(),
            capability: Capability::fixed(Capabilities {
                version: ServerVersion::parse("1", "33").unwrap(),
                group_versions: BTreeSet::from(["machine.openshift.io/v1beta1".to_owned()]),
            }),
            configs: configs.cache(),
            remediations: remediations.cache(),
            nodes: nodes.cache(),
            memory: Memory::default(),
            cleaning: Arc::default(),
            metrics: RemediationMetrics::new(&metrics).unwrap(),
        });
        let mut tasks = Vec::new();
        let (one, two, three, four) = (stop.clone(), stop.clone(), stop.clone(), stop.clone());
        tasks.push(tokio::spawn(async move { drop(configs.run(one).await) }));
        tasks.push(tokio::spawn(
            async move { drop(remediations.run(two).await) },
        ));
        tasks.push(tokio::spawn(async move { drop(nodes.run(three).await) }));
        tasks.push(tokio::spawn(async move { drop(sink.run(four).await) }));
        for synced in [
            remediator.configs.synced(&stop).await,
            remediator.remediations.synced(&stop).await,
            remediator.nodes.synced(&stop).await,
        ] {
            assert!(synced);
        }
        Manager {
            remediator,
            stop,
            tasks,
        }
    }

    /// Every remediation is looked at once, then time passes.
    pub(crate) async fn pass(&self, manager: &Manager) {
        let known = self.api.list::<SelfNodeRemediation>();
        for key in known.iter().map(ObjectKey::of) {
            // An error is in the status; the next pass tries again.
            let _outcome = Arc::clone(&manager.remediator).reconcile(key).await;
        }
        self.look();
        self.hands.advance(STEP);
        // The watches deliver.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    /// Every remediation is looked at once, all at the same time.
    pub(crate) async fn pass_together(&self, manager: &Manager) {
        let known = self.api.list::<SelfNodeRemediation>();
        let keys = known.iter().map(ObjectKey::of);
        let all = keys.map(|key| Arc::clone(&manager.remediator).reconcile(key));
        futures::future::join_all(all).await;
    }

    /// Passes until something holds or the server goes away.
    pub(crate) async fn until(
        &self,
        manager: &Manager,
        what: &str,
        mut holds: impl FnMut(&Self) -> bool,
    ) {
        for _ in 0..600 {
            if self.api.is_dead() || holds(self) {
                return;
            }
            self.pass(manager).await;
        }
        panic!("never: {what}\n{}", self.story());
    }

    /// Takes note of what has been done.
    fn look(&self) {
        let now = self.clock.now();
        let mut seen = self.seen.lock().unwrap();
        for remediation in self.api.list::<SelfNodeRemediation>() {
            let parsed = Remediation::parse(&remediation).unwrap();
            if parsed.is_order() {
                seen.ordered.get_or_insert(now);
            }
            let assumed = remediation
                .status
                .as_ref()
                .and_then(|status| status.time_assumed_rebooted.clone());
            let assumed = assumed.map(|time| time.0);
            if assumed < seen.assumed {
                self.wrong
                    .lock()
                    .unwrap()
                    .push(format!("{assumed:?} is earlier than {:?}", seen.assumed));
            }
            seen.assumed = assumed;
        }
        let touched = !self.has_pods() || self.has_taint(kubernetes::OUT_OF_SERVICE_TAINT);
        if touched && seen.freed.is_none() {
            seen.freed = Some(now);
            let held = self
                .api
                .list::<SelfNodeRemediation>()
                .iter()
                .any(|one| one.finalizers().iter().any(|name| name == snr::FINALIZER));
            if !held || !self.has_taint(snr::REMEDIATION_TAINT) {
                self.wrong
                    .lock()
                    .unwrap()
                    .push("freed without finalizer or taint".to_owned());
            }
        }
    }

    /// Whether the whole workload of the node is there and none of it is ending.
    pub(crate) fn has_pods(&self) -> bool {
        let pods = self.api.list::<Pod>();
        let whole = |pod: &&Pod| {
            pod.namespace().as_deref() == Some("default")
                && pod.metadata.deletion_timestamp.is_none()
        };
        pods.iter().filter(whole).count() == 3
    }

    pub(crate) fn node(&self) -> Node {
        self.api.get(None, NODE).unwrap()
    }

    pub(crate) fn taints(&self) -> Vec<Taint> {
        let spec = self.node().spec.unwrap_or_default();
        spec.taints.unwrap_or_default()
    }

    pub(crate) fn has_taint(&self, key: &str) -> bool {
        self.taints().iter().any(|taint| taint.key == key)
    }

    /// The node is heard again, in this boot.
    pub(crate) fn comes_back(&self, boot: &str) {
        let now = self.clock.now();
        self.api.update::<Node>(None, NODE, |node| {
            let back = announcing(node.clone().ready(now), boot, now);
            *node = back;
        });
    }

    /// The node's agent announces nothing; the other nodes are well.
    pub(crate) fn has_an_old_agent(&self) {
        self.api.update::<Pod>(Some(NAMESPACE), "agent-x", |pod| {
            pod.metadata.annotations = None;
            pod.status.get_or_insert_default().phase = Some("Running".to_owned());
        });
        self.api.add_namespace("kube-node-lease");
        let now = self.clock.now().to_string();
        for name in OTHERS {
            self.api.put::<Lease>(&from(json!({
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"leaseDurationSeconds": 1_000_000, "renewTime": now},
            })));
        }
    }

    /// Kubernetes, on a node that is out of service: it ends the pods and, later, detaches the volumes.
    pub(crate) fn empties_out_of_service(&self) {
        if !self.has_taint(kubernetes::OUT_OF_SERVICE_TAINT) {
            return;
        }
        for pod in self.api.list::<Pod>() {
            if pod.namespace().as_deref() == Some("default") {
                self.api.remove::<Pod>(Some("default"), &pod.name_any());
            }
        }
    }

    /// A volume is attached to the node.
    pub(crate) fn attach_volume(&self, name: &str) {
        self.api.put::<VolumeAttachment>(&from(json!({
            "metadata": {"name": name},
            "spec": {"attacher": "csi", "nodeName": NODE, "source": {"persistentVolumeName": name}},
            "status": {"attached": true},
        })));
    }

    /// It is detached.
    pub(crate) fn detach_volume(&self, name: &str) {
        self.api.remove::<VolumeAttachment>(None, name);
    }

    /// A kubelet that is heard ends the pods that are to end.
    pub(crate) fn kubelet_ends_pods(&self) {
        for pod in self.api.list::<Pod>() {
            if pod.metadata.deletion_timestamp.is_some() {
                self.api
                    .remove::<Pod>(pod.namespace().as_deref(), &pod.name_any());
            }
        }
    }

    pub(crate) fn remediation(&self, namespace: &str, name: &str) -> Option<SelfNodeRemediation> {
        self.api.get(Some(namespace), name)
    }

    pub(crate) fn status(&self, namespace: &str, name: &str) -> SelfNodeRemediationStatus {
        self.remediation(namespace, name)
            .and_then(|object| object.status)
            .unwrap_or_default()
    }

    /// Status of a condition: `True`, `False`, `Unknown`, or nothing.
    pub(crate) fn condition(&self, namespace: &str, name: &str, type_: &str) -> String {
        let conditions = self.status(namespace, name).conditions.unwrap_or_default();
        conditions::get(&conditions, type_)
            .map(|condition| condition.status.clone())
            .unwrap_or_default()
    }

    /// How often an event with this reason was told.
    pub(crate) async fn told(&self, reason: &str) -> i32 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let events = self.events.list::<Event>();
        let told = events
            .iter()
            .filter(|event| event.reason.as_deref() == Some(reason));
        told.map(|event| event.count.unwrap_or(1)).sum()
    }

    /// Ends the test if something was done that must not be.
    pub(crate) fn assert_right(&self, context: &str) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{context}: {wrong:#?}");
    }

    pub(crate) fn story(&self) -> String {
        let writes: Vec<String> = self.api.writes().iter().map(ToString::to_string).collect();
        let known = self.api.list::<SelfNodeRemediation>();
        format!("{known:#?}\n{}", writes.join("\n"))
    }
}

fn announcing(node: Node, boot: &str, now: Timestamp) -> Node {
    let text = format!("boot={boot} armed=true wd=20 bound=90 workers=3 cp=0 stamp={now}");
    node.boot_id(boot)
        .annotated(snr::ANNOUNCED_ANNOTATION, &text)
        .annotated(snr::IS_REBOOT_CAPABLE_ANNOTATION, "true")
        .annotated(snr::AGENT_VERSION_ANNOTATION, "1")
}

fn from<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn base64(text: &str) -> serde_json::Value {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap()
}
