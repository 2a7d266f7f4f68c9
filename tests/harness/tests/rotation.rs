//! Certificates that expire within a year are replaced in three roll-outs of the agents: no node is reset, no watchdog
//! is left alone, and in the end nothing of the old certificates is left.

#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Secret};
use kube::{Api, api::ListParams};
use medik8s_harness::{
    Cluster, Options, child,
    images::Programs,
    machine::{NodeSpec, What},
    manifests, story, wait,
};
use self_node_remediation_peer::CertificateSet;

const NAMESPACE: &str = "self-node-remediation";
const SECRET: &str = "self-node-remediation-certificates";
/// Three roll-outs over the agents, each noticed within half a minute.
const LIMIT: Duration = Duration::from_secs(420);

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(async || {
        let nodes = std::iter::once(NodeSpec::control_plane("control-plane-1"))
            .chain((1..=2).map(|number| NodeSpec::worker(format!("worker-{number}"))))
            .collect();
        let mut cluster = Cluster::start(Options {
            nodes,
            programs: Some(Programs::find()?),
            ..Options::default()
        })
        .await?;
        let done = rotate(&cluster).await;
        if done.is_err() {
            println!("logs: {}/logs", cluster.keep_files().display());
        }
        cluster.stop().await;
        done
    })
}

async fn rotate(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply_text(&manifests::definitions()?).await?;
    // Made nine years and a quarter ago.
    let then = jiff::Timestamp::now().checked_sub(Duration::from_hours((9 * 365 + 91) * 24))?;
    let old = CertificateSet::create(then)?;
    let indent = |pem: &str| pem.trim_end().replace('\n', "\n    ");
    cluster
        .apply_text(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {SECRET}, namespace: {NAMESPACE}}}\nimmutable: true\n\
             stringData:\n  caPem: |\n    {}\n  certPem: |\n    {}\n  keyPem: |\n    {}\n",
            indent(&old.ca_pem),
            indent(&old.cert_pem),
            indent(&old.key_pem)
        ))
        .await?;
    let mut happenings = cluster.happenings();
    story::install_manager(cluster, None).await?;
    let secrets = Api::<Secret>::namespaced(cluster.admin(), NAMESPACE);
    let sets = Api::<DaemonSet>::namespaced(cluster.admin(), NAMESPACE);
    let begin = Instant::now();
    let mut stages: Vec<String> = Vec::new();
    let new = wait::until("the rotation", LIMIT, async || {
        let set = sets.get("self-node-remediation-ds").await?;
        let mounted = mounted(&set).context("nothing is mounted")?;
        if stages.last() != Some(&mounted) {
            println!(
                "{:.0} s: agents mount {mounted}",
                begin.elapsed().as_secs_f64()
            );
            stages.push(mounted);
        }
        let names: Vec<String> = secrets
            .list(&ListParams::default())
            .await?
            .iter()
            .map(kube::ResourceExt::name_any)
            .filter(|name| name.starts_with(SECRET))
            .collect();
        let main = secrets.get(SECRET).await?;
        let over = names == [SECRET] && field(&main, "certPem") != old.cert_pem.trim_end();
        Ok(over.then_some(main))
    })
    .await?;
    println!("{:.0} s: replaced", begin.elapsed().as_secs_f64());
    let expected = [
        SECRET.to_owned(),
        format!("{SECRET}-both"),
        format!("{SECRET}-next"),
        SECRET.to_owned(),
    ];
    ensure!(stages == expected, "{stages:?}");
    ensure!(
        !field(&new, "caPem").contains(old.ca_pem.trim_end()),
        "the old CA is still trusted"
    );
    while let Ok(happening) = happenings.try_recv() {
        ensure!(
            !matches!(happening.what, What::Reset { .. }),
            "{} was reset",
            happening.node
        );
    }
    Ok(())
}

fn mounted(set: &DaemonSet) -> Option<String> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let mut volumes = pod.volumes.iter().flatten();
    volumes.find_map(|volume| volume.secret.as_ref()?.secret_name.clone())
}

fn field(secret: &Secret, name: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(name));
    bytes
        .map(|bytes| String::from_utf8_lossy(&bytes.0).trim_end().to_owned())
        .unwrap_or_default()
}
