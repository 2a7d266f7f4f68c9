//! What a CRD means to a user, as lines of text that can be compared.
//!
//! # Purpose
//! Parity with the original CRDs is checked by comparing surfaces: two CRDs with the same surface
//! accept the same objects, default them the same way and merge them the same way. Descriptions and
//! printer columns are not part of it.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

/// The surface of one CRD: a place in it, and what holds there.
///
/// Places are the paths of schema nodes (`v1alpha1.spec.selector`, with `[]` for list items and
/// `{}` for map values) and a few names in front of them (`names`, `scope`, `v1alpha1`).
pub type Surface = BTreeMap<String, String>;

/// Schema keywords that say nothing about which objects are accepted, or that become places.
const NOT_FACTS: &[&str] = &[
    "description",
    "title",
    "example",
    "properties",
    "items",
    "additionalProperties",
    "required",
];

/// The surface of `crd`.
pub fn surface(crd: &CustomResourceDefinition) -> Surface {
    let mut places = Surface::new();
    let names = &crd.spec.names;
    places.insert("group".into(), crd.spec.group.clone());
    places.insert("scope".into(), crd.spec.scope.clone());
    places.insert("names.kind".into(), names.kind.clone());
    places.insert("names.plural".into(), names.plural.clone());
    let optional = [
        ("names.listKind", &names.list_kind),
        ("names.singular", &names.singular),
    ];
    for (place, name) in optional {
        if let Some(name) = name {
            places.insert(place.into(), name.clone());
        }
    }
    for name in names.short_names.iter().flatten() {
        places.insert(format!("names.shortNames {name}"), String::new());
    }
    for name in names.categories.iter().flatten() {
        places.insert(format!("names.categories {name}"), String::new());
    }
    if let Some(conversion) = &crd.spec.conversion {
        places.insert("conversion".into(), conversion.strategy.clone());
    }
    for version in &crd.spec.versions {
        let mut facts = format!("served={} storage={}", version.served, version.storage);
        if version.deprecated == Some(true) {
            facts.push_str(" deprecated");
        }
        places.insert(version.name.clone(), facts);
        if let Some(subresources) = &version.subresources {
            if subresources.status.is_some() {
                places.insert(format!("{}/status", version.name), String::new());
            }
            if let Some(scale) = &subresources.scale {
                places.insert(
                    format!("{}/scale", version.name),
                    format!(
                        "{} {}",
                        scale.spec_replicas_path, scale.status_replicas_path
                    ),
                );
            }
        }
        for field in version.selectable_fields.iter().flatten() {
            places.insert(
                format!("{} selectable {}", version.name, field.json_path),
                String::new(),
            );
        }
        let schema = version
            .schema
            .as_ref()
            .and_then(|schema| schema.open_api_v3_schema.as_ref());
        // The generated type always serialises; if not, the root is missing and shows as a
        // difference.
        if let Some(Ok(root)) = schema.map(serde_json::to_value) {
            walk(&root, &version.name, false, &mut places);
        }
    }
    places
}

fn walk(node: &Value, place: &str, required: bool, places: &mut Surface) {
    let Value::Object(keywords) = node else {
        return;
    };
    let mut facts: Vec<String> = keywords
        .iter()
        .filter(|(keyword, _)| !NOT_FACTS.contains(&keyword.as_str()))
        .map(|(keyword, value)| format!("{keyword}={}", written(value)))
        .collect();
    facts.sort();
    if required {
        facts.insert(0, "required".into());
    }
    match keywords.get("additionalProperties") {
        Some(Value::Bool(allowed)) => facts.push(format!("additionalProperties={allowed}")),
        Some(value) => walk(value, &format!("{place}{{}}"), false, places),
        None => {}
    }
    if let Some(items) = keywords.get("items") {
        walk(items, &format!("{place}[]"), false, places);
    }
    let required: Vec<&str> = keywords
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if let Some(Value::Object(properties)) = keywords.get("properties") {
        for (name, property) in properties {
            walk(
                property,
                &format!("{place}.{name}"),
                required.contains(&name.as_str()),
                places,
            );
        }
    }
    // The place of a version also says whether it is served.
    let entry = places.entry(place.to_owned()).or_default();
    if !entry.is_empty() {
        entry.push(' ');
    }
    entry.push_str(&facts.join(" "));
}

/// A value as it is written in a CRD: limits are floating point numbers in the typed schema.
fn written(value: &Value) -> String {
    let text = value.to_string();
    match value {
        Value::Number(_) => text.strip_suffix(".0").unwrap_or(&text).to_owned(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            text
        }
    }
}

/// One difference between two surfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub place: String,
    /// What holds there in the CRD that is compared with, if the place exists in it.
    pub theirs: Option<String>,
    /// What holds there in our CRD, if the place exists in it.
    pub ours: Option<String>,
}

/// All differences between two surfaces, by place.
pub fn compare(theirs: &Surface, ours: &Surface) -> Vec<Difference> {
    let mut places: Vec<&String> = theirs.keys().chain(ours.keys()).collect();
    places.sort();
    places.dedup();
    places
        .into_iter()
        .filter(|place| theirs.get(*place) != ours.get(*place))
        .map(|place| Difference {
            place: place.clone(),
            theirs: theirs.get(place).cloned(),
            ours: ours.get(place).cloned(),
        })
        .collect()
}
