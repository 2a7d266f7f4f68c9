//! What the accounts may do: enough, not more, and agents only to their own Node.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use medik8s_api::names::snr;
use medik8s_harness::{Cluster, audit, manifests, tools};
use serde_json::{Value, json};

/// An agent's own token: its announcement is taken, everything else is refused by the policy.
pub(crate) async fn agents_write_to_their_own_node_only(cluster: &Cluster) -> anyhow::Result<()> {
    let (client, own) = as_an_agent(cluster).await?;
    let nodes: Api<Node> = Api::all(client);
    let annotate = |key: &str| json!({"metadata": {"annotations": {key: "x"}}});
    let other = cluster
        .machines()
        .map(|machine| machine.name().to_owned())
        .find(|name| *name != own)
        .context("there is one node only")?;
    let patch = async |node: &str, patch: Value| {
        nodes
            .patch(node, &PatchParams::default(), &Patch::Merge(patch))
            .await
    };
    patch(&own, annotate(snr::WATCHDOG_TIMEOUT_ANNOTATION)).await?;
    for (node, change, why) in [
        (
            &other,
            annotate(snr::ANNOUNCED_ANNOTATION),
            "may not write to node",
        ),
        (&own, annotate("somebody/elses"), "its own annotations only"),
        (
            &own,
            json!({"metadata": {"labels": {"a": "b"}}}),
            "nothing of its Node but",
        ),
        (
            &own,
            json!({"spec": {"unschedulable": true}}),
            "nothing of its Node but",
        ),
    ] {
        let refused = patch(node, change.clone())
            .await
            .err()
            .with_context(|| format!("{change} was taken by {node}"))?;
        ensure!(refused.to_string().contains(why), "{change}: {refused}");
    }
    Ok(())
}

/// A client with the token of the agent on worker-2, and that node.
async fn as_an_agent(cluster: &Cluster) -> anyhow::Result<(Client, String)> {
    let pods: Api<Pod> = Api::all(cluster.admin());
    let agents = pods
        .list(&ListParams::default().labels("app.kubernetes.io/component=agent"))
        .await?;
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let pod = agents
        .iter()
        .find(|pod| node(pod).as_deref() == Some("worker-2"))
        .context("worker-2 has no agent")?;
    let uid = pod.metadata.uid.clone().context("no UID")?;
    let file = cluster.folder().join("pods").join(uid).join("kubeconfig");
    let kubeconfig: Kubeconfig = serde_json::from_slice(&fs::read(file)?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok((Client::try_from(config)?, "worker-2".to_owned()))
}

/// No operator and no agent was refused anything for want of a right.
pub(crate) fn every_request_was_allowed(cluster: &Cluster) -> anyhow::Result<()> {
    let refused: BTreeSet<String> = audit::read(&cluster.audit_log())?
        .into_iter()
        .filter(|request| request.code == 403 && request.user.starts_with("system:serviceaccount:"))
        // The test itself tries what the policy forbids.
        .filter(|request| request.resource != "nodes" || !request.user.ends_with("-agent"))
        .filter(|request| {
            ["remediation", "node-healthcheck", "node-maintenance"]
                .iter()
                .any(|word| request.user.contains(word))
        })
        .map(|request| format!("{}: {} {} {}", request.user, request.verb, request.resource, request.name))
        .collect();
    ensure!(refused.is_empty(), "refused: {refused:#?}");
    Ok(())
}

/// A right that this suite cannot use, and why it is needed all the same; from
/// `manifests/justified-rights.txt`.
struct Justified {
    account: String,
    resource: String,
    verbs: Vec<String>,
    line: String,
}

fn justified() -> anyhow::Result<Vec<Justified>> {
    let file = tools::repository().join("tests/harness/manifests/justified-rights.txt");
    let text = fs::read_to_string(file)?;
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let [account, resource, verbs, reason] = fields.as_slice() else {
                anyhow::bail!("not account | resource | verbs | reason: {line}");
            };
            ensure!(reason.len() > 10, "no reason: {line}");
            Ok(Justified {
                account: (*account).to_owned(),
                resource: (*resource).to_owned(),
                verbs: verbs.split_whitespace().map(str::to_owned).collect(),
                line: line.to_owned(),
            })
        })
        .collect()
}

/// Every right of every account was used, or its reason stands in the table.
pub(crate) fn every_right_is_used(cluster: &Cluster) -> anyhow::Result<()> {
    let requests = audit::read(&cluster.audit_log())?;
    let justified = justified()?;
    let mut unused = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for grant in grants()? {
        let used = requests.iter().any(|request| {
            request.user.ends_with(&format!(":{}", grant.account))
                && request.group == grant.group
                && request.resource == grant.resource
                && request.verb == grant.verb
                && request.code < 400
        });
        let place = format!("{}.{}", grant.resource, grant.group);
        let reason = justified.iter().find(|entry| {
            entry.account == grant.account
                && (entry.resource == place || entry.resource == grant.resource)
                && entry.verbs.contains(&grant.verb)
        });
        if let Some(entry) = reason {
            seen.insert(entry.line.clone());
        } else if !used {
            unused.insert(format!("{} | {place} | {}", grant.account, grant.verb));
        }
    }
    let stale: Vec<&String> = justified
        .iter()
        .map(|entry| &entry.line)
        .filter(|line| !seen.contains(*line))
        .collect();
    ensure!(stale.is_empty(), "justified, but not granted: {stale:#?}");
    ensure!(
        unused.is_empty(),
        "granted, but never used and not justified: {unused:#?}"
    );
    Ok(())
}

/// One verb on one resource.
struct Grant {
    account: String,
    group: String,
    resource: String,
    verb: String,
}

/// What the shipped roles grant to our accounts.
fn grants() -> anyhow::Result<Vec<Grant>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&manifests::all()?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(text).collect()
    };
    let mut grants = Vec::new();
    for binding in &objects {
        if !binding["roleRef"].is_object() {
            continue;
        }
        let role = objects.iter().find(|role| {
            role["kind"] == binding["roleRef"]["kind"]
                && role["metadata"]["name"] == binding["roleRef"]["name"]
                && role["metadata"]["namespace"] == binding["metadata"]["namespace"]
        });
        let rules = role.map(|role| role["rules"].clone()).unwrap_or_default();
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            for rule in rules.as_array().into_iter().flatten() {
                for group in words(&rule["apiGroups"]) {
                    for resource in words(&rule["resources"]) {
                        for verb in words(&rule["verbs"]) {
                            grants.push(Grant {
                                account: text(&subject["name"]),
                                group: group.clone(),
                                resource: resource.clone(),
                                verb,
                            });
                        }
                    }
                }
            }
        }
    }
    ensure!(grants.len() > 50, "only {} rights", grants.len());
    Ok(grants)
}
