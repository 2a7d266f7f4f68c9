//! The node that runs the ledger is cut off from everything, until its workload runs elsewhere.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use medik8s_api::names::snr;

use super::{
    Narrator, Phases, Telling, install,
    observe::{Observer, Step, judge},
    tamper,
};
use crate::{Cluster, network::Cut, writers};

/// Noticing a silent node takes 14 to 22 s, the order a few more, the safe time is 85 s, and Kubernetes
/// collects the pods of an out-of-service node every 20 s; a new leader after a kill needs 17 s.
const RELEASE_LIMIT: Duration = Duration::from_secs(200);
/// The node is Ready within seconds; the health check and the manager then take everything back.
const RETURN_LIMIT: Duration = Duration::from_secs(90);

pub(super) async fn fail_over(
    cluster: &Cluster,
    telling: &Telling,
    narrator: &Narrator,
    phases: &mut Phases,
) -> anyhow::Result<()> {
    let waited = Instant::now();
    install::quorate(cluster).await?;
    phases.add(
        "waiting until all nodes are a minute old (quorum membership)",
        waited.elapsed(),
    );
    let (victim, ledger) = install::home_of_the_ledger(cluster).await?;
    let lives = writers::lives(&writers::read(&cluster.writers_log())?);
    ensure!(
        lives.len() == 1,
        "the ledger has run {} times before the cut",
        lives.len()
    );
    narrator.say(&format!(
        "the ledger runs on {victim}: a real process that writes a line each 100 ms"
    ));
    narrator.say(
        "expected: noticed within 22 s, freed 85 s after the order, never before the node is reset",
    );

    let machine = cluster.machine(&victim)?;
    let cut = Instant::now();
    let narrator = narrator.since(cut);
    let log = agent_log(cluster, &victim).await?;
    let mut observer = Observer::new(cluster, narrator.clone(), &victim, ledger, &log)?;
    machine.cut(Cut::Everything).await?;
    narrator.event(&format!(
        "CUT: {victim} reaches nobody, nobody reaches it; its processes go on"
    ));
    if telling.broken {
        tamper::shorten_safe_time(cluster, &victim).await?;
        narrator.event(
            "control run: the manager is made to believe that this node resets itself within 2 s",
        );
    }
    let steps = [
        Step::ContactLost,
        Step::PeersAsked,
        Step::ReadyUnknown,
        Step::RemediationCreated,
        Step::Ordered,
        Step::Starved,
        Step::Reset,
        Step::SafeTimePassed,
        Step::PodsDeleted,
        Step::RunningElsewhere,
    ];
    let freed = observer.until(&steps, RELEASE_LIMIT).await;
    // The judge goes first: an overlap is the worst that can happen and explains what else is missing.
    judge(cluster)?;
    freed?;
    show(cluster, &narrator)?;
    let failover = since(&observer, Step::RunningElsewhere, cut)?;
    let reset = since(&observer, Step::Reset, cut)?;
    let released = since(&observer, Step::PodsDeleted, cut)?;
    ensure!(
        reset < released,
        "the workload was freed before the node was reset"
    );

    machine.mend().await?;
    let mended = Instant::now();
    narrator.event("the cable is back");
    observer
        .until(
            &[Step::NodeBack, Step::RemediationRemoved, Step::TaintGone],
            RETURN_LIMIT,
        )
        .await?;
    let lives = judge(cluster)?;
    ensure!(lives.len() == 2, "the ledger has run {} times", lives.len());

    phases.failover = Some(failover);
    phases.add(
        "cut -> Ready=Unknown",
        since(&observer, Step::ReadyUnknown, cut)?,
    );
    phases.add(
        "cut -> order published",
        since(&observer, Step::Ordered, cut)?,
    );
    phases.add("cut -> node reset by its own watchdog", reset);
    phases.add(
        "cut -> safe time passed",
        since(&observer, Step::SafeTimePassed, cut)?,
    );
    phases.add("cut -> ledger running elsewhere", failover);
    phases.add(
        "cable back -> node healthy, no trace left",
        mended.elapsed(),
    );
    Ok(())
}

/// What the log of the ledger shows.
fn show(cluster: &Cluster, narrator: &Narrator) -> anyhow::Result<()> {
    if let [first, second] = judge(cluster)?.as_slice() {
        let gap = second.first.saturating_sub(first.last);
        narrator.say(&format!(
            "the ledger's own log: {} lines on {}, then nobody for {:.1} s, then {}: never two at once",
            first.lines,
            first.node,
            gap.as_secs_f64(),
            second.node
        ));
    }
    Ok(())
}

fn since(observer: &Observer<'_>, step: Step, cut: Instant) -> anyhow::Result<Duration> {
    let at = observer
        .at(step)
        .with_context(|| format!("never seen: {}", step.text()))?;
    Ok(at.saturating_duration_since(cut))
}

/// The log of the agent that runs on a node.
async fn agent_log(cluster: &Cluster, node: &str) -> anyhow::Result<PathBuf> {
    let agents: Api<Pod> = Api::all(cluster.admin());
    let params = ListParams::default()
        .labels(snr::AGENT_SELECTOR)
        .fields(&format!("spec.nodeName={node}"));
    let agents = agents.list(&params).await?;
    let agent = agents
        .iter()
        .next()
        .with_context(|| format!("no agent on {node}"))?;
    Ok(cluster.pod_log(&agent.namespace().unwrap_or_default(), &agent.name_any()))
}
