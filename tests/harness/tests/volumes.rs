//! Workloads with a volume that one node at a time may have, by both strategies: the pod runs elsewhere only after the
//! real attach/detach controller and a slow attacher have detached the volume from the lost node.

#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    storage::v1::VolumeAttachment,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use medik8s_api::SelfNodeRemediation;
use medik8s_harness::{
    Cluster, Options, child, csi,
    images::Programs,
    machine::{NodeSpec, What},
    network::Cut,
    story, wait, writers,
};
use serde_json::json;

const STORES: &str = include_str!("../manifests/volumes.yaml");
/// One per strategy: name of volume and StatefulSet.
const BY: [(&str, &str); 2] = [
    ("taint", "OutOfServiceTaint"),
    ("deletion", "ResourceDeletion"),
];
const NAMESPACE: &str = "stores";
/// 85 s after the order, Kubernetes' own steps, and the slow attacher.
const LIMIT: Duration = Duration::from_secs(220);

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(async || {
        let nodes = std::iter::once(NodeSpec::control_plane("control-plane-1"))
            .chain((1..=5).map(|number| NodeSpec::worker(format!("worker-{number}"))))
            .collect();
        let mut cluster = Cluster::start(Options {
            nodes,
            programs: Some(Programs::find()?),
            ..Options::default()
        })
        .await?;
        let attacher = tokio::spawn(csi::attacher(cluster.admin()));
        let done = volumes(&cluster).await;
        attacher.abort();
        if done.is_err() {
            println!("logs: {}/logs", cluster.keep_files().display());
        }
        cluster.stop().await;
        done
    })
}

/// What was seen of one store.
#[derive(Debug, Default)]
struct Seen {
    /// The lost node's attachment was gone.
    detached: Option<Instant>,
    /// The pod's container started on another node.
    restarted: Option<Instant>,
    /// The workload counts as freed.
    succeeded: Option<Instant>,
    /// The out-of-service taint was there once, and is gone.
    tainted: bool,
    untainted: Option<Instant>,
}

async fn volumes(cluster: &Cluster) -> anyhow::Result<()> {
    story::install_remediation(cluster).await?;
    prepare(cluster).await?;
    for (volume, _) in BY {
        cluster
            .apply_text(&STORES.replace("VOLUME", volume))
            .await?;
    }
    let (mut lost, mut uids) = (BTreeMap::new(), BTreeMap::new());
    for (volume, _) in BY {
        let (node, uid) = home(cluster, volume).await?;
        lost.insert(volume, node);
        uids.insert(volume, uid);
    }
    println!("{lost:?}");
    ensure!(lost["taint"] != lost["deletion"], "both on one node");

    // Kubernetes waits six minutes before it detaches by force what a silent kubelet reported as mounted, unless the
    // node is out of service. Here the deletion strategy is tried with a kubelet that had not reported it yet.
    let nodes = Api::<Node>::all(cluster.admin());
    let unused = Patch::Merge(json!({"status": {"volumesInUse": null}}));
    nodes
        .patch_status(&lost["deletion"], &PatchParams::default(), &unused)
        .await?;
    let mut happenings = cluster.happenings();
    let cut = Instant::now();
    for node in lost.values() {
        cluster.machine(node)?.cut(Cut::Everything).await?;
    }
    for (volume, strategy) in BY {
        let node = &lost[volume];
        cluster
            .apply_text(&format!(
                "apiVersion: self-node-remediation.medik8s.io/v1alpha1\nkind: SelfNodeRemediation\n\
                 metadata: {{name: {node}, namespace: self-node-remediation}}\n\
                 spec: {{remediationStrategy: {strategy}}}\n"
            ))
            .await?;
    }

    tokio::time::sleep(Duration::from_secs(5)).await;
    show(cluster, &["get", "snr", "-A", "-o", "wide"]).await?;
    show(
        cluster,
        &[
            "-n",
            "self-node-remediation",
            "describe",
            "snr",
            &lost["taint"],
        ],
    )
    .await?;
    show(
        cluster,
        &["-n", "self-node-remediation", "describe", "snrc"],
    )
    .await?;
    let mut seen: BTreeMap<&str, Seen> = BTreeMap::new();
    let end = cut + LIMIT;
    while Instant::now() < end {
        while let Ok(happening) = happenings.try_recv() {
            if let What::Started { pod } = &happening.what {
                for (volume, _) in BY {
                    if *pod == format!("{NAMESPACE}/{volume}-0") && happening.node != lost[volume] {
                        seen.entry(volume)
                            .or_default()
                            .restarted
                            .get_or_insert(happening.at);
                    }
                }
            }
        }
        for (volume, _) in BY {
            look(
                cluster,
                volume,
                &lost[volume],
                seen.entry(volume).or_default(),
            )
            .await?;
        }
        let over = |seen: &Seen| seen.restarted.is_some() && seen.succeeded.is_some();
        if seen.values().all(over) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    for (volume, _) in BY {
        judge(volume, &seen[volume], cut)?;
    }
    ensure!(
        seen["taint"].tainted,
        "the out-of-service taint was never there"
    );
    ensure!(!seen["deletion"].tainted, "deletion needs no taint");
    let lives = writers::lives(&writers::read(&cluster.writers_log())?);
    for (volume, _) in BY {
        let (_, now) = home(cluster, volume).await?;
        let life = |uid: &str| lives.iter().find(|life| life.pod == uid);
        let (old, new) = (life(&uids[volume]), life(&now));
        let (old, new) = old
            .zip(new)
            .with_context(|| format!("{volume}: {lives:?}"))?;
        ensure!(
            old.last < new.first,
            "two copies of {volume} ran at once: {old:?} {new:?}"
        );
    }
    Ok(())
}

fn judge(volume: &str, seen: &Seen, cut: Instant) -> anyhow::Result<()> {
    let after = |at: Option<Instant>, what: &str| -> anyhow::Result<Duration> {
        let at = at.with_context(|| format!("{volume}: never {what}: {seen:?}"))?;
        Ok(at.saturating_duration_since(cut))
    };
    let detached = after(seen.detached, "detached")?;
    let restarted = after(seen.restarted, "restarted elsewhere")?;
    let succeeded = after(seen.succeeded, "succeeded")?;
    println!(
        "{volume}: detached {:.1} s, runs elsewhere {:.1} s, remediation succeeded {:.1} s after the cut",
        detached.as_secs_f64(),
        restarted.as_secs_f64(),
        succeeded.as_secs_f64()
    );
    // Looked at every 150 ms.
    ensure!(
        restarted + Duration::from_millis(500) > detached,
        "{volume}: runs elsewhere at {restarted:?}, before its volume was detached at {detached:?}"
    );
    if seen.tainted {
        let untainted = after(seen.untainted, "untainted")?;
        ensure!(
            untainted >= detached.saturating_sub(Duration::from_millis(500)),
            "the taint was removed at {untainted:?}, before the detachment at {detached:?}"
        );
    }
    Ok(())
}

async fn look(cluster: &Cluster, volume: &str, node: &str, seen: &mut Seen) -> anyhow::Result<()> {
    let all = Api::<VolumeAttachment>::all(cluster.admin());
    let attachments = all.list(&ListParams::default()).await?;
    let is_there = attachments.iter().any(|attachment| {
        attachment.spec.node_name == node
            && attachment.spec.source.persistent_volume_name.as_deref() == Some(volume)
    });
    if !is_there {
        seen.detached.get_or_insert_with(Instant::now);
    }
    let object = Api::<Node>::all(cluster.admin()).get(node).await?;
    let out_of_service = object
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .any(|taint| taint.key == "node.kubernetes.io/out-of-service");
    seen.tainted |= out_of_service;
    if seen.tainted && !out_of_service {
        seen.untainted.get_or_insert_with(Instant::now);
    }
    let remediations =
        Api::<SelfNodeRemediation>::namespaced(cluster.admin(), "self-node-remediation");
    let status = remediations.get(node).await?.status.unwrap_or_default();
    let succeeded = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Succeeded" && condition.status == "True");
    if succeeded {
        seen.succeeded.get_or_insert_with(Instant::now);
    }
    Ok(())
}

/// What a person would look at.
async fn show(cluster: &Cluster, words: &[&str]) -> anyhow::Result<()> {
    println!(
        "$ kubectl {}\n{}",
        words.join(" "),
        cluster.kubectl(words).await?
    );
    Ok(())
}

/// What a CSI driver's installation makes.
async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    let driver = csi::DRIVER;
    cluster
        .apply_text(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n---\n\
             apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {{name: {driver}}}\n\
             spec: {{attachRequired: true, podInfoOnMount: false}}\n"
        ))
        .await?;
    let nodes = Api::<Node>::all(cluster.admin());
    for node in nodes.list(&ListParams::default()).await? {
        let managed = json!({"metadata": {"annotations": {
            "volumes.kubernetes.io/controller-managed-attach-detach": "true",
        }}});
        nodes
            .patch(
                &node.name_any(),
                &PatchParams::default(),
                &Patch::Merge(managed),
            )
            .await?;
    }
    Ok(())
}

/// The node on which the store's container runs, and the UID of its pod.
async fn home(cluster: &Cluster, volume: &str) -> anyhow::Result<(String, String)> {
    let pods = Api::<Pod>::namespaced(cluster.admin(), NAMESPACE);
    let what = format!("{volume} to run with its volume");
    wait::until(&what, Duration::from_secs(60), async || {
        let pod = pods.get(&format!("{volume}-0")).await?;
        let running = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            == Some("Running");
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        Ok(node.zip(pod.uid()).filter(|_| running))
    })
    .await
}
