//! Kinds that nobody knows, rights that are missing, objects that nobody can read.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use medik8s_harness::{
    healthcheck::{Lab, Manager, REMEDIATIONS, SHIPPED, https, kinds, names, single},
    wait,
};
use serde_json::{Value, json};

use crate::{SOON, Scenario};

pub(crate) fn scenarios(lab: &Lab) -> Vec<Scenario<'_>> {
    vec![
        (
            "a third party's kind is installed later",
            third_party(lab).boxed_local(),
        ),
        (
            "a kind without rights blocks only its own health check",
            forbidden(lab).boxed_local(),
        ),
        (
            "malformed objects stop nothing",
            malformed(lab).boxed_local(),
        ),
        ("what a role lacks is polled", polled(lab).boxed_local()),
    ]
}

/// Installs a kind with one template.
async fn install(
    lab: &Lab,
    kind: &kube::api::ApiResource,
    role: Option<Value>,
) -> anyhow::Result<()> {
    let both = [
        kinds::definition(kind, true),
        kinds::definition(&kinds::template_of(kind), true),
    ];
    let mut documents = both.to_vec();
    documents.extend(role);
    lab.cluster.apply_text(&kinds::manifest(&documents)).await?;
    let template = kinds::template(
        kind,
        REMEDIATIONS,
        "mine",
        false,
        &json!({"anything": {"at": "all"}}),
    );
    wait::until("the kind to be served", SOON, async || {
        lab.cluster
            .apply_text(&template.to_string())
            .await
            .map(Some)
    })
    .await
}

async fn third_party(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("third-party", kinds::third_party());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reference = kinds::reference(&kind, REMEDIATIONS, "mine");
    lab.put_check(name, single(name, json!(0), reference))
        .await?;
    lab.says(name, "is its operator installed?", SOON).await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    install(lab, &kind, Some(kinds::role(&kind, kinds::ALL_VERBS))).await?;
    let limit = Duration::from_secs(20);
    let found = lab.remediated(&kind, &nodes, 1, limit).await?.remove(0);
    ensure!(
        found.name_any() == nodes[0],
        "it said nothing about several templates"
    );
    ensure!(
        found.data["spec"] == json!({"anything": {"at": "all"}}),
        "{:?}",
        found.data
    );
    lab.heal_nodes(&nodes[..1]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    Ok(())
}

async fn forbidden(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("forbidden", kinds::forbidden());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    install(lab, &kind, None).await?;
    let reference = kinds::reference(&kind, REMEDIATIONS, "mine");
    lab.put_check(name, single(name, json!(0), reference))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    let said = lab
        .says(name, "cannot get resource", Duration::from_secs(20))
        .await?;
    ensure!(said.contains("not remediating forbidden-1"), "{said}");
    // The others go on working: that is what all other scenarios show at the same time.
    let role = kinds::role(&kind, kinds::ALL_VERBS);
    lab.cluster.apply_text(&role.to_string()).await?;
    lab.remediated(&kind, &nodes, 1, Duration::from_secs(30))
        .await?;
    Ok(())
}

/// The role of an older platform: neither list nor watch nor patch.
async fn polled(lab: &Lab) -> anyhow::Result<()> {
    let name = "polled";
    let kind = kube::api::ApiResource {
        group: "fencing.old.example".to_owned(),
        api_version: "fencing.old.example/v1".to_owned(),
        kind: "OldFence".to_owned(),
        plural: "oldfences".to_owned(),
        version: "v1".to_owned(),
    };
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let role = kinds::role(&kind, &["get", "create", "update", "delete"]);
    install(lab, &kind, Some(role)).await?;
    let reference = kinds::reference(&kind, REMEDIATIONS, "mine");
    lab.put_check(name, single(name, json!(0), reference))
        .await?;
    lab.says(name, "may not be listed", Duration::from_secs(20))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    lab.heal_nodes(&nodes[..1]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    Ok(())
}

async fn malformed(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("malformed", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    // It matches the pattern of the schema, and no 64-bit number of nanoseconds can hold it.
    let mut spec = single(name, json!(0), reboot.clone());
    spec["unhealthyConditions"][0]["duration"] = json!("99999999999h");
    lab.put_check(name, spec).await?;
    lab.says(
        name,
        "NHC is disabled: InvalidSpec: spec.unhealthyConditions",
        SOON,
    )
    .await?;
    lab.told_once(name, "Disabled", "InvalidSpec").await?;
    // A remediation that says strange things about itself.
    let third = kube::api::ApiResource {
        group: "fencing.strange.example".to_owned(),
        api_version: "fencing.strange.example/v1".to_owned(),
        kind: "StrangeFence".to_owned(),
        plural: "strangefences".to_owned(),
        version: "v1".to_owned(),
    };
    install(lab, &third, Some(kinds::role(&third, kinds::ALL_VERBS))).await?;
    let reference = kinds::reference(&third, REMEDIATIONS, "mine");
    lab.put_check("strange", single(name, json!(0), reference))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    let found = lab
        .remediated(&third, &nodes, 1, Duration::from_secs(20))
        .await?
        .remove(0);
    let api: Api<DynamicObject> = lab.dynamic(&third, REMEDIATIONS);
    for status in [
        json!({"conditions": "text"}),
        json!({"conditions": [1, {"type": 7}, null]}),
    ] {
        let patch = json!({"metadata": {"annotations": {
            "remediation.medik8s.io/healthy-delay": "yesterday"}}, "status": status});
        let params = PatchParams::default();
        api.patch_status(&found.name_any(), &params, &Patch::Merge(&patch))
            .await?;
        api.patch(&found.name_any(), &params, &Patch::Merge(&patch))
            .await?;
    }
    // Objects of the kind that are nobody's.
    let mut stray = DynamicObject::new("stray", &third).within(REMEDIATIONS);
    stray.meta_mut().annotations =
        Some([("remediation.medik8s.io/node-name".to_owned(), String::new())].into());
    stray.data = json!({"spec": null});
    api.create(&PostParams::default(), &stray).await?;
    lab.heal_nodes(&nodes[..1]).await?;
    wait::until("only the stray to be left", SOON, async || {
        let left = api.list(&kube::api::ListParams::default()).await?;
        Ok((left.items.len() == 1 && left.items[0].name_any() == "stray").then_some(()))
    })
    .await?;
    // Put right, the health check works.
    lab.patch_check(name, single(name, json!(0), reboot))
        .await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    Ok(())
}

/// `/metrics` with a token: not known, not allowed, allowed.
pub(crate) async fn metrics_are_for_readers(lab: &Lab, manager: &Manager) -> anyhow::Result<()> {
    let token = async |name: &str| -> anyhow::Result<String> {
        let words = ["create", "token", name, "-n", REMEDIATIONS];
        Ok(lab.cluster.kubectl(&words).await?.trim().to_owned())
    };
    let (reader, stranger) = (token("reader").await?, token("stranger").await?);
    let code = async |token: Option<&str>| -> anyhow::Result<u16> {
        Ok(https::get(manager.metrics, "/metrics", token, None)
            .await?
            .0)
    };
    for (token, wanted) in [
        (None, 401),
        (Some("nonsense"), 401),
        (Some(stranger.as_str()), 403),
        (Some(reader.as_str()), 200),
    ] {
        let found = code(token).await?;
        ensure!(found == wanted, "{found} instead of {wanted}");
    }
    let own = code(Some(&SHIPPED.token(&lab.cluster).await?)).await?;
    ensure!(
        own == 403,
        "the manager itself may not read its metrics: {own}"
    );
    let (_, text) = https::get(manager.metrics, "/metrics", Some(&reader), None).await?;
    for series in [
        "leader_election_master_status{name=\"e1f13584.medik8s.io\"} 1",
        "controller_runtime_reconcile_total{controller=\"nodehealthcheck\",result=\"success\"}",
        "workqueue_depth{",
        "nodehealthcheck_observed_nodes{",
    ] {
        wait::until(series, SOON, async || {
            let (_, text) = https::get(manager.metrics, "/metrics", Some(&reader), None).await?;
            Ok(text.contains(series).then_some(()))
        })
        .await
        .with_context(|| format!("not in {text}"))?;
    }
    Ok(())
}
