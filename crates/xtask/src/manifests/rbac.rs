//! Accounts and what they may do.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use medik8s_api::names::{contract, nhc};
use medik8s_runtime::rbac::{LEADER_LEASE, METRICS_AUTH, METRICS_READER, Rule, RuleSet};
use serde_json::{Value, json};

use super::metadata;
use crate::operators::{Operator, Remediation};
use crate::yaml;

const API: &str = "rbac.authorization.k8s.io/v1";
const API_GROUP: &str = "rbac.authorization.k8s.io";

/// Files below `config/rbac/<package>`, by name, in the order in which they are applied.
pub(super) fn parts(operator: &Operator) -> Result<Vec<(&'static str, Vec<String>)>> {
    let manager = operator.manager();
    let rules = (operator.rules)();
    let mut parts = vec![
        (
            "service_account",
            vec![service_account(operator, &manager)?],
        ),
        ("manager", account(operator, "manager", &manager, &rules)?),
        ("metrics", metrics(operator)?),
    ];
    if let Some(agent) = &operator.agent {
        let name = agent.service_account;
        let mut documents = vec![service_account(operator, name)?];
        documents.extend(account(operator, "agent", name, &(agent.rules)())?);
        parts.push(("agent", documents));
    }
    match operator.remediation {
        Remediation::Creates => parts.push(("aggregation", aggregation(operator, &manager)?)),
        Remediation::CarriesOut {
            group,
            remediations,
            templates,
        } => {
            parts.push((
                "ext_remediation",
                vec![ext_remediation(operator, group, remediations, templates)?],
            ));
        }
        Remediation::None => {}
    }
    parts.push(("users", users(operator)?));
    Ok(parts)
}

fn service_account(operator: &Operator, name: &str) -> Result<String> {
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(operator, name, true),
    });
    yaml::typed::<ServiceAccount>(&account)?;
    yaml::document(&account)
}

/// Roles of one account, and their bindings. Rules for the metrics are in roles of their own, as
/// in the original.
fn account(operator: &Operator, role: &str, account: &str, rules: &RuleSet) -> Result<Vec<String>> {
    let cluster: Vec<&Rule> = rules
        .cluster
        .iter()
        .filter(|table| **table != METRICS_AUTH)
        .flat_map(|table| table.iter())
        .collect();
    let leader: Vec<&Rule> = rules
        .own_namespace
        .iter()
        .filter(|table| **table == LEADER_LEASE)
        .flat_map(|table| table.iter())
        .collect();
    let own: Vec<&Rule> = rules
        .own_namespace
        .iter()
        .filter(|table| **table != LEADER_LEASE)
        .flat_map(|table| table.iter())
        .collect();

    let mut documents = Vec::new();
    if !cluster.is_empty() {
        let name = operator.name(&format!("{role}-role"));
        documents.push(cluster_role(operator, &name, &cluster)?);
        documents.push(cluster_role_binding(
            operator,
            &operator.name(&format!("{role}-rolebinding")),
            &name,
            &[account],
        )?);
    }
    for (suffix, rules) in [("leader-election", leader), (role, own)] {
        if !rules.is_empty() {
            documents.extend(role_with_binding(
                operator,
                suffix,
                operator.namespace,
                &rules,
                account,
            )?);
        }
    }
    for (namespace, tables) in rules.namespaces {
        let rules: Vec<&Rule> = tables.iter().flat_map(|table| table.iter()).collect();
        documents.extend(role_with_binding(
            operator, role, namespace, &rules, account,
        )?);
    }
    Ok(documents)
}

/// Who may read the metrics, and how manager and agents find that out.
fn metrics(operator: &Operator) -> Result<Vec<String>> {
    let manager = operator.manager();
    let mut accounts = Vec::new();
    if (operator.rules)().cluster.contains(&METRICS_AUTH) {
        accounts.push(manager.as_str());
    }
    if let Some(agent) = &operator.agent
        && (agent.rules)().cluster.contains(&METRICS_AUTH)
    {
        accounts.push(agent.service_account);
    }
    let auth = operator.name(operator.metrics_auth_role);
    let binding = auth
        .strip_suffix("role")
        .map_or_else(|| auth.clone(), |stem| format!("{stem}rolebinding"));
    Ok(vec![
        cluster_role(operator, &auth, &METRICS_AUTH.iter().collect::<Vec<_>>())?,
        cluster_role_binding(operator, &binding, &auth, &accounts)?,
        cluster_role(
            operator,
            &operator.name("metrics-reader"),
            &METRICS_READER.iter().collect::<Vec<_>>(),
        )?,
    ])
}

/// The role that collects what remediators grant by label, and its binding.
///
/// As manifests, not made at run time as in the original: whoever creates an aggregated role at run
/// time must be allowed to grant itself everything. The rules are left to the aggregation
/// controller; the manager's own role does not carry the label, since other creators of
/// remediations collect by it too and must not get the manager's rights.
fn aggregation(operator: &Operator, account: &str) -> Result<Vec<String>> {
    let role = json!({
        "apiVersion": API,
        "kind": "ClusterRole",
        "metadata": metadata(operator, nhc::AGGREGATION_ROLE, false),
        "aggregationRule": {
            "clusterRoleSelectors": [{ "matchLabels": { contract::AGGREGATE_LABEL: contract::TRUE } }],
        },
    });
    yaml::typed::<ClusterRole>(&role)?;
    Ok(vec![
        yaml::document(&role)?,
        cluster_role_binding(
            operator,
            nhc::AGGREGATION_ROLE,
            nhc::AGGREGATION_ROLE,
            &[account],
        )?,
    ])
}

/// The role by which a remediator grants the health checker its kinds.
fn ext_remediation(
    operator: &Operator,
    group: &'static str,
    remediations: &'static str,
    templates: &'static str,
) -> Result<String> {
    let rules = json!([
        {
            "apiGroups": [group],
            "resources": [templates],
            "verbs": ["get", "list", "watch"],
        },
        {
            "apiGroups": [group],
            "resources": [remediations],
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        },
    ]);
    labelled_role(
        operator,
        &operator.name("ext-remediation"),
        &[(contract::AGGREGATE_LABEL, contract::TRUE)],
        &rules,
    )
}

/// Per kind a role to edit and one to view, added to the cluster's roles of that purpose.
///
/// Except: who may create remediations may reboot any node, whatever the namespace. That must not
/// come with the right to edit a namespace, so the editor role of remediations is not added.
fn users(operator: &Operator) -> Result<Vec<String>> {
    let carried_out = match operator.remediation {
        Remediation::CarriesOut { remediations, .. } => Some(remediations),
        Remediation::Creates | Remediation::None => None,
    };
    let mut documents = Vec::new();
    for crd in medik8s_api::crd::all() {
        let group = crd.spec.group.as_str();
        if !operator.groups.contains(&group) {
            continue;
        }
        let plural = crd.spec.names.plural.as_str();
        let kind = crd.spec.names.kind.to_lowercase();
        let rules = |verbs: &[&str]| {
            json!([
                { "apiGroups": [group], "resources": [plural], "verbs": verbs },
                { "apiGroups": [group], "resources": [format!("{plural}/status")], "verbs": ["get"] },
            ])
        };
        let edit = ("rbac.authorization.k8s.io/aggregate-to-edit", "true");
        let admin = ("rbac.authorization.k8s.io/aggregate-to-admin", "true");
        let view = ("rbac.authorization.k8s.io/aggregate-to-view", "true");
        let editors = [admin, edit];
        documents.push(labelled_role(
            operator,
            &operator.name(&format!("{kind}-editor-role")),
            if carried_out == Some(plural) {
                &[]
            } else {
                &editors
            },
            &rules(&[
                "create", "delete", "get", "list", "patch", "update", "watch",
            ]),
        )?);
        documents.push(labelled_role(
            operator,
            &operator.name(&format!("{kind}-viewer-role")),
            &[view],
            &rules(&["get", "list", "watch"]),
        )?);
    }
    Ok(documents)
}

fn labelled_role(
    operator: &Operator,
    name: &str,
    labels: &[(&str, &str)],
    rules: &Value,
) -> Result<String> {
    let mut metadata = metadata(operator, name, false);
    for (key, value) in labels {
        metadata["labels"][*key] = (*value).into();
    }
    let role =
        json!({ "apiVersion": API, "kind": "ClusterRole", "metadata": metadata, "rules": rules });
    yaml::typed::<ClusterRole>(&role)?;
    yaml::document(&role)
}

fn cluster_role(operator: &Operator, name: &str, rules: &[&Rule]) -> Result<String> {
    let text = with_reasons("ClusterRole", &metadata(operator, name, false), rules)?;
    check::<ClusterRole>(&text)?;
    Ok(text)
}

fn role_with_binding(
    operator: &Operator,
    suffix: &str,
    namespace: &str,
    rules: &[&Rule],
    account: &str,
) -> Result<[String; 2]> {
    let name = operator.name(&format!("{suffix}-role"));
    let mut meta = metadata(operator, &name, false);
    meta["namespace"] = namespace.into();
    let role = with_reasons("Role", &meta, rules)?;
    check::<Role>(&role)?;
    meta["name"] = operator.name(&format!("{suffix}-rolebinding")).into();
    let binding = json!({
        "apiVersion": API,
        "kind": "RoleBinding",
        "metadata": meta,
        "roleRef": { "apiGroup": API_GROUP, "kind": "Role", "name": name },
        "subjects": subjects(operator, &[account]),
    });
    yaml::typed::<RoleBinding>(&binding)?;
    Ok([role, yaml::document(&binding)?])
}

fn cluster_role_binding(
    operator: &Operator,
    name: &str,
    role: &str,
    accounts: &[&str],
) -> Result<String> {
    let binding = json!({
        "apiVersion": API,
        "kind": "ClusterRoleBinding",
        "metadata": metadata(operator, name, false),
        "roleRef": { "apiGroup": API_GROUP, "kind": "ClusterRole", "name": role },
        "subjects": subjects(operator, accounts),
    });
    yaml::typed::<ClusterRoleBinding>(&binding)?;
    yaml::document(&binding)
}

fn subjects(operator: &Operator, accounts: &[&str]) -> Value {
    accounts
        .iter()
        .map(|account| {
            json!({ "kind": "ServiceAccount", "name": account, "namespace": operator.namespace })
        })
        .collect()
}

/// A role in which each rule has its reason above it.
fn with_reasons(kind: &str, metadata: &Value, rules: &[&Rule]) -> Result<String> {
    let mut text =
        yaml::document(&json!({ "apiVersion": API, "kind": kind, "metadata": metadata }))?;
    text.push_str("rules:\n");
    for rule in rules {
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
        text.push_str("# ");
        text.push_str(rule.why);
        text.push('\n');
        text.push_str(&yaml::document(&json!([fields]))?);
    }
    Ok(text)
}

fn check<T: serde::Serialize + serde::de::DeserializeOwned>(text: &str) -> Result<()> {
    let documents = yaml::read(text)?;
    yaml::typed::<T>(documents.first().context("no document")?)
}
