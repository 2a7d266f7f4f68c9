//! A file-based catalog of the bundles, as OLM and OperatorHub read it.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{CHANNEL, Release, csv, dependencies, examples, text};
use crate::operators::{OPERATORS, Operator, Remediation};
use crate::tree::Tree;
use crate::yaml;

/// Adds `bundle/catalog/<package>/catalog.yaml`, and beside it the catalog in which the node health
/// check brings self node remediation along.
pub(super) fn generate(tree: &mut Tree, root: &Path, release: &Release) -> Result<()> {
    for (folder, with_dependencies) in [("catalog", false), ("catalog-with-dependencies", true)] {
        let release = Release {
            with_dependencies,
            ..release.clone()
        };
        for operator in OPERATORS {
            let blobs = blobs(operator, root, &release).with_context(|| operator.package)?;
            let blobs: Result<Vec<String>> = blobs.iter().map(yaml::document).collect();
            let blobs = blobs?;
            tree.add(
                format!("bundle/{folder}/{}/catalog.yaml", operator.package),
                yaml::file(blobs.iter().map(String::as_str)),
            );
        }
    }
    Ok(())
}

/// Package, channel and bundle of one operator.
fn blobs(operator: &Operator, root: &Path, release: &Release) -> Result<Vec<Value>> {
    let about = text::about(operator)?;
    let name = release.csv_name(operator);
    let csv = csv::csv(operator, &examples(operator, root)?, release)?;
    let mut entry = json!({ "name": name });
    if let Some(replaces) = &release.replaces {
        entry["replaces"] = super::csv_name(operator, replaces).into();
    }
    if let Some(range) = &release.skip_range {
        entry["skipRange"] = range.clone().into();
    }
    let mut properties = Vec::new();
    let mut metadata = json!({
        "annotations": csv["metadata"]["annotations"],
        "apiServiceDefinitions": {},
        "labels": csv["metadata"]["labels"],
    });
    let spec = &csv["spec"];
    for (to, from) in [
        ("crdDescriptions", "customresourcedefinitions"),
        ("description", "description"),
        ("displayName", "displayName"),
        ("installModes", "installModes"),
        ("keywords", "keywords"),
        ("links", "links"),
        ("maintainers", "maintainers"),
        ("maturity", "maturity"),
        ("minKubeVersion", "minKubeVersion"),
        ("provider", "provider"),
    ] {
        metadata[to] = spec[from].clone();
    }
    for owned in spec["customresourcedefinitions"]["owned"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let group = owned["name"].as_str().unwrap_or_default();
        let group = group.split_once('.').map_or(group, |(_, group)| group);
        properties.push(json!({ "type": "olm.gvk", "value": {
            "group": group, "kind": owned["kind"], "version": owned["version"],
        } }));
    }
    if release.with_dependencies && operator.remediation == Remediation::Creates {
        properties.push(json!({
            "type": "olm.gvk.required",
            "value": dependencies()["dependencies"][0]["value"],
        }));
    }
    properties.push(json!({ "type": "olm.package", "value": {
        "packageName": operator.package, "version": release.version,
    } }));
    properties.push(json!({ "type": "olm.csv.metadata", "value": metadata }));
    let image = release.bundle_image(operator);
    let mut related = vec![json!({ "name": "", "image": image })];
    related.extend(
        spec["relatedImages"]
            .as_array()
            .into_iter()
            .flatten()
            .cloned(),
    );
    Ok(vec![
        json!({
            "schema": "olm.package",
            "name": operator.package,
            "defaultChannel": CHANNEL,
            "description": about.summary,
            "icon": { "base64data": spec["icon"][0]["base64data"], "mediatype": "image/svg+xml" },
        }),
        json!({
            "schema": "olm.channel",
            "name": CHANNEL,
            "package": operator.package,
            "entries": [entry],
        }),
        json!({
            "schema": "olm.bundle",
            "name": name,
            "package": operator.package,
            "image": image,
            "properties": properties,
            "relatedImages": related,
        }),
    ])
}
