//! OpenShift's cluster-wide TLS profile.
//!
//! `spec.tlsSecurityProfile` of `APIServer/cluster` (config.openshift.io/v1) says which protocol
//! versions and ciphers servers offer; unset means Intermediate.

use kube::{
    Client,
    api::{ApiResource, DynamicObject},
    runtime::watcher,
};
use serde_json::Value;

use super::{MinVersion, Profile, ServerTls};
use crate::{
    capabilities::Capability,
    informer::{Change, Informer},
    metrics::Metrics,
    shutdown::Shutdown,
};

/// Reads the profile out of an `APIServer` object. What is not known counts as Intermediate, the
/// platform's default.
pub fn profile_of(api_server: &Value) -> Profile {
    let Some(profile) = api_server.pointer("/spec/tlsSecurityProfile") else {
        return Profile::Intermediate;
    };
    match profile.get("type").and_then(Value::as_str) {
        Some("Modern") => Profile::Modern,
        Some("Custom") => custom(profile.get("custom").unwrap_or(&Value::Null)),
        // Old allows what rustls does not have; the rest of it is Intermediate.
        Some(_) | None => Profile::Intermediate,
    }
}

fn custom(custom: &Value) -> Profile {
    let ciphers = custom
        .get("ciphers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|cipher| cipher.as_str().map(str::to_owned))
        .collect();
    let min_version = match custom.get("minTLSVersion").and_then(Value::as_str) {
        Some("VersionTLS13") => MinVersion::Tls13,
        Some(_) | None => MinVersion::Tls12,
    };
    Profile::Custom {
        min_version,
        ciphers,
    }
}

/// Keeps servers at the cluster's profile until `stop`; only waits where there is no OpenShift. A
/// profile that cannot be served is reported, and the one before stays.
pub async fn follow(
    client: Client,
    mut capability: Capability,
    servers: Vec<ServerTls>,
    metrics: Metrics,
    stop: Shutdown,
) -> anyhow::Result<()> {
    loop {
        if capability
            .current()
            .is_some_and(|found| found.is_openshift())
        {
            break;
        }
        if !capability.changed(&stop).await {
            stop.triggered().await;
            return Ok(());
        }
    }
    let kind = ApiResource {
        group: "config.openshift.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "config.openshift.io/v1".to_owned(),
        kind: "APIServer".to_owned(),
        plural: "apiservers".to_owned(),
    };
    let config = watcher::Config::default().fields("metadata.name=cluster");
    let mut informer = Informer::dynamic("TLS profile", client, &kind, None, config, &metrics);
    informer.on_change(move |change: &Change<DynamicObject>| {
        let profile = change
            .new
            .as_ref()
            .map_or(Profile::Intermediate, |object| profile_of(&object.data));
        for server in &servers {
            match server.set_profile(&profile) {
                Ok(()) => tracing::info!(?profile, "using the cluster's TLS profile"),
                Err(error) => tracing::error!(
                    ?profile,
                    error = &error as &dyn std::error::Error,
                    "the cluster's TLS profile cannot be served"
                ),
            }
        }
    });
    informer.run(stop).await
}
