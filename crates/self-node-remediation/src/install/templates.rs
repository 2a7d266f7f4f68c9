//! Default objects and the mark on templates: what the mutating webhook does, for installs without
//! it, and what a fresh install needs to be used at once.

use std::time::Duration;

use kube::{Api, Client, ResourceExt};
use medik8s_api::{SelfNodeRemediationConfig, SelfNodeRemediationTemplate};
use medik8s_core::backoff::Backoff;
use medik8s_runtime::{
    controller::{Action, ObjectKey},
    informer::Cache,
    shutdown::Shutdown,
    write::{self, Writer},
};
use serde_json::json;

use super::defaults;
use crate::validate::{self, MULTIPLE_TEMPLATES_MARK};

/// Pauses until our own webhook answers.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));

/// Creates the default configuration and templates; tries until it has succeeded.
///
/// Our own webhook must admit them, and it may still be starting: an error is no reason to end.
pub async fn create_defaults(client: Client, writer: Writer, namespace: String, stop: Shutdown) {
    let configs = Api::<SelfNodeRemediationConfig>::namespaced(client.clone(), &namespace);
    let templates = Api::<SelfNodeRemediationTemplate>::namespaced(client, &namespace);
    let mut failures = 0_u32;
    loop {
        let all = async {
            writer
                .create_once(&configs, &defaults::config(&namespace))
                .await?;
            for template in defaults::templates(&namespace) {
                writer.create_once(&templates, &template).await?;
            }
            Ok::<(), write::Error>(())
        };
        let Err(error) = all.await else { return };
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not create the default configuration and templates, trying again"
        );
        let pause = PAUSES.delay(failures, 0.0);
        failures = failures.saturating_add(1);
        if stop.or_stop(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Marks a template as usable several times in one health check, unless somebody decided otherwise.
pub async fn mark(
    client: &Client,
    writer: &Writer,
    templates: &Cache<SelfNodeRemediationTemplate>,
    key: &ObjectKey,
) -> Result<Action, write::Error> {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let Some(template) = templates.get(Some(namespace), &key.name) else {
        return Ok(Action::done());
    };
    if template.metadata.deletion_timestamp.is_none()
        && validate::needs_multiple_templates_mark(&template)
    {
        let (name, value) = MULTIPLE_TEMPLATES_MARK;
        let api = Api::<SelfNodeRemediationTemplate>::namespaced(client.clone(), namespace);
        let patch = json!({ "metadata": { "annotations": { name: value } } });
        match writer.merge_patch(&api, &template.name_any(), &patch).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Action::done())
}
