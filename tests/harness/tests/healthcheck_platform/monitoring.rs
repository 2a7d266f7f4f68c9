//! What the manager adds for monitoring and the console, and who may read its metrics there.

use std::{fs, path::Path};

use anyhow::ensure;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use medik8s_harness::{
    healthcheck::{
        Lab, Manager, SHIPPED,
        https::{self, Identity},
    },
    wait,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::SOON;

/// A CA with a client certificate of it.
pub(crate) struct Authority {
    pem: String,
    client: Identity,
}

pub(crate) fn authority() -> anyhow::Result<Authority> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.clone().self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate()?;
    let certificate =
        CertificateParams::new(vec!["prometheus".to_owned()])?.signed_by(&own, &issuer)?;
    Ok(Authority {
        pem,
        client: Identity {
            certificate: certificate.der().to_vec(),
            key: own.serialize_der(),
        },
    })
}

/// The certificate that the platform mounts.
pub(crate) fn write_certificate(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["metrics".to_owned()])?.self_signed(&key)?;
    fs::write(folder.join("tls.crt"), certificate.pem())?;
    fs::write(folder.join("tls.key"), key.serialize_pem())?;
    Ok(())
}

/// Makes it the cluster's client CA.
pub(crate) async fn publish(lab: &Lab, authority: &Authority) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(lab.cluster.admin(), "kube-system");
    let name = "extension-apiserver-authentication";
    let data = json!({"data": {"client-ca-file": authority.pem}});
    if maps.get_opt(name).await?.is_some() {
        let patch = Patch::Merge(&data);
        maps.patch(name, &PatchParams::default(), &patch).await?;
        return Ok(());
    }
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": name}, "data": data["data"],
    }))?;
    maps.create(&PostParams::default(), &map).await?;
    Ok(())
}

fn kind(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{group}/v1"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

fn monitors() -> ApiResource {
    kind("monitoring.coreos.com", "ServiceMonitor", "servicemonitors")
}

fn plugins() -> ApiResource {
    kind("console.openshift.io", "ConsolePlugin", "consoleplugins")
}

/// What somebody made of them.
pub(crate) async fn spoil(lab: &Lab) -> anyhow::Result<()> {
    let spoilt = Patch::Merge(json!({"spec": {"endpoints": null, "backend": null}}));
    let params = PatchParams::default();
    let api = lab.dynamic(&monitors(), SHIPPED.namespace);
    api.patch(MONITOR, &params, &spoilt).await?;
    let api: Api<DynamicObject> = Api::all_with(lab.cluster.admin(), &plugins());
    api.patch(PLUGIN, &params, &spoilt).await?;
    Ok(())
}

const MONITOR: &str = "node-healthcheck-controller-manager-metrics-monitor";
const PLUGIN: &str = "node-remediation-console-plugin";

pub(crate) async fn is_set_up(lab: &Lab) -> anyhow::Result<()> {
    let api = lab.dynamic(&monitors(), SHIPPED.namespace);
    let monitor: DynamicObject = wait::until("the ServiceMonitor", SOON, async || {
        let found = api.get_opt(MONITOR).await?;
        Ok(found.filter(|found| found.data["spec"]["endpoints"].is_array()))
    })
    .await?;
    let owner = json!(monitor.metadata.owner_references);
    ensure!(
        owner[0]["kind"] == "Deployment" && owner[0]["controller"] == true,
        "{owner}"
    );
    ensure!(
        owner[0]["name"] == "node-healthcheck-controller-manager",
        "{owner}"
    );
    let endpoint = &monitor.data["spec"]["endpoints"][0];
    ensure!(
        endpoint["port"] == "https" && endpoint["interval"] == "15s",
        "{endpoint}"
    );
    ensure!(monitor.data["spec"]["scrapeClass"] == "tls-client-certificate-auth");
    let api: Api<DynamicObject> = Api::all_with(lab.cluster.admin(), &plugins());
    let plugin = wait::until("the ConsolePlugin", SOON, async || {
        let found = api.get_opt(PLUGIN).await?;
        Ok(found.filter(|found| found.data["spec"]["backend"].is_object()))
    })
    .await?;
    ensure!(plugin.data["spec"]["backend"]["service"]["namespace"] == SHIPPED.namespace);
    let namespaces: Api<Namespace> = Api::all(lab.cluster.admin());
    let own = namespaces.get(SHIPPED.namespace).await?;
    let labels = own.metadata.labels.unwrap_or_default();
    ensure!(
        labels
            .get("openshift.io/cluster-monitoring")
            .map(String::as_str)
            == Some("true")
    );
    ensure!(
        labels.len() > 2,
        "the namespace kept its other labels: {labels:?}"
    );
    Ok(())
}

/// No certificate and foreign ones are refused, a token helps nobody, and a new CA needs no restart.
pub(crate) async fn follows_the_client_ca(
    lab: &Lab,
    manager: &Manager,
    first: &Authority,
) -> anyhow::Result<()> {
    let ask = async |who: Option<&Authority>, token: Option<&str>| {
        let identity = who.map(|who| &who.client);
        https::get(manager.metrics, "/metrics", token, identity).await
    };
    wait::until("the CA to be known", SOON, async || {
        let (code, _) = ask(Some(first), None).await?;
        Ok((code == 200).then_some(()))
    })
    .await?;
    ensure!(
        ask(None, None).await.is_err(),
        "served without a certificate"
    );
    let token = SHIPPED.token(&lab.cluster).await?;
    ensure!(ask(None, Some(&token)).await.is_err(), "served for a token");
    let second = authority()?;
    ensure!(
        ask(Some(&second), None).await.is_err(),
        "served for a foreign CA"
    );
    publish(lab, &second).await?;
    wait::until("the new CA to be followed", SOON, async || {
        let (code, _) = ask(Some(&second), None).await?;
        Ok((code == 200).then_some(()))
    })
    .await?;
    ensure!(
        ask(Some(first), None).await.is_err(),
        "the old CA is still accepted"
    );
    let (_, text) = ask(Some(&second), None).await?;
    ensure!(text.contains("nodehealthcheck_platform_setup{object=\"ConsolePlugin\"} 1"));
    Ok(())
}
