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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(name: &str, bundle: Option<&[u8]>) -> Entry {
        Entry {
            name: name.to_owned(),
            bundle: bundle.map(<[u8]>::to_vec),
        }
    }

    #[test]
    fn sets_only_what_differs_and_touches_nothing_else() {
        let entries = [
            entry("a", Some(b"new")),
            entry("b", None),
            entry("c", Some(b"old")),
        ];
        let patch = bundle_patch(&entries, b"new").unwrap();
        let mut object = json!({"webhooks": [
            {"name": "a", "clientConfig": {"caBundle": "bmV3", "url": "u"}},
            {"name": "b", "clientConfig": {"service": {"name": "s"}}},
            {"name": "c", "clientConfig": {"caBundle": "b2xk"}, "sideEffects": "None"},
        ]});
        json_patch::patch(&mut object, &patch).unwrap();
        assert_eq!(
            object,
            json!({"webhooks": [
                {"name": "a", "clientConfig": {"caBundle": "bmV3", "url": "u"}},
                {"name": "b", "clientConfig": {"service": {"name": "s"}, "caBundle": "bmV3"}},
                {"name": "c", "clientConfig": {"caBundle": "bmV3"}, "sideEffects": "None"},
            ]})
        );
        assert_eq!(bundle_patch(&entries[..1], b"new"), None);
    }

    #[test]
    fn a_list_in_another_order_is_a_conflict() {
        let patch = bundle_patch(&[entry("a", None)], b"new").unwrap();
        let mut object = json!({"webhooks": [{"name": "b", "clientConfig": {}}]});
        assert!(json_patch::patch(&mut object, &patch).is_err());
    }
}
