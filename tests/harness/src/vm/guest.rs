//! One QEMU guest: its start, its cable, its resets.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use medik8s_guest::{Message, Order};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinHandle,
};

use super::{Parts, QEMU, initramfs, kubelet, port::Port, qmp::Qmp};
use crate::{
    Cluster,
    network::GATEWAY,
    process::{Launch, Process},
    wait,
};

/// Pods of a guest take these addresses in turn: more than run at once, few enough to be given beforehand.
pub(super) const PODS: u8 = 8;

/// Which watchdog a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The emulated Intel device.
    I6300esb,
    /// The kernel's own timer.
    Softdog,
}

impl Driver {
    /// Name of the module.
    pub const fn module(self) -> &'static str {
        match self {
            Self::I6300esb => "i6300esb",
            Self::Softdog => "softdog",
        }
    }
}

/// How a guest is made.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// Name of the node.
    pub name: String,
    /// Its watchdog.
    pub driver: Driver,
    /// Whether an armed watchdog cannot be stopped any more.
    pub nowayout: bool,
}

/// What happened to a guest.
#[derive(Debug, Clone)]
pub struct Happening {
    /// When QEMU or the guest said so.
    pub at: Instant,
    /// What.
    pub what: What,
}

/// Kinds of [`Happening`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The emulated watchdog ran out.
    Watchdog,
    /// The machine was reset.
    Reset,
    /// Its first process is at work.
    Booted,
    /// A process has ended.
    Ended {
        /// Its name.
        name: String,
        /// Exit code or signal.
        how: String,
    },
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    hardware: Hardware,
    addresses: Vec<Ipv4Addr>,
    number: u8,
    folder: PathBuf,
    qemu: Process,
    qmp: Qmp,
    port: Port,
    happenings: broadcast::Sender<Happening>,
    state: Arc<Mutex<State>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct State {
    /// Boot ID, once the first process is at work.
    boot: Option<String>,
    /// Names of running processes.
    running: BTreeSet<String>,
    link: bool,
    kubelet: bool,
    held: bool,
}

impl Guest {
    /// Starts a guest and its kubelet. `number` is the node's in the fabric, of no other machine.
    pub async fn start(
        cluster: &Cluster,
        parts: &Parts,
        hardware: Hardware,
        number: u8,
    ) -> anyhow::Result<Arc<Self>> {
        let folder = cluster.folder().join("guests").join(&hardware.name);
        fs::create_dir_all(&folder)?;
        let archive = folder.join("initramfs");
        initramfs::write(parts, &archive)?;
        let tap = cluster.fabric().add_tap(number).await?;
        let (port_socket, qmp_socket) = (folder.join("port"), folder.join("qmp"));
        let launch = Launch::new(&hardware.name, QEMU, folder.join("qemu.log"))
            .args(["-accel", "tcg", "-m", "256", "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-rtc", "base=utc", "-append"])
            // A panic stands still: what resets is the watchdog.
            .args(["console=ttyS0 loglevel=4 panic=0"])
            .args(["-kernel".to_owned(), parts.kernel.image()?.display().to_string()])
            .args(["-initrd".to_owned(), archive.display().to_string()])
            .args(["-serial".to_owned(), format!("file:{}", console(&folder).display())])
            .args(["-serial".to_owned(), listening(&port_socket)])
            .args(["-qmp".to_owned(), listening(&qmp_socket)])
            .args(["-netdev".to_owned()])
            .args([format!("tap,id=net0,ifname={tap},script=no,downscript=no")])
            .args(["-device", "virtio-net-pci,netdev=net0,romfile="])
            .args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        let qemu = Process::start(launch).await?;
        for socket in [&port_socket, &qmp_socket] {
            wait::until("QEMU to listen", Duration::from_secs(20), async || {
                ensure!(qemu.is_running(), "QEMU ended; see {}", folder.display());
                Ok(socket.exists().then_some(()))
            })
            .await?;
        }
        let (happenings, _) = broadcast::channel(4096);
        let state = Arc::new(Mutex::new(State {
            boot: None,
            running: BTreeSet::new(),
            link: true,
            kubelet: true,
            held: false,
        }));
        let (messages, heard) = mpsc::unbounded_channel();
        let port = Port::connect(&port_socket, messages).await?;
        let (reporter, shared) = (happenings.clone(), Arc::clone(&state));
        let report = move |at: Instant, event: &str, _: &Value| {
            let what = match event {
                "WATCHDOG" => What::Watchdog,
                "RESET" => {
                    let mut state = lock(&shared);
                    state.boot = None;
                    state.running.clear();
                    What::Reset
                }
                _ => return,
            };
            drop(reporter.send(Happening { at, what }));
        };
        let qmp = Qmp::connect(&qmp_socket, report).await?;
        let pods = (0..=PODS).map(|pod| cluster.fabric().pod(number, pod));
        let guest = Arc::new(Self {
            addresses: pods.collect(),
            hardware,
            number,
            folder,
            qemu,
            qmp,
            port,
            happenings,
            state,
            tasks: Mutex::default(),
        });
        let hearing = tokio::spawn(hear(Arc::clone(&guest), heard));
        let kubelet = tokio::spawn(kubelet::run(
            Arc::clone(&guest),
            cluster.admin(),
            cluster.api_address(),
            cluster.ca_pem()?,
        ));
        lock(&guest.tasks).extend([hearing, kubelet]);
        Ok(guest)
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.hardware.name
    }

    /// What it is made of.
    pub const fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// Its number in the fabric.
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// Its addresses: the node's, then those of pods.
    pub(super) fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Folder with its console and other logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What happens from now on.
    pub fn happenings(&self) -> broadcast::Receiver<Happening> {
        self.happenings.subscribe()
    }

    /// Boot ID, while the first process is at work.
    pub fn boot(&self) -> Option<String> {
        lock(&self.state).boot.clone()
    }

    /// Whether its cable is plugged in.
    pub fn is_linked(&self) -> bool {
        lock(&self.state).link
    }

    /// Pulls or plugs the cable, by QEMU's `set_link`.
    pub async fn set_link(&self, up: bool) -> anyhow::Result<()> {
        let arguments = json!({"name": "net0", "up": up});
        self.qmp.command("set_link", arguments).await?;
        lock(&self.state).link = up;
        Ok(())
    }

    /// Whether its kubelet works.
    pub fn has_kubelet(&self) -> bool {
        lock(&self.state).kubelet
    }

    /// The kubelet dies: nothing is started or ended any more until the next boot, or until it is back.
    pub fn set_kubelet(&self, works: bool) {
        lock(&self.state).kubelet = works;
    }

    /// From the next boot on another program holds the watchdog.
    pub fn set_held(&self, held: bool) {
        lock(&self.state).held = held;
    }

    /// Whether another program holds the watchdog.
    pub fn is_held(&self) -> bool {
        lock(&self.state).held
    }

    /// Resets it from outside, as an administrator does.
    pub async fn reset(&self) -> anyhow::Result<()> {
        self.qmp.command("system_reset", json!({})).await?;
        Ok(())
    }

    /// Names of the agents that run, which are those of their pods.
    pub fn agents(&self) -> Vec<String> {
        lock(&self.state).running.iter().cloned().collect()
    }

    /// The only agent that runs.
    pub fn agent(&self) -> anyhow::Result<String> {
        let agents = self.agents();
        let [agent] = agents.as_slice() else {
            anyhow::bail!("these agents run on {}: {agents:?}", self.name());
        };
        Ok(agent.clone())
    }

    /// Sends a signal to an agent.
    pub async fn signal(&self, agent: &str, signal: Signal) -> anyhow::Result<()> {
        let name = agent.to_owned();
        let signal = signal as i32;
        self.port.order(Order::Signal { name, signal }).await
    }

    /// Freezes the main thread of an agent.
    pub async fn freeze_main_thread(&self, agent: &str) -> anyhow::Result<()> {
        let name = agent.to_owned();
        self.port.order(Order::FreezeMainThread { name }).await
    }

    pub(super) fn is_running(&self, process: &str) -> bool {
        lock(&self.state).running.contains(process)
    }

    pub(super) async fn order(&self, order: Order) -> anyhow::Result<()> {
        let Order::Start { name, .. } = &order else {
            return self.port.order(order).await;
        };
        // Before its end can be told.
        let name = name.clone();
        lock(&self.state).running.insert(name.clone());
        let done = self.port.order(order).await;
        if done.is_err() {
            lock(&self.state).running.remove(&name);
        }
        done
    }

    /// What every boot begins with: drivers and network.
    pub(super) async fn set_up(&self) -> anyhow::Result<()> {
        let load = |module: &str, parameters: String| Order::Load {
            module: module.to_owned(),
            parameters,
        };
        self.order(load("virtio_pci", String::new())).await?;
        self.order(load("virtio_net", String::new())).await?;
        let nowayout = format!("nowayout={}", u8::from(self.hardware.nowayout));
        self.order(load(self.hardware.driver.module(), nowayout))
            .await?;
        if self.is_held() {
            let device = "/dev/watchdog".into();
            self.order(Order::Hold { device }).await?;
        }
        self.order(Order::Network {
            addresses: self.addresses.clone(),
            gateway: GATEWAY,
        })
        .await
    }

    /// How much is on its console now: for [`Guest::said_since`].
    pub fn mark(&self) -> usize {
        fs::metadata(console(&self.folder))
            .map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX))
    }

    /// What came on its console since a mark.
    pub fn said_since(&self, mark: usize) -> anyhow::Result<String> {
        let console = fs::read(console(&self.folder)).context("read the console")?;
        Ok(String::from_utf8_lossy(console.get(mark..).unwrap_or_default()).into_owned())
    }

    /// Ends it.
    pub async fn stop(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        self.qemu.kill().await;
    }
}

async fn hear(guest: Arc<Guest>, mut messages: mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = messages.recv().await {
        let at = Instant::now();
        let what = match message {
            Message::Booted { boot_id } => {
                guest.port.forget();
                let mut state = lock(&guest.state);
                state.boot = Some(boot_id);
                state.running.clear();
                state.kubelet = true;
                What::Booted
            }
            Message::Ended { name, how } => {
                lock(&guest.state).running.remove(&name);
                What::Ended { name, how }
            }
            Message::Done { .. } => continue,
        };
        drop(guest.happenings.send(Happening { at, what }));
    }
}

fn console(folder: &Path) -> PathBuf {
    folder.join("console.log")
}

fn listening(socket: &Path) -> String {
    format!("unix:{},server=on,wait=off", socket.display())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
