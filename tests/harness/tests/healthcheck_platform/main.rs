//! The node health check where a cluster has OpenShift's kinds: platform, machines, metal3, monitoring.
//!
//! The kinds are minimal CRDs; the API server, its garbage collection and its disruption controller are
//! real, the rights are those of the shipped manifests. The scenarios change the cluster as a whole and
//! run one after the other.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]
#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the suite plays the user and the platform: its clock and its writes are not the product's"
)]

mod machines;
mod metal3;
mod monitoring;
mod platform;

use std::{process::ExitCode, time::Duration};

use futures::future::{FutureExt as _, LocalBoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use medik8s_harness::{
    child,
    healthcheck::{Lab, SHIPPED, Start, kinds},
    images::Programs,
    wait,
};
use serde_json::{Value, json};

/// How long something may take that needs nothing but a few requests.
pub(crate) const SOON: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(async || {
        let mut lab = Lab::start().await?;
        let failed = tell(&lab).await;
        if !matches!(failed, Ok(0)) {
            println!("logs: {}/logs", lab.cluster.keep_files().display());
        }
        lab.cluster.stop().await;
        anyhow::ensure!(failed? == 0, "scenarios failed");
        Ok(())
    })
}

async fn tell(lab: &Lab) -> anyhow::Result<usize> {
    let pod = prepare(lab).await?;
    let certificates = lab.cluster.folder().join("metrics-certificate");
    let first = monitoring::authority()?;
    monitoring::write_certificate(&certificates)?;
    monitoring::publish(lab, &first).await?;
    let flag = format!("--metrics-cert-path={}", certificates.display());
    let program = Programs::find()?.managers.join("node-healthcheck-operator");
    let args = [flag.as_str()];
    let start = Start {
        args: &args,
        pod: Some(&pod),
        ..Start::default()
    };
    let first_leader = lab.manager(&program, 1, &start).await?;
    first_leader.leads(SOON).await?;
    monitoring::is_set_up(lab).await?;
    // The next leader mends what it finds.
    monitoring::spoil(lab).await?;
    first_leader.process.kill().await;
    let manager = lab.manager(&program, 2, &start).await?;
    manager.leads(3 * SOON).await?;
    let scenarios: Vec<(&str, LocalBoxFuture<'_, anyhow::Result<()>>)> = vec![
        (
            "monitoring and the console are set up",
            monitoring::is_set_up(lab).boxed_local(),
        ),
        (
            "metrics are for clients of the cluster's CA, which rotates",
            monitoring::follows_the_client_ca(lab, &manager, &first).boxed_local(),
        ),
        (
            "an upgrade postpones remediation",
            platform::upgrade(lab).boxed_local(),
        ),
        ("etcd's guard is asked", platform::etcd(lab).boxed_local()),
        (
            "metal3 power-cycles a node",
            metal3::power_cycles(lab).boxed_local(),
        ),
        (
            "metal3 gets no node without a Machine",
            metal3::needs_a_machine(lab).boxed_local(),
        ),
        (
            "a termination handler is left its nodes",
            machines::termination(lab).boxed_local(),
        ),
        (
            "a custom MachineHealthCheck disables",
            machines::conflict(lab).boxed_local(),
        ),
        (
            "MachineHealthChecks are ours while the gate says so",
            machines::ours(lab).boxed_local(),
        ),
    ];
    let (mut passed, mut failed) = (0, 0);
    for (name, scenario) in scenarios {
        let begin = std::time::Instant::now();
        match scenario.await {
            Ok(()) => {
                passed += 1;
                println!("ok      {name} ({:.1} s)", begin.elapsed().as_secs_f64());
            }
            Err(error) => {
                failed += 1;
                println!("FAILED  {name}: {error:#}");
            }
        }
    }
    println!("healthcheck_platform: {passed} passed, {failed} failed");
    Ok(failed)
}

/// Kinds and objects of the platform, and a pod of the manager's Deployment; returns its name.
async fn prepare(lab: &Lab) -> anyhow::Result<String> {
    let cluster = &lab.cluster;
    cluster
        .apply_text(&kinds::manifest(&kinds::openshift()))
        .await?;
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=30s",
        "crd",
        "--all",
    ];
    cluster.kubectl(&established).await?;
    wait::until("the platform's kinds to be served", SOON, async || {
        let objects = kinds::manifest(&kinds::openshift_objects());
        cluster.apply_text(&objects).await.map(Some)
    })
    .await?;
    set_status(
        lab,
        "infrastructure",
        "cluster",
        None,
        &json!({"controlPlaneTopology": "HighlyAvailable"}),
    )
    .await?;
    progressing(lab, false).await?;
    gates(lab, false).await?;
    let labels = json!({"app": "manager"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "node-healthcheck-controller-manager", "namespace": SHIPPED.namespace},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "manager", "image": "scratch",
                "securityContext": {"allowPrivilegeEscalation": false, "runAsNonRoot": true,
                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]},
        }},
    });
    cluster.apply_text(&deployment.to_string()).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.admin(), SHIPPED.namespace);
    wait::until("a pod of the Deployment", SOON, async || {
        let found = pods.list(&ListParams::default()).await?;
        Ok(found.items.first().map(ResourceExt::name_any))
    })
    .await
}

/// Writes the status of an object of the platform.
pub(crate) async fn set_status(
    lab: &Lab,
    kind: &str,
    name: &str,
    namespace: Option<&str>,
    status: &Value,
) -> anyhow::Result<()> {
    let patch = json!({ "status": status }).to_string();
    let mut words = vec![
        "patch",
        kind,
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    if let Some(namespace) = namespace {
        words.extend(["-n", namespace]);
    }
    lab.cluster.kubectl(&words).await?;
    Ok(())
}

/// Whether the cluster is being upgraded.
pub(crate) async fn progressing(lab: &Lab, progressing: bool) -> anyhow::Result<()> {
    let status = if progressing { "True" } else { "False" };
    let status = json!({"desired": {"version": "4.20.1"},
        "conditions": [{"type": "Progressing", "status": status,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    set_status(lab, "clusterversion", "version", None, &status).await
}

/// Whether MachineHealthChecks are ours.
pub(crate) async fn gates(lab: &Lab, ours: bool) -> anyhow::Result<()> {
    let gate = json!([{"name": "MachineAPIOperatorDisableMachineHealthCheckController"}]);
    let (on, off) = if ours {
        (gate, json!([]))
    } else {
        (json!([]), gate)
    };
    let status = json!({"featureGates": [{"version": "4.20.1", "enabled": on, "disabled": off}]});
    set_status(lab, "featuregate", "cluster", None, &status).await
}

/// Merge-patches an object of a kind without a Rust type.
pub(crate) async fn patch(
    lab: &Lab,
    kind: &kube::api::ApiResource,
    namespace: &str,
    name: &str,
    patch: &Value,
) -> anyhow::Result<()> {
    lab.dynamic(kind, namespace)
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// A Machine with its node.
pub(crate) async fn machine(lab: &Lab, name: &str, node: Option<&str>) -> anyhow::Result<()> {
    let machine = json!({"apiVersion": "machine.openshift.io/v1beta1", "kind": "Machine",
        "metadata": {"name": name, "namespace": kinds::MACHINES, "labels": {"role": "worker"}},
        "spec": {}});
    lab.cluster.apply_text(&machine.to_string()).await?;
    let now = format!("{:.0}", jiff::Timestamp::now());
    let status = json!({"phase": "Running", "lastUpdated": now,
        "nodeRef": node.map(|name| json!({"kind": "Node", "name": name}))});
    set_status(
        lab,
        "machines.machine.openshift.io",
        name,
        Some(kinds::MACHINES),
        &status,
    )
    .await?;
    if let Some(node) = node {
        let reference = format!("{}/{name}", kinds::MACHINES);
        let patch =
            json!({"metadata": {"annotations": {"machine.openshift.io/machine": reference}}});
        lab.patch_nodes(&[node.to_owned()], &patch).await?;
    }
    Ok(())
}
