//! The network of the simulated machines.
//!
//! # Purpose
//! The harness lives in a network namespace of its own (and in a user namespace when it is not
//! root), so it can give every cluster, node and pod an address, and cut any of them off, without
//! touching the machine. Each pod that is a real process has an own namespace and a veth pair; all
//! traffic is routed by the harness' namespace, so a cut is a routing rule: packets vanish silently,
//! as with a pulled cable.
//!
//! ```text
//! 10.K.0.1      API server of cluster K
//! 10.K.0.2      what else runs in the harness' namespace
//! 10.K.0.3      probes of the kubelet: local to every node, so never cut
//! 10.K.(16+N).0/24  pods of node N that are real processes; .1 is the node
//! 10.K.128.0/17     pods that kwok pretends to run: an address and nothing behind it
//! ```
//!
//! # Caveats
//! [`enter`] must run before the first thread is started.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Pid, Uid, getgid, getuid},
};
use tokio::{io::AsyncWriteExt as _, sync::Mutex};

use crate::child::PodNetwork;

/// What every pod sends to; the harness answers for it.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Routing table in which everything disappears.
const NOWHERE: &str = "66";
/// Order of the routing rules: exceptions first, then cuts, then what is local, then routes.
const PREF_EXEMPT: &str = "80";
const PREF_SELF: &str = "70";
const PREF_CUT: &str = "100";
const PREF_LOCAL: &str = "1000";

/// Moves this process into a network namespace of its own.
pub fn enter() -> anyhow::Result<()> {
    let ip = tool()?;
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).context(
            "make a user and a network namespace (are unprivileged user namespaces switched off? \
             `sysctl kernel.unprivileged_userns_clone=1`, or run as root)",
        )?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        ensure!(Uid::effective().is_root(), "the user namespace has no root");
    }
    batch_blocking(
        &ip,
        &format!(
            "link set lo up\n\
             address add {GATEWAY}/32 dev lo\n\
             link add nowhere type bridge\n\
             link set nowhere arp off up\n\
             route add default dev nowhere table {NOWHERE}\n\
             rule add pref {PREF_LOCAL} lookup local\n\
             rule del pref 0\n"
        ),
    )
    .context("set up the network namespace")?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("switch forwarding on")?;
    Ok(())
}

/// Inside the pod's namespace: its address and the way out.
pub(crate) fn configure_pod(network: PodNetwork) -> anyhow::Result<()> {
    let address = network.address;
    batch_blocking(
        &tool()?,
        &format!(
            "link set lo up\n\
             address add {address}/32 dev eth0\n\
             link set eth0 up\n\
             route add default via {GATEWAY} dev eth0 onlink src {address}\n"
        ),
    )
}

/// The network of one cluster.
#[derive(Debug)]
pub struct Fabric {
    cluster: u8,
    /// `ip` changes one thing at a time.
    lock: Mutex<()>,
    next_interface: AtomicU32,
}

/// Which way of a node is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The cable is out: no API, no peers, nothing.
    Everything,
    /// Only the API server is out of reach; the peers answer.
    Api,
    /// Only the other nodes and their pods are out of reach; the API server answers.
    Peers,
}

impl Fabric {
    /// Addresses for one more cluster in this namespace.
    pub async fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let cluster = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(cluster < 255, "too many clusters in one process");
        let fabric = Self {
            cluster,
            lock: Mutex::new(()),
            next_interface: AtomicU32::new(0),
        };
        fabric
            .batch(&format!(
                "address add {api}/32 dev lo\n\
                 address add {own}/32 dev lo\n\
                 address add {probe}/32 dev lo\n\
                 rule add pref {PREF_EXEMPT} from {probe} lookup main\n\
                 rule add pref {PREF_EXEMPT} to {probe} lookup local\n",
                api = fabric.api(),
                own = fabric.own(),
                probe = fabric.probe(),
            ))
            .await
            .context("no addresses for the cluster: was network::enter called first?")?;
        Ok(fabric)
    }

    /// Address of the API server.
    pub const fn api(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.cluster, 0, 1)
    }

    /// Address from which the harness itself speaks to pods.
    pub const fn own(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.cluster, 0, 2)
    }

    /// Address from which the kubelets probe their pods.
    pub const fn probe(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.cluster, 0, 3)
    }

    /// [`Fabric::probe`] of the cluster that an address belongs to.
    pub(crate) const fn probe_of(address: Ipv4Addr) -> Ipv4Addr {
        let [_, cluster, _, _] = address.octets();
        Ipv4Addr::new(10, cluster, 0, 3)
    }

    /// Address of a node.
    pub const fn node(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.cluster, node.saturating_add(16), 1)
    }

    /// Address of a pod of a node; 0 is the node itself.
    pub const fn pod(&self, node: u8, pod: u8) -> Ipv4Addr {
        Ipv4Addr::new(
            10,
            self.cluster,
            node.saturating_add(16),
            pod.saturating_add(1),
        )
    }

    /// Range of the pods that kwok pretends to run, as its `--cidr` wants it.
    pub fn simulated_pods(&self) -> String {
        format!("10.{}.128.1/17", self.cluster)
    }

    /// Range of the node and of its pods that are real processes or containers.
    pub(crate) fn node_range(&self, node: u8) -> String {
        format!("10.{}.{}.0/24", self.cluster, node.saturating_add(16))
    }

    /// Gives a node its address.
    pub(crate) async fn add_node(&self, node: u8) -> anyhow::Result<()> {
        self.batch(&format!("address add {}/32 dev lo\n", self.node(node)))
            .await
    }

    /// A card for a virtual machine, with all addresses of a node behind it. Returns its name.
    pub(crate) async fn add_tap(&self, node: u8) -> anyhow::Result<String> {
        let tap = format!("t{}x{node}", self.cluster);
        let (range, own) = (self.node_range(node), self.own());
        self.batch(&format!(
            "tuntap add dev {tap} mode tap\n\
             link set {tap} up\n\
             route add {range} dev {tap} src {own}\n"
        ))
        .await?;
        Ok(tap)
    }

    /// Gives the process' namespace its interface and routes the address there.
    pub(crate) async fn attach(&self, pid: Pid, network: PodNetwork) -> anyhow::Result<()> {
        let number = self.next_interface.fetch_add(1, Ordering::Relaxed);
        let (cluster, address, own) = (self.cluster, network.address, self.own());
        let outer = format!("v{cluster}x{number}");
        // An earlier container of the same pod may still be going away with its namespace.
        let mut commands = format!(
            "link add {outer} type veth peer name eth0 netns {pid}\n\
             link set {outer} up\n\
             route replace {address}/32 dev {outer} src {own}\n"
        );
        if let [a, b, node, 1] = address.octets() {
            // A real node: its pods are behind it. A cut must not choose the way there.
            let route =
                format!("route replace {a}.{b}.{node}.0/24 via {address} dev {outer} onlink");
            commands.extend([route.as_str(), "\n"]);
        }
        self.batch(&commands).await
    }

    /// Cuts a node off.
    pub async fn cut(&self, node: u8, cut: Cut) -> anyhow::Result<()> {
        self.change_rules("add", node, cut).await
    }

    /// Takes the cut back.
    pub async fn mend(&self, node: u8, cut: Cut) -> anyhow::Result<()> {
        self.change_rules("del", node, cut).await
    }

    async fn change_rules(&self, verb: &str, node: u8, cut: Cut) -> anyhow::Result<()> {
        let (range, node, api) = (self.node_range(node), self.node(node), self.api());
        let rules = match cut {
            Cut::Everything => format!(
                "rule {verb} pref {PREF_SELF} from {range} to {node} lookup local\n\
                 rule {verb} pref {PREF_EXEMPT} from {range} to {range} lookup main\n\
                 rule {verb} pref {PREF_CUT} from {range} lookup {NOWHERE}\n\
                 rule {verb} pref {PREF_CUT} to {range} lookup {NOWHERE}\n"
            ),
            Cut::Api => format!(
                "rule {verb} pref {PREF_CUT} from {range} to {api} lookup {NOWHERE}\n\
                 rule {verb} pref {PREF_CUT} from {api} to {range} lookup {NOWHERE}\n"
            ),
            Cut::Peers => {
                let nodes = format!("10.{}.16.0/20", self.cluster);
                format!(
                    "rule {verb} pref {PREF_CUT} from {range} to {nodes} lookup {NOWHERE}\n\
                     rule {verb} pref {PREF_CUT} from {nodes} to {range} lookup {NOWHERE}\n"
                )
            }
        };
        self.batch(&rules).await
    }

    async fn batch(&self, commands: &str) -> anyhow::Result<()> {
        let _turn = self.lock.lock().await;
        let mut child = tokio::process::Command::new(tool()?)
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut input = child.stdin.take().context("ip has no input")?;
        input.write_all(commands.as_bytes()).await?;
        drop(input);
        let done = child.wait_with_output().await?;
        verdict(done.status.success(), commands, &done.stderr)
    }
}

fn batch_blocking(ip: &PathBuf, commands: &str) -> anyhow::Result<()> {
    let mut child = Command::new(ip)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("ip has no input")?;
    input.write_all(commands.as_bytes())?;
    drop(input);
    let done = child.wait_with_output()?;
    verdict(done.status.success(), commands, &done.stderr)
}

fn verdict(success: bool, commands: &str, stderr: &[u8]) -> anyhow::Result<()> {
    if success {
        return Ok(());
    }
    bail!(
        "`ip` refused: {}\nin:\n{commands}",
        String::from_utf8_lossy(stderr).trim()
    )
}

fn tool() -> anyhow::Result<PathBuf> {
    crate::tools::find("ip").context(
        "`ip` is missing: install it with `apt-get install iproute2` (Debian, Ubuntu) or \
         `dnf install iproute`",
    )
}
