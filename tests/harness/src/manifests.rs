//! The shipped manifests: all of `deploy/`, as a user would apply them.

use std::fs;

use anyhow::ensure;

use crate::tools;

/// All documents, one after the other.
pub fn all() -> anyhow::Result<String> {
    let folder = tools::repository().join("deploy");
    let mut files: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::path);
    let mut all = String::new();
    for file in files.iter().map(fs::DirEntry::path) {
        if file
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            all.push_str("\n---\n");
            all.push_str(&fs::read_to_string(&file)?);
        }
    }
    ensure!(
        !all.is_empty(),
        "{} holds no manifests: run `cargo xtask generate`",
        folder.display()
    );
    Ok(all)
}

/// What has to be there before anything else can be created: namespaces and CRDs.
pub fn definitions() -> anyhow::Result<String> {
    let all = all()?;
    let first = all.split("\n---\n").filter(|document| {
        document
            .lines()
            .any(|line| line == "kind: CustomResourceDefinition" || line == "kind: Namespace")
    });
    Ok(first
        .map(|document| format!("---\n{document}\n"))
        .collect::<Vec<_>>()
        .concat())
}
