//! A CSI attacher: attaches at once, and detaches late.
//!
//! The attach/detach controller of Kubernetes makes and deletes VolumeAttachments; what an external attacher does to
//! them is played here. A detachment takes [`DETACH`], as a real storage does.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::sleep;

/// Name of the driver.
pub const DRIVER: &str = "csi.harness.medik8s.io";
/// How long a volume takes to be detached.
pub const DETACH: Duration = Duration::from_secs(12);
const FINALIZER: &str = "external-attacher/csi-harness-medik8s-io";

/// Attaches and detaches until it is dropped. An error is tried again.
#[expect(clippy::infinite_loop, reason = "it ends when its task is aborted")]
pub async fn attacher(client: Client) {
    let api = Api::<VolumeAttachment>::all(client);
    let mut ending: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        if let Ok(all) = api.list(&ListParams::default()).await {
            for attachment in all {
                drop(serve(&api, &attachment, &mut ending).await);
            }
        }
        sleep(Duration::from_millis(250)).await;
    }
}

async fn serve(
    api: &Api<VolumeAttachment>,
    attachment: &VolumeAttachment,
    ending: &mut BTreeMap<String, Instant>,
) -> anyhow::Result<()> {
    if attachment.spec.attacher != DRIVER {
        return Ok(());
    }
    let (name, params) = (attachment.name_any(), PatchParams::default());
    if attachment.metadata.deletion_timestamp.is_some() {
        let since = ending.entry(name.clone()).or_insert_with(Instant::now);
        if since.elapsed() >= DETACH {
            let none = json!({"metadata": {"finalizers": null}});
            api.patch(&name, &params, &Patch::Merge(none)).await?;
        }
        return Ok(());
    }
    if attachment.finalizers().is_empty() {
        let ours = json!({"metadata": {"finalizers": [FINALIZER]}});
        api.patch(&name, &params, &Patch::Merge(ours)).await?;
    }
    if !attachment
        .status
        .as_ref()
        .is_some_and(|status| status.attached)
    {
        let attached = json!({"status": {"attached": true}});
        api.patch_status(&name, &params, &Patch::Merge(attached))
            .await?;
    }
    Ok(())
}
