//! What the OpenShift console shows of each kind: from the descriptions in its schema.

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::{Value, json};

use crate::operators::Operator;

const URN: &str = "urn:alm:descriptor:";

/// The kinds that the operator brings along.
pub(super) fn owned(operator: &Operator) -> Result<Vec<Value>> {
    let mut owned = Vec::new();
    for crd in medik8s_api::crd::all() {
        if !operator.groups.contains(&crd.spec.group.as_str()) {
            continue;
        }
        let name = crd.metadata.name.clone().unwrap_or_default();
        let version = crd
            .spec
            .versions
            .iter()
            .find(|version| version.storage)
            .with_context(|| format!("{name} stores no version"))?;
        let schema = version
            .schema
            .as_ref()
            .and_then(|schema| schema.open_api_v3_schema.as_ref())
            .with_context(|| format!("{name} has no schema"))?;
        owned.push(json!({
            "name": name,
            "version": version.name,
            "kind": crd.spec.names.kind,
            "displayName": words(&crd.spec.names.kind),
            "description": schema.description.as_deref().unwrap_or_default(),
            "resources": resources(&crd.spec.names.kind, &version.name),
            "specDescriptors": part(schema, "spec"),
            "statusDescriptors": part(schema, "status"),
        }));
    }
    Ok(owned)
}

/// What an object of the kind leads to.
fn resources(kind: &str, version: &str) -> Vec<Value> {
    let resource =
        |kind: &str, version: &str| json!({ "kind": kind, "name": "", "version": version });
    match kind {
        "SelfNodeRemediationConfig" => {
            vec![resource("DaemonSet", "v1"), resource(kind, version)]
        }
        "SelfNodeRemediation" | "NodeMaintenance" | "NodeHealthCheck" => {
            vec![resource("Node", "v1"), resource(kind, version)]
        }
        _ => vec![resource(kind, version)],
    }
}

fn part(schema: &JSONSchemaProps, part: &str) -> Vec<Value> {
    let mut descriptors = Vec::new();
    if let Some(part_schema) = schema.properties.as_ref().and_then(|all| all.get(part)) {
        walk("", part_schema, part == "status", &mut descriptors);
    }
    descriptors
}

fn walk(path: &str, schema: &JSONSchemaProps, status: bool, descriptors: &mut Vec<Value>) {
    for (name, field) in schema.properties.iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let mut descriptor = json!({
            "path": path,
            "displayName": words(name),
            "description": field.description.as_deref().unwrap_or_default(),
        });
        let widgets = widgets(name, field, status);
        if !widgets.is_empty() {
            descriptor["x-descriptors"] = widgets.into();
        }
        descriptors.push(descriptor);
        // Conditions are shown by a widget of their own.
        if name == "conditions" {
            continue;
        }
        walk(&path, field, status, descriptors);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
            walk(&format!("{path}[0]"), items, status, descriptors);
        }
    }
}

fn widgets(name: &str, field: &JSONSchemaProps, status: bool) -> Vec<String> {
    let urn = |widget: &str| format!("{URN}{widget}");
    if status {
        return match name {
            "conditions" => vec![urn("io.kubernetes.conditions")],
            "phase" => vec![urn("io.kubernetes.phase")],
            "reason" => vec![urn("io.kubernetes.phase:reason")],
            _ => Vec::new(),
        };
    }
    if let Some(values) = &field.enum_ {
        return values
            .iter()
            .filter_map(|value| value.0.as_str())
            .map(|value| urn(&format!("com.tectonic.ui:select:{value}")))
            .collect();
    }
    match field.type_.as_deref() {
        Some("boolean") => vec![urn("com.tectonic.ui:booleanSwitch")],
        Some("integer") => vec![urn("com.tectonic.ui:number")],
        Some("string") => vec![urn("com.tectonic.ui:text")],
        Some(_) | None => Vec::new(),
    }
}

/// `minPeersForRemediation` as `Min Peers For Remediation`.
fn words(name: &str) -> String {
    let mut words = String::new();
    let mut before = ' ';
    for (number, letter) in name.chars().enumerate() {
        if number == 0 {
            words.extend(letter.to_uppercase());
        } else {
            if letter.is_uppercase() && before.is_lowercase() {
                words.push(' ');
            }
            words.push(letter);
        }
        before = letter;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_become_words() {
        assert_eq!(words("minPeersForRemediation"), "Min Peers For Remediation");
        assert_eq!(words("NodeHealthCheck"), "Node Health Check");
        assert_eq!(words("endpointHealthCheckURL"), "Endpoint Health Check URL");
    }
}
