//! The patch that puts a CA bundle into a webhook configuration, and nothing else. No I/O.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use serde_json::Value;

/// Name and current bundle of one webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) bundle: Option<Vec<u8>>,
}

/// Both kinds of configuration, as far as bundles go.
pub(super) trait ClientConfigs {
    fn client_configs(&self) -> Vec<Entry>;
}

impl ClientConfigs for ValidatingWebhookConfiguration {
    fn client_configs(&self) -> Vec<Entry> {
        self.webhooks
            .iter()
            .flatten()
            .map(|hook| Entry {
                name: hook.name.clone(),
                bundle: hook
                    .client_config
                    .ca_bundle
                    .as_ref()
                    .map(|bytes| bytes.0.clone()),
            })
            .collect()
    }
}

impl ClientConfigs for MutatingWebhookConfiguration {
    fn client_configs(&self) -> Vec<Entry> {
        self.webhooks
            .iter()
            .flatten()
            .map(|hook| Entry {
                name: hook.name.clone(),
                bundle: hook
                    .client_config
                    .ca_bundle
                    .as_ref()
                    .map(|bytes| bytes.0.clone()),
            })
            .collect()
    }
}

/// Sets the bundle where it differs; `None` when it is everywhere already. The position of each
/// webhook is tested by its name, so that a list that changed meanwhile is a conflict.
pub(super) fn bundle_patch(entries: &[Entry], bundle: &[u8]) -> Option<Patch> {
    let mut operations = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if entry.bundle.as_deref() == Some(bundle) {
            continue;
        }
        let index = index.to_string();
        operations.push(PatchOperation::Test(TestOperation {
            path: PointerBuf::from_tokens(["webhooks", &index, "name"]),
            value: Value::String(entry.name.clone()),
        }));
        operations.push(PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(["webhooks", &index, "clientConfig", "caBundle"]),
            value: Value::String(STANDARD.encode(bundle)),
        }));
    }
    (!operations.is_empty()).then_some(Patch(operations))
}
