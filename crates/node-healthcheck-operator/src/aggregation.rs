//! The binding of the aggregating role, where OLM installs the operator.
//!
//! # Purpose
//! Remediators grant what is needed for their kinds by a label; the ClusterRole
//! `node-healthcheck-operator-aggregation` collects it and has to be bound to this manager. Plain
//! manifests and the chart hold the binding. A bundle cannot: it does not know the namespace it is
//! installed in. OLM is recognised by the variable that it sets in every Deployment.
//!
//! # Guarantees
//! Needs no right to write roles: only this binding, by name, and `bind` on this role. The role owns
//! the binding, so that it goes with the installation.

use std::time::Duration;

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client, Resource};
use medik8s_api::names::nhc;
use medik8s_core::backoff::Backoff;
use medik8s_runtime::{
    read,
    shutdown::Shutdown,
    write::{Error, Writer},
};
use serde_json::{Value, json};

/// How often it is put back to what it should be.
const REFRESH: Duration = Duration::from_mins(10);
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// Keeps the binding until `stop`.
pub async fn keep(client: Client, writer: Writer, namespace: String, stop: Shutdown) {
    let mut failures = 0_u32;
    loop {
        let pause = match bind(&client, &writer, &namespace).await {
            Ok(()) => {
                failures = 0;
                REFRESH
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    binding = nhc::AGGREGATION_ROLE,
                    "could not bind what remediators grant; remediations cannot be created"
                );
                let pause = RETRY.delay(failures, 0.0);
                failures = failures.saturating_add(1);
                pause
            }
        };
        if stop.or_stop(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn bind(client: &Client, writer: &Writer, namespace: &str) -> Result<(), Error> {
    let roles = Api::<ClusterRole>::all(client.clone());
    let role = read::get_opt(&roles, nhc::AGGREGATION_ROLE).await?;
    let owner = role.as_ref().and_then(|role| role.owner_ref(&()));
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    writer
        .apply(&bindings, nhc::AGGREGATION_ROLE, &binding(namespace, owner))
        .await?;
    Ok(())
}

fn binding(namespace: &str, owner: Option<OwnerReference>) -> Value {
    let metadata = ObjectMeta {
        name: Some(nhc::AGGREGATION_ROLE.to_owned()),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": nhc::AGGREGATION_ROLE,
        },
        "subjects": [{
            "kind": "ServiceAccount",
            "name": nhc::SERVICE_ACCOUNT,
            "namespace": namespace,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_the_own_account_to_the_one_role_and_nothing_else() {
        let binding = binding("somewhere", None);
        assert_eq!(binding["subjects"][0]["namespace"], "somewhere");
        assert_eq!(binding["subjects"].as_array().map(Vec::len), Some(1));
        assert_eq!(binding["roleRef"]["name"], binding["metadata"]["name"]);
    }
}
