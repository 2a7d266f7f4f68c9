//! From the Subscription of the manual to the uninstallation.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use medik8s_api::names::{nmo, snr};
use medik8s_harness::{Cluster, installation, tools, wait};
use serde_json::Value;

use crate::{
    Report,
    bundles::{self, Made, NEW, OLD},
    manager::{self, Olm},
};

pub(crate) const NAMESPACE: &str = "openshift-workload-availability";

pub(crate) async fn run(
    cluster: &Cluster,
    _olm: &Olm,
    made: &Made,
    report: &mut Report,
) -> anyhow::Result<()> {
    // All but the Subscriptions: the first installation is by the catalog with dependencies.
    for document in manual()? {
        if !document.contains("kind: Subscription") {
            cluster.apply_text(&document).await?;
        }
    }
    report
        .needs(
            "NHC by Subscription, Succeeded; it brings SNR along",
            async {
                subscribe(cluster, "node-healthcheck-operator", "Automatic").await?;
                succeeded(cluster, "node-healthcheck-operator", OLD).await?;
                succeeded(cluster, "self-node-remediation", OLD).await
            },
        )
        .await?;
    report
        .needs(
            "NMO by Manual approval: nothing before it, Succeeded after it",
            async {
                settled(cluster).await?;
                subscribe(cluster, "node-maintenance-operator", "Manual").await?;
                approve(cluster, &format!("node-maintenance-operator.v{OLD}")).await?;
                succeeded(cluster, "node-maintenance-operator", OLD).await
            },
        )
        .await?;
    let shown = cluster.kubectl(&["get", "csv", "-n", NAMESPACE]).await?;
    for line in shown.lines() {
        show(line);
    }
    report
        .needs("Deployments are available, agents are armed", async {
            installation::available(cluster, NAMESPACE, 3).await?;
            installation::armed(cluster).await
        })
        .await?;
    report
        .sees(
            "each metrics Service selects its own operator only",
            services(cluster),
        )
        .await;
    report
        .sees(
            "examples are accepted by the webhooks with OLM's certificates, bad ones refused",
            webhooks(cluster, made),
        )
        .await;
    report
        .sees(
            "the aggregated role is bound, the agents' policy is there",
            grants(cluster),
        )
        .await;
    report
        .sees(
            "the example of the console ends in a remediated node",
            async {
                let check = example(made, "node-healthcheck-operator", "NodeHealthCheck")?;
                let check = serde_json::to_string(&check)?;
                installation::remediate(cluster, &check, "worker-1")
                    .await
                    .map(drop)
            },
        )
        .await;
    update(cluster, made, report).await?;
    uninstall(cluster, Some("kept"), report).await?;
    report
        .sees(
            "the command for a stuck finalizer ends what nobody ends",
            stuck(cluster),
        )
        .await;
    let begin = Instant::now();
    report
        .needs(
            "the manifests of the manual, from a catalog without dependencies",
            async {
                for document in manual()? {
                    cluster.apply_text(&document).await?;
                }
                succeeded(cluster, "node-healthcheck-operator", NEW).await?;
                succeeded(cluster, "self-node-remediation", NEW).await?;
                installation::available(cluster, NAMESPACE, 2).await?;
                installation::armed(cluster).await
            },
        )
        .await?;
    report
        .sees("and again a remediated node", async {
            let check = example(made, "node-healthcheck-operator", "NodeHealthCheck")?;
            installation::remediate(cluster, &check.to_string(), "worker-2")
                .await
                .map(drop)
        })
        .await;
    println!(
        "        from the manifests of the manual to a remediated node: {:.0?}",
        begin.elapsed()
    );
    uninstall(cluster, None, report).await?;
    for package in bundles::PACKAGES {
        report
            .needs(&format!("{package} alone, Succeeded"), async {
                subscribe(cluster, package, "Automatic").await?;
                succeeded(cluster, package, NEW).await?;
                remove(cluster).await
            })
            .await?;
    }
    Ok(())
}

/// What stood there before an update must stand there after it.
async fn update(cluster: &Cluster, made: &Made, report: &mut Report) -> anyhow::Result<()> {
    let mut check = example(made, "node-healthcheck-operator", "NodeHealthCheck")?;
    check["metadata"]["name"] = "kept".into();
    check["spec"]["selector"] = serde_json::json!({"matchLabels": {"no": "node"}});
    cluster.apply_text(&check.to_string()).await?;
    let kept = async || {
        let kept = cluster
            .kubectl(&["get", "nhc", "kept", "-o", "json"])
            .await?;
        let kept: Value = serde_json::from_str(&kept)?;
        anyhow::Ok((kept["spec"].clone(), kept["metadata"]["uid"].clone()))
    };
    let before = kept().await?;
    report
        .needs(
            "an operator that drains says Upgradeable=False",
            a_drain_that_is_held(cluster),
        )
        .await?;
    manager::catalog(cluster, 2).await?;
    report
        .needs("the update waits while the drain goes on", async {
            // A Manual subscription makes all plans of its namespace Manual.
            approve(cluster, &format!("node-maintenance-operator.v{NEW}")).await?;
            let csv = format!("node-maintenance-operator.v{NEW}");
            let reason = "OperatorConditionNotUpgradeable";
            shows(cluster, "csv", &csv, "{.status.reason}", reason).await?;
            cluster
                .kubectl(&["delete", "poddisruptionbudget", "held"])
                .await?;
            Ok(())
        })
        .await?;
    report
        .needs(
            "update by replaces (NHC, SNR) and by skipRange (NMO), approved by hand",
            async {
                for package in bundles::PACKAGES {
                    succeeded(cluster, package, NEW).await?;
                }
                Ok(())
            },
        )
        .await?;
    report
        .sees(
            "objects survive the update unchanged; the new managers run",
            async {
                cluster
                    .kubectl(&["delete", "nm", "held", "--timeout=30s"])
                    .await?;
                installation::available(cluster, NAMESPACE, 3).await?;
                ensure!(kept().await? == before, "the health check was changed");
                let images = cluster
                    .kubectl(&[
                        "get",
                        "deployments",
                        "-n",
                        NAMESPACE,
                        "-o",
                        "jsonpath={..image}",
                    ])
                    .await?;
                ensure!(
                    images
                        .split(' ')
                        .all(|image| image.ends_with(&format!(":v{NEW}"))),
                    "{images}"
                );
                Ok(())
            },
        )
        .await;
    Ok(())
}

/// A maintenance whose drain a budget holds, until the operator has told OLM about it.
async fn a_drain_that_is_held(cluster: &Cluster) -> anyhow::Result<()> {
    let held = "apiVersion: v1\n\
         kind: Pod\n\
         metadata: {name: held, namespace: default, labels: {app: held}}\n\
         spec: {nodeName: worker-3, containers: [{name: c, image: x}]}\n\
         ---\n\
         apiVersion: policy/v1\n\
         kind: PodDisruptionBudget\n\
         metadata: {name: held, namespace: default}\n\
         spec: {minAvailable: 1, selector: {matchLabels: {app: held}}}\n\
         ---\n\
         apiVersion: nodemaintenance.medik8s.io/v1beta1\n\
         kind: NodeMaintenance\n\
         metadata: {name: held}\n\
         spec: {nodeName: worker-3}\n";
    cluster.apply_text(held).await?;
    let name = format!("node-maintenance-operator.v{OLD}");
    let path = "{.status.conditions[?(@.type==\"Upgradeable\")].status}";
    shows(cluster, "operatorcondition", &name, path, "False").await
}

/// Waits until a field of an object in OLM's namespace has a value.
async fn shows(
    cluster: &Cluster,
    kind: &str,
    name: &str,
    path: &str,
    value: &str,
) -> anyhow::Result<()> {
    let what = format!("{path} of {kind} {name} to be {value}");
    wait::until(&what, Duration::from_mins(1), async || {
        let output = format!("jsonpath={path}");
        let shown = cluster
            .kubectl(&["get", kind, name, "-n", NAMESPACE, "-o", &output])
            .await?;
        ensure!(shown == value, "{shown}");
        Ok(Some(()))
    })
    .await
}

/// What the manual says for uninstalling.
pub(crate) async fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    let ours = ["-n", NAMESPACE];
    let agents = ["delete", "selfnoderemediationconfig", "--all"];
    // After an update OLM makes the certificates anew, and writes the new CA before the manager sees them.
    wait::until(
        "the webhook to have OLM's certificate",
        Duration::from_mins(1),
        async || {
            cluster
                .kubectl(&[&agents[..], &ours].concat())
                .await
                .map(Some)
        },
    )
    .await?;
    let ended = [
        "wait",
        "--for=delete",
        "pod",
        "-l",
        snr::AGENT_SELECTOR,
        "--timeout=2m",
    ];
    cluster.kubectl(&[&ended[..], &ours].concat()).await?;
    for kinds in ["subscriptions", "csv"] {
        cluster
            .kubectl(&["delete", kinds, "--all", "-n", NAMESPACE, "--timeout=60s"])
            .await?;
    }
    Ok(())
}

async fn uninstall(
    cluster: &Cluster,
    survivor: Option<&str>,
    report: &mut Report,
) -> anyhow::Result<()> {
    // A manager that starts in the middle makes the configuration anew, and with it the agents.
    settled(cluster).await?;
    let before = installation::boots(cluster);
    remove(cluster).await?;
    report
        .sees(
            "uninstalled: CRDs, objects and roles stay, nothing that runs",
            async {
                wait::until(
                    "what OLM removes to be gone",
                    Duration::from_mins(1),
                    async || {
                        let left = installation::ours(cluster).await?;
                        // What the operators made for good: the configuration owns the agents.
                        let runs: Vec<&String> = left
                            .iter()
                            .filter(|name| {
                                [
                                    "Deployment/",
                                    "Service/",
                                    "ServiceAccount/",
                                    "webhook",
                                    "Role/",
                                    "RoleBinding/",
                                ]
                                .iter()
                                .any(|kind| name.contains(kind))
                            })
                            .filter(|name| !name.contains("Service/self-node-remediation-agent"))
                            // Its own, which OLM forgets, and what every namespace has.
                            .filter(|name| !name.ends_with("-service-auth-reader"))
                            .filter(|name| !name.contains("ServiceAccount/default"))
                            .collect();
                        ensure!(runs.is_empty(), "left: {runs:?}");
                        ensure!(
                            left.iter().any(|name| name.contains("nodehealthchecks")),
                            "the CRDs are gone"
                        );
                        Ok(Some(()))
                    },
                )
                .await?;
                if let Some(name) = survivor {
                    cluster.kubectl(&["get", "nhc", name]).await?;
                }
                installation::nobody_is_reset(cluster, &before).await
            },
        )
        .await;
    Ok(())
}

/// A remediation and a maintenance whose operators are gone, and the commands of the manual.
async fn stuck(cluster: &Cluster) -> anyhow::Result<()> {
    let open = format!(
        "apiVersion: self-node-remediation.medik8s.io/v1alpha1\n\
         kind: SelfNodeRemediation\n\
         metadata: {{name: stuck, namespace: {NAMESPACE}, finalizers: [{}]}}\n\
         ---\n\
         apiVersion: nodemaintenance.medik8s.io/v1beta1\n\
         kind: NodeMaintenance\n\
         metadata: {{name: stuck, finalizers: [{}]}}\n\
         spec: {{nodeName: worker-4}}\n",
        snr::FINALIZER,
        nmo::FINALIZER
    );
    cluster.apply_text(&open).await?;
    let page = fs::read_to_string(tools::repository().join("docs/install.md"))?;
    for kind in ["selfnoderemediation", "nodemaintenance"] {
        let object = [kind, "stuck", "-n", NAMESPACE];
        cluster
            .kubectl(&[&["delete", "--wait=false"][..], &object].concat())
            .await?;
        ensure!(
            cluster
                .kubectl(&[&["get"][..], &object].concat())
                .await
                .is_ok(),
            "{kind} does not wait for its finalizer"
        );
        let command = page
            .lines()
            .filter_map(|line| line.strip_prefix("    kubectl "))
            .find(|line| line.contains(&format!("patch {kind} NAME")))
            .context("the manual has no command for it")?
            .replace("NAMESPACE", NAMESPACE)
            .replace("NAME", "stuck")
            .replace('\'', "");
        let words: Vec<&str> = command.split(' ').collect();
        cluster.kubectl(&words).await?;
        ensure!(
            cluster
                .kubectl(&[&["get"][..], &object].concat())
                .await
                .is_err(),
            "{kind} is still there"
        );
    }
    Ok(())
}

/// The manifests that the manual prints.
fn manual() -> anyhow::Result<Vec<String>> {
    let page = fs::read_to_string(tools::repository().join("docs/install.md"))?;
    let block = page
        .split_once("## OLM")
        .and_then(|(_, rest)| rest.split_once("```yaml\n"))
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(block, _)| block.to_owned())
        .context("docs/install.md prints no manifests for OLM")?;
    Ok(block.split("---\n").map(str::to_owned).collect())
}

pub(crate) async fn subscribe(
    cluster: &Cluster,
    package: &str,
    approval: &str,
) -> anyhow::Result<()> {
    cluster
        .apply_text(&format!(
            "apiVersion: operators.coreos.com/v1alpha1\n\
             kind: Subscription\n\
             metadata: {{name: {package}, namespace: {NAMESPACE}}}\n\
             spec: {{name: {package}, channel: stable, source: medik8s, sourceNamespace: olm, installPlanApproval: {approval}}}\n"
        ))
        .await
}

/// Waits until OLM is done with the namespace. It reads the Subscriptions before and after it asks the
/// catalogs: one that comes in between is resolved, but its approval is overlooked.
async fn settled(cluster: &Cluster) -> anyhow::Result<()> {
    let kinds = "subscriptions,installplans.operators.coreos.com,csv";
    let versions = [
        "get",
        kinds,
        "-n",
        NAMESPACE,
        "-o",
        "jsonpath={.items[*].metadata.resourceVersion}",
    ];
    wait::until("OLM to be done", Duration::from_mins(2), async || {
        let before = cluster.kubectl(&versions).await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        Ok((cluster.kubectl(&versions).await? == before).then_some(()))
    })
    .await
}

/// Approves the plan for a ClusterServiceVersion, which must not be there before, until it is there.
async fn approve(cluster: &Cluster, csv: &str) -> anyhow::Result<()> {
    // OLM's resolver fails while it has not noticed what it did itself a moment before ("ResolutionFailed"),
    // and tries again after pauses that double.
    let limit = Duration::from_mins(3);
    wait::until("an install plan", limit, async || {
        let plans = unapproved(cluster, csv).await?;
        Ok((!plans.is_empty()).then_some(()))
    })
    .await?;
    let there = cluster.kubectl(&["get", "csv", csv, "-n", NAMESPACE]).await;
    ensure!(
        there.is_err(),
        "{csv} is there before its plan was approved"
    );
    // When OLM resolves anew before it has begun, another plan takes the place of the approved one.
    wait::until("the approved plan to be carried out", limit, async || {
        for plan in unapproved(cluster, csv).await? {
            let patch = "{\"spec\":{\"approved\":true}}";
            let object = ["installplan", &plan, "-n", NAMESPACE];
            cluster
                .kubectl(&[&["patch"], &object[..], &["--type=merge", "-p", patch]].concat())
                .await?;
        }
        let get = ["get", "csv", csv, "-n", NAMESPACE];
        cluster.kubectl(&get).await.map(Some)
    })
    .await?;
    Ok(())
}

/// Plans for a ClusterServiceVersion that nobody has approved.
async fn unapproved(cluster: &Cluster, csv: &str) -> anyhow::Result<Vec<String>> {
    let plans = cluster
        .kubectl(&["get", "installplans", "-n", NAMESPACE, "-o", "json"])
        .await?;
    let plans: Value = serde_json::from_str(&plans)?;
    Ok(plans["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|plan| {
            let names = plan["spec"]["clusterServiceVersionNames"].as_array();
            plan["spec"]["approved"] == false
                && names.is_some_and(|names| names.iter().any(|name| name == csv))
        })
        .filter_map(|plan| plan["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

pub(crate) async fn succeeded(
    cluster: &Cluster,
    package: &str,
    version: &str,
) -> anyhow::Result<()> {
    let csv = format!("{package}.v{version}");
    wait::until(
        &format!("{csv} to be Succeeded"),
        Duration::from_mins(2),
        async || {
            let status = cluster
                .kubectl(&[
                    "get",
                    "csv",
                    &csv,
                    "-n",
                    NAMESPACE,
                    "-o",
                    "jsonpath={.status.phase}: {.status.reason}: {.status.message}",
                ])
                .await?;
            ensure!(status.starts_with("Succeeded"), "{csv}: {status}");
            Ok(Some(()))
        },
    )
    .await
}

/// Every address behind a metrics Service is that of a pod of its operator.
async fn services(cluster: &Cluster) -> anyhow::Result<()> {
    for prefix in [
        "node-healthcheck",
        "self-node-remediation",
        "node-maintenance-operator",
    ] {
        let service = format!("{prefix}-controller-manager-metrics-service");
        let pods = cluster
            .kubectl(&[
                "get",
                "endpointslices",
                "-n",
                NAMESPACE,
                "-l",
                &format!("kubernetes.io/service-name={service}"),
                "-o",
                "jsonpath={..targetRef.name}",
            ])
            .await?;
        ensure!(!pods.trim().is_empty(), "{service} selects nothing");
        let own = format!("{prefix}-controller-manager-");
        ensure!(
            pods.split_whitespace().all(|pod| pod.starts_with(&own)),
            "{service} selects {pods}"
        );
    }
    Ok(())
}

async fn webhooks(cluster: &Cluster, made: &Made) -> anyhow::Result<()> {
    for (package, kind) in [
        ("node-healthcheck-operator", "NodeHealthCheck"),
        ("node-maintenance-operator", "NodeMaintenance"),
        ("self-node-remediation", "SelfNodeRemediation"),
        ("self-node-remediation", "SelfNodeRemediationTemplate"),
    ] {
        let example = example(made, package, kind)?.to_string();
        let file = cluster.folder().join("example.json");
        fs::write(&file, example)?;
        let file = file.display().to_string();
        cluster
            .kubectl(&[
                "create",
                "--dry-run=server",
                "--validate=strict",
                "-f",
                &file,
            ])
            .await?;
    }
    let mut bad = example(made, "node-healthcheck-operator", "NodeHealthCheck")?;
    bad["spec"]["selector"] = serde_json::json!({});
    let mut lost = example(made, "node-maintenance-operator", "NodeMaintenance")?;
    lost["spec"]["nodeName"] = "no-such-node".into();
    for (what, named) in [(bad, "Selector is mandatory"), (lost, "no-such-node")] {
        let file = cluster.folder().join("bad.json");
        fs::write(&file, what.to_string())?;
        let file = file.display().to_string();
        let refused = cluster
            .kubectl(&["create", "--dry-run=server", "-f", &file])
            .await;
        let error = format!("{:#}", refused.err().context("a bad object is accepted")?);
        ensure!(error.contains(named) && error.contains("denied"), "{error}");
    }
    Ok(())
}

async fn grants(cluster: &Cluster) -> anyhow::Result<()> {
    wait::until(
        "the binding and the policy",
        Duration::from_secs(30),
        async || {
            let account = format!(
                "--as=system:serviceaccount:{NAMESPACE}:node-healthcheck-controller-manager"
            );
            let can = cluster
                .kubectl(&[
                    "auth",
                    "can-i",
                    "create",
                    "selfnoderemediations.self-node-remediation.medik8s.io",
                    &account,
                ])
                .await?;
            ensure!(
                can.trim() == "yes",
                "the health checker may not create remediations"
            );
            cluster
                .kubectl(&[
                    "get",
                    "validatingadmissionpolicybinding",
                    "self-node-remediation-agent",
                ])
                .await?;
            Ok(Some(()))
        },
    )
    .await
}

/// An example as the console offers it.
pub(crate) fn example(made: &Made, package: &str, kind: &str) -> anyhow::Result<Value> {
    let file = made.old.join(format!(
        "bundle/{package}/manifests/{package}.clusterserviceversion.yaml"
    ));
    let csv: Value = serde_saphyr::from_str(&fs::read_to_string(file)?)?;
    let text = csv["metadata"]["annotations"]["alm-examples"]
        .as_str()
        .context("no examples")?;
    let examples: Vec<Value> = serde_json::from_str(text)?;
    examples
        .into_iter()
        .find(|example| example["kind"] == kind)
        .with_context(|| format!("no example of {kind}"))
}

fn show(line: &str) {
    println!("        {line}");
}
