//! Disturbances in which nobody may be reset and nothing may move.

use std::time::{Duration, Instant};

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use medik8s_api::names::snr;
use medik8s_harness::{NODE_MONITOR_PERIOD, network::Cut, wait};
use tokio::time::sleep;

use super::lab::{Lab, SLACK};

/// The pod network between the nodes is broken; the API server is reached.
pub(crate) async fn without_peers(lab: &Lab) -> anyhow::Result<()> {
    let before = lab.ledger().await?;
    for node in lab.nodes() {
        node.cut(Cut::Peers).await?;
    }
    lab.narrator
        .event("CUT: no node reaches another one or its pods");
    nobody_is_reset(lab, fatal(lab)).await?;
    for node in lab.nodes() {
        node.mend().await?;
    }
    undisturbed(lab, before).await
}

/// The kernel feeds the watchdogs once more; the kubelets start the agents again.
pub(crate) async fn agents_killed(lab: &Lab) -> anyhow::Result<()> {
    let before = lab.ledger().await?;
    let started = restarts(lab).await?;
    for node in lab.nodes() {
        let killed = node.kill(|program, _| program.ends_with("self-node-remediation-agent"))?;
        ensure!(killed == 1, "{} agents ran on {}", killed, node.name());
    }
    lab.narrator.event("kill -9 of all agents");
    nobody_is_reset(lab, fatal(lab)).await?;
    let now = restarts(lab).await?;
    let all = u32::try_from(lab.nodes().len())?;
    ensure!(
        now >= started + all,
        "{} agents were started again",
        now - started
    );
    undisturbed(lab, before).await
}

pub(crate) async fn api_server_down(lab: &mut Lab) -> anyhow::Result<()> {
    let before = lab.ledger().await?;
    lab.cluster.kill_api_server().await;
    lab.narrator.event("kill -9 of the API server");
    nobody_is_reset(lab, fatal(lab)).await?;
    lab.cluster.start_api_server().await?;
    lab.narrator.event("the API server is back");
    // Until the node controller has looked, all nodes are Ready as before the outage.
    sleep(NODE_MONITOR_PERIOD + Duration::from_secs(10)).await;
    undisturbed(lab, before).await
}

/// A node that is alone does not live this long.
fn fatal(lab: &Lab) -> Duration {
    lab.span + 2 * lab.watchdog
}

async fn nobody_is_reset(lab: &Lab, length: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < length {
        lab.guard(None)?;
        sleep(Duration::from_millis(500)).await;
    }
    lab.narrator.event(&format!(
        "{} s, in which an isolated node would have reset itself: no reset",
        length.as_secs()
    ));
    Ok(())
}

/// All nodes are healthy again, no remediation was made, and the ledger's container is the same.
async fn undisturbed(lab: &Lab, before: (String, String)) -> anyhow::Result<()> {
    let lives = lab.judge()?.len();
    let limit = Instant::now() + 3 * SLACK;
    loop {
        lab.guard(None)?;
        // A remediation lives longer than one look.
        let remediations = lab.remediations().await?;
        ensure!(
            remediations.is_empty(),
            "a node was to be remediated: {remediations:?}"
        );
        match lab.is_ready().await {
            Ok(()) => break,
            Err(error) if Instant::now() > limit => return Err(error),
            Err(_) => sleep(Duration::from_millis(500)).await,
        }
    }
    let after = lab.ledger().await?;
    ensure!(
        before == after,
        "the ledger moved from {before:?} to {after:?}"
    );
    ensure!(lab.judge()?.len() == lives, "the ledger was started again");
    Ok(())
}

/// How often agents were started again, all together.
async fn restarts(lab: &Lab) -> anyhow::Result<u32> {
    let agents: Api<Pod> = Api::all(lab.cluster.admin());
    let params = ListParams::default().labels(snr::AGENT_SELECTOR);
    wait::until("the agents' pods", SLACK, async || {
        let agents = agents.list(&params).await?;
        let mut sum = 0;
        for agent in &agents {
            let statuses = agent
                .status
                .as_ref()
                .and_then(|status| status.container_statuses.as_ref());
            for container in statuses.into_iter().flatten() {
                ensure!(container.ready, "{} is not ready", agent.name_any());
                sum += u32::try_from(container.restart_count)?;
            }
        }
        Ok(Some(sum))
    })
    .await
}
