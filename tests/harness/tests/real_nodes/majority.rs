//! H5: all workers lose the API server around the time of an order, while the manager still has it.

use anyhow::ensure;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use medik8s_api::{SelfNodeRemediation, names::snr};
use medik8s_harness::{network::Cut, story::Narrator, wait};
use serde_json::json;

use super::{
    failover::Loss,
    lab::{Lab, SLACK},
};

/// The peers know of the order: they vouch for nobody any more, and need no vouching themselves.
pub(crate) async fn after_the_order(lab: &Lab) -> anyhow::Result<()> {
    let mut loss = Loss::begin(lab).await?;
    loss.cut(Cut::Api).await?;
    loss.until_ordered().await?;
    for node in lab.workers().filter(|node| node.name() != loss.victim) {
        node.cut(Cut::Api).await?;
    }
    loss.narrator.event("CUT: no worker reaches the API server");
    // Nobody can start it: the kubelets do not hear of it.
    loss.until_released().await?;
    mend(lab, &loss.narrator).await?;
    loss.until_elsewhere().await?;
    loss.take_back().await
}

/// Nobody has read the order: each worker says of each other that it has no API server, the node goes
/// on, and so the manager must hold.
pub(crate) async fn before_the_order(lab: &Lab) -> anyhow::Result<()> {
    let mut loss = Loss::begin(lab).await?;
    for node in lab.workers() {
        node.cut(Cut::Api).await?;
    }
    loss.narrator.event("CUT: no worker reaches the API server");
    let remediations: Api<SelfNodeRemediation> =
        Api::namespaced(lab.cluster.admin(), "self-node-remediation");
    let order = serde_json::from_value(json!({
        "apiVersion": "self-node-remediation.medik8s.io/v1alpha1",
        "kind": "SelfNodeRemediation",
        "metadata": {"name": loss.victim},
        "spec": {"remediationStrategy": "Automatic"},
    }))?;
    remediations.create(&PostParams::default(), &order).await?;
    loss.until_ordered().await?;
    loss.hold(lab.wait + SLACK / 2).await?;
    let events: Api<Event> = Api::all(lab.cluster.admin());
    let waits = ListParams::default().fields(&format!("reason={}", snr::EVENT_WAITING_FOR_QUORUM));
    let waits = events.list(&waits).await?.items.len();
    ensure!(waits > 0, "the manager did not say what it waits for");
    loss.narrator
        .event("not freed, nobody reset; the manager says: WaitingForQuorum");
    mend(lab, &loss.narrator).await?;
    loss.until_elsewhere().await?;
    wait::until("the end of the remediation", lab.wait, async || {
        if lab.remediations().await?.is_empty() {
            return Ok(Some(()));
        }
        remediations
            .delete(&loss.victim, &DeleteParams::default())
            .await?;
        Ok(None)
    })
    .await?;
    loss.take_back().await
}

async fn mend(lab: &Lab, narrator: &Narrator) -> anyhow::Result<()> {
    for node in lab.workers() {
        node.mend().await?;
    }
    narrator.event("the API server is reached again");
    Ok(())
}
