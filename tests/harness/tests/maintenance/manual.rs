//! The manual's procedures, word for word, and what users see when they do something wrong.

use anyhow::{Context as _, ensure};
use medik8s_harness::kwok::{ENDS, ENDS_AFTER_GRACE, ENDS_AT_ONCE};
use serde_json::json;

use crate::{
    SOON,
    lab::{LIMIT, Lab, USER},
};

/// Setting a node to maintenance mode, checking its progress, resuming it.
pub(crate) async fn from_begin_to_end(lab: &Lab, node: String) -> anyhow::Result<()> {
    let name = "nodemaintenance-cr";
    lab.namespace("shop").await?;
    prepare(lab, &node).await?;
    let manifest = lab.cluster.folder().join("nodemaintenance-cr.yaml");
    std::fs::write(
        &manifest,
        format!(
            "apiVersion: nodemaintenance.medik8s.io/v1beta1\nkind: NodeMaintenance\nmetadata:\n  \
             name: {name}\nspec:\n  nodeName: {node}\n  reason: \"NIC replacement\"\n"
        ),
    )?;
    let manifest = manifest.display().to_string();

    let said = lab.kubectl(&["apply", "-f", &manifest]).await?;
    ensure!(
        said.trim() == format!("nodemaintenance.nodemaintenance.medik8s.io/{name} created"),
        "kubectl apply says {said}"
    );
    lab.status_with("the first pods to be gone", name, LIMIT, |status| {
        status.drain_progress == Some(66)
    })
    .await?;
    let seen = lab
        .kubectl(&["get", "NodeMaintenance", "-o", "yaml"])
        .await?;
    for line in [
        "phase: Running",
        "drainProgress: 66",
        "evictionPods: 3",
        "totalpods: 5",
        "lastUpdate: \"",
        "- slow",
        "namespace: shop",
    ] {
        ensure!(seen.contains(line), "{line} is missing in\n{seen}");
    }
    lab.ensure_marked(&node).await?;
    let table = lab.kubectl(&["get", "nm", name, "-o", "wide"]).await?;
    for word in [
        "NODE",
        "PHASE",
        "DRAINED",
        "REASON",
        "LAST ERROR",
        "AGE",
        "NIC replacement",
        "66",
    ] {
        ensure!(table.contains(word), "{word} is missing in\n{table}");
    }
    let waits = lab
        .status_with("the end of the first round", name, LIMIT * 2, |status| {
            status.last_error.is_some()
        })
        .await?;
    let error = waits.last_error.context("no error")?;
    ensure!(
        error.starts_with("shop/slow: terminating since "),
        "lastError is {error}"
    );
    let said = lab.kubectl(&["describe", "nm", name]).await?;
    for word in [
        "Last Error:",
        "shop/slow: terminating since",
        "BeginMaintenance",
        "Reason:",
    ] {
        ensure!(said.contains(word), "{word} is missing in\n{said}");
    }

    let said = lab
        .kubectl(&[
            "wait",
            "--for=condition=Drained",
            "--timeout=40s",
            "nm",
            name,
        ])
        .await?;
    ensure!(said.contains("condition met"), "kubectl wait says {said}");
    lab.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "--timeout=5s",
        "nm",
        name,
    ])
    .await?;
    let seen = lab.kubectl(&["get", "nm", name, "-o", "yaml"]).await?;
    for line in [
        "phase: Succeeded",
        "drainProgress: 100",
        "evictionPods: 3",
        "totalpods: 5",
    ] {
        ensure!(seen.contains(line), "{line} is missing in\n{seen}");
    }
    for line in ["lastError", "pendingPods", "errorOnLeaseCount", "null"] {
        ensure!(!seen.contains(line), "{line} is in\n{seen}");
    }
    for pod in ["static", "agent"] {
        ensure!(lab.evictions(pod)?.is_empty(), "the pod {pod} was evicted");
    }
    let slow = lab.evictions("slow")?;
    ensure!(
        slow.len() == 1,
        "a terminating pod was evicted {} times",
        slow.len()
    );
    ensure!(
        lab.pods("shop").get_opt("static").await?.is_some(),
        "the mirror pod is gone"
    );
    lab.hears(name, "SucceedMaintenance").await?;
    ensure!(lab.told(name, "SucceedMaintenance").await? == 1);
    ensure!(lab.told(name, "BeginMaintenance").await? == 1);

    let said = lab.kubectl(&["delete", "-f", &manifest]).await?;
    ensure!(
        said.contains(&format!(
            "nodemaintenance.nodemaintenance.medik8s.io \"{name}\" deleted"
        )),
        "kubectl delete says {said}"
    );
    handed_back(lab, &node, name).await
}

/// The node is as it was, and everything happened in the order that keeps others away.
async fn handed_back(lab: &Lab, node: &str, name: &str) -> anyhow::Result<()> {
    let marks = lab.marks(node).await?;
    ensure!(
        marks == [false, false, false, true],
        "what was there before must stay and the rest must go: {marks:?}"
    );
    let there = lab.nodes().get(node).await?.spec.unwrap_or_default();
    let taints = there.taints.unwrap_or_default();
    ensure!(
        taints
            .iter()
            .any(|taint| taint.key == "example.com/foreign"),
        "a foreign taint is gone: {taints:?}"
    );
    ensure!(
        lab.holder(node).await?.is_none(),
        "the lease is still there"
    );
    lab.hears(node, "UncordonNode").await?;
    lab.hears(name, "RemovedMaintenance").await?;
    let described = lab.kubectl(&["describe", "node", node]).await?;
    ensure!(
        described.contains("UncordonNode"),
        "kubectl describe node does not tell\n{described}"
    );
    let lease = format!("node-{node}");
    let ours = lab.asked(|one| {
        one.user == USER
            && matches!(one.verb.as_str(), "create" | "patch" | "delete")
            && one.code < 300
            && [name, node, lease.as_str(), "quick-1"].contains(&one.name.as_str())
            && one.resource != "events"
            && one.resource != "nodemaintenances/status"
    })?;
    let order: Vec<String> = ours
        .iter()
        .map(|one| format!("{} {}", one.verb, one.resource))
        .collect();
    let expected = [
        "patch nodemaintenances", // finalizer
        "create leases",
        "patch nodemaintenances", // what the node was like
        "patch nodes",
        "create pods/eviction",
        "patch nodes",
        "delete leases",
        "patch nodemaintenances", // finalizer
    ];
    ensure!(order == expected, "the order was {order:#?}");
    Ok(())
}

/// Three pods that go (one slowly), one of a DaemonSet, one mirror pod; marks of others.
async fn prepare(lab: &Lab, node: &str) -> anyhow::Result<()> {
    lab.kubectl(&[
        "taint",
        "node",
        node,
        "example.com/foreign=x:PreferNoSchedule",
    ])
    .await?;
    let label = "remediation.medik8s.io/exclude-from-remediation=true";
    lab.kubectl(&["label", "node", node, label]).await?;
    lab.cluster
        .apply_text(&format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent, namespace: shop}}\n\
             spec:\n  selector: {{matchLabels: {{app: agent}}}}\n  template:\n    \
             metadata: {{labels: {{app: agent}}}}\n    spec:\n      \
             nodeSelector: {{kubernetes.io/hostname: {node}}}\n      \
             tolerations: [{{operator: Exists}}]\n      \
             containers: [{{name: agent, image: none}}]\n"
        ))
        .await?;
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
    lab.pod("shop", "static", node, mirror).await?;
    for name in ["quick-1", "quick-2"] {
        let quick = json!({"metadata": {"labels": {ENDS: ENDS_AT_ONCE}}});
        lab.pod("shop", name, node, quick).await?;
    }
    let slow = json!({
        "metadata": {"labels": {ENDS: ENDS_AFTER_GRACE}},
        "spec": {"terminationGracePeriodSeconds": 38,
            "volumes": [{"name": "scratch", "emptyDir": {}}]},
    });
    lab.pod("shop", "slow", node, slow).await?;
    let agents = kube::api::ListParams::default().labels("app=agent");
    medik8s_harness::wait::until("the DaemonSet's pod", LIMIT, async || {
        let found = lab.pods("shop").list(&agents).await?;
        Ok((found.items.len() == 1).then_some(()))
    })
    .await
}

/// The operator could not do what it must not, even if it wanted.
pub(crate) async fn rights(lab: &Lab, _: String) -> anyhow::Result<()> {
    let as_operator = format!("--as={USER}");
    for (verb, what, part, expected) in [
        ("create", "pods", "eviction", "yes"),
        ("patch", "nodes", "", "yes"),
        ("delete", "pods", "", "no"),
        ("deletecollection", "pods", "", "no"),
        ("delete", "nodes", "", "no"),
        ("delete", "nodemaintenances", "", "no"),
        ("update", "pods", "", "no"),
    ] {
        let part = format!("--subresource={part}");
        let args = [
            "auth",
            "can-i",
            verb,
            what,
            &part,
            "--all-namespaces",
            &as_operator,
        ];
        // kubectl ends with an error when the answer is no.
        let said = match lab.kubectl(&args).await {
            Ok(said) => said.trim().to_owned(),
            Err(_) => "no".to_owned(),
        };
        ensure!(said == expected, "may the operator {verb} {what}? {said}");
    }
    Ok(())
}

/// What the webhook and the schema say.
pub(crate) async fn admission(lab: &Lab, node: String) -> anyhow::Result<()> {
    let manifest = |name: &str, spec: &str| {
        format!(
            "apiVersion: nodemaintenance.medik8s.io/v1beta1\nkind: NodeMaintenance\n\
             metadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let expect = async |name: &str, spec: &str, words: &str| {
        let said = lab.refused(&manifest(name, spec)).await?;
        ensure!(said.contains(words), "{spec}: {said}");
        anyhow::Ok(())
    };
    let denied = "admission webhook \"vnodemaintenance.kb.io\" denied the request: ";
    expect(
        "nowhere",
        "{nodeName: worker-99}",
        &format!("{denied}invalid nodeName, no node with name worker-99 found"),
    )
    .await?;
    expect("x", &format!("{{nodeName: {node}, reason: 5}}"), "reason").await?;
    expect("x", "{reason: none}", "nodeName").await?;
    let drain = |drain: &str| format!("{{nodeName: {node}, drain: {drain}}}");
    expect(
        "x",
        &drain("{gracePeriodSeconds: 0}"),
        "greater than or equal to 1",
    )
    .await?;
    let selector = "{podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}";
    expect("x", &drain(selector), "spec.drain.podSelector").await?;

    let first =
        object_by_kubectl(lab, &manifest("first", &format!("{{nodeName: {node}}}"))).await?;
    ensure!(first.contains("created"), "{first}");
    expect(
        "second",
        &format!("{{nodeName: {node}}}"),
        &format!("{denied}invalid nodeName, a NodeMaintenance for node {node} already exists"),
    )
    .await?;
    let dry = lab
        .kubectl(&[
            "patch",
            "nm",
            "first",
            "--type=merge",
            "-p",
            "{\"spec\":{\"nodeName\":\"worker-1\"}}",
        ])
        .await
        .err()
        .context("the node name was changed")?;
    let dry = format!("{dry:#}");
    ensure!(
        dry.contains("updating spec.NodeName isn't allowed"),
        "{dry}"
    );
    lab.kubectl(&[
        "patch",
        "nm",
        "first",
        "--type=merge",
        "-p",
        "{\"spec\":{\"reason\":\"other\"}}",
    ])
    .await?;
    lab.succeeds("first").await?;
    lab.end("first").await?;
    medik8s_harness::wait::until("the node to be given back", SOON, async || {
        Ok(lab.ensure_bare(&node).await.ok())
    })
    .await
}

/// `kubectl create`, so that the server is asked to create and not to apply.
async fn object_by_kubectl(lab: &Lab, manifest: &str) -> anyhow::Result<String> {
    let file = lab.cluster.folder().join("created.yaml");
    std::fs::write(&file, manifest)?;
    lab.kubectl(&["create", "-f", &file.display().to_string()])
        .await
}
