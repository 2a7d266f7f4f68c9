//! A machine: its boots, its watchdog, its containers and its agents.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use medik8s_runtime::clock::Clock;
use rustls::ServerConfig;
use self_node_remediation_peer::CertificateSet;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::network::{Network, Place};
use crate::port;
use crate::process::Agent;
use crate::watchdog::Dog;

/// Timeout that a watchdog has before somebody sets it.
pub const WATCHDOG_DEFAULT: Duration = Duration::from_mins(1);

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// It runs since then.
    On(Instant),
    /// It does not; it boots then.
    Off(Option<Instant>),
}

/// A pod of the agents' DaemonSet on a machine.
#[derive(Debug)]
pub struct AgentPod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// When it was made.
    pub created: Instant,
    /// Which template it was made from.
    pub template: u64,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// The Secret it mounts.
    pub secret: String,
    /// What the kubelet has mounted.
    pub certificates: Option<CertificateSet>,
    /// Its process.
    pub process: Option<Agent>,
    /// When the process was started.
    pub since: Instant,
    /// When the kubelet starts it again.
    pub starts: Instant,
    /// How often in a row it had to.
    pub failures: u32,
    /// It is being ended; then it is killed.
    pub ends: Option<Instant>,
    /// Its loop hangs since then.
    pub hangs: Option<Instant>,
}

impl AgentPod {
    /// Whether its process runs and is not being ended.
    pub const fn works(&self) -> bool {
        self.process.is_some() && self.ends.is_none() && self.hangs.is_none()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        self.hangs = None;
    }
}

/// A container of the workload.
#[derive(Debug, Clone)]
pub struct Container {
    /// UID of its pod.
    pub uid: String,
    /// It is being ended; then it is gone.
    pub ends: Option<Instant>,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// Its number.
    pub index: usize,
    /// Its node's name.
    pub name: String,
    /// Whether it is a control-plane node.
    pub control_plane: bool,
    /// Its clock.
    pub clock: Clock,
    /// Its watchdog.
    pub dog: Dog,
    /// Whether it runs.
    pub power: Power,
    /// Its kubelet has stopped.
    pub kubelet_stopped: bool,
    /// The kubelet has reported this boot.
    pub reported: bool,
    /// The workload's containers, by application.
    pub containers: BTreeMap<usize, Container>,
    /// Its agents: one, or two while one takes over.
    pub agents: Vec<AgentPod>,
    root: PathBuf,
    boots: u64,
    tls: Arc<ServerConfig>,
    port: Option<AbortHandle>,
}

impl Machine {
    /// A machine that has just booted.
    pub fn new(
        index: usize,
        control_plane: bool,
        clock: Clock,
        root: PathBuf,
        dog: Dog,
        tls: Arc<ServerConfig>,
    ) -> Self {
        let role = if control_plane { "master" } else { "worker" };
        Self {
            index,
            name: format!("{role}-{index}"),
            control_plane,
            clock,
            dog,
            power: Power::Off(None),
            kubelet_stopped: false,
            reported: false,
            containers: BTreeMap::new(),
            agents: Vec::new(),
            root,
            boots: 0,
            tls,
            port: None,
        }
    }

    /// The address of its node.
    pub fn host(&self) -> IpAddr {
        let number = u8::try_from(self.index + 1).unwrap_or(u8::MAX);
        IpAddr::V4(Ipv4Addr::new(10, 255, 0, number))
    }

    /// Starts or stops its kubelet.
    pub fn set_kubelet(&mut self, net: &Network, runs: bool) {
        self.kubelet_stopped = !runs;
        if let Some(port) = self.port.take() {
            port.abort();
        }
        if runs {
            let listener = net.listen(SocketAddr::new(self.host(), port::PORT));
            self.port = Some(port::serve(listener, Arc::clone(&self.tls)));
        }
    }

    /// Its place in the network.
    pub const fn place(&self) -> Place {
        Place::Node(self.index)
    }

    /// Its files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The ID of its present or latest boot.
    pub fn boot_id(&self) -> String {
        format!("{}-boot-{}", self.name, self.boots)
    }

    /// Whether it runs.
    pub const fn is_on(&self) -> bool {
        matches!(self.power, Power::On(_))
    }

    /// Whether an agent of it works.
    pub fn has_agent(&self) -> bool {
        self.agents.iter().any(AgentPod::works)
    }

    /// Boots: a new boot ID, an empty `/run`.
    pub fn boot(&mut self, net: &Network) -> std::io::Result<()> {
        self.boots += 1;
        let random = self.root.join("proc/sys/kernel/random");
        std::fs::create_dir_all(&random)?;
        std::fs::write(random.join("boot_id"), self.boot_id())?;
        std::fs::write(self.root.join("proc/uptime"), "60.00 1.00\n")?;
        let run = self.root.join("run");
        if run.exists() {
            std::fs::remove_dir_all(&run)?;
        }
        std::fs::create_dir_all(&run)?;
        net.reset(self.place(), false);
        self.power = Power::On(Instant::now());
        self.set_kubelet(net, true);
        self.reported = false;
        Ok(())
    }

    /// Everything that ran stops at once; it boots at `boots`, if ever.
    pub fn stop(&mut self, net: &Network, boots: Option<Instant>) {
        net.reset(self.place(), true);
        self.dog.reset(WATCHDOG_DEFAULT);
        for agent in &mut self.agents {
            agent.kill();
        }
        self.set_kubelet(net, false);
        self.containers.clear();
        self.power = Power::Off(boots);
    }
}
