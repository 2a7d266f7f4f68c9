//! The manifests of each operator: `config/{rbac,manager,webhook}` in parts, `deploy/` as a whole.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::operators::{OPERATORS, Operator};
use crate::tree::Tree;
use crate::{crds, yaml};

mod rbac;
mod webhook;
mod workload;

/// Adds the manifests of all operators.
pub(crate) fn generate(tree: &mut Tree) -> Result<()> {
    let mut everything = Vec::new();
    for operator in OPERATORS {
        let documents = one(operator, tree).with_context(|| operator.package.to_owned())?;
        tree.add(
            format!("deploy/{}.yaml", operator.package),
            file(&documents),
        );
        everything.extend(documents);
    }
    tree.add("deploy/medik8s.yaml", file(&everything));
    Ok(())
}

/// Adds the parts of one operator to `config/`, and returns them all in the order in which they
/// are applied.
fn one(operator: &Operator, tree: &mut Tree) -> Result<Vec<String>> {
    let package = operator.package;
    let mut all = vec![namespace(operator)?];
    for crd in medik8s_api::crd::all() {
        if operator.groups.contains(&crd.spec.group.as_str()) {
            all.push(crds::document(&crd)?);
        }
    }
    for (part, documents) in rbac::parts(operator)? {
        tree.add(
            format!("config/rbac/{package}/{part}.yaml"),
            file(&documents),
        );
        all.extend(documents);
    }
    let manager = workload::documents(operator)?;
    let mut with_namespace = vec![namespace(operator)?];
    with_namespace.extend(manager.clone());
    tree.add(
        format!("config/manager/{package}.yaml"),
        file(&with_namespace),
    );
    all.extend(manager);
    // Last: until the operator answers, required webhooks refuse the objects they are for.
    let webhooks = webhook::documents(operator)?;
    tree.add(format!("config/webhook/{package}.yaml"), file(&webhooks));
    all.extend(webhooks);
    Ok(all)
}

fn file(documents: &[String]) -> String {
    yaml::file(documents.iter().map(String::as_str))
}

fn namespace(operator: &Operator) -> Result<String> {
    let mut labels = pairs(operator.labels);
    for mode in ["enforce", "audit", "warn"] {
        labels[format!("pod-security.kubernetes.io/{mode}")] = operator.pod_security.into();
    }
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": operator.namespace, "labels": labels },
    });
    yaml::typed::<Namespace>(&namespace)?;
    yaml::document(&namespace)
}

/// Name and labels of an object, and its namespace if it has one.
fn metadata(operator: &Operator, name: &str, namespaced: bool) -> Value {
    let mut metadata = json!({ "name": name, "labels": pairs(operator.labels) });
    if namespaced {
        metadata["namespace"] = operator.namespace.into();
    }
    metadata
}

fn pairs(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
        .collect()
}

#[cfg(test)]
mod tests;
