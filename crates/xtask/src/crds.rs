//! CRDs: their files, and the comparison with those of the original project.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use medik8s_api::crd::additions;
use medik8s_api::crd::surface::{compare, surface};
use serde_json::Value;

use crate::operators::OPERATORS;
use crate::tree::Tree;
use crate::yaml;

/// Adds `config/crd/bases/<group>_<plural>.yaml` for every kind.
pub(crate) fn generate(tree: &mut Tree) -> Result<()> {
    for crd in medik8s_api::crd::all() {
        let path = format!(
            "config/crd/bases/{}_{}.yaml",
            crd.spec.group, crd.spec.names.plural
        );
        tree.add(path, yaml::file([document(&crd)?.as_str()]));
    }
    Ok(())
}

/// One CRD as a YAML document, with the labels of the operator that brings it along.
pub(crate) fn document(crd: &CustomResourceDefinition) -> Result<String> {
    let mut crd = crd.clone();
    let operator = OPERATORS
        .iter()
        .find(|operator| operator.groups.contains(&crd.spec.group.as_str()));
    for (key, value) in operator.iter().flat_map(|operator| operator.labels) {
        crd.metadata
            .labels
            .get_or_insert_default()
            .insert((*key).to_owned(), (*value).to_owned());
    }
    yaml::document(&serde_json::to_value(crd)?)
}

/// Compares the CRDs in `folder` with ours. Returns the report and whether all is well.
pub(crate) fn diff(folder: &Path) -> Result<(String, bool)> {
    let ours: BTreeMap<String, CustomResourceDefinition> = medik8s_api::crd::all()
        .into_iter()
        .filter_map(|crd| crd.metadata.name.clone().map(|name| (name, crd)))
        .collect();
    let mut report = Vec::new();
    let mut wanted = BTreeMap::new();
    let mut unwanted = 0_usize;
    let theirs = read(folder)?;
    ensure!(!theirs.is_empty(), "no CRD in {}", folder.display());
    for (name, theirs) in &theirs {
        let Some(ours) = ours.get(name) else {
            unwanted += 1;
            report.push(format!("{name}: there is no such CRD of ours"));
            continue;
        };
        for difference in compare(&surface(theirs), &surface(ours)) {
            let place = &difference.place;
            if let Some(addition) = additions::find(name, &difference) {
                wanted.insert((name, addition.place), addition.reason);
                continue;
            }
            unwanted += 1;
            let say = |side: &Option<String>| {
                side.as_ref()
                    .map_or_else(|| "absent".into(), |facts| format!("`{facts}`"))
            };
            report.push(format!(
                "{name}: {place}: theirs {}, ours {}",
                say(&difference.theirs),
                say(&difference.ours)
            ));
        }
    }
    for ((name, place), reason) in wanted {
        report.push(format!("{name}: {place}: added on purpose: {reason}"));
    }
    report.push(format!(
        "{} CRDs compared, {unwanted} unwanted differences",
        theirs.len()
    ));
    Ok((report.join("\n"), unwanted == 0))
}

/// The surfaces of the CRDs in `folder`, in the form of the table in the tests of `medik8s-api`.
pub(crate) fn table(folder: &Path) -> Result<String> {
    let mut lines = Vec::new();
    for (name, crd) in read(folder)? {
        lines.push(format!("crd {name}"));
        for (place, facts) in surface(&crd) {
            lines.push(format!("{place} | {facts}").trim_end().to_owned());
        }
        lines.push(String::new());
    }
    Ok(lines.join("\n"))
}

/// All CRDs in the YAML files of `folder`, by name.
fn read(folder: &Path) -> Result<BTreeMap<String, CustomResourceDefinition>> {
    let mut crds = BTreeMap::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        for value in yaml::read(&text).with_context(|| path.display().to_string())? {
            if value == Value::Null {
                continue;
            }
            let crd: CustomResourceDefinition = serde_json::from_value(value)
                .with_context(|| format!("{} is no CRD", path.display()))?;
            let name = crd.metadata.name.clone().unwrap_or_default();
            if crds.insert(name.clone(), crd).is_some() {
                bail!("{name} is there twice");
            }
        }
    }
    Ok(crds)
}
