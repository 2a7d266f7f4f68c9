//! An update from the bundles of the original operators to ours.
//!
//! # What is played
//! The originals' bundles are ours in their clothes: pod labels and leftovers as they ship them. Our
//! managers run with their arguments and environment.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use medik8s_harness::{Cluster, installation, wait};
use serde_json::{Value, json};

use crate::{
    Report,
    bundles::{Made, NEW, ORIGINALS, PACKAGES},
    lifecycle::{self, NAMESPACE, example, subscribe, succeeded},
    manager,
};

/// Makes our bundles look like those of the originals.
pub(crate) fn dress(bundles: &Path) -> anyhow::Result<()> {
    for package in PACKAGES {
        let manifests = bundles.join(package).join("manifests");
        let file = manifests.join(format!("{package}.clusterserviceversion.yaml"));
        let mut csv: Value = serde_saphyr::from_str(&fs::read_to_string(&file)?)?;
        let install = &mut csv["spec"]["install"]["spec"];
        let deployment = &mut install["deployments"][0]["spec"];
        let selector = deployment["selector"]["matchLabels"].clone();
        deployment["template"]["metadata"] = json!({ "labels": selector });
        for (kind, name, rest) in [
            (
                "ConfigMap",
                "manager-config",
                json!({ "data": { "controller_manager_config.yaml": "" } }),
            ),
            (
                "Service",
                "webhook-service",
                json!({ "spec": { "selector": selector, "ports": [{ "port": 443, "targetPort": 9443 }] } }),
            ),
        ] {
            let name = format!("{package}-{name}");
            let mut object =
                json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } });
            for (field, value) in rest.as_object().into_iter().flatten() {
                object[field] = value.clone();
            }
            let file = manifests.join(format!("{name}_v1_{}.yaml", kind.to_lowercase()));
            fs::write(file, object.to_string())?;
        }
        fs::write(file, csv.to_string())?;
    }
    Ok(())
}

/// Installs the originals, with objects of theirs, and updates to ours.
pub(crate) async fn taken_over(
    cluster: &Cluster,
    made: &Made,
    report: &mut Report,
) -> anyhow::Result<()> {
    manager::catalog(cluster, 3).await?;
    report
        .needs("the originals' bundles, Succeeded, with objects", async {
            for package in PACKAGES {
                subscribe(cluster, package, "Automatic").await?;
            }
            for package in PACKAGES {
                succeeded(cluster, package, ORIGINALS).await?;
            }
            objects(cluster, made).await
        })
        .await?;
    let before = state(cluster).await?;
    manager::catalog(cluster, 4).await?;
    report
        .needs("updated to ours by replaces and by skipRange", async {
            for package in PACKAGES {
                succeeded(cluster, package, NEW).await?;
            }
            installation::available(cluster, NAMESPACE, 3).await?;
            // The node that is in maintenance gets no new agent.
            installation::armed_but(cluster, &["worker-4"]).await
        })
        .await?;
    report
        .sees(
            "their objects are unchanged, no Deployment was made anew",
            async {
                let after = state(cluster).await?;
                ensure!(before == after, "before:\n{before}\nafter:\n{after}");
                // They go with the replaced ClusterServiceVersion.
                wait::until("leftovers to go", Duration::from_mins(1), async || {
                    let left = cluster
                        .kubectl(&["get", "configmaps,services", "-n", NAMESPACE, "-o", "name"])
                        .await?;
                    ensure!(!left.contains("manager-config"), "{left}");
                    Ok(Some(()))
                })
                .await?;
                Ok(())
            },
        )
        .await;
    lifecycle::remove(cluster).await
}

/// A health check, a node in maintenance, and what the managers make by themselves.
async fn objects(cluster: &Cluster, made: &Made) -> anyhow::Result<()> {
    let mut check = example(made, "node-healthcheck-operator", "NodeHealthCheck")?;
    check["metadata"]["name"] = "of-the-original".into();
    check["spec"]["selector"] = json!({ "matchLabels": { "no": "node" } });
    let mut maintenance = example(made, "node-maintenance-operator", "NodeMaintenance")?;
    maintenance["metadata"]["name"] = "of-the-original".into();
    maintenance["spec"]["nodeName"] = "worker-4".into();
    for object in [check, maintenance] {
        wait::until("the webhook", Duration::from_secs(30), async || {
            cluster.apply_text(&object.to_string()).await.map(Some)
        })
        .await?;
    }
    let configuration = [
        "get",
        "snrc",
        "self-node-remediation-config",
        "-n",
        NAMESPACE,
    ];
    wait::until("the configuration", Duration::from_mins(1), async || {
        cluster.kubectl(&configuration).await.map(Some)
    })
    .await?;
    wait::until("the drain", Duration::from_mins(1), async || {
        let phase = cluster
            .kubectl(&[
                "get",
                "nm",
                "of-the-original",
                "-o",
                "jsonpath={.status.phase}",
            ])
            .await?;
        Ok((phase == "Succeeded").then_some(()))
    })
    .await
    .context("a maintenance of the originals")
}

/// Identity and content of what must survive.
async fn state(cluster: &Cluster) -> anyhow::Result<String> {
    let output =
        "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.spec}{\"\\n\"}{end}";
    let objects = cluster
        .kubectl(&["get", "nhc,nm,snrc,snrt", "-A", "-o", output])
        .await?;
    let identity =
        "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let deployments = cluster
        .kubectl(&["get", "deployments", "-n", NAMESPACE, "-o", identity])
        .await?;
    Ok(format!("{objects}{deployments}"))
}
