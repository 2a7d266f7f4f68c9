//! The ClusterServiceVersion.

use anyhow::Result;
use base64::Engine as _;
use medik8s_runtime::rbac::{Rule, RuleSet};
use medik8s_runtime::webhook::{Hook, HookKind};
use serde_json::{Value, json};

use super::{
    Release, SUGGESTED_NAMESPACE, Variant, csv_name, deployment, descriptors, openshift, text,
};
use crate::operators::Operator;

/// What OLM takes care of: it mounts webhook certificates, so the operator needs no Secret for its
/// own and writes no webhook configuration.
const TABLES_OF_OLM: [&str; 1] = ["admissionregistration.k8s.io"];

/// The ClusterServiceVersion of one operator.
pub(super) fn csv(operator: &Operator, examples: &[Value], release: &Release) -> Result<Value> {
    let about = text::about(operator)?;
    let mut metadata = json!({
        "name": release.csv_name(operator),
        "namespace": "placeholder",
        "annotations": annotations(operator, &about, examples, release)?,
        // What images there are; arm64 can be built, but is not tested.
        "labels": {
            "operatorframework.io/arch.amd64": "supported",
            "operatorframework.io/os.linux": "supported",
        },
    });
    if let Some(range) = &release.skip_range {
        metadata["annotations"]["olm.skipRange"] = range.clone().into();
    }
    let mode = |kind: &str, supported: bool| json!({ "type": kind, "supported": supported });
    let display_name = match release.variant {
        Variant::K8s | Variant::Ocp => about.display_name.to_owned(),
        Variant::Okd => format!("{} - Community Edition", about.display_name),
    };
    let mut spec = json!({
        "displayName": display_name,
        "description": about.description,
        "version": release.version,
        "maturity": about.maturity,
        "minKubeVersion": about.min_kube_version,
        "icon": [{
            "base64data": base64::engine::general_purpose::STANDARD.encode(text::icon(operator)),
            "mediatype": "image/svg+xml",
        }],
        "provider": { "name": "Medik8s", "url": "https://www.medik8s.io" },
        "maintainers": [{ "name": "Medik8s Team", "email": "medik8s@googlegroups.com" }],
        "links": [
            { "name": "Medik8s", "url": "https://www.medik8s.io" },
            { "name": "Source Code", "url": env!("CARGO_PKG_REPOSITORY") },
        ],
        "keywords": about.keywords,
        "installModes": [
            mode("OwnNamespace", false),
            mode("SingleNamespace", false),
            mode("MultiNamespace", false),
            mode("AllNamespaces", true),
        ],
        "install": { "strategy": "deployment", "spec": {
            "deployments": [deployment(operator, release)?],
            "clusterPermissions": permissions(operator, |rules| rules.cluster),
            "permissions": permissions(operator, |rules| rules.own_namespace),
        } },
        "customresourcedefinitions": { "owned": descriptors::owned(operator)? },
        "apiservicedefinitions": {},
        "webhookdefinitions": webhooks(operator),
        "relatedImages": [{ "name": "manager", "image": release.image(operator) }],
    });
    if let Some(replaces) = &release.replaces {
        spec["replaces"] = csv_name(operator, replaces).into();
    }
    let mut csv = json!({
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": metadata,
        "spec": spec,
    });
    openshift::extend(operator, release, &mut csv);
    Ok(csv)
}

fn annotations(
    operator: &Operator,
    about: &text::About,
    examples: &[Value],
    release: &Release,
) -> Result<Value> {
    let mut labels = json!({});
    for mode in crate::manifests::POD_SECURITY_MODES {
        labels[format!("pod-security.kubernetes.io/{mode}")] = operator.pod_security.into();
    }
    let mut template = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": SUGGESTED_NAMESPACE,
            "annotations": { "openshift.io/node-selector": "" },
        },
    });
    // All operators share the suggested namespace: only what one of them needs is asked for.
    if operator.pod_security == "privileged" {
        template["metadata"]["labels"] = labels;
    }
    let mut annotations = json!({
        "alm-examples": crate::yaml::json(&Value::from(examples.to_vec()), false)?,
        "capabilities": "Basic Install",
        "categories": "OpenShift Optional",
        "containerImage": release.image(operator),
        "description": about.summary,
        "operatorframework.io/suggested-namespace": SUGGESTED_NAMESPACE,
        "operatorframework.io/suggested-namespace-template": crate::yaml::json(&template, false)?,
        "repository": env!("CARGO_PKG_REPOSITORY"),
        "support": "Medik8s",
    });
    if let Some(at) = &release.created_at {
        annotations["createdAt"] = at.clone().into();
    }
    if release.variant != Variant::K8s {
        for (feature, has) in [
            ("disconnected", true),
            ("fips-compliant", false),
            ("proxy-aware", false),
            ("tls-profiles", false),
            ("token-auth-aws", false),
            ("token-auth-azure", false),
            ("token-auth-gcp", false),
        ] {
            annotations[format!("features.operators.openshift.io/{feature}")] =
                has.to_string().into();
        }
        annotations["operators.openshift.io/valid-subscription"] =
            "[\"OpenShift Kubernetes Engine\", \"OpenShift Container Platform\", \"OpenShift Platform Plus\"]"
                .into();
    }
    Ok(annotations)
}

/// The permissions of each account, of those that `scope` chooses.
fn permissions(
    operator: &Operator,
    scope: impl Fn(&RuleSet) -> &'static [&'static [Rule]],
) -> Vec<Value> {
    let mut accounts = vec![(operator.manager(), (operator.rules)(), operator.olm_rules)];
    if let Some(agent) = &operator.agent {
        accounts.push((agent.service_account.to_owned(), (agent.rules)(), &[]));
    }
    accounts
        .into_iter()
        .filter_map(|(account, rules, under_olm)| {
            let tables = scope(&rules);
            let extra: &[Rule] = if std::ptr::eq(tables, rules.cluster) {
                under_olm
            } else {
                &[]
            };
            let rules: Vec<Value> = tables
                .iter()
                .filter(|table| !table.contains(&medik8s_runtime::rbac::WEBHOOK_SECRET_CREATE))
                .flat_map(|table| table.iter())
                .filter(|rule| {
                    !rule
                        .api_groups
                        .iter()
                        .any(|group| TABLES_OF_OLM.contains(group))
                })
                .chain(extra)
                .map(rule)
                .collect();
            (!rules.is_empty()).then(|| json!({ "serviceAccountName": account, "rules": rules }))
        })
        .collect()
}

fn rule(rule: &Rule) -> Value {
    let mut fields = json!({ "verbs": rule.verbs });
    for (field, values) in [
        ("apiGroups", rule.api_groups),
        ("resources", rule.resources),
        ("resourceNames", rule.resource_names),
        ("nonResourceURLs", rule.non_resource_urls),
    ] {
        if !values.is_empty() {
            fields[field] = values.into();
        }
    }
    fields
}

fn webhooks(operator: &Operator) -> Vec<Value> {
    (operator.webhooks)()
        .iter()
        .map(|hook| webhook(operator, hook))
        .collect()
}

fn webhook(operator: &Operator, hook: &Hook) -> Value {
    let kind = match hook.kind {
        HookKind::Validating => "ValidatingAdmissionWebhook",
        HookKind::Mutating => "MutatingAdmissionWebhook",
    };
    let operations: Vec<&str> = hook
        .operations
        .iter()
        .map(|operation| operation.as_str())
        .collect();
    let mut webhook = json!({
        "type": kind,
        "generateName": hook.name,
        "deploymentName": operator.manager(),
        "containerPort": 443,
        "targetPort": 9443,
        "webhookPath": hook.path,
        "rules": [{
            "apiGroups": [hook.api_group],
            "apiVersions": [hook.api_version],
            "operations": operations,
            "resources": [hook.resource],
        }],
        "failurePolicy": hook.failure_policy.as_str(),
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    });
    if let Some(seconds) = hook.timeout_seconds {
        webhook["timeoutSeconds"] = seconds.into();
    }
    webhook
}
