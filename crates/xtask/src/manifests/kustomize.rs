//! kustomizations, so that `kubectl apply -k` works on each folder of `config/`.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::operators::OPERATORS;
use crate::tree::Tree;
use crate::yaml;

/// Samples that reboot or drain a node: nobody gets them by applying a folder.
const SAMPLES: &[&str] = &[
    "nodehealthcheck.yaml",
    "selfnoderemediationconfig.yaml",
    "selfnoderemediationtemplate.yaml",
];

/// Adds the kustomizations.
pub(super) fn generate(tree: &mut Tree) -> Result<()> {
    let crds: Vec<String> = medik8s_api::crd::all()
        .iter()
        .filter(|crd| {
            OPERATORS
                .iter()
                .any(|operator| operator.groups.contains(&crd.spec.group.as_str()))
        })
        .map(|crd| format!("bases/{}_{}.yaml", crd.spec.group, crd.spec.names.plural))
        .collect();
    add(tree, "config/crd", &crds)?;

    let packages: Vec<&str> = OPERATORS.iter().map(|operator| operator.package).collect();
    for package in &packages {
        let folder = format!("config/rbac/{package}");
        let files = tree.names_in(&folder);
        add(tree, &folder, &files)?;
    }
    add(tree, "config/rbac", &packages)?;
    let files: Vec<String> = packages
        .iter()
        .map(|package| format!("{package}.yaml"))
        .collect();
    add(tree, "config/manager", &files)?;
    add(tree, "config/webhook", &files)?;
    add(tree, "config/samples", SAMPLES)?;
    let policies = tree.names_in("config/policy");
    add(tree, "config/policy", &policies)?;
    add(
        tree,
        "config/default",
        &["../crd", "../manager", "../rbac", "../webhook"],
    )
}

/// A kustomization of `resources`, which are relative to `folder`.
pub(super) fn add<T: AsRef<str>>(tree: &mut Tree, folder: &str, resources: &[T]) -> Result<()> {
    let resources: Vec<Value> = resources.iter().map(|path| path.as_ref().into()).collect();
    let text = yaml::document(&json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }))
    .with_context(|| folder.to_owned())?;
    tree.add(
        format!("{folder}/kustomization.yaml"),
        yaml::file([text.as_str()]),
    );
    Ok(())
}
