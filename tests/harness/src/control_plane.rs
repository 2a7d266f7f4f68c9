//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler as local processes.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    network::Fabric,
    pki::Pki,
    process::{Launch, Process},
    tools::Tools,
};

/// Who may talk to the API server without a ServiceAccount: name of the user, its group.
const USERS: [(&str, &str); 5] = [
    ("admin", "system:masters"),
    ("kubelet", "system:masters"),
    ("kwok", "system:masters"),
    ("system:kube-controller-manager", "system:authenticated"),
    ("system:kube-scheduler", "system:authenticated"),
];

/// A name of the API server that only a name server knows.
pub const DNS_NAME: &str = "api.demo.test";

const API_SERVER: &str = "kube-apiserver";

/// The Service of the API server: the first address of the range.
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

/// A silent node is `Ready=Unknown` after this long, plus up to [`NODE_MONITOR_PERIOD`].
pub const NODE_MONITOR_GRACE: Duration = Duration::from_secs(20);
/// How often the node controller looks.
pub const NODE_MONITOR_PERIOD: Duration = Duration::from_secs(2);

/// A running control plane.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    folder: PathBuf,
    server: String,
    ca_pem: String,
    /// Of the built-in users, by name. Random: `make cluster` opens a door to the server on the machine.
    tokens: BTreeMap<&'static str, String>,
    processes: Vec<(Launch, Process)>,
}

impl ControlPlane {
    /// Starts all four and returns when the API server is ready.
    pub(crate) async fn start(
        folder: &Path,
        tools: &Tools,
        fabric: &Fabric,
        fast_controllers: bool,
    ) -> anyhow::Result<Self> {
        let pace: &[String] = if fast_controllers {
            &[
                "--kube-api-qps=500".to_owned(),
                "--kube-api-burst=1000".to_owned(),
            ]
        } else {
            &[]
        };
        let address = fabric.api();
        let pki = Pki::write(
            &folder.join("pki"),
            &[
                IpAddr::from(address),
                IpAddr::from([127, 0, 0, 1]),
                IpAddr::from(API_SERVICE),
            ],
            &[
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                DNS_NAME,
            ],
        )?;
        fs::create_dir_all(folder.join("logs"))?;
        let mut plane = Self {
            folder: folder.to_owned(),
            server: format!("https://{address}:6443"),
            ca_pem: pki.ca_pem.clone(),
            tokens: USERS
                .map(|(user, _)| (user, format!("{:032x}", rand::random::<u128>())))
                .into(),
            processes: Vec::new(),
        };
        let etcd = format!("http://{address}:2379");
        plane
            .run(
                tools,
                "etcd",
                &[
                    "--name=etcd".into(),
                    format!("--data-dir={}", folder.join("etcd").display()),
                    format!("--listen-client-urls={etcd}"),
                    format!("--advertise-client-urls={etcd}"),
                    format!("--listen-peer-urls=http://{address}:2380"),
                    format!("--initial-advertise-peer-urls=http://{address}:2380"),
                    format!("--initial-cluster=etcd=http://{address}:2380"),
                    "--unsafe-no-fsync".into(),
                    "--log-level=error".into(),
                ],
            )
            .await?;
        let (users, policy) = (folder.join("users.csv"), folder.join("audit-policy.yaml"));
        fs::write(&users, plane.users_file())?;
        fs::write(&policy, AUDIT_POLICY)?;
        plane
            .run(
                tools,
                API_SERVER,
                &[
                    format!("--etcd-servers={etcd}"),
                    format!("--bind-address={address}"),
                    "--secure-port=6443".into(),
                    format!("--advertise-address={address}"),
                    format!("--tls-cert-file={}", pki.server_certificate.display()),
                    format!("--tls-private-key-file={}", pki.server_key.display()),
                    format!("--cert-dir={}", folder.join("pki").display()),
                    format!("--token-auth-file={}", users.display()),
                    "--authorization-mode=Node,RBAC".into(),
                    "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
                    format!(
                        "--service-account-key-file={}",
                        pki.accounts_public.display()
                    ),
                    format!(
                        "--service-account-signing-key-file={}",
                        pki.accounts_private.display()
                    ),
                    "--service-cluster-ip-range=10.255.0.0/16".into(),
                    // Services have no proxy here: the API server calls webhooks at their endpoints.
                    "--enable-aggregator-routing=true".into(),
                    // As on OpenShift: who makes an owner wait for its dependents needs the right to.
                    "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".into(),
                    "--allow-privileged=true".into(),
                    format!("--audit-policy-file={}", policy.display()),
                    format!("--audit-log-path={}", plane.audit_log().display()),
                    "--audit-log-mode=blocking".into(),
                ],
            )
            .await?;
        plane.wait_until_ready().await?;
        let manager = plane.kubeconfig_file("system:kube-controller-manager")?;
        plane
            .run(
                tools,
                "kube-controller-manager",
                &[
                    pace,
                    &[
                        format!("--kubeconfig={}", manager.display()),
                        format!("--bind-address={address}"),
                        format!(
                            "--service-account-private-key-file={}",
                            pki.accounts_private.display()
                        ),
                        format!("--root-ca-file={}", pki.ca.display()),
                        format!("--cert-dir={}", folder.join("pki").display()),
                        "--use-service-account-credentials=true".into(),
                        "--leader-elect=false".into(),
                        "--allocate-node-cidrs=false".into(),
                        format!(
                            "--node-monitor-grace-period={}s",
                            NODE_MONITOR_GRACE.as_secs()
                        ),
                        format!("--node-monitor-period={}s", NODE_MONITOR_PERIOD.as_secs()),
                    ],
                ]
                .concat(),
            )
            .await?;
        let scheduler = plane.kubeconfig_file("system:kube-scheduler")?;
        plane
            .run(
                tools,
                "kube-scheduler",
                &[
                    pace,
                    &[
                        format!("--kubeconfig={}", scheduler.display()),
                        format!("--bind-address={address}"),
                        format!("--cert-dir={}", folder.join("pki").display()),
                        "--leader-elect=false".into(),
                    ],
                ]
                .concat(),
            )
            .await?;
        Ok(plane)
    }

    /// Address of the API server.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The audit log.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.folder.join("logs/audit.log")
    }

    /// A kubeconfig with a bearer token, as JSON (which is YAML).
    pub(crate) fn kubeconfig(&self, server: &str, user: &str, token: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "medik8s-test", "cluster": {
                "server": server,
                "certificate-authority-data": self.ca_data(),
            }}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "medik8s-test", "context": {"cluster": "medik8s-test", "user": user}}],
            "current-context": "medik8s-test",
        })
    }

    /// The CA as a kubeconfig carries it.
    pub(crate) fn ca_data(&self) -> String {
        base64(self.ca_pem.as_bytes())
    }

    /// A kubeconfig of the administrator for another way to the server.
    pub(crate) fn admin_config(&self, server: &str) -> anyhow::Result<serde_json::Value> {
        Ok(self.kubeconfig(server, "admin", self.token_of("admin")?))
    }

    /// A file with the kubeconfig of one of the built-in users.
    pub(crate) fn kubeconfig_file(&self, user: &str) -> anyhow::Result<PathBuf> {
        let file = self
            .folder
            .join(format!("{}.kubeconfig", user.replace(':', "-")));
        // Never rewritten: somebody may be reading it.
        if !file.exists() {
            let config = self.kubeconfig(&self.server, user, self.token_of(user)?);
            fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
        }
        Ok(file)
    }

    /// A client of one of the built-in users.
    pub(crate) async fn client(&self, user: &str) -> anyhow::Result<Client> {
        let config = self.kubeconfig(&self.server, user, self.token_of(user)?);
        let kubeconfig: Kubeconfig = serde_json::from_value(config)?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    fn token_of(&self, user: &str) -> anyhow::Result<&str> {
        let token = self.tokens.get(user).map(String::as_str);
        token.with_context(|| format!("there is no user {user}"))
    }

    fn users_file(&self) -> String {
        USERS
            .iter()
            .filter_map(|(user, group)| {
                let token = self.tokens.get(user)?;
                Some(format!("{token},{user},{user},{group}\n"))
            })
            .collect()
    }

    /// Ends all processes, the API server before its store.
    pub(crate) async fn stop(&self) {
        for (_, process) in self.processes.iter().rev() {
            process.kill().await;
        }
    }

    /// Kills the API server.
    pub(crate) async fn kill_api_server(&self) {
        for (launch, process) in &self.processes {
            if launch.name == API_SERVER {
                process.kill().await;
            }
        }
    }

    /// Starts the API server again; returns when it is ready.
    pub(crate) async fn start_api_server(&mut self) -> anyhow::Result<()> {
        for (launch, process) in &mut self.processes {
            if launch.name == API_SERVER && !process.is_running() {
                *process = Process::start(launch.clone()).await?;
            }
        }
        self.wait_until_ready().await
    }

    async fn run(&mut self, tools: &Tools, name: &str, args: &[String]) -> anyhow::Result<()> {
        let log = self.folder.join(format!("logs/{name}.log"));
        let launch = Launch::new(name, tools.cluster(), log)
            .args([name])
            .args(args);
        let process = Process::start(launch.clone()).await?;
        self.processes.push((launch, process));
        Ok(())
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let client = self.client("admin").await?;
        let limit = Instant::now() + Duration::from_mins(1);
        loop {
            let request = http_get("/readyz")?;
            if client.request_text(request).await.is_ok() {
                return Ok(());
            }
            if let Some((dead, _)) = self
                .processes
                .iter()
                .find(|(_, process)| !process.is_running())
            {
                bail!(
                    "{} ended; see {}",
                    dead.name,
                    self.folder.join("logs").display()
                );
            }
            if Instant::now() > limit {
                bail!(
                    "the API server was not ready in 60 s; see {}",
                    self.folder.join("logs").display()
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A GET request for a path of the API server.
pub(crate) fn http_get(path: &str) -> anyhow::Result<http::Request<Vec<u8>>> {
    http::Request::get(path)
        .body(Vec::new())
        .context("build the request")
}

const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: Metadata
    users: []
";

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec()))
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}
