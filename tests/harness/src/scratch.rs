//! Release binaries, run as in a scratch image: an own root with nothing but the program, a kubeconfig
//! and the name server's address.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use self_node_remediation_peer::certificates::CertificateSet;

use crate::{
    Cluster, DNS_NAME,
    audit::{self, Filter},
    child::PodNetwork,
    dns,
    process::{Launch, Process},
    wait,
};

/// A program of this project as it is shipped.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// Name of the binary.
    pub binary: &'static str,
    /// Namespace of its manifests.
    pub namespace: &'static str,
    /// ServiceAccount of its manifests.
    pub account: &'static str,
    /// What it asks the API server for first of all, as (verb, resource).
    pub proof: (&'static str, &'static str),
}

impl Shipped {
    /// Its name in the audit log.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account)
    }

    /// A token as its pods have one.
    pub async fn token(&self, cluster: &Cluster) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin(), self.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(self.account, &PostParams::default(), &request)
            .await?;
        Ok(answer.status.context("no token in the answer")?.token)
    }

    /// Environment of its pods.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let pairs: &[(&str, &str)] = &[
            ("DEPLOYMENT_NAMESPACE", self.namespace),
            ("OPERATOR_NAMESPACE", self.namespace),
            ("POD_NAMESPACE", self.namespace),
            ("POD_NAME", "scratch"),
            ("MY_NODE_NAME", "scratch"),
            ("SELF_NODE_REMEDIATION_IMAGE", "scratch"),
            ("WATCHDOG_PATH", "/dev/watchdog"),
            ("PEER_API_SERVER_TIMEOUT", "5000000000"),
            ("API_CHECK_INTERVAL", "1000000000"),
            ("PEER_UPDATE_INTERVAL", "10000000000"),
            ("API_SERVER_TIMEOUT", "5000000000"),
            ("PEER_DIAL_TIMEOUT", "5000000000"),
            ("PEER_REQUEST_TIMEOUT", "7000000000"),
            ("MAX_API_ERROR_THRESHOLD", "3"),
            ("HOST_PORT", "30001"),
            ("MIN_PEERS_FOR_REMEDIATION", "1"),
            ("IS_SOFTWARE_REBOOT_ENABLED", "false"),
            ("END_POINT_HEALTH_CHECK_URL", ""),
        ];
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }
}

/// Runs the program in a scratch root until the audit log shows that it reached the API server by its
/// DNS name, over TLS, with its own credentials.
pub async fn reaches_api(
    cluster: &Cluster,
    shipped: &Shipped,
    binary: &Path,
    pod: u8,
) -> anyhow::Result<()> {
    let address = cluster.fabric().pod(SCRATCH_NODE, pod);
    let gateway = crate::network::GATEWAY;
    // Until the program has ended: it gives its lease back.
    let names = tokio::spawn(dns::serve(
        SocketAddr::from((gateway, 53)),
        DNS_NAME.to_owned(),
        cluster.fabric().api(),
    ));
    let root = cluster.folder().join(format!("scratch-{}", shipped.binary));
    fill(cluster, shipped, binary, &root, gateway).await?;
    let log = cluster
        .folder()
        .join(format!("logs/scratch-{}.log", shipped.binary));
    let mut launch = Launch::new(shipped.binary, "/manager", &log).args([
        "--kubeconfig=/kubeconfig",
        "--is-manager=true",
        "--leader-elect",
    ]);
    if shipped.binary.ends_with("agent") {
        launch.args = [
            "--kubeconfig=/kubeconfig",
            "--host-root=/host",
            "--certificates-dir=/certificates",
        ]
        .map(str::to_owned)
        .to_vec();
    } else if shipped.binary != "self-node-remediation" {
        launch.args.retain(|arg| arg != "--is-manager=true");
    }
    launch.env = shipped.environment();
    launch.root = Some(root);
    let from = Timestamp::now();
    let process = Process::start_in_pod(launch, cluster.fabric(), PodNetwork { address }).await?;
    let what = format!(
        "{} to reach the API server (log: {})",
        shipped.binary,
        log.display()
    );
    let reached = wait::until(&what, Duration::from_secs(15), async || {
        let requests = audit::read(&cluster.audit_log())?;
        let user = shipped.user();
        let (verb, resource) = shipped.proof;
        let filter = Filter {
            user: Some(&user),
            verb: Some(verb),
            resource: Some(resource),
            from,
            until: Timestamp::MAX,
        };
        let done = requests
            .iter()
            .any(|request| filter.matches(request) && request.code < 300);
        Ok(done.then_some(()))
    });
    let done = reached.await;
    process.stop(Duration::from_secs(5)).await;
    names.abort();
    done
}

/// Addresses of scratch images: of a node that does not exist.
const SCRATCH_NODE: u8 = 100;

async fn fill(
    cluster: &Cluster,
    shipped: &Shipped,
    binary: &Path,
    root: &Path,
    name_server: Ipv4Addr,
) -> anyhow::Result<()> {
    for folder in [
        "etc",
        "certificates",
        "host/proc/sys/kernel/random",
        "host/run",
        "host/dev",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(binary, root.join("manager"))?;
    fs::write(
        root.join("etc/resolv.conf"),
        format!("nameserver {name_server}\n"),
    )?;
    fs::write(
        root.join("host/proc/sys/kernel/random/boot_id"),
        "6f1c86c8-6b4e-4d9c-8e0c-000000000001\n",
    )?;
    let set = CertificateSet::create(Timestamp::now())?;
    for (name, pem) in [
        ("caPem", &set.ca_pem),
        ("certPem", &set.cert_pem),
        ("keyPem", &set.key_pem),
    ] {
        fs::write(root.join("certificates").join(name), pem)?;
    }
    let kubeconfig = cluster.kubeconfig_for(
        &format!("https://{DNS_NAME}:{}", cluster.api_address().port()),
        shipped.account,
        &shipped.token(cluster).await?,
    );
    fs::write(root.join("kubeconfig"), serde_json::to_vec(&kubeconfig)?)?;
    Ok(())
}

/// Starts the program in the harness' network and returns how long it took until its controllers ran.
pub async fn time_to_controllers(
    cluster: &Cluster,
    shipped: &Shipped,
    binary: &Path,
    controller: &str,
) -> anyhow::Result<Duration> {
    let kubeconfig = cluster
        .folder()
        .join(format!("{}.kubeconfig", shipped.binary));
    let server = format!("https://{}", cluster.api_address());
    let config = cluster.kubeconfig_for(&server, shipped.account, &shipped.token(cluster).await?);
    fs::write(&kubeconfig, serde_json::to_vec(&config)?)?;
    let log: PathBuf = cluster
        .folder()
        .join(format!("logs/start-{}.log", shipped.binary));
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let mut launch = Launch::new(shipped.binary, binary, &log).args([
        format!("--kubeconfig={}", kubeconfig.display()),
        "--leader-elect".to_owned(),
    ]);
    if shipped.binary == "self-node-remediation" {
        launch = launch.args(["--is-manager=true"]);
    }
    launch.env = shipped.environment();
    let begin = Timestamp::now();
    let process = Process::start(launch).await?;
    let said = wait::until(
        &format!(
            "the controllers of {} (log: {})",
            shipped.binary,
            log.display()
        ),
        Duration::from_secs(10),
        async || Ok(last_start(&fs::read_to_string(&log)?, controller)),
    )
    .await;
    // Ends cleanly, so that the next start finds the lease free.
    process.stop(Duration::from_secs(10)).await;
    Ok(Duration::try_from(said?.duration_since(begin))?)
}

/// When the log says that the controller has started.
fn last_start(log: &str, controller: &str) -> Option<Timestamp> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| text(line, "message") == Some("starting controller"))
        .filter(|line| text(line, "controller") == Some(controller))
        .find_map(|line| text(&line, "timestamp")?.parse().ok())
}

fn text<'a>(line: &'a serde_json::Value, field: &str) -> Option<&'a str> {
    line.get(field)?.as_str()
}
