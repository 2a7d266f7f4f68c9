//! Alerts and dashboards ask for series that `/metrics` really has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, Config, ResourceExt as _, api::ListParams, config::AuthInfo};
use medik8s_harness::{Cluster, go_tools, installation, tools, wait};

/// What series of ours begin with.
const OURS: [&str; 8] = [
    "nodehealthcheck_",
    "mapi_",
    "self_node_remediation_",
    "medik8s_",
    "controller_runtime_",
    "workqueue_",
    "rest_client_",
    "leader_election_",
];
/// Series that exist only once something rare has happened, and what.
const RARE: [(&str, &str); 8] = [
    ("medik8s_nmo_pods_pending", "a drain is under way"),
    (
        "self_node_remediation_holding",
        "a remediation waits for more than time",
    ),
    (
        "nodehealthcheck_old_remediation_cr",
        "a remediation is two days old",
    ),
    (
        "nodehealthcheck_unhealthy_node_duration_seconds",
        "a node became healthy again",
    ),
    (
        "nodehealthcheck_ongoing_remediation",
        "a node is being remediated",
    ),
    (
        "self_node_remediation_released_total",
        "a workload was released",
    ),
    (
        "self_node_remediation_release_seconds",
        "a workload was released",
    ),
    (
        "controller_runtime_reconcile_errors_total",
        "something failed",
    ),
];
const READER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: prometheus-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: node-healthcheck-metrics-reader}
subjects: [{kind: ServiceAccount, name: prometheus, namespace: default}]
";

pub(crate) async fn all_queries_have_series(cluster: &Cluster) -> anyhow::Result<()> {
    let asked = asked_for()?;
    cluster.apply_text(READER).await?;
    let token = cluster.kubectl(&["create", "token", "prometheus"]).await?;
    let missing = wait::until("all series", Duration::from_secs(30), async || {
        let there = exported(cluster, token.trim()).await?;
        ensure!(there.len() > 20, "only {there:?}");
        let missing: Vec<&String> = asked
            .iter()
            .filter(|name| !there.contains(*name))
            .filter(|name| !RARE.iter().any(|(rare, _)| rare == name))
            .collect();
        ensure!(missing.is_empty(), "nobody exports {missing:?}");
        Ok(Some(()))
    })
    .await;
    missing?;
    cluster
        .kubectl(&["delete", "clusterrolebinding", "prometheus-test"])
        .await?;
    cluster
        .kubectl(&["delete", "serviceaccount", "prometheus"])
        .await?;
    Ok(())
}

/// promtool reads the rules and runs their tests.
pub(crate) async fn rules_are_sound(cluster: &Cluster) -> anyhow::Result<()> {
    let promtool = go_tools::PROMTOOL.ready()?.join("promtool");
    let folder = tools::repository().join("config/prometheus/rules");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        files.push(entry?.path().display().to_string());
    }
    let mut args = vec!["check", "rules"];
    args.extend(files.iter().map(String::as_str));
    installation::run(cluster, &promtool, &args).await?;
    let tests = tools::repository()
        .join("tests/harness/manifests/alerts-test.yaml")
        .display()
        .to_string();
    installation::run(cluster, &promtool, &["test", "rules", &tests]).await?;
    println!("rules: promtool has nothing to say, and their tests pass");
    Ok(())
}

/// Names of the series that alerts and dashboards ask for.
fn asked_for() -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for folder in ["deploy/dashboards", "config/prometheus/rules"] {
        for entry in fs::read_dir(tools::repository().join(folder))? {
            let text = fs::read_to_string(entry?.path())?;
            let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            for word in words {
                if OURS.iter().any(|prefix| word.starts_with(prefix)) {
                    names.insert(base(word).to_owned());
                }
            }
        }
    }
    // The name of an agent's DaemonSet is no series; neither is a word that only begins like one.
    ensure!(names.len() > 15, "only {names:?}");
    Ok(names)
}

fn base(name: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

/// Names of the series that managers and agents export, asked for as Prometheus does.
async fn exported(cluster: &Cluster, token: &str) -> anyhow::Result<BTreeSet<String>> {
    let pods: Api<Pod> = Api::all(cluster.admin());
    let mut names = BTreeSet::new();
    let mut answered: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods.list(&ListParams::default()).await? {
        let namespace = pod.namespace().unwrap_or_default();
        let status = pod.status.as_ref();
        let Some(address) = status.and_then(|status| status.pod_ip.clone()) else {
            continue;
        };
        let ours = namespace.contains("remediation") || namespace.contains("operator-system");
        if !ours {
            continue;
        }
        let mut config = Config::new(format!("https://{address}:8443").parse()?);
        // The certificate is made at start; it is the reader who is verified here.
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        };
        let client = Client::try_from(config)?;
        let request = http::Request::get("/metrics").body(Vec::new())?;
        // An agent whose node is being rebooted answers again later.
        let Ok(text) = client.request_text(request).await else {
            continue;
        };
        for line in text.lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let name = declared.split(' ').next().unwrap_or_default();
                names.insert(name.to_owned());
            }
        }
        *answered.entry(namespace).or_default() += 1;
    }
    ensure!(answered.len() == 3, "metrics only of {answered:?}");
    Ok(names)
}
