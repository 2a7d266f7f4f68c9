//! The second life of the harness' own program: `<program> __child <spec>` prepares a process
//! (parent-death signal, network namespace, addresses) and then becomes the real one.
//!
//! # Purpose
//! Everything that has to happen between fork and exec happens in safe code, in a process of its
//! own. [`dispatch`] is the first line of every `main` of this crate.
//!
//! # Guarantees
//! * The process dies with the harness, also when the harness is killed with SIGKILL.
//! * A process with [`PodNetwork`] sees no network but its own `eth0` and `lo`.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::{
        fd::AsFd as _,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl, signal::Signal},
    time::{ClockId, clock_gettime},
    unistd::{Pid, chroot, getppid},
};
use serde::{Deserialize, Serialize};

use crate::{
    network,
    real_node::init::{self, Machine},
};

/// First argument of the second life.
pub(crate) const MARK: &str = "__child";

/// What the second life is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Who started it; if that one is gone already, there is nothing to do.
    pub parent: i32,
    /// An own network namespace with this address; `None` shares the harness' one.
    pub network: Option<PodNetwork>,
    /// The only directory it sees, as its root.
    pub root: Option<PathBuf>,
    /// What to become.
    pub role: Role,
}

/// The only interface of a pod.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PodNetwork {
    /// Its address.
    pub address: Ipv4Addr,
}

/// What a child becomes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Another program.
    Exec { program: PathBuf, args: Vec<String> },
    /// A workload that must never run twice: writes who and when it is into a log.
    Writer {
        log: PathBuf,
        pod: String,
        node: String,
        period_ms: u64,
    },
    /// Carries TCP connections of the machine's own network to a socket in ours.
    Relay {
        listen: String,
        announce: PathBuf,
        socket: PathBuf,
    },
    /// Holds the namespaces of a real node; its end is the node's.
    Node(Machine),
    /// The first process of a real node.
    Init(Machine),
}

/// Runs the second life if this process is one; the caller returns the code from `main`.
pub fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(MARK) {
        return None;
    }
    let done = args
        .next()
        .context("the child has no specification")
        .and_then(|spec| Ok(serde_json::from_str::<Spec>(&spec)?))
        .and_then(run);
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("harness child: {error:#}"));
            ExitCode::from(127)
        }
    })
}

#[expect(
    clippy::print_stderr,
    reason = "the log of the process is its standard error"
)]
fn say(text: &str) {
    eprintln!("{text}");
}

fn run(spec: Spec) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("set the parent-death signal")?;
    if getppid() != Pid::from_raw(spec.parent) {
        bail!("the harness is gone");
    }
    if let Some(network) = spec.network {
        enter_network(network)?;
    }
    let nothing = File::open("/dev/null")?;
    if let Some(root) = spec.root {
        furnish(&root).context("furnish the scratch root")?;
        chroot(&root).context("change the root")?;
        std::env::set_current_dir("/")?;
    }
    match spec.role {
        Role::Exec { program, args } => {
            let error = Command::new(&program).args(args).stdin(nothing).exec();
            Err(error).with_context(|| format!("start {}", program.display()))
        }
        Role::Writer {
            log,
            pod,
            node,
            period_ms,
        } => write_for_ever(&log, &pod, &node, Duration::from_millis(period_ms)),
        Role::Relay {
            listen,
            announce,
            socket,
        } => crate::relay::serve_outside(&listen, &announce, &socket),
        Role::Node(machine) => init::hold(machine),
        Role::Init(machine) => init::run(&machine),
    }
}

/// What every container runtime puts into a root: `/proc` and the harmless devices.
fn furnish(root: &Path) -> anyhow::Result<()> {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        NOTHING,
    )?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    std::fs::create_dir_all(root.join("dev"))?;
    for device in ["dev/null", "dev/zero", "dev/random", "dev/urandom"] {
        let place = root.join(device);
        drop(File::create(&place)?);
        mount(
            Some(&Path::new("/").join(device)),
            &place,
            NOTHING,
            bind,
            NOTHING,
        )?;
    }
    std::fs::create_dir_all(root.join("proc"))?;
    mount(Some("/proc"), &root.join("proc"), NOTHING, bind, NOTHING)?;
    Ok(())
}

/// Standard input is a socket to the parent: `r` says "the namespace is there", the answer `g` says
/// "its interface is inside".
fn enter_network(network: PodNetwork) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace for the pod")?;
    let mut parent = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    parent.write_all(b"r")?;
    let mut answer = [0];
    parent
        .read_exact(&mut answer)
        .context("wait for the pod's interface")?;
    network::configure_pod(network)
}

/// One line per period: `<pod uid> <node> <process> <boot-time clock in ns>`. Each is one `write` to
/// a file opened for appending, so lines of several writers never mix.
fn write_for_ever(log: &PathBuf, pod: &str, node: &str, period: Duration) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(log)?;
    let process = std::process::id();
    loop {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?).as_nanos();
        file.write_all(format!("{pod} {node} {process} {now}\n").as_bytes())?;
        std::thread::sleep(period);
    }
}
