//! One cluster: control plane, simulated machines, kubelets, and the files that belong to it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::{Api, Client, ResourceExt};
use tempfile::TempDir;
use tokio::{sync::broadcast, task::JoinHandle, time::sleep};

use crate::{
    control_plane::ControlPlane,
    images::Programs,
    kubelet::{self, Images, PodRun},
    kwok, leftovers,
    machine::{Happening, Hardware, Machine, NodeSpec},
    network::Fabric,
    process::Process,
    rights,
    tools::{Tools, say},
};

/// How a cluster is made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its nodes.
    pub nodes: Vec<NodeSpec>,
    /// The operators' programs, laid out as their images.
    pub programs: Option<Programs>,
    /// More folders that stand for images.
    pub images: Images,
    /// What the machines are made of.
    pub hardware: Hardware,
    /// Where its files go; a temporary folder that is removed at the end when unset.
    pub folder: Option<PathBuf>,
    /// Let controllers and scheduler ask faster than they do by default (20 requests per second), so
    /// that hundreds of pods are made in seconds.
    pub fast_controllers: bool,
}

/// A running cluster. Dropping it ends every process; [`Cluster::stop`] does so in order.
pub struct Cluster {
    folder: PathBuf,
    tools: Tools,
    fabric: Arc<Fabric>,
    plane: ControlPlane,
    kwok: Process,
    admin: Client,
    machines: BTreeMap<String, Arc<Machine>>,
    happenings: broadcast::Sender<Happening>,
    kubelets: JoinHandle<()>,
    started_in: Duration,
    /// Removed when the cluster goes.
    temporary: Option<TempDir>,
}

impl Cluster {
    /// Starts a cluster and returns when all its nodes are Ready.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let begin = Instant::now();
        let tools = Tools::ready()?;
        leftovers::sweep();
        let temporary = match options.folder {
            Some(_) => None,
            None => Some(
                tempfile::Builder::new()
                    .prefix(leftovers::PREFIX)
                    .tempdir()?,
            ),
        };
        let folder = options
            .folder
            .or_else(|| temporary.as_ref().map(|folder| folder.path().to_owned()))
            .context("no folder")?;
        fs::create_dir_all(&folder)?;
        leftovers::claim(&folder)?;
        let images = match options.programs {
            Some(programs) => programs.lay_out(&folder.join("images"), options.images)?,
            None => options.images,
        };
        let fabric = Arc::new(Fabric::new().await?);
        let plane = ControlPlane::start(&folder, &tools, &fabric, options.fast_controllers).await?;
        let kubeconfig = plane.kubeconfig_file("kwok")?;
        let kwok = kwok::start(&folder, &tools, &fabric, &kubeconfig).await?;
        let (happenings, _) = broadcast::channel(4096);
        let kubelet = plane.client("kubelet").await?;
        let mut machines = BTreeMap::new();
        for (number, spec) in options.nodes.iter().enumerate() {
            let machine = Machine::build(
                spec,
                u8::try_from(number)?,
                &folder.join("nodes"),
                options.hardware,
                Arc::clone(&fabric),
                kubelet.clone(),
                happenings.clone(),
            )
            .await?;
            machine
                .register(spec.control_plane)
                .await
                .with_context(|| format!("register {}", spec.name))?;
            machines.insert(spec.name.clone(), machine);
        }
        for part in ["pods", "logs/pods"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let shared = Arc::new(kubelet::Shared {
            client: kubelet,
            fabric: Arc::clone(&fabric),
            images,
            server: plane.server().to_owned(),
            ca_data: plane.ca_data(),
            pods_folder: folder.join("pods"),
            logs_folder: folder.join("logs/pods"),
            writers_log: folder.join("writers.log"),
        });
        let kubelets = tokio::spawn(kubelet::run(shared, machines.clone()));
        let admin = plane.client("admin").await?;
        let mut cluster = Self {
            folder,
            tools,
            fabric,
            plane,
            kwok,
            admin,
            machines,
            happenings,
            kubelets,
            started_in: Duration::ZERO,
            temporary,
        };
        cluster.wait_until_usable().await?;
        cluster.started_in = begin.elapsed();
        Ok(cluster)
    }

    /// How long the start took.
    pub const fn started_in(&self) -> Duration {
        self.started_in
    }

    /// A client with all rights; for the scenario, never for an operator.
    pub fn admin(&self) -> Client {
        self.admin.clone()
    }

    /// A kubeconfig of the administrator, for use inside the harness' network.
    pub fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        self.plane.kubeconfig_file("admin")
    }

    /// A kubeconfig of the administrator that goes through a door in the machine's own network.
    pub fn kubeconfig_outside(&self, door: SocketAddr) -> anyhow::Result<PathBuf> {
        let file = self.folder.join("kubeconfig");
        fs::write(
            &file,
            serde_json::to_vec_pretty(&self.plane.admin_config(&format!("https://{door}"))?)?,
        )?;
        Ok(file)
    }

    /// Where the API server listens inside the harness' network.
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::from((self.fabric.api(), 6443))
    }

    /// The certificate of the API server's CA.
    pub(crate) fn ca_pem(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.folder.join("pki/ca.crt"))?)
    }

    /// A kubeconfig with somebody's token.
    pub fn kubeconfig_for(&self, server: &str, user: &str, token: &str) -> serde_json::Value {
        self.plane.kubeconfig(server, user, token)
    }

    /// Its network.
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Its network, for machines that live as long as it.
    pub(crate) fn shared_fabric(&self) -> Arc<Fabric> {
        Arc::clone(&self.fabric)
    }

    /// The kubeconfig of the kubelets.
    pub(crate) fn kubelet_config(&self) -> anyhow::Result<PathBuf> {
        self.plane.kubeconfig_file("kubelet")
    }

    /// Kills the API server (`kill -9`).
    pub async fn kill_api_server(&self) {
        self.plane.kill_api_server().await;
    }

    /// Starts the API server again; returns when it is ready.
    pub async fn start_api_server(&mut self) -> anyhow::Result<()> {
        self.plane.start_api_server().await
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl<S: AsRef<str>>(&self, args: &[S]) -> anyhow::Result<String> {
        let words: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let done = tokio::process::Command::new(self.tools.kubectl())
            .args(&words)
            .env("KUBECONFIG", self.kubeconfig()?)
            .env("HOME", &self.folder)
            .stdin(Stdio::null())
            .output()
            .await
            .context("run kubectl")?;
        if !done.status.success() {
            bail!(
                "kubectl {}: {}",
                words.join(" "),
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Applies manifests as a user would: `kubectl apply --server-side`.
    pub async fn apply(&self, file: &Path) -> anyhow::Result<()> {
        let file = file.display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &file])
            .await?;
        Ok(())
    }

    /// Applies a manifest given as text.
    pub async fn apply_text(&self, manifest: &str) -> anyhow::Result<()> {
        let file = tempfile::Builder::new()
            .suffix(".yaml")
            .tempfile_in(&self.folder)?;
        fs::write(file.path(), manifest)?;
        self.apply(file.path()).await
    }

    /// Folder with everything: logs, host roots, kubeconfigs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The programs it runs.
    pub const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// A machine by the name of its node.
    pub fn machine(&self, node: &str) -> anyhow::Result<&Arc<Machine>> {
        self.machines
            .get(node)
            .with_context(|| format!("there is no node {node}"))
    }

    /// All machines.
    pub fn machines(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.machines.values()
    }

    /// What happens on the machines from now on.
    pub fn happenings(&self) -> broadcast::Receiver<Happening> {
        self.happenings.subscribe()
    }

    /// What the writers wrote.
    pub fn writers_log(&self) -> PathBuf {
        self.folder.join("writers.log")
    }

    /// What the API server was asked.
    pub fn audit_log(&self) -> PathBuf {
        self.plane.audit_log()
    }

    /// Output of the container of a pod.
    pub fn pod_log(&self, namespace: &str, pod: &str) -> PathBuf {
        self.folder.join(format!("logs/pods/{namespace}_{pod}.log"))
    }

    /// The running containers, to be killed.
    pub fn containers(&self) -> Containers {
        Containers(self.machines.values().cloned().collect())
    }

    /// Leaves its files behind, for a look at the logs; the next run removes them.
    pub fn keep_files(&mut self) -> &Path {
        if let Some(temporary) = &mut self.temporary {
            temporary.disable_cleanup(true);
        }
        &self.folder
    }

    /// Ends all processes.
    pub async fn stop(self) {
        self.kubelets.abort();
        for machine in self.machines.values() {
            machine.scrap().await;
        }
        self.kwok.kill().await;
        self.plane.stop().await;
        if let Err(error) = rights::record(&self.audit_log()) {
            say(&format!("could not keep what rights were used: {error:#}"));
        }
    }

    async fn wait_until_usable(&self) -> anyhow::Result<()> {
        let nodes = Api::<Node>::all(self.admin());
        let accounts = Api::<ServiceAccount>::default_namespaced(self.admin());
        let limit = Instant::now() + Duration::from_mins(1);
        loop {
            let ready = nodes.list(&kube::api::ListParams::default()).await?;
            let waiting: Vec<String> = ready
                .iter()
                .filter(|node| !is_ready(node))
                .map(ResourceExt::name_any)
                .collect();
            if waiting.is_empty() && accounts.get_opt("default").await?.is_some() {
                return Ok(());
            }
            if Instant::now() > limit {
                bail!(
                    "not Ready in 60 s: {waiting:?}; see {}",
                    self.folder.join("logs").display()
                );
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The containers that run as processes on all machines.
#[derive(Clone)]
pub struct Containers(Vec<Arc<Machine>>);

impl Containers {
    /// Kills (`kill -9`) the processes of the pods, given as `namespace/name`, that are chosen; their
    /// kubelets restart them. Returns how many were killed.
    pub fn kill(&self, choose: impl Fn(&str) -> bool) -> usize {
        let mut killed = 0;
        for machine in &self.0 {
            machine.with_pods(|pods| {
                for run in pods.values().filter(|run| choose(run.name())) {
                    run.kill_container();
                    killed += 1;
                }
            });
        }
        killed
    }

    /// Process ids of the containers of the pods, given as `namespace/name`, that are chosen.
    pub fn process_ids(&self, choose: impl Fn(&str) -> bool) -> Vec<i32> {
        let mut found = Vec::new();
        for machine in &self.0 {
            machine.with_pods(|pods| {
                let chosen = pods.values().filter(|run| choose(run.name()));
                found.extend(chosen.filter_map(PodRun::process_id));
            });
        }
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The processes die with their handles; the task would otherwise hold some of them.
        self.kubelets.abort();
    }
}

/// Whether the node's Ready condition is True.
pub fn is_ready(node: &Node) -> bool {
    ready_status(node) == Some("True")
}

/// The status of the node's Ready condition.
pub fn ready_status(node: &Node) -> Option<&str> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map(|condition| condition.status.as_str())
}
