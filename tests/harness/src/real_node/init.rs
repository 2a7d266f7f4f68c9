//! What a real node is made of: namespaces, a furnished file system, containerd, kubelet.
//!
//! # Purpose
//! Two processes of the harness' own program. The *holder* stays outside and turns SIGTERM into the
//! node's power cut; the *init* is process 1 of the node: when it is killed, the kernel kills every
//! process of the node, containers too, before the holder's wait returns.
//!
//! # Guarantees
//! What could reset or change the machine under the tests is not there before anything is started:
//! no CAP_SYS_BOOT, no CAP_SYS_MODULE, no modprobe, a `/dev` without watchdogs, `/dev/null` in place
//! of sysrq-trigger. The kernel settings that a kubelet writes are files of the node.

use std::{
    fs::{self, File},
    io::Write as _,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        stat::{Mode, SFlag, makedev, mknod, umask},
        wait::wait,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    child::{MARK, Role, Spec},
    control_plane::API_SERVICE,
};

/// Where the init says whose `/run` this is; `workload check` looks for it.
const NAME_FILE: &str = "/run/medik8s-node";
const SOCKET: &str = "/run/containerd/containerd.sock";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Says that the images were imported in an earlier boot.
const IMPORTED: &str = "/var/lib/medik8s-imported";

/// What the harmless character devices are called, and their numbers.
const DEVICES: [(&str, u64, u64); 8] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("kmsg", 1, 11),
    ("tty", 5, 0),
    ("ptmx", 5, 2),
];
/// What a kubelet writes into the kernel at its start; it writes nothing that is so already.
const KERNEL: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// One boot of a real node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Name of the node.
    pub name: String,
    /// Folder of its files outside of its namespaces; they survive the boot.
    pub folder: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where the API server really listens, `address:port`.
    pub server: String,
    /// containerd and what it needs.
    pub tools: PathBuf,
    /// The program whose first argument may be `kubelet`.
    pub kubelet: PathBuf,
    /// Arguments of the kubelet.
    pub kubelet_args: Vec<String>,
    /// Archives of the images that are there from the start.
    pub images: Vec<PathBuf>,
}

impl Machine {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The holder: makes the namespaces, starts the init in them, and cuts the power when told.
pub(crate) fn hold(machine: Machine) -> anyhow::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("switch forwarding on")?;
    route_service(&machine.server)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .context("make the namespaces of a node")?;
    let spec = Spec {
        // Seen from the new PID namespace, the holder has no id.
        parent: 0,
        network: None,
        root: None,
        role: Role::Init(machine),
    };
    let mut init = Command::new("setpriv")
        .args(["--bounding-set", "-sys_boot,-sys_module", "--"])
        .arg(std::env::current_exe()?)
        .arg(MARK)
        .arg(serde_json::to_string(&spec)?)
        .stdin(Stdio::null())
        .spawn()
        .context("run setpriv")?;
    loop {
        if signals.wait()? == Signal::SIGTERM {
            init.kill()?;
            init.wait()?;
            return Ok(());
        }
        if let Some(status) = init.try_wait()? {
            bail!("the node ended by itself: {status}");
        }
    }
}

/// What kube-proxy would do for the one Service that every pod needs.
fn route_service(server: &str) -> anyhow::Result<()> {
    let rule = format!("ip daddr {API_SERVICE} tcp dport 443 dnat to {server}");
    let rules = format!(
        "table ip services {{\n\
           chain pods {{ type nat hook prerouting priority dstnat; {rule}; }}\n\
           chain node {{ type nat hook output priority -100; {rule}; }}\n\
         }}\n"
    );
    let nft = crate::tools::find("nft").context("`nft` is missing: apt-get install nftables")?;
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("nft has no input")?;
    input.write_all(rules.as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "nft refused:\n{rules}");
    Ok(())
}

/// The init: process 1 of the node.
pub(crate) fn run(machine: &Machine) -> anyhow::Result<()> {
    ensure!(
        std::process::id() == 1,
        "a node needs a PID namespace of its own"
    );
    furnish(machine).context("furnish the node")?;
    let containerd = start_containerd(machine)?;
    import_images(machine)?;
    let kubelet = start_kubelet(machine)?;
    // Orphans of the whole node are ours to bury.
    loop {
        let ended = wait()?;
        for (name, child) in [("containerd", &containerd), ("kubelet", &kubelet)] {
            let id = i32::try_from(child.id())?;
            if ended.pid().is_some_and(|pid| pid.as_raw() == id) {
                bail!("{name} ended: {ended:?}");
            }
        }
    }
}

fn furnish(machine: &Machine) -> anyhow::Result<()> {
    let all = |flags| mount_at(None, "/", None, flags | MsFlags::MS_REC);
    all(MsFlags::MS_PRIVATE)?;
    mount_at(Some("proc"), "/proc", Some("proc"), MsFlags::empty())?;
    mount_at(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty())?;
    fs::write(NAME_FILE, &machine.name)?;
    for (inside, folder) in [("/var/lib", "var-lib"), ("/var/log", "var-log")] {
        bind(&machine.file(folder), inside)?;
    }
    devices(machine)?;
    bind(&machine.file("boot_id"), BOOT_ID)?;
    let null = Path::new("/dev/null");
    for harmful in [
        "/proc/sysrq-trigger",
        "/sbin/modprobe",
        "/usr/sbin/modprobe",
    ] {
        if Path::new(harmful).exists() {
            bind(null, harmful)?;
        }
    }
    fs::create_dir_all("/run/kernel")?;
    for (number, (setting, value)) in KERNEL.iter().enumerate() {
        let own = PathBuf::from(format!("/run/kernel/{number}"));
        fs::write(&own, format!("{value}\n"))?;
        bind(&own, &format!("/proc/sys/{setting}"))?;
    }
    // Volumes of pods may ask for propagation, which needs a shared tree.
    all(MsFlags::MS_SHARED)
}

fn devices(machine: &Machine) -> anyhow::Result<()> {
    mount_at(
        Some("tmpfs"),
        "/dev",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
    )?;
    let before = umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_bits_truncate(if name == "kmsg" { 0o600 } else { 0o666 });
        let path = Path::new("/dev").join(name);
        mknod(&path, SFlag::S_IFCHR, mode, makedev(major, minor))
            .with_context(|| format!("make {}", path.display()))?;
    }
    umask(before);
    for (link, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, Path::new("/dev").join(link))?;
    }
    for (folder, kind) in [("/dev/pts", "devpts"), ("/dev/shm", "tmpfs")] {
        fs::create_dir(folder)?;
        mount_at(Some(kind), folder, Some(kind), MsFlags::empty())?;
    }
    let socket = "/dev/watchdog.sock";
    drop(File::create(socket)?);
    bind(&machine.file("watchdog.sock"), socket)
}

fn bind(from: &Path, to: &str) -> anyhow::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("bind {} over {to}", from.display()))
}

fn mount_at(
    source: Option<&str>,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
) -> anyhow::Result<()> {
    mount(source, target, kind, flags, None::<&str>).with_context(|| format!("mount {target}"))
}

fn start_containerd(machine: &Machine) -> anyhow::Result<Child> {
    let mut command = Command::new(machine.tools.join("containerd"));
    command.arg("--config").arg(machine.file("containerd.toml"));
    let mut child = start(machine, command, "containerd")?;
    let limit = Instant::now() + Duration::from_mins(1);
    while !Path::new(SOCKET).exists() {
        if let Some(status) = child.try_wait()? {
            bail!("containerd ended: {status}");
        }
        ensure!(Instant::now() < limit, "containerd did not start in 60 s");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(child)
}

fn import_images(machine: &Machine) -> anyhow::Result<()> {
    if Path::new(IMPORTED).exists() {
        return Ok(());
    }
    for image in &machine.images {
        let mut command = Command::new(machine.tools.join("ctr"));
        command
            .args(["--address", SOCKET, "--namespace", "k8s.io"])
            .args(["images", "import", "--local"])
            .arg(image);
        let status = start(machine, command, "import")?.wait()?;
        ensure!(status.success(), "import of {}: {status}", image.display());
    }
    fs::write(IMPORTED, "")?;
    Ok(())
}

fn start_kubelet(machine: &Machine) -> anyhow::Result<Child> {
    let mut command = Command::new(&machine.kubelet);
    command.arg("kubelet").args(&machine.kubelet_args);
    start(machine, command, "kubelet")
}

fn start(machine: &Machine, mut command: Command, log: &str) -> anyhow::Result<Child> {
    let log = File::options()
        .append(true)
        .create(true)
        .open(format!("/var/log/{log}.log"))?;
    command
        .env_clear()
        .env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", machine.tools.display()),
        )
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))
}
