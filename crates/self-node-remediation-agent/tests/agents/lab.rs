//! Whole agents in one process: real peer services over loopback, real state folders, fake watchdog
//! devices and an API server in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::openshift::MACHINE_ANNOTATION;
use medik8s_api::names::snr::{
    AGENT_SERVICE, ANNOUNCED_ANNOTATION, BOOT_ID_ANNOTATION, FINALIZER, PHASE_PRE_REBOOT_COMPLETED,
};
use medik8s_runtime::cli::{self, Product};
use medik8s_runtime::clock::Clock;
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::process::Process;
use medik8s_runtime::settings::Env;
use medik8s_runtime::shutdown::Shutdown;
use medik8s_testing::fake::FakeApi;
use medik8s_watchdog::device::{OPTION_MAGIC_CLOSE, OPTION_SET_TIMEOUT};
use medik8s_watchdog::{DeviceError, DeviceFile, Host, Info, WatchdogDevice, WatchdogHost};
use self_node_remediation_agent::inbox::{self, Input, Sender};
use self_node_remediation_agent::settings::Settings;
use self_node_remediation_agent::{Links, Setup, guard};
use self_node_remediation_core::announcement::Announcement;
use self_node_remediation_peer::net::Dialer;
use self_node_remediation_peer::{
    AskError, CertificateSet, Client, HealthRequest, HealthResponse, RelayRequest, server,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

const NAMESPACE: &str = "medik8s";
const PRODUCT: Product = Product::new("self-node-remediation-agent", "1.2.3");
/// Timeout of the fake devices in seconds.
pub(crate) const TIMEOUT: u64 = 12;

/// The device that is used if the configured one is useless.
pub(crate) const SECOND_DOG: &str = "/dev/watchdog1";

/// What happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Did {
    Opened,
    Fed,
    Set(u64),
    MagicClosed,
    Closed,
}

/// The device of one node, over all processes that open it.
#[derive(Default)]
pub(crate) struct Dog {
    log: Mutex<Vec<Did>>,
    open: AtomicBool,
    /// Feeding fails.
    pub(crate) broken: AtomicBool,
    /// Feeding does not return.
    pub(crate) stuck: AtomicBool,
    /// The configured device would be stopped by any close; there is a better one.
    pub(crate) second: AtomicBool,
}

impl Dog {
    fn note(&self, did: Did) {
        self.log.lock().unwrap().push(did);
    }

    pub(crate) fn log(&self) -> Vec<Did> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn did(&self, what: Did) -> bool {
        self.log().contains(&what)
    }

    pub(crate) fn feeds(&self) -> usize {
        self.log().iter().filter(|did| **did == Did::Fed).count()
    }
}

struct Dogs(Arc<Dog>);

impl WatchdogHost for Dogs {
    fn exists(&self, path: &Path) -> bool {
        path == Path::new("/dev/watchdog")
    }

    fn list(&self) -> Vec<DeviceFile> {
        let second = self.0.second.load(Ordering::SeqCst);
        let names = ["/dev/watchdog", SECOND_DOG];
        let here = names.into_iter().take(if second { 2 } else { 1 });
        here.map(|path| DeviceFile {
            path: path.into(),
            modified: SystemTime::UNIX_EPOCH,
        })
        .collect()
    }

    fn open(&self, path: &Path, _may_stop: bool) -> Result<Box<dyn WatchdogDevice>, DeviceError> {
        if self.0.open.swap(true, Ordering::SeqCst) {
            return Err(DeviceError::Busy);
        }
        self.0.note(Did::Opened);
        let stops = self.0.second.load(Ordering::SeqCst) && path != Path::new(SECOND_DOG);
        let magic = if stops { 0 } else { OPTION_MAGIC_CLOSE };
        let info = Info {
            path: path.to_path_buf(),
            identity: "fake".to_owned(),
            options: magic | OPTION_SET_TIMEOUT,
            nowayout: Some(false),
        };
        Ok(Box::new(OpenDog {
            info,
            timeout: TIMEOUT,
            dog: Arc::clone(&self.0),
        }))
    }
}

struct OpenDog {
    info: Info,
    timeout: u64,
    dog: Arc<Dog>,
}

impl Drop for OpenDog {
    fn drop(&mut self) {
        self.dog.note(Did::Closed);
        self.dog.open.store(false, Ordering::SeqCst);
    }
}

impl WatchdogDevice for OpenDog {
    fn info(&self) -> &Info {
        &self.info
    }

    fn timeout(&self) -> Result<Duration, DeviceError> {
        Ok(Duration::from_secs(self.timeout))
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<Duration, DeviceError> {
        self.timeout = timeout.as_secs();
        self.dog.note(Did::Set(self.timeout));
        self.timeout()
    }

    fn feed(&mut self) -> Result<(), DeviceError> {
        if self.dog.broken.load(Ordering::SeqCst) {
            let source = std::io::ErrorKind::NotConnected.into();
            return Err(DeviceError::Io {
                operation: "feed the device",
                source,
            });
        }
        while self.dog.stuck.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.dog.note(Did::Fed);
        Ok(())
    }

    fn magic_close(self: Box<Self>) -> Result<(), DeviceError> {
        self.dog.note(Did::MagicClosed);
        Ok(())
    }
}

/// A cluster with agents on some nodes.
pub(crate) struct Lab {
    pub(crate) api: FakeApi,
    pub(crate) clock: Clock,
    certificates: CertificateSet,
    /// Third byte of the loopback addresses, so that tests do not meet.
    subnet: u8,
    port: u16,
    /// Agents that start from here on answer probes.
    pub(crate) probed: bool,
    roots: tempfile::TempDir,
    nodes: BTreeMap<String, Machine>,
}

struct Machine {
    address: IpAddr,
    boot: String,
    dog: Arc<Dog>,
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) inbox: Sender,
    pub(crate) metrics: Metrics,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    /// As SIGTERM would.
    pub(crate) fn terminate(&self) {
        self.inbox.send(Input::Signal);
    }

    /// Waits until it has ended well.
    pub(crate) async fn ended(mut self) {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, &mut self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Lab {
    /// A cluster of these workers, without agents.
    pub(crate) fn new(workers: &[&str]) -> Self {
        static NEXT: OnceLock<AtomicU8> = OnceLock::new();
        let subnet = NEXT
            .get_or_init(|| AtomicU8::new(1))
            .fetch_add(1, Ordering::SeqCst);
        let clock = Clock::system();
        let api = FakeApi::with_medik8s_kinds();
        api.add_kind::<EndpointSlice>();
        let server_clock = clock.clone();
        api.follow_clock(move || server_clock.now());
        // A port that is free here is free on the other loopback addresses as well.
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        let mut lab = Self {
            api,
            certificates: CertificateSet::create(clock.now()).unwrap(),
            clock,
            subnet,
            port,
            probed: false,
            roots: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
        };
        for worker in workers {
            lab.add_worker(worker);
        }
        lab.publish_endpoints();
        lab
    }

    /// Agents that start from here on find a key that is none.
    pub(crate) fn spoil_certificates(&mut self) {
        self.certificates.key_pem = "spoilt".to_owned();
    }

    /// Whether there is an Event with this reason.
    pub(crate) fn was_told(&self, reason: &str) -> bool {
        self.told(reason).is_some()
    }

    /// The message of the first Event with this reason.
    pub(crate) fn told(&self, reason: &str) -> Option<String> {
        let events = self.api.list::<Event>();
        let event = events
            .into_iter()
            .find(|event| event.reason.as_deref() == Some(reason));
        event.and_then(|event| event.message)
    }

    fn add_worker(&mut self, name: &str) {
        let number = u8::try_from(self.nodes.len()).unwrap() + 1;
        let boot = format!("boot-of-{name}");
        let root = self.roots.path().join(name);
        std::fs::create_dir_all(root.join("proc/sys/kernel/random")).unwrap();
        std::fs::create_dir_all(root.join("run")).unwrap();
        std::fs::write(root.join("proc/sys/kernel/random/boot_id"), &boot).unwrap();
        std::fs::write(root.join("proc/uptime"), "100000.00 1.00\n").unwrap();
        std::fs::write(root.join("proc/sysrq-trigger"), "").unwrap();
        let node: Node = object(json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"nodeInfo": {"bootID": boot, "architecture": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "operatingSystem": "", "osImage": "", "systemUUID": ""}},
        }));
        self.api.put(&node);
        let address = IpAddr::V4(Ipv4Addr::new(127, 9, self.subnet, number));
        let dog = Arc::default();
        self.nodes
            .insert(name.to_owned(), Machine { address, boot, dog });
    }

    /// The EndpointSlice that the control plane would keep for the agents' Service.
    fn publish_endpoints(&self) {
        let endpoints: Vec<Value> = self
            .nodes
            .iter()
            .map(|(name, machine)| json!({"addresses": [machine.address], "nodeName": name}))
            .collect();
        self.api.put::<EndpointSlice>(&object(json!({
            "metadata": {"name": "agents", "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": AGENT_SERVICE}},
            "addressType": "IPv4",
            "endpoints": endpoints,
        })));
    }

    /// Starts the agent of a node. Its clients are called `<node>` and can be cut off by that.
    pub(crate) fn start(&self, node: &str) -> Agent {
        self.start_with(node, &[])
    }

    pub(crate) fn start_with(&self, node: &str, change: &[(&str, &str)]) -> Agent {
        self.start_at(node, self.nodes[node].address, change)
    }

    /// Starts a second agent beside the one of a node, with a pod address of its own.
    pub(crate) fn start_successor(&self, node: &str) -> Agent {
        self.start_at(node, self.successor_address(), &[])
    }

    fn successor_address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, 9, self.subnet, 200))
    }

    fn start_at(&self, node: &str, address: IpAddr, change: &[(&str, &str)]) -> Agent {
        let pod = format!("agent-{node}");
        let mut environment: BTreeMap<&str, &str> = BTreeMap::from([
            ("MY_NODE_NAME", node),
            ("DEPLOYMENT_NAMESPACE", NAMESPACE),
            ("POD_NAME", pod.as_str()),
            ("WATCHDOG_PATH", "/dev/watchdog"),
            ("PEER_API_SERVER_TIMEOUT", "2000000000"),
            ("API_CHECK_INTERVAL", "300000000"),
            ("PEER_UPDATE_INTERVAL", "10000000000"),
            ("API_SERVER_TIMEOUT", "500000000"),
            ("PEER_DIAL_TIMEOUT", "1000000000"),
            ("PEER_REQUEST_TIMEOUT", "1000000000"),
            ("MAX_API_ERROR_THRESHOLD", "2"),
            ("MIN_PEERS_FOR_REMEDIATION", "1"),
            ("IS_SOFTWARE_REBOOT_ENABLED", "true"),
            ("END_POINT_HEALTH_CHECK_URL", ""),
        ]);
        let port = self.port.to_string();
        environment.insert("HOST_PORT", &port);
        environment.extend(change.iter().copied());
        let machine = &self.nodes[node];
        let probes = self.probed.then(|| self.probes_at(address).to_string());
        let probes = format!(
            "--health-probe-bind-address={}",
            probes.as_deref().unwrap_or("0")
        );
        let flags = [
            "manager",
            "--is-manager=false",
            "--metrics-bind-address=0",
            &probes,
        ];
        let args = cli::parse(&PRODUCT, flags, |command| command).unwrap();
        let settings = Settings::read(&args, &Env::from_pairs(environment)).unwrap();
        let dogs = Box::new(Dogs(Arc::clone(&machine.dog)));
        let root = self.roots.path().join(node);
        let client = self.api.client_as(node);
        let certificates = self.certificates.clone();
        let clock = self.clock.clone();
        let at = SocketAddr::new(address, self.port);
        let metrics = Metrics::new().unwrap();
        let own_metrics = metrics.clone();
        let setup = move |listener| Setup {
            args,
            settings,
            certificates,
            listener,
            // Peers know an agent by its address.
            dialer: Dialer::tcp_from(address),
            links: Links {
                checks: client.clone(),
                watches: client,
            },
            metrics: own_metrics,
            clock,
            product: PRODUCT,
            host: Arc::new(Host::with_watchdogs(root, dogs)),
        };
        let (sender, receiver) = inbox::channel();
        let inbox = sender.clone();
        let task = tokio::spawn(async move {
            // Here, because a predecessor that was killed is gone only now.
            let listener = Box::new(server::listen(at)?);
            guard(
                setup(listener),
                Process::new(Shutdown::manual()),
                sender,
                receiver,
            )
            .await
        });
        Agent {
            inbox,
            metrics,
            task,
        }
    }

    fn probes_at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.port + 1)
    }

    /// What the agent of a node says to the kubelet's probe.
    pub(crate) async fn probe(&self, node: &str, path: &str) -> String {
        let at = self.probes_at(self.nodes[node].address);
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The Machines of these nodes, as the Machine API says it on the Node.
    pub(crate) fn belong_to_machines(&self, nodes: &[&str]) {
        for name in nodes {
            self.api.update::<Node>(None, name, |node| {
                let machine = format!("default/m-{name}");
                let annotations = node.metadata.annotations.get_or_insert_default();
                annotations.insert(MACHINE_ANNOTATION.to_owned(), machine);
            });
        }
    }

    pub(crate) fn dog(&self, node: &str) -> &Dog {
        &self.nodes[node].dog
    }

    /// The state folder of a node.
    pub(crate) fn state_dir(&self, node: &str) -> std::path::PathBuf {
        self.roots
            .path()
            .join(node)
            .join("run/self-node-remediation")
    }

    /// Whether somebody waits for the ownership of a node.
    pub(crate) fn stands_by(&self, node: &str) -> bool {
        let lock = std::fs::File::open(self.state_dir(node).join("standby"));
        lock.is_ok_and(|file| file.try_lock().is_err())
    }

    /// What the kernel would be told to do by sysrq.
    pub(crate) fn sysrq(&self, node: &str) -> String {
        std::fs::read_to_string(self.roots.path().join(node).join("proc/sysrq-trigger")).unwrap()
    }

    /// Cuts a node off the API, or lets it in again.
    pub(crate) fn set_reachable(&self, node: &str, reachable: bool) {
        self.api.set_reachable(node, reachable);
    }

    pub(crate) fn annotation(&self, node: &str, key: &str) -> Option<String> {
        let node: Node = self.api.get(None, node)?;
        node.metadata.annotations?.get(key).cloned()
    }

    pub(crate) fn announced(&self, node: &str) -> Option<Announcement> {
        self.annotation(node, ANNOUNCED_ANNOTATION)?.parse().ok()
    }

    /// Waits until the node has announced an armed watchdog and the whole table.
    pub(crate) async fn armed(&self, node: &str) -> Announcement {
        let others = u32::try_from(self.nodes.len()).unwrap() - 1;
        let is_armed = |announced: &Announcement| announced.armed && announced.workers == others;
        until(&format!("{node} is armed"), || {
            self.announced(node).is_some_and(|a| is_armed(&a))
        })
        .await;
        self.announced(node).unwrap()
    }

    /// A remediation as the manager leaves it when it orders the reboot; only the finalizer and the
    /// boot ID without `ordered`.
    pub(crate) fn remediation(&self, node: &str, ordered: bool) -> SelfNodeRemediation {
        let mut remediation = json!({
            "metadata": {"name": node, "namespace": NAMESPACE, "finalizers": [FINALIZER],
                "annotations": {BOOT_ID_ANNOTATION: self.nodes[node].boot}},
            "spec": {},
            "status": {},
        });
        if ordered {
            remediation["status"]["phase"] = json!(PHASE_PRE_REBOOT_COMPLETED);
        }
        self.api.put(&object(remediation))
    }

    pub(crate) fn remove_remediation(&self, node: &str) {
        self.api
            .remove::<SelfNodeRemediation>(Some(NAMESPACE), node);
    }

    /// The pod of a node's agent, being deleted or not.
    pub(crate) fn pod(&self, node: &str, deleted: bool) {
        let mut pod = json!({
            "metadata": {"name": format!("agent-{node}"), "namespace": NAMESPACE},
            "spec": {"nodeName": node, "containers": []},
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-07-01T00:00:00Z");
            pod["metadata"]["finalizers"] = json!(["test/keep"]);
        }
        self.api.put::<Pod>(&object(pod));
    }

    /// Asks a node's agent as a peer or the manager would.
    pub(crate) async fn ask(
        &self,
        node: &str,
        about: &str,
        order: &str,
    ) -> Result<HealthResponse, AskError> {
        self.ask_at(self.nodes[node].address, about, order).await
    }

    /// Asks the successor.
    pub(crate) async fn ask_successor(&self, about: &str) -> Result<HealthResponse, AskError> {
        self.ask_at(self.successor_address(), about, "").await
    }

    /// Asks the agent of `node` to pass last words of `about` on, from an address of no agent.
    pub(crate) async fn relay_from_elsewhere(&self, node: &str, about: &str, words: &str) {
        let identity = self.certificates.identity().unwrap();
        let limit = Duration::from_secs(5);
        let client = Client::new(&identity, limit, limit).unwrap();
        let request = RelayRequest {
            node_name: about.to_owned(),
            words: words.to_owned(),
        };
        let address = (self.nodes[node].address, self.port).into();
        client.relay(address, request).await.unwrap();
    }

    async fn ask_at(
        &self,
        address: IpAddr,
        about: &str,
        order: &str,
    ) -> Result<HealthResponse, AskError> {
        let identity = self.certificates.identity().unwrap();
        let limit = Duration::from_secs(5);
        let client = Client::new(&identity, limit, limit).unwrap();
        let question = HealthRequest {
            node_name: about.to_owned(),
            machine_name: String::new(),
            order_uid: order.to_owned(),
        };
        client.ask((address, self.port).into(), question).await
    }
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Waits until a claim holds.
pub(crate) async fn until(what: &str, claim: impl Fn() -> bool) {
    let limit = Duration::from_secs(20);
    let holds = async {
        while !claim() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(limit, holds).await.is_ok(),
        "never: {what}"
    );
}
