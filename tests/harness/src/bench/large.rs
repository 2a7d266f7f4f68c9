//! A thousand workers: the real manager and one real agent; the agents of all others are one process that speaks the
//! real wire contract and keeps orders.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Secret},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use medik8s_api::SelfNodeRemediation;
use self_node_remediation_core::order::Remediation;
use self_node_remediation_peer::{
    CertificateSet, HealthRequest, HealthResponse, Status,
    server::{self, Settings},
};
use serde_json::json;

use super::{MANAGER, NAMESPACE, Row, at_rest, follow, mib, processes, remediate, requests};
use crate::{
    Cluster, Options, audit,
    images::Programs,
    kwok::{ALIVE, SIMULATED},
    machine::{Hardware, NodeSpec},
    network::Cut,
    story, wait,
};

/// Addresses of the agents that are played: 10.224.0.0/13.
const PLAYED: &str = "10.224.0.0/13";
const PORT: u16 = 30_001;
const SICK: &str = "worker-1";

fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 224, high, low)
}

/// Measures with so many workers in all.
pub async fn measure(workers: u16) -> anyhow::Result<Vec<Row>> {
    let cluster = Cluster::start(Options {
        nodes: vec![
            NodeSpec::control_plane("control-plane-1"),
            NodeSpec::worker(SICK),
        ],
        programs: Some(Programs::find()?),
        hardware: Hardware::default(),
        ..Options::default()
    })
    .await?;
    let rows = rows(&cluster, workers).await;
    cluster.stop().await;
    rows
}

async fn rows(cluster: &Cluster, workers: u16) -> anyhow::Result<Vec<Row>> {
    create_nodes(cluster, workers - 1).await?;
    // Members of a table are a minute old.
    tokio::time::sleep(Duration::from_secs(62)).await;
    // Agents only on the machines; everything else as in a fresh install.
    let only = "{watchdogFilePath: /dev/watchdog, watchdogTimeout: 20s, customDsNodeSelectorRequirements: \
                [{key: bench, operator: DoesNotExist}]}";
    story::install_manager(cluster, Some(only)).await?;
    publish_addresses(cluster, workers - 1).await?;
    let asked = play_agents(cluster).await?;
    armed(cluster, workers - 1).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;

    let known = [("57 MiB (82 peak)", "10 MiB"), ("18 MiB", "4 MiB")];
    let mut rows = at_rest(cluster, workers, known).await?;

    let begin = Timestamp::now();
    cluster.machine(SICK)?.cut(Cut::Everything).await?;
    remediate(cluster, SICK, "ResourceDeletion").await?;
    let courses = follow(cluster, &[SICK], Duration::from_secs(200)).await?;
    let course = courses.first().context("no course")?;
    let seconds = course.seconds().with_context(|| format!("{course:?}"))?;
    rows.push(Row::new(
        format!("order to workload freed, node cut off, {workers} workers, fresh install"),
        "294 s",
        "at most 143 s",
        format!("{seconds:.1} s (by {})", course.by),
    ));
    let (quorum, ordered) = course.quorum.zip(course.ordered).context("no quorum")?;
    rows.push(Row::new(
        format!(
            "of it until the quorum of {} agents",
            (workers - 1).div_ceil(2)
        ),
        "-",
        "-",
        format!(
            "{:.2} s",
            quorum.duration_since(ordered).as_secs_f64().max(0.0)
        ),
    ));
    rows.push(Row::new(
        "questions that agents were asked for it",
        "-",
        "one per acknowledging agent",
        format!("{}", asked.load(Ordering::SeqCst)),
    ));
    let until = Timestamp::now();
    let all = requests(cluster, MANAGER, None, None, begin, until)?;
    let of_it: Vec<_> = all
        .iter()
        .filter(|request| request.resource != "leases" && request.verb != "watch")
        .collect();
    let deletes = of_it
        .iter()
        .filter(|request| request.verb == "delete")
        .count();
    rows.push(Row::new(
        "API requests of the manager for the remediation, without deletions of pods",
        "21",
        "flat in cluster size",
        format!("{}: {}", of_it.len() - deletes, by_kind(&of_it)),
    ));
    let (_, managers) = processes(cluster);
    let manager = managers
        .first()
        .and_then(super::Found::usage)
        .context("no manager")?;
    rows.push(Row::new(
        format!("manager after remediations, {workers} nodes: RSS"),
        "153 MiB",
        "15 MiB",
        format!(
            "{} MiB (anonymous {})",
            mib(manager.rss),
            mib(manager.anonymous)
        ),
    ));
    Ok(rows)
}

/// Nodes whose kubelet kwok plays and whose agent this process plays.
async fn create_nodes(cluster: &Cluster, count: u16) -> anyhow::Result<()> {
    let api = Api::<Node>::all(cluster.admin());
    let create = |number: u16| {
        let api = api.clone();
        async move {
            let name = format!("bench-{number}");
            let node: Node = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name,
                    "labels": {"kubernetes.io/hostname": name, "node-role.kubernetes.io/worker": "",
                        SIMULATED: ALIVE, "bench": "played"},
                    "annotations": {"self-node-remediation.medik8s.io/agent-version": "bench"}},
            }))?;
            api.create(&PostParams::default(), &node).await?;
            anyhow::Ok(())
        }
    };
    let done: Vec<anyhow::Result<()>> = stream::iter(1..=count)
        .map(create)
        .buffer_unordered(16)
        .collect()
        .await;
    done.into_iter().collect()
}

/// What the control plane would publish of the agents' Service.
async fn publish_addresses(cluster: &Cluster, count: u16) -> anyhow::Result<()> {
    let api = Api::<EndpointSlice>::namespaced(cluster.admin(), NAMESPACE);
    let numbers: Vec<u16> = (1..=count).collect();
    for (index, part) in numbers.chunks(100).enumerate() {
        let endpoints: Vec<_> = part
            .iter()
            .map(|number| json!({"addresses": [address(*number)], "nodeName": format!("bench-{number}")}))
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("bench-{index}"), "labels": {
                "kubernetes.io/service-name": "self-node-remediation-agent",
                "endpointslice.kubernetes.io/managed-by": "bench"}},
            "addressType": "IPv4",
            "ports": [{"name": "self-n-r-port", "port": PORT, "protocol": "TCP"}],
            "endpoints": endpoints,
        }))?;
        api.create(&PostParams::default(), &slice).await?;
    }
    Ok(())
}

/// One server for all addresses; it knows the orders that the API has shown it. Counts what it is asked.
async fn play_agents(cluster: &Cluster) -> anyhow::Result<Arc<AtomicUsize>> {
    let ip = crate::tools::find("ip").context("`ip` is missing")?;
    let status = tokio::process::Command::new(ip)
        .args(["route", "add", "local", PLAYED, "dev", "lo"])
        .status()
        .await?;
    ensure!(status.success(), "no route for the played agents");
    let secrets = Api::<Secret>::namespaced(cluster.admin(), NAMESPACE);
    let secret = wait::until("the certificates", Duration::from_secs(30), async || {
        Ok(secrets
            .get_opt("self-node-remediation-certificates")
            .await?)
    })
    .await?;
    let field = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name));
        bytes
            .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
            .unwrap_or_default()
    };
    let identity = CertificateSet {
        ca_pem: field("caPem"),
        cert_pem: field("certPem"),
        key_pem: field("keyPem"),
    }
    .identity()?;
    let orders: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let known = Arc::clone(&orders);
    let api = Api::<SelfNodeRemediation>::all(cluster.admin());
    tokio::spawn(async move {
        loop {
            if let Ok(list) = api.list(&ListParams::default()).await {
                let now = list
                    .iter()
                    .filter_map(Remediation::parse)
                    .filter(Remediation::is_order)
                    .map(|order| order.uid.to_string());
                known
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(now);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let listener = server::listen(std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    tokio::spawn(async move {
        let answer = move |question: HealthRequest| {
            if !question.order_uid.is_empty() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            let held = orders
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&question.order_uid);
            async move {
                Ok(if held {
                    HealthResponse::acknowledging(question.order_uid)
                } else {
                    HealthResponse::of(Status::Healthy)
                })
            }
        };
        let settings = Settings {
            connections: 2048,
            ..Settings::answering_within(Duration::from_secs(5))
        };
        // Ends with the process.
        drop(
            server::serve(
                listener,
                &identity,
                settings,
                answer,
                std::future::pending(),
            )
            .await,
        );
    });
    Ok(asked)
}

/// Waits until the real agent has announced the whole table.
async fn armed(cluster: &Cluster, others: u16) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(cluster.admin());
    wait::until(
        "the agent to be armed",
        Duration::from_mins(2),
        async || {
            let annotations = nodes
                .get(SICK)
                .await?
                .metadata
                .annotations
                .unwrap_or_default();
            let said = annotations
                .get("self-node-remediation.medik8s.io/announced")
                .cloned()
                .unwrap_or_default();
            let whole = said.contains(&format!("workers={others} ")) && said.contains("armed=true");
            Ok(whole.then_some(()))
        },
    )
    .await
}

/// How many requests of each kind there were, the most first.
fn by_kind(requests: &[&audit::Request]) -> String {
    let mut kinds = BTreeMap::<String, usize>::new();
    for request in requests {
        let kind = format!("{} {}", request.verb, request.resource);
        *kinds.entry(kind).or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds
        .into_iter()
        .map(|(kind, count)| (count, kind))
        .collect();
    kinds.sort_unstable_by(|a, b| b.cmp(a));
    let told: Vec<_> = kinds
        .iter()
        .map(|(count, kind)| format!("{count} {kind}"))
        .collect();
    told.join(", ")
}
