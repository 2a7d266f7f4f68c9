//! What must not reset a machine.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use medik8s_harness::{network::Cut, wait};
use nix::sys::signal::Signal;

use crate::{
    Table,
    lab::{Lab, Machine},
};

/// Several timeouts of the watchdog.
const WHILE: Duration = Duration::from_secs(40);
/// Longer than a node that is cut off has left.
const OUTAGE: Duration = Duration::from_secs(80);

/// A Lease that was renewed within this time has a holder that works: it does so every five seconds.
const RENEWED: SignedDuration = SignedDuration::from_secs(6);

fn stayed(table: &Table, machine: &Machine, what: &str, time: Duration) {
    table.row(
        what,
        machine.name(),
        "no reset".to_owned(),
        format!("none in {} s", time.as_secs()),
    );
}

/// Nothing is ordered: the watchdog is fed.
pub(crate) async fn quiet(lab: &Lab, table: &Table) -> anyhow::Result<()> {
    let all = lab.machines.iter().map(async |machine| {
        machine.stays_up(machine.guest.happenings(), WHILE).await?;
        stayed(table, machine, "armed, nothing ordered", WHILE);
        anyhow::Ok(())
    });
    try_join_all(all).await.map(drop)
}

/// Nobody reaches the API server, the agents reach each other.
pub(crate) async fn api_away_for_all(lab: &Lab, table: &Table) -> anyhow::Result<()> {
    let marks: Vec<usize> = lab
        .machines
        .iter()
        .map(|machine| machine.guest.mark())
        .collect();
    for machine in lab.cluster.machines() {
        machine.cut(Cut::Api).await?;
    }
    for machine in &lab.machines {
        machine.guest.set_kubelet(false);
        let number = machine.guest.number();
        lab.cluster.fabric().cut(number, Cut::Api).await?;
    }
    let all = lab
        .machines
        .iter()
        .map(|machine| machine.stays_up(machine.guest.happenings(), OUTAGE));
    let outcome = try_join_all(all).await;
    for machine in lab.cluster.machines() {
        machine.mend().await?;
    }
    for machine in &lab.machines {
        let number = machine.guest.number();
        lab.cluster.fabric().mend(number, Cut::Api).await?;
        machine.guest.set_kubelet(true);
    }
    outcome?;
    for (machine, mark) in lab.machines.iter().zip(marks) {
        let said = machine.guest.said_since(mark)?;
        ensure!(
            said.contains("nodes couldn't access the api-server"),
            "{} never asked its peers: the outage proves nothing",
            machine.name()
        );
        machine.armed(lab).await?;
        stayed(table, machine, "API server away for all", OUTAGE);
    }
    a_manager_leads(lab).await
}

/// After an outage another one may have to wait until the Lease of the one before has run out. What follows measures
/// nodes, not that.
async fn a_manager_leads(lab: &Lab) -> anyhow::Result<()> {
    let leases = Api::<Lease>::namespaced(lab.cluster.admin(), "self-node-remediation");
    wait::until("a manager to lead", Duration::from_mins(1), async || {
        let lease = leases.get("547f6cb6.medik8s.io").await?;
        let renewed = lease.spec.and_then(|spec| spec.renew_time);
        let fresh = renewed.is_some_and(|at| Timestamp::now().duration_since(at.0) < RENEWED);
        Ok(fresh.then_some(()))
    })
    .await
}

/// The DaemonSet is rolled out: a successor beside each agent, and the hand-over of its watchdog.
pub(crate) async fn roll_out(lab: &Lab, table: &Table) -> anyhow::Result<()> {
    let before: Vec<String> = lab
        .machines
        .iter()
        .map(|machine| machine.guest.agent())
        .collect::<anyhow::Result<_>>()?;
    let marks: Vec<usize> = lab
        .machines
        .iter()
        .map(|machine| machine.guest.mark())
        .collect();
    let happenings: Vec<_> = lab
        .machines
        .iter()
        .map(|machine| machine.guest.happenings())
        .collect();
    let set = [
        "--namespace=self-node-remediation",
        "daemonset/self-node-remediation-ds",
    ];
    lab.cluster
        .kubectl(&[&["rollout", "restart"], &set[..]].concat())
        .await?;
    lab.cluster
        .kubectl(&[&["rollout", "status", "--timeout=400s"], &set[..]].concat())
        .await?;
    let all = lab.machines.iter().zip(before).zip(marks).zip(happenings);
    let all = all.map(async |(((machine, old), mark), happenings)| {
        wait::until("the old agent to end", WHILE, async || {
            let new = machine.guest.agent()?;
            ensure!(new != old, "{old} was not replaced");
            Ok(Some(()))
        })
        .await?;
        machine.stays_up(happenings, WHILE).await?;
        let said = machine.guest.said_since(mark)?;
        ensure!(
            said.contains("the predecessor has ended; taking over"),
            "{}: the successor did not wait for its predecessor",
            machine.name()
        );
        machine.armed(lab).await?;
        stayed(table, machine, "agent replaced by a roll-out", WHILE);
        anyhow::Ok(())
    });
    try_join_all(all).await.map(drop)
}

/// `kill -9`, and the kubelet starts it again.
pub(crate) async fn killed_and_restarted(
    lab: &Lab,
    machine: &Machine,
    table: &Table,
) -> anyhow::Result<()> {
    machine.armed(lab).await?;
    let mark = machine.guest.mark();
    let (happenings, agent) = (machine.guest.happenings(), machine.guest.agent()?);
    machine.guest.signal(&agent, Signal::SIGKILL).await?;
    machine.stays_up(happenings, WHILE).await?;
    let said = machine.guest.said_since(mark)?;
    ensure!(
        said.contains("watchdog armed"),
        "the agent has not armed the watchdog again"
    );
    stayed(
        table,
        machine,
        "agent kill -9, restarted by its kubelet",
        WHILE,
    );
    Ok(())
}

/// The pod is deleted and none comes in its place: the agent announces that and stops the watchdog.
pub(crate) async fn orderly_end(lab: &Lab, machine: &Machine, table: &Table) -> anyhow::Result<()> {
    machine.armed(lab).await?;
    let happenings = machine.guest.happenings();
    machine.excluded(lab, true).await?;
    machine
        .disarmed(lab)
        .await
        .context("after the deletion of its pod")?;
    machine.stays_up(happenings, WHILE).await?;
    stayed(
        table,
        machine,
        "pod deleted, nowayout=0: magic close",
        WHILE,
    );
    machine.excluded(lab, false).await?;
    machine.armed(lab).await.map(drop)
}
