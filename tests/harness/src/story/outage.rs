//! The API server is away for everybody: nobody may fence itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt as _, api::ListParams};
use medik8s_api::names::snr;
use tokio::time::sleep;

use super::{Narrator, Phases, install, observe::Tail};
use crate::{
    Cluster,
    audit::{self, Filter},
    cluster::is_ready,
    machine::What,
    network::Cut,
    wait, writers,
};

/// An isolated node has reset itself 55 s after its last contact at the latest.
const LENGTH: Duration = Duration::from_secs(80);

/// Two rounds of the agents' API checks, of 3 s and up to 2 s each.
const FORGETTING: Duration = Duration::from_secs(10);

/// The log of the agent of each node.
type Logs = BTreeMap<String, Tail>;

pub(super) async fn lose_the_api(
    cluster: &Cluster,
    narrator: &Narrator,
    phases: &mut Phases,
) -> anyhow::Result<()> {
    install::armed(cluster, Duration::ZERO).await?;
    // Who has seen an order for a node does not vouch for that node before a later read has shown the
    // order gone: two rounds of checks after the remediation of the last chapter.
    sleep(FORGETTING).await;
    let boots: BTreeMap<String, String> = cluster
        .machines()
        .map(|machine| (machine.name().to_owned(), machine.boot_id()))
        .collect();
    let lives = writers::lives(&writers::read(&cluster.writers_log())?).len();
    let mut logs = agent_logs(cluster).await?;
    let mut happenings = cluster.happenings();

    let (begin, from) = (Instant::now(), Timestamp::now());
    let narrator = narrator.since(begin);
    for machine in cluster.machines() {
        machine.cut(Cut::Api).await?;
    }
    narrator.event(&format!(
        "CUT: no node reaches the API server; an isolated node would reset itself within 55 s, this lasts {} s",
        LENGTH.as_secs()
    ));
    let mut convinced = BTreeSet::new();
    let said = |logs: &mut Logs, phrase: &str, seen: &mut BTreeSet<String>, text: &str| {
        for (node, log) in logs {
            let found = log.lines().iter().any(|line| line.contains(phrase));
            if found && seen.insert(node.clone()) {
                narrator.event(&format!("{node}: {text}"));
            }
        }
    };
    while begin.elapsed() < LENGTH {
        while let Ok(happening) = happenings.try_recv() {
            if let What::Reset { cause } = happening.what {
                bail!(
                    "{} was reset ({cause:?}) in an outage of the control plane",
                    happening.node
                );
            }
        }
        let text = "most peers cannot reach the API server either, staying up";
        said(
            &mut logs,
            "nodes couldn't access the api-server",
            &mut convinced,
            text,
        );
        sleep(Duration::from_millis(200)).await;
    }
    ensure!(
        convinced.len() == boots.len(),
        "only {} of {} agents asked their peers; the outage was too short to prove anything",
        convinced.len(),
        boots.len()
    );
    let nodes: Api<Node> = Api::all(cluster.admin());
    let unknown = nodes.list(&ListParams::default()).await?;
    ensure!(
        !unknown.iter().any(is_ready),
        "a node is Ready although its kubelet is cut off"
    );
    narrator
        .event("for the control plane every node is Ready=Unknown; the health check holds back");
    for machine in cluster.machines() {
        machine.mend().await?;
    }
    let mended = Instant::now();
    narrator.event("the API server is back; no node was reset");

    let mut regained = BTreeSet::new();
    wait::until(
        "all agents to reach the API server",
        Duration::from_secs(30),
        async || {
            said(
                &mut logs,
                "the API server answers again",
                &mut regained,
                "reaches the API server again",
            );
            Ok((regained.len() == boots.len()).then_some(()))
        },
    )
    .await?;
    wait::until(
        "all nodes to be Ready again",
        Duration::from_mins(1),
        async || {
            let nodes = nodes.list(&ListParams::default()).await?;
            Ok(nodes.iter().all(is_ready).then_some(()))
        },
    )
    .await?;
    install::armed(cluster, Duration::ZERO).await?;
    let requests = audit::read(&cluster.audit_log())?;
    let created = audit::count(
        &requests,
        Filter {
            user: None,
            verb: Some("create"),
            resource: Some("selfnoderemediations"),
            from,
            until: Timestamp::now(),
        },
    );
    ensure!(
        created == 0,
        "the outage made the health check create {created} remediations"
    );
    for machine in cluster.machines() {
        ensure!(
            boots.get(machine.name()) == Some(&machine.boot_id()),
            "{} was rebooted by the outage",
            machine.name()
        );
    }
    let now = writers::lives(&writers::read(&cluster.writers_log())?).len();
    ensure!(now == lives, "the outage moved the ledger");
    narrator.event("all nodes are Ready, no remediation was created, the ledger never stopped");
    phases.add(
        "API server away from all nodes, nobody reset",
        mended.duration_since(begin),
    );
    phases.add("API server back -> all nodes Ready", mended.elapsed());
    Ok(())
}

async fn agent_logs(cluster: &Cluster) -> anyhow::Result<Logs> {
    let agents: Api<Pod> = Api::all(cluster.admin());
    let agents = agents
        .list(&ListParams::default().labels(snr::AGENT_SELECTOR))
        .await?;
    Ok(agents
        .iter()
        .filter_map(|agent| {
            let node = agent.spec.as_ref()?.node_name.clone()?;
            let log = cluster.pod_log(&agent.namespace()?, &agent.name_any());
            Some((node, Tail::at_end(&log)))
        })
        .collect())
}
