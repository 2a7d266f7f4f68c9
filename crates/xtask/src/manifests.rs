//! The manifests of each operator: `config/{rbac,manager,webhook}` in parts, `deploy/` as a whole.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::operators::{OPERATORS, Operator};
use crate::tree::Tree;
use crate::{crds, yaml};

mod kustomize;
pub(crate) mod monitoring;
pub(crate) mod policy;
mod rbac;
mod webhook;
mod workload;

/// What the pod-security labels of a namespace are for.
pub(crate) const POD_SECURITY_MODES: [&str; 3] = ["enforce", "audit", "warn"];

/// Adds the manifests of all operators.
pub(crate) fn generate(tree: &mut Tree) -> Result<()> {
    let mut everything = Vec::new();
    for operator in OPERATORS {
        let parts = parts(operator).with_context(|| operator.package.to_owned())?;
        parts.add_to_config(operator, tree);
        let documents = parts.in_order();
        tree.add(
            format!("deploy/{}.yaml", operator.package),
            file(&documents),
        );
        everything.extend(documents);
    }
    tree.add("deploy/medik8s.yaml", file(&everything));
    policy::generate(tree)?;
    monitoring::generate(tree)?;
    kustomize::generate(tree)
}

/// What one operator is installed from, each part as YAML documents.
pub(crate) struct Parts {
    /// The namespace, for the ways of installation that make it.
    pub(crate) namespace: String,
    /// The kinds it brings along.
    pub(crate) crds: Vec<String>,
    /// Accounts and roles, by file name.
    pub(crate) rbac: Vec<(&'static str, Vec<String>)>,
    /// The metrics Service and the Deployment.
    pub(crate) manager: Vec<String>,
    /// The webhook Service and the webhook configurations.
    pub(crate) webhooks: Vec<String>,
}

/// The parts of one operator.
pub(crate) fn parts(operator: &Operator) -> Result<Parts> {
    let mut own = Vec::new();
    for crd in medik8s_api::crd::all() {
        if operator.groups.contains(&crd.spec.group.as_str()) {
            own.push(crds::document(&crd)?);
        }
    }
    Ok(Parts {
        namespace: namespace(operator)?,
        crds: own,
        rbac: rbac::parts(operator)?,
        manager: workload::documents(operator)?,
        webhooks: webhook::documents(operator)?,
    })
}

impl Parts {
    /// Everything, in the order in which it is applied.
    pub(crate) fn in_order(self) -> Vec<String> {
        let mut all = vec![self.namespace];
        all.extend(self.crds);
        all.extend(self.rbac.into_iter().flat_map(|(_, documents)| documents));
        all.extend(self.manager);
        // Last: until the operator answers, required webhooks refuse the objects they are for.
        all.extend(self.webhooks);
        all
    }

    fn add_to_config(&self, operator: &Operator, tree: &mut Tree) {
        let package = operator.package;
        for (part, documents) in &self.rbac {
            tree.add(
                format!("config/rbac/{package}/{part}.yaml"),
                file(documents),
            );
        }
        let mut manager = vec![self.namespace.clone()];
        manager.extend(self.manager.clone());
        tree.add(format!("config/manager/{package}.yaml"), file(&manager));
        tree.add(
            format!("config/webhook/{package}.yaml"),
            file(&self.webhooks),
        );
    }
}

pub(crate) fn file(documents: &[String]) -> String {
    yaml::file(documents.iter().map(String::as_str))
}

fn namespace(operator: &Operator) -> Result<String> {
    let mut labels = pairs(operator.labels);
    for mode in POD_SECURITY_MODES {
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
pub(crate) fn metadata(operator: &Operator, name: &str, namespaced: bool) -> Value {
    let mut metadata = json!({ "name": name, "labels": pairs(operator.labels) });
    if namespaced {
        metadata["namespace"] = operator.namespace.into();
    }
    metadata
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
        .collect()
}

#[cfg(test)]
mod tests;
