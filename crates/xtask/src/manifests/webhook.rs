//! Admission webhooks, and the Service through which the API server reaches them.

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Service;
use medik8s_runtime::guard::Guard;
use medik8s_runtime::webhook::{Hook, HookKind};
use serde_json::{Value, json};

use super::{metadata, pairs};
use crate::operators::Operator;
use crate::yaml;

/// The Service, then the configurations. They hold no CA: the operator writes in the one that it
/// uses.
pub(super) fn documents(operator: &Operator) -> Result<Vec<String>> {
    let name = operator.name("webhook-service");
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(operator, &name, true),
        "spec": {
            "ports": [{ "name": "webhook", "port": 443, "protocol": "TCP", "targetPort": 9443 }],
            "selector": pairs(operator.selector),
        },
    });
    yaml::typed::<Service>(&service)?;
    let mut documents = vec![yaml::document(&service)?];
    for (list, kind, suffix) in [
        (
            HookKind::Validating,
            "ValidatingWebhookConfiguration",
            "validating-webhook-configuration",
        ),
        (
            HookKind::Mutating,
            "MutatingWebhookConfiguration",
            "mutating-webhook-configuration",
        ),
    ] {
        let mut webhooks: Vec<Value> = (operator.webhooks)()
            .iter()
            .filter(|hook| hook.kind == list)
            .map(|hook| entry(operator, hook, &name))
            .collect();
        if list == HookKind::Validating
            && let Some(guard) = operator.guard
        {
            webhooks.push(guard_entry(operator, guard, &name));
        }
        if webhooks.is_empty() {
            continue;
        }
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": metadata(operator, &operator.name(suffix), false),
            "webhooks": webhooks,
        });
        match list {
            HookKind::Validating => yaml::typed::<ValidatingWebhookConfiguration>(&configuration)?,
            HookKind::Mutating => yaml::typed::<MutatingWebhookConfiguration>(&configuration)?,
        }
        documents.push(yaml::document(&configuration)?);
    }
    Ok(documents)
}

fn entry(operator: &Operator, hook: &Hook, service: &str) -> Value {
    let operations: Vec<&str> = hook
        .operations
        .iter()
        .map(|operation| operation.as_str())
        .collect();
    let mut entry = json!({
        "name": hook.name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": {
            "service": {
                "name": service,
                "namespace": operator.namespace,
                "path": hook.path,
                "port": 443,
            },
        },
        "failurePolicy": hook.failure_policy.as_str(),
        "matchPolicy": "Equivalent",
        "rules": [{
            "apiGroups": [hook.api_group],
            "apiVersions": [hook.api_version],
            "operations": operations,
            "resources": [hook.resource],
            "scope": "*",
        }],
        "sideEffects": "None",
    });
    if let Some(seconds) = hook.timeout_seconds {
        entry["timeoutSeconds"] = seconds.into();
    }
    entry
}

/// The webhook that is asked before a part of the installation is deleted.
fn guard_entry(operator: &Operator, guard: &Guard, service: &str) -> Value {
    let rule = |group: &str, resources: &[&str]| {
        json!({
            "apiGroups": [group],
            "apiVersions": ["*"],
            "operations": ["DELETE"],
            "resources": resources,
            "scope": "*",
        })
    };
    json!({
        "name": guard.name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": {
            "service": {
                "name": service,
                "namespace": operator.namespace,
                "path": guard.path,
                "port": 443,
            },
        },
        // What cannot be asked is broken, and must be removable.
        "failurePolicy": "Ignore",
        "matchPolicy": "Equivalent",
        "objectSelector": { "matchLabels": { (guard.label.0): guard.label.1 } },
        "rules": [
            rule("", &["namespaces", "serviceaccounts", "services"]),
            rule("apps", &["deployments"]),
            rule(
                "rbac.authorization.k8s.io",
                &["clusterroles", "clusterrolebindings", "roles", "rolebindings"],
            ),
            rule("apiextensions.k8s.io", &["customresourcedefinitions"]),
        ],
        "sideEffects": "None",
        "timeoutSeconds": Guard::TIMEOUT,
    })
}
