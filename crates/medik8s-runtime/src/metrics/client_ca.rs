//! Readers of `/metrics` that prove who they are by a client certificate, as OpenShift's monitoring
//! does.
//!
//! # Guarantees
//! Only certificates of the cluster's client CA are accepted: `client-ca-file` of the ConfigMap
//! `kube-system/extension-apiserver-authentication`, followed while serving. Before it is known
//! nobody is accepted. A text that holds no CA changes nothing and is reported.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, runtime::watcher};

use super::Metrics;
use crate::{
    informer::{Change, Informer},
    shutdown::Shutdown,
    tls::ServerTls,
};

/// Namespace of the ConfigMap that names the cluster's client CA.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const CONFIG_MAP: &str = "extension-apiserver-authentication";
/// The key with the CA, as PEM.
const KEY: &str = "client-ca-file";

/// Keeps `server` at the cluster's client CA until `stop`. Needs [`crate::rbac::CLIENT_CA`].
pub async fn follow(
    client: Client,
    server: ServerTls,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut informer = Informer::new(
        "client CA",
        Api::<ConfigMap>::namespaced(client, NAMESPACE),
        watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}")),
        &metrics,
    );
    informer.on_change(move |change: &Change<ConfigMap>| take(&server, change));
    informer.run(stop).await
}

fn take(server: &ServerTls, change: &Change<ConfigMap>) {
    let pem = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get(KEY)).cloned();
    let Some(new) = change.new.as_ref().and_then(|map| pem(map)) else {
        tracing::error!(
            "ConfigMap {NAMESPACE}/{CONFIG_MAP} has no {KEY}: readers of /metrics cannot be \
             recognised by another CA than the last one"
        );
        return;
    };
    if change.old.as_ref().and_then(|map| pem(map)).as_ref() == Some(&new) {
        return;
    }
    match server.require_client_ca(new.as_bytes()) {
        Ok(()) => tracing::info!("readers of /metrics need a certificate of the cluster's CA"),
        Err(error) => tracing::error!(
            error = &error as &dyn std::error::Error,
            "{KEY} of ConfigMap {NAMESPACE}/{CONFIG_MAP} cannot be used"
        ),
    }
}

#[cfg(test)]
mod tests;
