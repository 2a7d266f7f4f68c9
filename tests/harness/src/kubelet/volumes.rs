//! A pod with volumes starts when they are attached to its node, and its node says that they are in use.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::VolumeAttachment,
};
use kube::{Api, ResourceExt as _, api::ListParams};

use super::Shared;
use crate::machine::Machine;

/// Whether all volumes of the pod are attached to this machine; an error says which is not.
pub(super) async fn attached(shared: &Shared, machine: &Machine, pod: &Pod) -> anyhow::Result<()> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let claims: Vec<&str> = volumes
        .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
        .collect();
    if claims.is_empty() {
        return Ok(());
    }
    ensure!(machine.is_heard(), "the API server cannot be asked");
    let namespace = pod.namespace().unwrap_or_default();
    let all = Api::<VolumeAttachment>::all(shared.client.clone());
    let attachments = all.list(&ListParams::default()).await?;
    for claim in claims {
        let claims = Api::<PersistentVolumeClaim>::namespaced(shared.client.clone(), &namespace);
        let bound = claims
            .get(claim)
            .await?
            .spec
            .and_then(|spec| spec.volume_name);
        let name = bound.with_context(|| format!("the claim {claim} is not bound"))?;
        let attached = attachments.iter().any(|attachment| {
            attachment.spec.node_name == machine.name()
                && attachment.spec.source.persistent_volume_name.as_deref() == Some(&name)
                && attachment
                    .status
                    .as_ref()
                    .is_some_and(|status| status.attached)
        });
        ensure!(attached, "the volume {name} is not attached");
        let volume = Api::<PersistentVolume>::all(shared.client.clone())
            .get(&name)
            .await?;
        let csi = volume
            .spec
            .and_then(|spec| spec.csi)
            .context("no CSI volume")?;
        machine
            .uses_volume(&format!(
                "kubernetes.io/csi/{}^{}",
                csi.driver, csi.volume_handle
            ))
            .await?;
    }
    Ok(())
}
