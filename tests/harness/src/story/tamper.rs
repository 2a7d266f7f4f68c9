//! The control run: an input of the manager is made wrong, so that it frees too early.
//!
//! The product is left as it is. The manager learns the bound of a node from the node's announcement;
//! while the node is cut off and cannot correct it, the harness writes a far too short one.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use medik8s_api::names::snr;
use self_node_remediation_core::announcement::Announcement;
use serde_json::json;

use crate::Cluster;

pub(super) async fn shorten_safe_time(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(cluster.admin());
    let object = nodes.get(node).await?;
    let said = object
        .annotations()
        .get(snr::ANNOUNCED_ANNOTATION)
        .context("nothing announced")?;
    let mut said: Announcement = said.parse()?;
    said.bound = Some(1);
    said.wd = 1;
    let patch = json!({"metadata": {"annotations": {
        snr::ANNOUNCED_ANNOTATION: said.to_string(),
        snr::WATCHDOG_TIMEOUT_ANNOTATION: "1",
    }}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}
