//! The shipped manifests: `deploy/medik8s.yaml`, as a user would apply them.

use std::fs;

use anyhow::Context as _;

use crate::tools;

/// All documents of all operators, one after the other.
pub fn all() -> anyhow::Result<String> {
    let file = tools::repository().join("deploy/medik8s.yaml");
    fs::read_to_string(&file)
        .with_context(|| format!("read {}: `cargo xtask generate` makes it", file.display()))
}

/// All documents of one operator.
pub fn operator(name: &str) -> anyhow::Result<String> {
    let file = tools::repository().join(format!("deploy/{name}.yaml"));
    fs::read_to_string(&file)
        .with_context(|| format!("read {}: `cargo xtask generate` makes it", file.display()))
}

/// What has to be there before anything else can be created: namespaces and CRDs.
pub fn definitions() -> anyhow::Result<String> {
    let first = ["CustomResourceDefinition", "Namespace"];
    documents(|kind| first.contains(&kind))
}

/// All but objects of some kinds.
pub fn without(kinds: &[&str]) -> anyhow::Result<String> {
    documents(|kind| !kinds.contains(&kind))
}

fn documents(choose: impl Fn(&str) -> bool) -> anyhow::Result<String> {
    let all = all()?;
    let chosen = all.split("\n---\n").filter(|document| {
        document
            .lines()
            .filter_map(|line| line.strip_prefix("kind: "))
            .any(&choose)
    });
    Ok(chosen
        .map(|document| format!("---\n{document}\n"))
        .collect::<Vec<_>>()
        .concat())
}
