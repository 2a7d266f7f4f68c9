//! The chart: clean, equal to the plain manifests, and a working installation.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context as _, ensure};
use medik8s_harness::{Cluster, go_tools, installation, tools};
use serde_json::Value;

use crate::by_kubectl::{agents_go_first, nothing_is_left};

const NAMESPACE: &str = "medik8s";

pub(crate) async fn test(cluster: &Cluster) -> anyhow::Result<()> {
    let helm = go_tools::HELM.ready()?.join("helm");
    let chart = tools::repository()
        .join("deploy/helm/medik8s")
        .display()
        .to_string();
    let run = async |args: &[&str]| installation::run(cluster, &helm, args).await;
    let lint = run(&["lint", "--strict", &chart]).await?;
    ensure!(
        !lint.contains("[WARNING]") && !lint.contains("[ERROR]"),
        "{lint}"
    );
    refusals(cluster, &helm, &chart).await?;
    equals_the_manifests(&run(&["template", "medik8s", &chart, "-n", NAMESPACE]).await?)?;
    let everything = [
        "template",
        "medik8s",
        &chart,
        "-n",
        NAMESPACE,
        "--set=networkPolicies.enabled=true,serviceMonitor.enabled=true,prometheusRule.enabled=true",
        "--set=dashboards.enabled=true,webhooks.certificates=cert-manager,namespace.create=true",
        "--set=namespace.name=elsewhere",
        "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",
    ];
    let all = documents(&run(&everything).await?)?;
    for kind in [
        "NetworkPolicy",
        "ServiceMonitor",
        "PodMonitor",
        "PrometheusRule",
        "ConfigMap",
        "Certificate",
        "Issuer",
        "Namespace",
        "ValidatingAdmissionPolicy",
    ] {
        ensure!(
            all.iter().any(|object| object["kind"] == kind),
            "no {kind} although it was asked for"
        );
    }
    let strange: Vec<&Value> = all
        .iter()
        .map(|object| &object["metadata"]["namespace"])
        .filter(|namespace| !namespace.is_null() && *namespace != "elsewhere")
        // Where a Role lets the client CA be read.
        .filter(|namespace| *namespace != "kube-system")
        .collect();
    ensure!(strange.is_empty(), "objects in {strange:?}");

    // CRDs that came by kubectl, as the manual says.
    let definitions = tools::repository().join("config/crd").display().to_string();
    cluster
        .kubectl(&["apply", "--server-side", "-k", &definitions])
        .await?;
    let begin = Instant::now();
    let said = run(&[
        "install",
        "medik8s",
        &chart,
        "-n",
        NAMESPACE,
        "--create-namespace",
        "--take-ownership",
    ])
    .await?;
    installation::available(cluster, NAMESPACE, 3).await?;
    println!("helm: installed in {:.0?}", begin.elapsed());
    installation::armed(cluster).await?;
    // What the notes tell the user to apply.
    let sample = said
        .split_once("<<EOF\n")
        .and_then(|(_, rest)| rest.split_once("EOF"))
        .map(|(sample, _)| {
            sample
                .lines()
                .map(|line| line.strip_prefix("  ").unwrap_or(line))
        })
        .context("the notes hold no health check")?
        .collect::<Vec<_>>()
        .join("\n");
    let took = installation::remediate(cluster, &sample, "worker-2").await?;
    println!(
        "helm: a node was remediated in {took:.0?}, {:.0?} after the installation began",
        begin.elapsed()
    );
    // Upgrade with one operator less, then all of it.
    run(&[
        "upgrade",
        "medik8s",
        &chart,
        "-n",
        NAMESPACE,
        "--set=nodeMaintenance.enabled=false",
    ])
    .await?;
    let left = cluster
        .kubectl(&["get", "deployments", "-n", NAMESPACE, "-o", "name"])
        .await?;
    ensure!(left.lines().count() == 2, "{left}");
    let before = installation::boots(cluster);
    agents_go_first(cluster).await?;
    run(&[
        "uninstall",
        "medik8s",
        "-n",
        NAMESPACE,
        "--wait",
        "--timeout=60s",
    ])
    .await?;
    let crds = cluster.kubectl(&["get", "crd", "-o", "name"]).await?;
    ensure!(
        crds.contains("nodehealthchecks.remediation.medik8s.io"),
        "the CRDs, and all objects with them, are gone: {crds}"
    );
    for crd in crds.lines().filter(|line| line.contains("medik8s")) {
        cluster.kubectl(&["delete", crd, "--timeout=60s"]).await?;
    }
    cluster
        .kubectl(&["delete", "namespace", NAMESPACE, "--timeout=60s"])
        .await?;
    nothing_is_left(cluster).await?;
    installation::nobody_is_reset(cluster, &before).await?;
    println!("helm: uninstalled, nothing is left");
    Ok(())
}

/// Values that do not exist, or have the wrong type, are refused by name.
async fn refusals(cluster: &Cluster, helm: &std::path::Path, chart: &str) -> anyhow::Result<()> {
    for (value, named) in [
        ("--set=nodeMaintenence.enabled=false", "nodeMaintenence"),
        ("--set=selfNodeRemediation.replicas=many", "replicas"),
        ("--set=nodeHealthcheck.image.digest=latest", "digest"),
        ("--set=namespace.create=true", "namespace.name"),
    ] {
        let refused = installation::run(cluster, helm, &["template", "x", chart, value]).await;
        let error = refused
            .err()
            .with_context(|| format!("{value} is accepted"))?;
        let text = format!("{error:#}");
        ensure!(text.contains(named), "{value}: {text}");
    }
    Ok(())
}

/// Same objects, and in them the same rules, selectors and webhooks, as `deploy/medik8s.yaml`.
fn equals_the_manifests(rendered: &str) -> anyhow::Result<()> {
    let of = |text: &str| -> anyhow::Result<BTreeMap<(String, String), Value>> {
        Ok(documents(text)?
            .into_iter()
            .map(|object| {
                let name = |field: &Value| field.as_str().unwrap_or_default().to_owned();
                (
                    (name(&object["kind"]), name(&object["metadata"]["name"])),
                    object,
                )
            })
            .collect())
    };
    let plain = of(&medik8s_harness::manifests::all()?)?;
    let chart = of(rendered)?;
    for ((kind, name), object) in &plain {
        if kind == "Namespace" {
            continue;
        }
        let ours = chart
            .get(&(kind.clone(), name.clone()))
            .with_context(|| format!("the chart has no {kind} {name}"))?;
        for field in ["rules", "roleRef", "webhooks", "spec", "aggregationRule"] {
            let (mut theirs, mut ours) = (object[field].clone(), ours[field].clone());
            for value in [&mut theirs, &mut ours] {
                comparable(value);
            }
            ensure!(
                theirs == ours,
                "{kind} {name}: {field} is\n{ours:#}\nin the chart and\n{theirs:#}\nin the manifests"
            );
        }
    }
    ensure!(
        chart
            .keys()
            .filter(|(kind, _)| kind != "ValidatingAdmissionPolicy"
                && kind != "ValidatingAdmissionPolicyBinding")
            .all(|key| plain.contains_key(key)),
        "the chart has more objects than the manifests: {:?}",
        chart
            .keys()
            .filter(|key| !plain.contains_key(*key))
            .collect::<Vec<_>>()
    );
    Ok(())
}

/// Leaves out what differs on purpose: the namespace.
fn comparable(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("namespace");
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(comparable);
        }
        Value::Array(items) => items.iter_mut().for_each(comparable),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).context("could not read YAML")?;
    Ok(all.into_iter().filter(|value| !value.is_null()).collect())
}
