use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// All objects of `deploy/medik8s.yaml`.
fn objects() -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for operator in OPERATORS {
        for document in parts(operator)?.in_order() {
            all.extend(yaml::read(&document)?);
        }
    }
    Ok(all)
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// Kind, namespace and name.
fn identity(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )
}

#[test]
fn no_object_is_there_twice() -> Result<()> {
    let mut seen = BTreeSet::new();
    for object in objects()? {
        assert!(seen.insert(identity(&object)), "{:?}", identity(&object));
    }
    Ok(())
}

#[test]
fn selectors_are_those_of_the_original_deployments() -> Result<()> {
    let objects = objects()?;
    let selectors: BTreeMap<&str, &Value> = of_kind(&objects, "Deployment")
        .map(|deployment| {
            let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
            (name, &deployment["spec"]["selector"])
        })
        .collect();
    // A Deployment's selector is immutable: another one makes an update in place impossible.
    let frozen = json!({
        "node-healthcheck-controller-manager": { "matchLabels": {
            "app.kubernetes.io/component": "controller-manager",
            "app.kubernetes.io/name": "node-healthcheck-operator",
        } },
        "self-node-remediation-controller-manager": { "matchLabels": {
            "control-plane": "controller-manager",
            "self-node-remediation-operator": "",
        } },
        "node-maintenance-operator-controller-manager": { "matchLabels": {
            "control-plane": "controller-manager",
            "node-maintenance-operator": "",
        } },
    });
    assert_eq!(serde_json::to_value(selectors)?, frozen);
    Ok(())
}

/// Whether `labels` has all of `selector`.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels[key] == *value)
}

#[test]
fn each_service_selects_the_pods_of_one_operator_and_no_agent() -> Result<()> {
    let objects = objects()?;
    let agent = json!({
        medik8s_api::names::snr::AGENT_NAME_LABEL: medik8s_api::names::snr::AGENT_NAME_VALUE,
        medik8s_api::names::snr::AGENT_COMPONENT_LABEL:
            medik8s_api::names::snr::AGENT_COMPONENT_VALUE,
    });
    let mut services = 0;
    for service in of_kind(&objects, "Service") {
        services += 1;
        let selector = &service["spec"]["selector"];
        let selected: Vec<&Value> = of_kind(&objects, "Deployment")
            .filter(|d| selects(selector, &d["spec"]["template"]["metadata"]["labels"]))
            .collect();
        assert_eq!(selected.len(), 1, "{}", service["metadata"]["name"]);
        assert_eq!(
            selected[0]["metadata"]["namespace"],
            service["metadata"]["namespace"]
        );
        assert!(
            !selects(selector, &agent),
            "{}",
            service["metadata"]["name"]
        );
    }
    assert_eq!(services, 2 * OPERATORS.len());
    // And the other way round: the agents' selector finds no manager.
    for deployment in of_kind(&objects, "Deployment") {
        assert!(!selects(
            &agent,
            &deployment["spec"]["template"]["metadata"]["labels"]
        ));
    }
    Ok(())
}

#[test]
fn everything_that_is_referred_to_is_there() -> Result<()> {
    let objects = objects()?;
    let there: BTreeSet<_> = objects.iter().map(identity).collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut references = BTreeSet::new();
    for object in &objects {
        let namespace = text(&object["metadata"]["namespace"]);
        if !namespace.is_empty() && namespace != "kube-system" {
            references.insert(("Namespace".to_owned(), String::new(), namespace.clone()));
        }
        if object["roleRef"].is_object() {
            let kind = text(&object["roleRef"]["kind"]);
            let role_namespace = if kind == "Role" {
                namespace.clone()
            } else {
                String::new()
            };
            references.insert((kind, role_namespace, text(&object["roleRef"]["name"])));
            for subject in object["subjects"].as_array().into_iter().flatten() {
                references.insert((
                    text(&subject["kind"]),
                    text(&subject["namespace"]),
                    text(&subject["name"]),
                ));
            }
        }
        let account = &object["spec"]["template"]["spec"]["serviceAccountName"];
        if account.is_string() {
            references.insert(("ServiceAccount".into(), namespace, text(account)));
        }
        for webhook in object["webhooks"].as_array().into_iter().flatten() {
            let service = &webhook["clientConfig"]["service"];
            references.insert((
                "Service".into(),
                text(&service["namespace"]),
                text(&service["name"]),
            ));
        }
    }
    assert!(references.len() > 20, "{references:?}");
    let missing: Vec<_> = references.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
    Ok(())
}

#[test]
fn the_manager_may_patch_exactly_its_own_webhook_configurations() -> Result<()> {
    let objects = objects()?;
    for operator in OPERATORS {
        let mut configurations = BTreeSet::new();
        for kind in [
            "ValidatingWebhookConfiguration",
            "MutatingWebhookConfiguration",
        ] {
            for object in of_kind(&objects, kind) {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                if name.starts_with(operator.prefix) {
                    configurations.insert(name.to_owned());
                }
            }
        }
        let allowed: BTreeSet<String> = (operator.rules)()
            .cluster
            .iter()
            .flat_map(|table| table.iter())
            .filter(|rule| rule.api_groups.contains(&"admissionregistration.k8s.io"))
            .flat_map(|rule| rule.resource_names.iter().map(|name| (*name).to_owned()))
            .collect();
        assert_eq!(allowed, configurations, "{}", operator.package);
    }
    Ok(())
}

#[test]
fn no_manager_may_do_everything() -> Result<()> {
    for object in objects()? {
        for rule in object["rules"].as_array().into_iter().flatten() {
            for field in ["apiGroups", "resources", "verbs"] {
                let all = rule[field]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|value| value == "*");
                assert!(!all, "{:?}: {rule}", identity(&object));
            }
            // Who may do these can give itself every right.
            for verb in ["escalate", "bind", "impersonate"] {
                let has = rule["verbs"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|value| value == verb);
                assert!(!has, "{:?}: {rule}", identity(&object));
            }
        }
    }
    Ok(())
}

#[test]
fn who_edits_a_namespace_may_not_reboot_nodes() -> Result<()> {
    let objects = objects()?;
    let mut editors = 0;
    for role in of_kind(&objects, "ClusterRole") {
        let labels = &role["metadata"]["labels"];
        let edits = labels["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
            || labels["rbac.authorization.k8s.io/aggregate-to-admin"] == "true";
        if !edits {
            continue;
        }
        editors += 1;
        for rule in role["rules"].as_array().into_iter().flatten() {
            assert!(
                !rule["resources"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|resource| resource == "selfnoderemediations"),
                "{:?}",
                identity(role)
            );
        }
    }
    assert_eq!(editors, 4);
    Ok(())
}
