//! A simulated machine: its host files, its watchdog, its cable and its power.
//!
//! # Purpose
//! The Kubernetes side of a node is simulated (kwok sends its heartbeats), the rest is played here:
//! a directory stands for what the agent reads of its host, the watchdog's reset kills every process
//! of the machine and changes the boot ID, a cut drops its packets and silences its kubelet.
//!
//! # Guarantees
//! * A process of a machine ends only by the machine's reset or power-off, or by the kubelet's orderly
//!   end of its pod; see [`crate::kubelet`].
//! * After a reset the new boot ID is in the API before the kubelet starts a pod.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    kubelet::{PodRun, endpoint},
    kwok::{ALIVE, DEAD, SIMULATED},
    network::{Cut, Fabric},
    watchdog::{self, Device, Shared, Signal},
};

/// What happened on a machine.
#[derive(Debug, Clone)]
pub struct Happening {
    /// The machine.
    pub node: String,
    /// When.
    pub at: Instant,
    /// What.
    pub what: What,
}

/// Kinds of [`Happening`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// At the watchdog.
    Watchdog(Signal),
    /// Every process was killed at this instant.
    Reset {
        /// Who asked for it.
        cause: Cause,
    },
    /// The machine is up again with a new boot ID.
    Booted,
    /// A container started.
    Started {
        /// Namespace and name of the pod.
        pod: String,
    },
    /// A container ended by itself.
    Ended {
        /// Namespace and name of the pod.
        pod: String,
    },
}

/// Why a machine was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its watchdog ran out.
    Watchdog,
    /// The agent wrote to sysrq-trigger.
    Software,
    /// The scenario pulled the plug.
    Scenario,
}

/// How a machine is made.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Name of the node.
    pub name: String,
    /// Whether it is a control-plane node.
    pub control_plane: bool,
}

impl NodeSpec {
    /// A worker.
    pub fn worker(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            control_plane: false,
        }
    }

    /// A control-plane node.
    pub fn control_plane(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            control_plane: true,
        }
    }
}

/// Properties that all machines of a cluster share.
#[derive(Debug, Clone, Copy)]
pub struct Hardware {
    /// Timeout that the watchdog's driver starts with.
    pub watchdog_timeout: Duration,
    /// How long a machine is away after a reset.
    pub boot_time: Duration,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            watchdog_timeout: Duration::from_mins(1),
            boot_time: Duration::from_secs(8),
        }
    }
}

/// One machine.
pub struct Machine {
    name: String,
    number: u8,
    root: PathBuf,
    hardware: Hardware,
    fabric: Arc<Fabric>,
    /// Speaks as the kubelet.
    client: Client,
    watchdog: Shared,
    happenings: broadcast::Sender<Happening>,
    state: Mutex<State>,
    /// One change of power or cable at a time.
    change: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct State {
    on: bool,
    cut: Option<Cut>,
    boot_id: String,
    booted: Instant,
    next_pod: u8,
    pods: BTreeMap<String, PodRun>,
    /// Volumes that the kubelet reports as in use; it forgets them with the boot.
    volumes: Vec<String>,
}

impl Machine {
    /// Sets the machine up and switches it on; it becomes a node by [`Machine::register`].
    pub(crate) async fn build(
        spec: &NodeSpec,
        number: u8,
        folder: &Path,
        hardware: Hardware,
        fabric: Arc<Fabric>,
        client: Client,
        happenings: broadcast::Sender<Happening>,
    ) -> anyhow::Result<Arc<Self>> {
        let root = folder.join(&spec.name);
        for part in ["proc/sys/kernel/random", "run", "dev"] {
            fs::create_dir_all(root.join(part))?;
        }
        let machine = Arc::new(Self {
            name: spec.name.clone(),
            number,
            root,
            hardware,
            fabric,
            client,
            watchdog: Shared::new(Device::new(hardware.watchdog_timeout)),
            happenings,
            state: Mutex::new(State {
                on: true,
                cut: None,
                boot_id: String::new(),
                booted: Instant::now(),
                next_pod: 1,
                pods: BTreeMap::new(),
                volumes: Vec::new(),
            }),
            change: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(Vec::new()),
        });
        machine.fabric.add_node(number).await?;
        machine.power_up_files()?;
        let (signals, heard) = mpsc::unbounded_channel();
        let (device, socket) = (
            machine.watchdog.clone(),
            machine.root.join("dev/watchdog.sock"),
        );
        let serving = tokio::spawn(async move {
            // Ends only when the socket breaks; the agent then sees a machine without watchdog.
            drop(watchdog::serve(device, &socket, signals).await);
        });
        let watching = tokio::spawn(Arc::clone(&machine).watch(heard));
        let own = Arc::downgrade(&machine);
        let kubelet = endpoint::serve(machine.address(), move || {
            own.upgrade().is_some_and(|machine| machine.is_on())
        });
        // Ends only when the port breaks; agents then see a dead kubelet.
        let answering = tokio::spawn(async move { drop(kubelet.await) });
        lock(&machine.tasks).extend([serving, watching, answering]);
        Ok(machine)
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the agent sees as its host.
    pub fn host_root(&self) -> &Path {
        &self.root
    }

    /// Address of the node.
    pub fn address(&self) -> std::net::Ipv4Addr {
        self.fabric.node(self.number)
    }

    /// Its watchdog.
    pub const fn watchdog(&self) -> &Shared {
        &self.watchdog
    }

    /// The boot ID of now.
    pub fn boot_id(&self) -> String {
        self.state().boot_id.clone()
    }

    /// Whether it is switched on.
    pub fn is_on(&self) -> bool {
        self.state().on
    }

    /// Whether its kubelet reaches the API server.
    pub fn is_heard(&self) -> bool {
        let state = self.state();
        state.on && state.cut.is_none()
    }

    /// Cuts it off; its processes go on.
    pub async fn cut(&self, cut: Cut) -> anyhow::Result<()> {
        let _turn = self.change.lock().await;
        if self.state().cut.is_some() {
            anyhow::bail!("{} is cut off already", self.name);
        }
        self.fabric.cut(self.number, cut).await?;
        self.state().cut = Some(cut);
        self.publish().await
    }

    /// Takes the cut back.
    pub async fn mend(&self) -> anyhow::Result<()> {
        let _turn = self.change.lock().await;
        let Some(cut) = self.state().cut else {
            return Ok(());
        };
        self.fabric.mend(self.number, cut).await?;
        self.state().cut = None;
        self.publish().await
    }

    /// Pulls the plug; it stays off until [`Machine::power_on`].
    pub async fn power_off(&self) -> anyhow::Result<()> {
        let _turn = self.change.lock().await;
        self.lose_power(Cause::Scenario).await?;
        self.publish().await
    }

    /// Boots it after [`Machine::power_off`].
    pub async fn power_on(&self) -> anyhow::Result<()> {
        let _turn = self.change.lock().await;
        self.boot().await
    }

    /// Resets it: every process dies now, the machine is back after its boot time.
    pub async fn reset(&self, cause: Cause) -> anyhow::Result<()> {
        let _turn = self.change.lock().await;
        self.lose_power(cause).await?;
        self.publish().await?;
        sleep(self.hardware.boot_time).await;
        self.boot().await
    }

    async fn lose_power(&self, cause: Cause) -> anyhow::Result<()> {
        let pods = {
            let mut state = self.state();
            state.on = false;
            state.volumes.clear();
            std::mem::take(&mut state.pods)
        };
        for pod in pods.values() {
            pod.cut_power();
        }
        self.watchdog
            .with(|device| device.reset(self.hardware.watchdog_timeout));
        self.tell(What::Reset { cause });
        for pod in pods.into_values() {
            pod.gone().await;
        }
        let run = self.root.join("run");
        fs::remove_dir_all(&run)?;
        fs::create_dir_all(&run)?;
        Ok(())
    }

    async fn boot(&self) -> anyhow::Result<()> {
        self.power_up_files()?;
        self.state().on = true;
        self.tell(What::Booted);
        self.publish().await
    }

    /// Boot ID, uptime, sysrq-trigger as they are after power-on.
    fn power_up_files(&self) -> anyhow::Result<()> {
        let boot_id = new_uuid();
        replace(
            &self.root.join("proc/sys/kernel/random/boot_id"),
            &format!("{boot_id}\n"),
        )?;
        replace(&self.root.join("proc/sysrq-trigger"), "")?;
        {
            let mut state = self.state();
            state.boot_id = boot_id;
            state.booted = Instant::now();
        }
        self.tick_uptime()
    }

    fn tick_uptime(&self) -> anyhow::Result<()> {
        let up = self.state().booted.elapsed();
        replace(
            &self.root.join("proc/uptime"),
            &format!("{:.2} 0.00\n", up.as_secs_f64()),
        )
    }

    /// The machine's own life: watchdog, sysrq, uptime.
    async fn watch(self: Arc<Self>, mut signals: mpsc::UnboundedReceiver<Signal>) {
        let trigger = self.root.join("proc/sysrq-trigger");
        loop {
            let cause = tokio::select! {
                signal = signals.recv() => match signal {
                    Some(signal) => {
                        self.tell(What::Watchdog(signal));
                        (signal == Signal::Expired).then_some(Cause::Watchdog)
                    }
                    None => return,
                },
                () = sleep(Duration::from_millis(500)) => {
                    // A machine that is being torn down has no files any more.
                    drop(self.tick_uptime());
                    fs::metadata(&trigger).is_ok_and(|file| file.len() > 0).then_some(Cause::Software)
                }
            };
            if let Some(cause) = cause {
                // An API error here shows as a node that does not come back; the story waits for it.
                drop(self.reset(cause).await);
            }
        }
    }

    /// Makes it a node of the cluster.
    pub(crate) async fn register(&self, control_plane: bool) -> anyhow::Result<()> {
        let role = if control_plane {
            "control-plane"
        } else {
            "worker"
        };
        let node: Node = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {
                "kubernetes.io/hostname": self.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                format!("node-role.kubernetes.io/{role}"): "",
            }},
            "spec": {"taints": if control_plane {
                json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])
            } else {
                json!([])
            }},
        }))?;
        Api::<Node>::all(self.client.clone())
            .create(&PostParams::default(), &node)
            .await?;
        self.publish().await
    }

    /// Tells the API what the kubelet would say; a machine that is not heard only falls silent.
    async fn publish(&self) -> anyhow::Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let heard = self.is_heard();
        if heard {
            let status = self.node_status();
            let params = PatchParams::default();
            nodes
                .patch_status(&self.name, &params, &Patch::Strategic(status))
                .await?;
        }
        let label = if heard { ALIVE } else { DEAD };
        let labels = json!({"metadata": {"labels": {SIMULATED: label}}});
        nodes
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(labels))
            .await?;
        Ok(())
    }

    fn node_status(&self) -> Value {
        let room = json!({"cpu": "16", "memory": "32Gi", "pods": "200"});
        json!({"status": {
            "volumesInUse": self.state().volumes,
            "capacity": room,
            "allocatable": room,
            "addresses": [
                {"type": "InternalIP", "address": self.address().to_string()},
                {"type": "Hostname", "address": self.name},
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": self.boot_id(),
                "containerRuntimeVersion": "harness://1",
                "kernelVersion": "6.1.0",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.36.3",
                "machineID": self.name,
                "operatingSystem": "linux",
                "osImage": "simulated",
                "systemUUID": self.name,
            },
        }})
    }

    /// A pod is about to mount this volume: the node says so, as a kubelet does before it mounts.
    pub(crate) async fn uses_volume(&self, volume: &str) -> anyhow::Result<()> {
        {
            let mut state = self.state();
            if state.volumes.iter().any(|known| known == volume) {
                return Ok(());
            }
            state.volumes.push(volume.to_owned());
        }
        self.publish().await
    }

    /// Address for one more pod.
    pub(crate) fn pod_address(&self) -> std::net::Ipv4Addr {
        let mut state = self.state();
        let pod = state.next_pod;
        // Reuse after 250 pods: long gone by then.
        state.next_pod = if pod >= 250 { 1 } else { pod + 1 };
        self.fabric.pod(self.number, pod)
    }

    /// Looks at or changes what runs here.
    pub(crate) fn with_pods<T>(&self, act: impl FnOnce(&mut BTreeMap<String, PodRun>) -> T) -> T {
        act(&mut self.state().pods)
    }

    pub(crate) fn tell(&self, what: What) {
        let happening = Happening {
            node: self.name.clone(),
            at: Instant::now(),
            what,
        };
        // Nobody listens at the moment: fine.
        drop(self.happenings.send(happening));
    }

    /// Ends everything without touching the API: the cluster goes down.
    pub(crate) async fn scrap(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        let pods = self.with_pods(std::mem::take);
        for pod in pods.into_values() {
            pod.cut_power();
            pod.gone().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Readers see the old content or the new one, never a part.
fn replace(file: &Path, content: &str) -> anyhow::Result<()> {
    let aside = file.with_extension("new");
    fs::write(&aside, content)?;
    fs::rename(aside, file)?;
    Ok(())
}

pub(crate) fn new_uuid() -> String {
    let bits: u128 = rand::random();
    // Version 4, variant 1, as the kernel's boot_id is.
    let bits = bits & !(0xf << 76) | (0x4 << 76);
    let bits = bits & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let mut uuid = String::with_capacity(36);
    for (position, digit) in hex.chars().enumerate() {
        if matches!(position, 8 | 12 | 16 | 20) {
            uuid.push('-');
        }
        uuid.push(digit);
    }
    uuid
}
