//! Our manifests over an installation of the originals, with remediations and maintenances in every
//! phase: nothing is lost, repeated or shortened. And back.

#![expect(
    clippy::disallowed_methods,
    reason = "the test plays the user: its clock and its writes are not the product's"
)]
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
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Node};
use kube::{Api, api::ListParams};
use medik8s_api::{
    NodeMaintenance, SelfNodeRemediation, SelfNodeRemediationTemplate,
    names::{contract, nmo, snr},
};
use medik8s_harness::{
    Cluster, Options, child,
    images::Programs,
    installation,
    machine::{Cause, NodeSpec},
    manifests, wait,
};
use serde_json::json;

const ORIGINALS: &str = include_str!("../manifests/originals.yaml");
const SNR: &str = "self-node-remediation";
/// Deployment and namespace.
const MANAGERS: [(&str, &str); 3] = [
    ("self-node-remediation-controller-manager", SNR),
    (
        "node-healthcheck-controller-manager",
        "node-healthcheck-operator-system",
    ),
    (
        "node-maintenance-operator-controller-manager",
        "node-maintenance-operator-system",
    ),
];

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(async || {
        let nodes = std::iter::once(NodeSpec::control_plane("control-plane-1"))
            .chain((1..=6).map(|number| NodeSpec::worker(format!("worker-{number}"))))
            .collect();
        let options = Options {
            nodes,
            programs: Some(Programs::find()?),
            ..Options::default()
        };
        let mut cluster = Cluster::start(options).await?;
        let done = there_and_back(&cluster).await;
        if done.is_err() {
            println!("logs: {}", cluster.keep_files().display());
        }
        cluster.stop().await;
        println!(
            "upgrade: {} passed, {} failed",
            u32::from(done.is_ok()),
            u32::from(done.is_err())
        );
        done
    })
}

async fn there_and_back(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply_text(&manifests::definitions()?).await?;
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd",
            "--all",
        ])
        .await?;
    cluster.apply_text(ORIGINALS).await?;
    cluster.apply_text(&leases()).await?;
    let release = in_flight(cluster).await?;
    let managers = uids(cluster).await?;
    let boots: BTreeMap<String, String> = cluster
        .machines()
        .map(|machine| (machine.name().to_owned(), machine.boot_id()))
        .collect();

    let begin = Instant::now();
    ours(cluster).await?;
    for (_, namespace) in MANAGERS {
        installation::available(cluster, namespace, 1).await?;
    }
    println!(
        "ours runs {:.0?} after it was applied over the originals",
        begin.elapsed()
    );
    ensure!(
        uids(cluster).await? == managers,
        "a Deployment was made anew"
    );

    finished(cluster, "worker-2", &boots).await?;
    removed(cluster, "worker-3").await?;
    maintained(cluster).await?;
    marked(cluster).await?;
    waited_for(cluster, "worker-1", release, &boots).await?;
    begun(cluster, "worker-6").await?;
    agents_of_ours(cluster, &boots).await?;

    // And back: same objects, their manifests.
    let open = left_open(cluster, "worker-2").await?;
    let file = cluster.folder().join("originals.yaml");
    std::fs::write(&file, shipped_by_the_originals())?;
    let file = file.display().to_string();
    cluster
        .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file])
        .await?;
    for (name, namespace) in MANAGERS {
        let image = cluster
            .kubectl(&[
                "get",
                "deployment",
                name,
                "-n",
                namespace,
                "-o",
                "jsonpath={.spec.template.spec.containers[0].image}",
            ])
            .await?;
        ensure!(image.contains("the-original"), "{name} runs {image}");
    }
    ensure!(
        uids(cluster).await? == managers,
        "a Deployment was made anew on the way back"
    );
    let maintenances: Api<NodeMaintenance> = Api::all(cluster.admin());
    ensure!(
        maintenances.list(&ListParams::default()).await?.items.len() == 2,
        "a maintenance was lost"
    );
    ensure!(
        record(cluster, "worker-2").await? == open,
        "the remediation is not as ours left it"
    );
    println!("and back: the originals' manifests are in force again, what is open is as it was");
    Ok(())
}

/// What a user of theirs applies: all but the kinds with a webhook, which are there already. Their manager
/// would serve it, and is not run here.
fn shipped_by_the_originals() -> String {
    ORIGINALS
        .split("---\n")
        .filter(|document| !document.contains("kind: SelfNodeRemediation"))
        .collect::<Vec<_>>()
        .join("---\n")
}

async fn ours(cluster: &Cluster) -> anyhow::Result<()> {
    let file = medik8s_harness::tools::repository().join("deploy/medik8s.yaml");
    let file = file.display().to_string();
    cluster
        .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file])
        .await
        .map(drop)
}

/// The leader leases, held by managers that were alive a moment ago.
fn leases() -> String {
    let now = Timestamp::now();
    [
        (snr::LEADER_ELECTION_ID, SNR),
        ("e1f13584.medik8s.io", "node-healthcheck-operator-system"),
        (nmo::LEADER_ELECTION_ID, "node-maintenance-operator-system"),
    ]
    .map(|(name, namespace)| {
        format!(
            "---\napiVersion: coordination.k8s.io/v1\nkind: Lease\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{holderIdentity: original-manager-abc, leaseDurationSeconds: 15, leaseTransitions: 3, acquireTime: '{now:.6}', renewTime: '{now:.6}'}}\n"
        )
    })
    .concat()
}

/// Remediations and maintenances as the originals leave them in each phase. Returns when the workload
/// of worker-1 may be freed at the earliest.
async fn in_flight(cluster: &Cluster) -> anyhow::Result<Timestamp> {
    let release = Timestamp::now() + Duration::from_secs(100);
    let past = Timestamp::now() - Duration::from_secs(100);
    for (node, phase, assumed) in [
        ("worker-1", snr::PHASE_PRE_REBOOT_COMPLETED, release),
        ("worker-2", snr::PHASE_REBOOT_COMPLETED, past),
        ("worker-3", snr::PHASE_FENCING_COMPLETED, past),
    ] {
        let remediation = json!({
            "apiVersion": "self-node-remediation.medik8s.io/v1alpha1",
            "kind": "SelfNodeRemediation",
            "metadata": {"name": node, "namespace": SNR, "finalizers": [snr::FINALIZER]},
            "spec": {"remediationStrategy": "ResourceDeletion"},
        });
        cluster.apply_text(&remediation.to_string()).await?;
        let status = json!({"status": {"phase": phase, "timeAssumedRebooted": assumed.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}});
        cluster
            .kubectl(&[
                "patch",
                "snr",
                node,
                "-n",
                SNR,
                "--subresource=status",
                "--type=merge",
                "-p",
                &status.to_string(),
            ])
            .await?;
        cluster
            .kubectl(&[
                "taint",
                "node",
                node,
                &format!("{}:NoSchedule", snr::REMEDIATION_TAINT),
            ])
            .await?;
    }
    cluster
        .kubectl(&["delete", "snr", "worker-3", "-n", SNR, "--wait=false"])
        .await?;
    for (node, phase) in [("worker-4", "Running"), ("worker-5", "Succeeded")] {
        let maintenance = json!({
            "apiVersion": "nodemaintenance.medik8s.io/v1beta1",
            "kind": "NodeMaintenance",
            "metadata": {"name": node, "finalizers": [nmo::FINALIZER]},
            "spec": {"nodeName": node, "reason": "disk"},
        });
        cluster.apply_text(&maintenance.to_string()).await?;
        let status = json!({"status": {"phase": phase, "drainProgress": if phase == "Running" { 0 } else { 100 }, "totalpods": 1, "evictionPods": 1}});
        cluster
            .kubectl(&[
                "patch",
                "nm",
                node,
                "--subresource=status",
                "--type=merge",
                "-p",
                &status.to_string(),
            ])
            .await?;
        cluster.kubectl(&["cordon", node]).await?;
        cluster
            .kubectl(&["taint", "node", node, "medik8s.io/drain:NoSchedule"])
            .await?;
    }
    // One that was created a moment before the original's manager ended; its agent can reboot the node.
    let capable = format!("{}=true", snr::IS_REBOOT_CAPABLE_ANNOTATION);
    cluster
        .kubectl(&["annotate", "node", "worker-6", &capable])
        .await?;
    cluster.apply_text(&fresh("worker-6")).await?;
    cluster.apply_text(&workload("worker-1")).await?;
    Ok(release)
}

/// A remediation that nobody has looked at.
fn fresh(node: &str) -> String {
    format!(
        "apiVersion: self-node-remediation.medik8s.io/v1alpha1\n\
         kind: SelfNodeRemediation\n\
         metadata: {{name: {node}, namespace: {SNR}}}\n\
         spec: {{remediationStrategy: ResourceDeletion}}\n"
    )
}

/// A pod that must not be freed too early.
fn workload(node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: precious, namespace: default}}\n\
         spec:\n  nodeName: {node}\n  containers: [{{name: c, image: x}}]\n"
    )
}

async fn uids(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut uids = Vec::new();
    for (name, namespace) in MANAGERS {
        uids.push(
            cluster
                .kubectl(&[
                    "get",
                    "deployment",
                    name,
                    "-n",
                    namespace,
                    "-o",
                    "jsonpath={.metadata.uid}",
                ])
                .await?,
        );
    }
    Ok(uids)
}

/// The original's word that a node was rebooted is no proof: nothing is freed on it. When the health
/// checker sees the node healthy and deletes the remediation, the node is given back, without a second
/// reboot.
async fn finished(
    cluster: &Cluster,
    node: &str,
    boots: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let remediations: Api<SelfNodeRemediation> = Api::namespaced(cluster.admin(), SNR);
    let found = remediations.get(node).await?;
    let phase = found.status.and_then(|status| status.phase);
    ensure!(
        [snr::PHASE_REBOOT_COMPLETED, snr::PHASE_FENCING_COMPLETED]
            .iter()
            .any(|known| phase.as_deref() == Some(*known)),
        "went back to {phase:?}"
    );
    cluster
        .kubectl(&["delete", "snr", node, "-n", SNR, "--timeout=60s"])
        .await?;
    removed(cluster, node).await?;
    ensure!(
        boots.get(node) == Some(&cluster.machine(node)?.boot_id()),
        "{node} was rebooted a second time"
    );
    println!("Reboot-Completed: nothing freed on trust, no second reboot, node given back");
    Ok(())
}

/// A remediation that is done and deleted gives its node back.
async fn removed(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let remediations: Api<SelfNodeRemediation> = Api::namespaced(cluster.admin(), SNR);
    let nodes: Api<Node> = Api::all(cluster.admin());
    wait::until(
        "the deleted remediation to go",
        Duration::from_secs(30),
        async || {
            let gone = remediations.get_opt(node).await?.is_none();
            let taints = nodes.get(node).await?.spec.and_then(|spec| spec.taints);
            let clean = taints
                .unwrap_or_default()
                .iter()
                .all(|taint| taint.key != snr::REMEDIATION_TAINT);
            Ok((gone && clean).then_some(()))
        },
    )
    .await?;
    println!("Fencing-Completed and deleted: node given back");
    Ok(())
}

/// The drain goes on without beginning again; the drained node stays out of service.
async fn maintained(cluster: &Cluster) -> anyhow::Result<()> {
    let maintenances: Api<NodeMaintenance> = Api::all(cluster.admin());
    wait::until(
        "the drain to go on to its end",
        Duration::from_mins(1),
        async || {
            let phase = maintenances
                .get("worker-4")
                .await?
                .status
                .and_then(|status| status.phase);
            ensure!(phase.as_deref() == Some(nmo::PHASE_SUCCEEDED), "{phase:?}");
            Ok(Some(()))
        },
    )
    .await?;
    let events: Api<Event> = Api::namespaced(cluster.admin(), "default");
    let begun: Vec<String> = events
        .list(&ListParams::default())
        .await?
        .iter()
        .filter(|event| event.reason.as_deref() == Some(nmo::EVENT_BEGIN))
        .map(kube::ResourceExt::name_any)
        .collect();
    ensure!(begun.is_empty(), "a maintenance began again: {begun:?}");
    let nodes: Api<Node> = Api::all(cluster.admin());
    for node in ["worker-4", "worker-5"] {
        let spec = nodes.get(node).await?.spec.unwrap_or_default();
        ensure!(spec.unschedulable == Some(true), "{node} was given back");
    }
    println!("maintenances: the drain went on, the drained node stays out of service");
    Ok(())
}

/// A template of a user says what the health checker asks for.
async fn marked(cluster: &Cluster) -> anyhow::Result<()> {
    let templates: Api<SelfNodeRemediationTemplate> = Api::namespaced(cluster.admin(), SNR);
    wait::until("the mark", Duration::from_secs(30), async || {
        let annotations = templates.get("of-a-user").await?.metadata.annotations;
        let marks = annotations.unwrap_or_default();
        Ok(marks
            .contains_key(contract::MULTIPLE_TEMPLATES_ANNOTATION)
            .then_some(()))
    })
    .await?;
    println!("templates: marked as usable several times");
    Ok(())
}

/// An order of the original keeps its time: nothing is freed before, the time never becomes earlier,
/// and when the node has rebooted the remediation ends without a second reboot.
async fn waited_for(
    cluster: &Cluster,
    node: &str,
    release: Timestamp,
    boots: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let remediations: Api<SelfNodeRemediation> = Api::namespaced(cluster.admin(), SNR);
    let nodes: Api<Node> = Api::all(cluster.admin());
    let until = Instant::now() + Duration::from_secs(25);
    while Instant::now() < until {
        let found = remediations.get(node).await?;
        let status = found
            .status
            .context("the remediation has lost its status")?;
        let time = status.time_assumed_rebooted.context("the time is lost")?.0;
        ensure!(
            time.as_second() >= release.as_second(),
            "the time was shortened to {time}"
        );
        ensure!(
            status.phase.as_deref() == Some(snr::PHASE_PRE_REBOOT_COMPLETED),
            "went on early to {:?}",
            status.phase
        );
        let taints = nodes.get(node).await?.spec.and_then(|spec| spec.taints);
        ensure!(
            taints
                .unwrap_or_default()
                .iter()
                .all(|taint| !taint.key.contains("out-of-service")),
            "freed before its time"
        );
        let pod = cluster
            .kubectl(&[
                "get",
                "pod",
                "precious",
                "-o",
                "jsonpath={.metadata.deletionTimestamp}",
            ])
            .await?;
        ensure!(pod.is_empty(), "the workload was freed before its time");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ensure!(
        boots.get(node) == Some(&cluster.machine(node)?.boot_id()),
        "{node} was rebooted by us"
    );
    // Now the original's agent would reboot it.
    cluster.machine(node)?.reset(Cause::Scenario).await?;
    let boot = cluster.machine(node)?.boot_id();
    cluster
        .kubectl(&["delete", "snr", node, "-n", SNR, "--timeout=180s"])
        .await?;
    removed(cluster, node).await?;
    ensure!(
        boot == cluster.machine(node)?.boot_id(),
        "{node} was rebooted a second time"
    );
    println!("Pre-Reboot-Completed: kept its time, ended after the reboot, no second one");
    Ok(())
}

/// A remediation without a phase is begun; the reboot by the original's agent ends it.
async fn begun(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let remediations: Api<SelfNodeRemediation> = Api::namespaced(cluster.admin(), SNR);
    wait::until("the order", Duration::from_secs(30), async || {
        let status = remediations.get(node).await?.status.unwrap_or_default();
        let told = status.time_assumed_rebooted.is_some();
        Ok(
            (told && status.phase.as_deref() == Some(snr::PHASE_PRE_REBOOT_COMPLETED))
                .then_some(()),
        )
    })
    .await?;
    cluster.machine(node)?.reset(Cause::Scenario).await?;
    cluster
        .kubectl(&["delete", "snr", node, "-n", SNR, "--timeout=180s"])
        .await?;
    removed(cluster, node).await?;
    println!("no phase: begun, and ended after the reboot");
    Ok(())
}

/// With no remediation open the agents are replaced by ours, and no node is reset for it.
async fn agents_of_ours(cluster: &Cluster, boots: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let begin = Instant::now();
    installation::armed_but(cluster, &["worker-4", "worker-5"]).await?;
    for node in [
        "worker-2",
        "worker-3",
        "worker-4",
        "worker-5",
        "control-plane-1",
    ] {
        ensure!(
            boots.get(node) == Some(&cluster.machine(node)?.boot_id()),
            "{node} was rebooted"
        );
    }
    println!(
        "agents: all are ours and armed after {:.0?}",
        begin.elapsed()
    );
    Ok(())
}

/// A remediation that our managers leave to the originals; returns what they find of it.
async fn left_open(cluster: &Cluster, node: &str) -> anyhow::Result<String> {
    cluster.apply_text(&fresh(node)).await?;
    wait::until(
        "the end of the remediation",
        Duration::from_mins(2),
        async || {
            let found = record(cluster, node).await?;
            Ok(found
                .contains(snr::PHASE_FENCING_COMPLETED)
                .then_some(found))
        },
    )
    .await
}

/// What another manager reads of a remediation.
async fn record(cluster: &Cluster, node: &str) -> anyhow::Result<String> {
    let output = "jsonpath={.metadata.uid} {.metadata.finalizers} {.status.phase} {.status.timeAssumedRebooted}";
    cluster
        .kubectl(&["get", "snr", node, "-n", SNR, "-o", output])
        .await
}
