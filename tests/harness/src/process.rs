//! Processes of the harness: started by [`crate::child`], known by handle, ended by handle.
//!
//! # Guarantees
//! * A signal goes to a process only while it is our unreaped child, so its id cannot belong to
//!   somebody else; nothing is ever ended by name.
//! * Dropping the last handle kills the process.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    sync::watch,
    time::timeout,
};

use crate::{
    child::{MARK, PodNetwork, Role, Spec},
    network::Fabric,
    real_node::init::Machine,
};

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Name for messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where its output goes (appended).
    pub log: PathBuf,
    /// The only directory it sees, as in a scratch image; the program is a path in there.
    pub root: Option<PathBuf>,
}

impl Launch {
    /// A program without arguments, with the search path as its only environment.
    pub fn new(
        name: impl Into<String>,
        program: impl Into<PathBuf>,
        log: impl Into<PathBuf>,
    ) -> Self {
        let path = std::env::var_os("PATH").map(|path| path.to_string_lossy().into_owned());
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: path
                .into_iter()
                .map(|path| ("PATH".to_owned(), path))
                .collect(),
            log: log.into(),
            root: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }
}

/// A running (or ended) process.
#[derive(Debug, Clone)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts a program in the harness' own network.
    pub async fn start(launch: Launch) -> anyhow::Result<Self> {
        Self::start_program(launch, None).await
    }

    /// Starts a program in a network namespace of its own.
    pub async fn start_in_pod(
        launch: Launch,
        fabric: &Fabric,
        network: PodNetwork,
    ) -> anyhow::Result<Self> {
        Self::start_program(launch, Some((fabric, network))).await
    }

    /// Starts a writer: see [`crate::writers`].
    pub async fn start_writer(
        log: &Path,
        pod: &str,
        node: &str,
        period: Duration,
        output: &Path,
    ) -> anyhow::Result<Self> {
        let role = Role::Writer {
            log: log.to_owned(),
            pod: pod.to_owned(),
            node: node.to_owned(),
            period_ms: u64::try_from(period.as_millis())?,
        };
        let spec = Spec {
            parent: Pid::this().as_raw(),
            network: None,
            root: None,
            role,
        };
        Self::start_child(
            format!("writer on {node}"),
            output,
            BTreeMap::new(),
            &spec,
            None,
        )
        .await
    }

    /// Starts the holder of a real node's namespaces: see [`crate::real_node`].
    pub(crate) async fn start_node(
        machine: Machine,
        log: &Path,
        fabric: &Fabric,
        network: PodNetwork,
    ) -> anyhow::Result<Self> {
        let path = std::env::var("PATH").map(|path| ("PATH".to_owned(), path));
        let name = machine.name.clone();
        let spec = Spec {
            parent: Pid::this().as_raw(),
            network: Some(network),
            root: None,
            role: Role::Node(machine),
        };
        let env = path.into_iter().collect();
        Self::start_child(name, log, env, &spec, Some((fabric, network))).await
    }

    async fn start_program(
        launch: Launch,
        network: Option<(&Fabric, PodNetwork)>,
    ) -> anyhow::Result<Self> {
        let Launch {
            name,
            program,
            args,
            env,
            log,
            root,
        } = launch;
        let spec = Spec {
            parent: Pid::this().as_raw(),
            network: network.map(|(_, network)| network),
            root,
            role: Role::Exec { program, args },
        };
        Self::start_child(name, &log, env, &spec, network).await
    }

    async fn start_child(
        name: String,
        log: &Path,
        env: BTreeMap<String, String>,
        spec: &Spec,
        network: Option<(&Fabric, PodNetwork)>,
    ) -> anyhow::Result<Self> {
        let output = OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .with_context(|| format!("open the log {}", log.display()))?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(MARK)
            .arg(serde_json::to_string(spec)?)
            .env_clear()
            .envs(env)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(output.try_clone()?)
            .stderr(output)
            // An interrupt at the terminal ends the harness; the harness ends the rest in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        // The parent's copy of the child's end lives in `command`; the handshake needs it closed.
        drop(command);
        let pid = Pid::from_raw(i32::try_from(child.id().context("the child is gone")?)?);
        if let Some((fabric, network)) = network {
            attach(ours, fabric, network, pid)
                .await
                .with_context(|| format!("connect {name} to the network"))?;
        }
        let (tell, exit) = watch::channel(None);
        drop(tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                tell.send_replace(Some(status));
            }
        }));
        Ok(Self(Arc::new(Inner { name, pid, exit })))
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its process id, for measurements. Only while it runs is it surely its own.
    pub fn id(&self) -> i32 {
        self.0.pid.as_raw()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.0.exit.borrow().is_none()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Option<ExitStatus> {
        let mut exit = self.0.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => *status,
            Err(_) => None,
        }
    }

    /// Sends a signal if it is still running.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// Ends it: SIGTERM, then SIGKILL after `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if timeout(grace, self.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends it at once, as a power cut would.
    pub async fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait().await;
    }
}

impl Inner {
    fn signal(&self, signal: Signal) {
        // The waiting task reaps and publishes without a suspension in between, and this runtime has
        // one thread: while nothing is published the id is ours.
        if self.exit.borrow().is_none() {
            // ESRCH cannot happen for an unreaped child; a zombie takes any signal.
            let _delivered: bool = kill(self.pid, signal).is_ok();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

async fn attach(
    ours: UnixStream,
    fabric: &Fabric,
    network: PodNetwork,
    pid: Pid,
) -> anyhow::Result<()> {
    ours.set_nonblocking(true)?;
    let mut ours = tokio::net::UnixStream::from_std(ours)?;
    let mut ready = [0];
    timeout(Duration::from_secs(10), ours.read_exact(&mut ready))
        .await
        .context("the child did not make its network namespace in 10 s")??;
    fabric.attach(pid, network).await?;
    ours.write_all(b"g").await?;
    Ok(())
}
