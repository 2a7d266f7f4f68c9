//! Real nodes: a kubelet with containerd in namespaces of their own, and what stands for the hardware.
//!
//! # Purpose
//! Beside the simulated machines of [`crate::machine`] these run pods as real containers, from images,
//! through a real kubelet: mounts, probes, PID namespaces, DaemonSets and restarts are the real ones.
//! Each has its own network, mount and PID namespace; see [`init`]. Only the watchdog is played: the
//! fake device of [`crate::watchdog`], which the node sees as `/dev/watchdog.sock`.
//!
//! # Guarantees
//! * A reset kills process 1 of the node's PID namespace, and the kernel everything in it; the node is
//!   down when nothing of it runs any more. `/run`, the network and the boot ID go with it, disks stay.
//! * The boot ID is a file bound over the kernel's, for kubelet and containers alike.
//!
//! # Caveats
//! Needs root, and the Debian packages runc, buildah and nftables.

mod config;
pub mod images;
pub(crate) mod init;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{self, kill},
    unistd::Pid,
};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use crate::{
    Cluster,
    child::PodNetwork,
    go_tools, leftovers,
    machine::{NodeSpec, new_uuid},
    network::{Cut, Fabric},
    process::Process,
    watchdog::{self, Device, Shared, Signal},
};

/// Timeout that the watchdog's driver starts with.
const WATCHDOG_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a machine is away after a reset.
const BOOT_TIME: Duration = Duration::from_secs(8);

/// What all real nodes of a cluster share.
#[derive(Debug)]
pub struct Fleet {
    /// Programs of containerd.
    tools: PathBuf,
    /// Archives of images.
    images: Vec<PathBuf>,
    /// Where control groups of this run are.
    cgroup: String,
}

impl Fleet {
    /// Builds containerd (once per machine) and the images of the static programs in `programs`.
    pub fn prepare(cluster: &Cluster, programs: &Path) -> anyhow::Result<Self> {
        sweep_cgroups();
        let tools = go_tools::CONTAINERD.ready()?;
        let folder = cluster.folder().join("images");
        let images = images::build(&folder, programs, &tools)?;
        let run = cluster
            .folder()
            .file_name()
            .context("the cluster has no folder")?;
        Ok(Self {
            tools,
            images,
            cgroup: format!("/{}", run.to_string_lossy()),
        })
    }
}

/// One real node.
pub struct RealNode {
    machine: init::Machine,
    number: u8,
    control_plane: bool,
    fabric: Arc<Fabric>,
    watchdog: Shared,
    cgroup: String,
    state: Mutex<State>,
    /// One change of power or cable at a time.
    change: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    boot_id: String,
    power: Option<Process>,
    cut: Option<Cut>,
    resets: Vec<Instant>,
}

impl RealNode {
    /// Builds the machine and switches it on; its kubelet makes it a node.
    pub async fn start(
        cluster: &Cluster,
        fleet: &Fleet,
        spec: &NodeSpec,
        number: u8,
    ) -> anyhow::Result<Arc<Self>> {
        let fabric = cluster.shared_fabric();
        let folder = cluster.folder().join("nodes").join(&spec.name);
        for part in ["var-lib", "var-log"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let cgroup = format!("{}/{}", fleet.cgroup, spec.name);
        let address = fabric.node(number);
        config::Node {
            folder: &folder,
            tools: &fleet.tools,
            sandbox: images::WORKLOAD,
            pods: &fabric.node_range(number),
            first: fabric.pod(number, 1),
            gateway: gateway(address),
            cgroup: &cgroup,
            control_plane: spec.control_plane,
        }
        .write()?;
        let machine = init::Machine {
            name: spec.name.clone(),
            address,
            server: cluster.api_address().to_string(),
            tools: fleet.tools.clone(),
            kubelet: cluster.tools().cluster(),
            kubelet_args: vec![
                format!("--config={}", folder.join("kubelet.json").display()),
                format!("--kubeconfig={}", cluster.kubelet_config()?.display()),
                format!("--hostname-override={}", spec.name),
                format!("--node-ip={address}"),
            ],
            images: fleet.images.clone(),
            folder,
        };
        let node = Arc::new(Self {
            machine,
            number,
            control_plane: spec.control_plane,
            fabric,
            watchdog: Shared::new(Device::new(WATCHDOG_TIMEOUT)),
            cgroup,
            state: Mutex::default(),
            change: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
        });
        node.plug_in_watchdog();
        let socket = node.socket();
        crate::wait::until("the watchdog", Duration::from_secs(5), async || {
            Ok(socket.exists().then_some(()))
        })
        .await?;
        node.boot().await?;
        Ok(node)
    }

    fn plug_in_watchdog(self: &Arc<Self>) {
        let (signals, heard) = mpsc::unbounded_channel();
        let (device, socket) = (self.watchdog.clone(), self.socket());
        // Ends only when the socket breaks; the agent then sees a machine without watchdog.
        let serving = tokio::spawn(async move {
            drop(watchdog::serve(device, &socket, signals).await);
        });
        let watching = tokio::spawn(Arc::clone(self).watch(heard));
        lock(&self.tasks).extend([serving, watching]);
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// Whether it belongs to the control plane.
    pub const fn is_control_plane(&self) -> bool {
        self.control_plane
    }

    /// The boot ID of now.
    pub fn boot_id(&self) -> String {
        lock(&self.state).boot_id.clone()
    }

    /// When it was reset.
    pub fn resets(&self) -> Vec<Instant> {
        lock(&self.state).resets.clone()
    }

    /// What a reset keeps: logs of kubelet, containerd and pods are in `var-log`.
    pub fn folder(&self) -> &Path {
        &self.machine.folder
    }

    /// An error when the node is down although nobody reset it.
    pub fn ensure_runs(&self) -> anyhow::Result<()> {
        let state = lock(&self.state);
        let died = state
            .power
            .as_ref()
            .is_some_and(|power| !power.is_running());
        ensure!(
            !died,
            "{} ended by itself; see {}",
            self.name(),
            self.log().display()
        );
        Ok(())
    }

    /// Cuts it off; its processes go on.
    pub async fn cut(&self, cut: Cut) -> anyhow::Result<()> {
        let _turn = self.change.lock().await;
        if lock(&self.state).cut.is_some() {
            bail!("{} is cut off already", self.name());
        }
        self.fabric.cut(self.number, cut).await?;
        lock(&self.state).cut = Some(cut);
        Ok(())
    }

    /// Takes the cut back.
    pub async fn mend(&self) -> anyhow::Result<()> {
        let _turn = self.change.lock().await;
        let Some(cut) = lock(&self.state).cut else {
            return Ok(());
        };
        self.fabric.mend(self.number, cut).await?;
        lock(&self.state).cut = None;
        Ok(())
    }

    /// Kills (`kill -9`) the processes in its containers whose program and command line are chosen;
    /// returns how many.
    pub fn kill(&self, choose: impl Fn(&Path, &str) -> bool) -> anyhow::Result<usize> {
        let power = lock(&self.state).power.clone().context("the node is off")?;
        let mut killed = 0;
        for pid in descendants(power.id())? {
            let of = PathBuf::from(format!("/proc/{pid}"));
            let program = fs::read_link(of.join("exe")).unwrap_or_default();
            let words = fs::read_to_string(of.join("cmdline")).unwrap_or_default();
            if choose(&program, &words.replace('\0', " ")) {
                kill(Pid::from_raw(pid), signal::Signal::SIGKILL)?;
                killed += 1;
            }
        }
        Ok(killed)
    }

    /// Switches it off for good.
    pub async fn scrap(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        let power = lock(&self.state).power.take();
        if let Some(power) = power {
            power.stop(Duration::from_secs(30)).await;
        }
        remove_cgroups(&self.cgroup);
    }

    fn socket(&self) -> PathBuf {
        self.machine.folder.join("watchdog.sock")
    }

    fn log(&self) -> PathBuf {
        self.machine.folder.join("var-log/node.log")
    }

    async fn watch(self: Arc<Self>, mut signals: mpsc::UnboundedReceiver<Signal>) {
        while let Some(signal) = signals.recv().await {
            if signal == Signal::Expired {
                // An error here shows as a node that does not come back; the suite waits for it.
                drop(self.reset().await);
            }
        }
    }

    /// The watchdog's reset: everything dies, the machine is back after its boot time.
    async fn reset(&self) -> anyhow::Result<()> {
        let _turn = self.change.lock().await;
        let power = lock(&self.state).power.take();
        let power = power.context("the node is off")?;
        power.signal(signal::Signal::SIGTERM);
        power.wait().await;
        self.watchdog.with(|device| device.reset(WATCHDOG_TIMEOUT));
        lock(&self.state).resets.push(Instant::now());
        sleep(BOOT_TIME).await;
        self.boot().await
    }

    async fn boot(&self) -> anyhow::Result<()> {
        let boot_id = new_uuid();
        fs::write(self.machine.folder.join("boot_id"), format!("{boot_id}\n"))?;
        let network = PodNetwork {
            address: self.machine.address,
        };
        let machine = self.machine.clone();
        let power = Process::start_node(machine, &self.log(), &self.fabric, network).await?;
        let mut state = lock(&self.state);
        state.boot_id = boot_id;
        state.power = Some(power);
        Ok(())
    }
}

/// The last usable address of a node's range: its pods' way out.
const fn gateway(node: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = node.octets();
    Ipv4Addr::new(a, b, c, 254)
}

/// All processes below one that is ours.
fn descendants(root: i32) -> anyhow::Result<Vec<i32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Ok(pid) = name.to_string_lossy().parse::<i32>() else {
            continue;
        };
        // A process that has just ended has no file any more.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map(|(_, fields)| fields);
        let parent = after.and_then(|fields| fields.split_ascii_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|parent| parent.parse::<i32>().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut position = 0;
    while let Some(parent) = found.get(position).copied() {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        position += 1;
    }
    found.remove(0);
    Ok(found)
}

/// Control groups are directories; those of the dead are empty.
fn remove_cgroups(name: &str) {
    let own = Path::new(name.trim_start_matches('/'));
    for controller in folders(Path::new("/sys/fs/cgroup")) {
        remove_tree(&controller.join(own));
        if let Some(run) = own.parent() {
            // Still in use while other nodes of this run are.
            drop(fs::remove_dir(controller.join(run)));
        }
    }
}

/// Those of runs that were killed.
fn sweep_cgroups() {
    for controller in folders(Path::new("/sys/fs/cgroup")) {
        for group in folders(&controller) {
            let name = group.file_name().unwrap_or_default();
            let run = std::env::temp_dir().join(name);
            let ours = name.to_string_lossy().starts_with(leftovers::PREFIX);
            if ours && !run.exists() {
                remove_tree(&group);
            }
        }
    }
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(folder: &Path) {
    for inner in folders(folder) {
        remove_tree(&inner);
    }
    // What is not empty is in use and stays.
    drop(fs::remove_dir(folder));
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
