//! A cluster for the node health check: simulated nodes, remediation kinds, managers as processes.
//!
//! # Purpose
//! What the suites and the measurement of the node health check have in common. The managers run with
//! the ServiceAccount and the RBAC of the shipped manifests; the nodes are kwok's, taken from it and
//! made unhealthy by their status; remediators are played as the originals behave
//! ([`remediators`]).

pub mod bench;
pub mod https;
pub mod kinds;
pub mod measure;
pub mod proxy;
pub mod remediators;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Node},
};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use medik8s_api::NodeHealthCheck;
use medik8s_api::remediation::NodeHealthCheckStatus;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    Cluster, Options,
    kwok::{ALIVE, DEAD, SIMULATED},
    manifests,
    process::{Launch, Process},
    scratch::Shipped,
    tools, wait,
};

/// The manager as it is shipped.
pub const SHIPPED: Shipped = Shipped {
    binary: "node-healthcheck-operator",
    namespace: "node-healthcheck-operator-system",
    account: "node-healthcheck-controller-manager",
    proof: ("create", "leases"),
};

/// Namespace of templates and remediations in the suites.
pub const REMEDIATIONS: &str = "remediators";
/// Namespace of the node leases.
pub const LEASES: &str = "medik8s-leases";
/// Label by which a health check selects the nodes of its scenario.
pub const POOL: &str = "pool";

/// A cluster with the shipped CRDs and roles, without the other operators.
pub struct Lab {
    /// The cluster.
    pub cluster: Cluster,
}

/// A manager that runs as a process.
pub struct Manager {
    /// The process.
    pub process: Process,
    /// Its log.
    pub log: PathBuf,
    /// Its `/metrics`.
    pub metrics: SocketAddr,
    /// Its probes.
    pub probes: SocketAddr,
}

/// How a manager is started.
#[derive(Debug, Clone, Default)]
pub struct Start<'a> {
    /// Arguments beyond the usual ones.
    pub args: &'a [&'a str],
    /// Another way to the API server than the direct one.
    pub server: Option<String>,
    /// What it believes to be the name of its pod.
    pub pod: Option<&'a str>,
}

impl Lab {
    /// Starts a cluster without nodes.
    pub async fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::start(Options::default()).await?;
        let lab = Self { cluster };
        let cluster = &lab.cluster;
        cluster.apply_text(&manifests::definitions()?).await?;
        for kind in ["fence-agents-remediation", "machine-deletion-remediation"] {
            let folder = tools::repository().join("config/crd/bases");
            for entry in std::fs::read_dir(folder)? {
                let file = entry?.path();
                let name = file
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                if name.starts_with(kind) {
                    cluster.apply(&file).await?;
                }
            }
        }
        let established = [
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd",
            "--all",
        ];
        cluster.kubectl(&established).await?;
        // Nothing that would start or call other programs.
        let kinds = [
            "Deployment",
            "ValidatingWebhookConfiguration",
            "MutatingWebhookConfiguration",
        ];
        cluster.apply_text(&manifests::without(&kinds)?).await?;
        cluster.apply_text(&kinds::remediators_own()).await?;
        Ok(lab)
    }

    /// Starts a manager.
    pub async fn manager(
        &self,
        program: &Path,
        number: u16,
        start: &Start<'_>,
    ) -> anyhow::Result<Manager> {
        let folder = self.cluster.folder();
        let direct = format!("https://{}", self.cluster.api_address());
        let server = start.server.clone().unwrap_or(direct);
        let token = SHIPPED.token(&self.cluster).await?;
        let config = self
            .cluster
            .kubeconfig_for(&server, SHIPPED.account, &token);
        let kubeconfig = folder.join(format!("manager-{number}.kubeconfig"));
        std::fs::write(&kubeconfig, serde_json::to_vec(&config)?)?;
        let own = self.cluster.fabric().own();
        let address = |port: u16| SocketAddr::from((own, port + number));
        let (metrics, probes) = (address(18_400), address(18_500));
        let log = folder.join(format!("logs/manager-{number}.log"));
        let mut launch = Launch::new(format!("manager {number}"), program, &log).args([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--metrics-bind-address={metrics}"),
            format!("--health-probe-bind-address={probes}"),
            format!("--webhook-bind-address={}", address(18_600)),
        ]);
        launch = launch
            .args(start.args.iter().copied())
            .env("DEPLOYMENT_NAMESPACE", SHIPPED.namespace);
        if let Some(pod) = start.pod {
            launch = launch.env("POD_NAME", pod);
        }
        let process = Process::start(launch).await?;
        Ok(Manager {
            process,
            log,
            metrics,
            probes,
        })
    }

    /// A client's view of a kind that has no Rust type, in one namespace.
    pub fn dynamic(&self, kind: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.cluster.admin(), namespace, kind)
    }

    /// Registers nodes of a pool and waits until kwok has made all of them Ready.
    pub async fn add_nodes(&self, pool: &str, names: &[String], role: &str) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.cluster.admin());
        let role = format!("node-role.kubernetes.io/{role}");
        stream::iter(names)
            .map(|name| {
                let (nodes, role) = (&nodes, &role);
                async move {
                    let node: Node = serde_json::from_value(json!({
                        "metadata": {"name": name, "labels": {
                            SIMULATED: ALIVE, POOL: pool, "kubernetes.io/hostname": name, role: "",
                        }},
                    }))?;
                    nodes.create(&PostParams::default(), &node).await?;
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(16)
            .try_collect::<Vec<()>>()
            .await?;
        let selected = ListParams::default().labels(&format!("{POOL}={pool}"));
        let what = format!("{} nodes of pool {pool} to be Ready", names.len());
        wait::until(&what, Duration::from_mins(3), async || {
            let found = nodes.list(&selected).await?;
            let own = found.iter().filter(|node| names.contains(&node.name_any()));
            let ready = own.filter(|node| crate::cluster::is_ready(node));
            Ok((ready.count() == names.len()).then_some(()))
        })
        .await
    }

    /// Takes nodes from kwok and makes them `Ready=<status>` at the next full second (or at once when
    /// that is not wanted), as the node controller would; returns when.
    pub async fn break_nodes(
        &self,
        names: &[String],
        status: &str,
        at_full_second: bool,
    ) -> anyhow::Result<Timestamp> {
        self.label_nodes(names, DEAD).await?;
        // kwok lets go of a node when it sees the label.
        sleep(Duration::from_millis(300)).await;
        if at_full_second {
            let into = Timestamp::now().subsec_nanosecond().unsigned_abs();
            sleep(Duration::from_nanos(u64::from(1_000_000_000 - into))).await;
        }
        self.set_ready(names, status).await
    }

    /// Makes nodes Ready again and gives them back to kwok.
    pub async fn heal_nodes(&self, names: &[String]) -> anyhow::Result<Timestamp> {
        let at = self.set_ready(names, "True").await?;
        self.label_nodes(names, ALIVE).await?;
        Ok(at)
    }

    /// Writes the condition Ready, with now as the time of its change; returns that time.
    pub async fn set_ready(&self, names: &[String], status: &str) -> anyhow::Result<Timestamp> {
        self.set_condition(names, "Ready", status).await
    }

    /// Writes a node condition, with now as the time of its change; returns that time.
    pub async fn set_condition(
        &self,
        names: &[String],
        kind: &str,
        status: &str,
    ) -> anyhow::Result<Timestamp> {
        let now = Timestamp::now();
        let patch = json!({"status": {"conditions": [{
            "type": kind, "status": status, "reason": "Test", "message": "set by a test",
            "lastTransitionTime": format!("{now:.0}"), "lastHeartbeatTime": format!("{now:.0}"),
        }]}});
        let nodes: Api<Node> = Api::all(self.cluster.admin());
        stream::iter(names)
            .map(|name| {
                let (nodes, patch) = (&nodes, &patch);
                async move {
                    let params = PatchParams::default();
                    nodes
                        .patch_status(name, &params, &Patch::Strategic(patch))
                        .await
                        .with_context(|| format!("set the condition of {name}"))
                }
            })
            .buffer_unordered(16)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(now)
    }

    async fn label_nodes(&self, names: &[String], value: &str) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"labels": {SIMULATED: value}}});
        self.patch_nodes(names, &patch).await
    }

    /// Merge-patches nodes.
    pub async fn patch_nodes(&self, names: &[String], patch: &Value) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.cluster.admin());
        stream::iter(names)
            .map(|name| {
                let nodes = &nodes;
                async move {
                    let params = PatchParams::default();
                    nodes.patch(name, &params, &Patch::Merge(patch)).await
                }
            })
            .buffer_unordered(16)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(())
    }

    /// Creates a health check over a pool.
    pub async fn put_check(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        let checks: Api<NodeHealthCheck> = Api::all(self.cluster.admin());
        let check: NodeHealthCheck = serde_json::from_value(json!({
            "apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck",
            "metadata": {"name": name}, "spec": spec,
        }))?;
        checks.create(&PostParams::default(), &check).await?;
        Ok(())
    }

    /// Changes the spec of a health check.
    pub async fn patch_check(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        let checks: Api<NodeHealthCheck> = Api::all(self.cluster.admin());
        let patch = json!({ "spec": spec });
        checks
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    /// The status of a health check.
    pub async fn status(&self, name: &str) -> anyhow::Result<NodeHealthCheckStatus> {
        let checks: Api<NodeHealthCheck> = Api::all(self.cluster.admin());
        Ok(checks.get(name).await?.status.unwrap_or_default())
    }

    /// Waits until the status of a health check says something; returns its reason then.
    pub async fn reason(
        &self,
        name: &str,
        limit: Duration,
        holds: impl Fn(&NodeHealthCheckStatus) -> bool,
    ) -> anyhow::Result<String> {
        let end = std::time::Instant::now() + limit;
        loop {
            let status = self.status(name).await?;
            let reason = status.reason.clone().unwrap_or_default();
            if holds(&status) {
                return Ok(reason);
            }
            ensure!(
                std::time::Instant::now() < end,
                "{name} did not come to say it in {} s: {reason}",
                limit.as_secs()
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the reason of a health check contains a text; returns the whole reason.
    pub async fn says(&self, name: &str, text: &str, limit: Duration) -> anyhow::Result<String> {
        let wanted = text.to_owned();
        self.reason(name, limit, |status| {
            status
                .reason
                .as_deref()
                .is_some_and(|reason| reason.contains(&wanted))
        })
        .await
        .with_context(|| format!("waiting for {text:?}"))
    }

    /// The events about a health check: reason, count, message.
    pub async fn events(&self, name: &str) -> anyhow::Result<Vec<(String, i32, String)>> {
        let events: Api<Event> = Api::all(self.cluster.admin());
        let fields = format!("involvedObject.name={name}");
        let found = events.list(&ListParams::default().fields(&fields)).await?;
        Ok(found
            .into_iter()
            .map(|event| {
                (
                    event.reason.unwrap_or_default(),
                    event.count.unwrap_or(1),
                    event.message.unwrap_or_default(),
                )
            })
            .collect())
    }

    /// Waits for exactly one event with this reason and text about a health check.
    pub async fn told_once(&self, name: &str, reason: &str, text: &str) -> anyhow::Result<()> {
        let what = format!("the event {reason} of {name} with {text:?}");
        let count = wait::until(&what, Duration::from_secs(10), async || {
            let told = self.events(name).await?;
            let fits = told
                .iter()
                .filter(|(one, _, message)| one == reason && message.contains(text));
            let count: i32 = fits.map(|(_, count, _)| count).sum();
            Ok((count > 0).then_some(count))
        })
        .await?;
        ensure!(count == 1, "{what} was told {count} times");
        Ok(())
    }

    /// Waits until nobody holds the lease of a node: that follows the last remediation, within moments.
    pub async fn given_back(&self, node: &str) -> anyhow::Result<()> {
        let what = format!("the lease of {node} to be given back");
        wait::until(&what, Duration::from_secs(10), async || {
            Ok((!self.leases().await?.contains_key(node)).then_some(()))
        })
        .await
    }

    /// Holder of the lease of each node.
    pub async fn leases(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let leases: Api<Lease> = Api::namespaced(self.cluster.admin(), LEASES);
        let found = leases.list(&ListParams::default()).await?;
        Ok(found
            .into_iter()
            .filter_map(|lease| {
                let node = lease.name_any().strip_prefix("node-")?.to_owned();
                Some((node, lease.spec?.holder_identity?))
            })
            .collect())
    }

    /// The remediations of a kind that are for one of these nodes.
    pub async fn remediations(
        &self,
        kind: &ApiResource,
        nodes: &[String],
    ) -> anyhow::Result<Vec<DynamicObject>> {
        let all: Api<DynamicObject> = Api::all_with(self.cluster.admin(), kind);
        let found = all.list(&ListParams::default()).await?;
        Ok(found
            .into_iter()
            .filter(|one| nodes.contains(&node_of(one)))
            .collect())
    }

    /// Waits until there are so many remediations of a kind for these nodes.
    pub async fn remediated(
        &self,
        kind: &ApiResource,
        nodes: &[String],
        count: usize,
        limit: Duration,
    ) -> anyhow::Result<Vec<DynamicObject>> {
        let what = format!("{count} {} for {}", kind.kind, nodes.join(", "));
        wait::until(&what, limit, async || {
            let found = self.remediations(kind, nodes).await?;
            Ok((found.len() == count).then_some(found))
        })
        .await
    }
}

impl Manager {
    /// Waits until its controller works, which means that it leads.
    pub async fn leads(&self, limit: Duration) -> anyhow::Result<()> {
        let what = format!(
            "{} to lead (log: {})",
            self.process.name(),
            self.log.display()
        );
        wait::until(&what, limit, async || {
            ensure!(self.process.is_running(), "it has ended");
            let log = std::fs::read_to_string(&self.log)?;
            Ok(log.contains("\"starting controller\"").then_some(()))
        })
        .await
    }
}

/// Names `<pool>-1` to `<pool>-<count>`.
pub fn names(pool: &str, count: usize) -> Vec<String> {
    (1..=count)
        .map(|number| format!("{pool}-{number}"))
        .collect()
}

/// The node that a remediation is for.
pub fn node_of(remediation: &DynamicObject) -> String {
    remediation
        .annotations()
        .get("remediation.medik8s.io/node-name")
        .cloned()
        .unwrap_or_else(|| remediation.name_any())
}

/// A spec with another value of a field.
#[must_use]
pub fn with(mut spec: Value, field: &str, value: Value) -> Value {
    if let Some(spec) = spec.as_object_mut() {
        spec.insert(field.to_owned(), value);
    }
    spec
}

/// A health check over a pool with a single template; nodes are unhealthy after a second.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers make them for this call"
)]
pub fn single(pool: &str, min_healthy: Value, template: Value) -> Value {
    json!({
        "selector": {"matchLabels": {POOL: pool}},
        "minHealthy": min_healthy,
        "unhealthyConditions": [
            {"type": "Ready", "status": "False", "duration": "1s"},
            {"type": "Ready", "status": "Unknown", "duration": "1s"},
        ],
        "remediationTemplate": template,
    })
}

/// A health check over a pool with several steps, each with its timeout.
pub fn escalating(pool: &str, steps: &[(Value, &str)]) -> Value {
    let mut spec = single(pool, json!(0), Value::Null);
    let steps: Vec<Value> = (1..)
        .zip(steps)
        .map(|(order, (template, timeout))| {
            json!({"order": order, "timeout": timeout, "remediationTemplate": template})
        })
        .collect();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("remediationTemplate");
        spec.insert("escalatingRemediations".to_owned(), json!(steps));
    }
    spec
}
