//! `kubectl explain` says something useful about every field.
#![cfg(test)]

use serde_json::Value;

/// Calls `visit` for every schema node with its place.
fn walk(node: &Value, place: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(place, node);
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{place}.{name}"), visit);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if node[key].is_object() {
            walk(&node[key], &format!("{place}{mark}"), visit);
        }
    }
}

fn all_nodes(mut visit: impl FnMut(&str, &Value)) {
    let mut fields = 0;
    for crd in medik8s_api::crd::all() {
        for version in &crd.spec.versions {
            let schema = version
                .schema
                .as_ref()
                .unwrap()
                .open_api_v3_schema
                .as_ref()
                .unwrap();
            let root = serde_json::to_value(schema).unwrap();
            walk(&root, &crd.spec.names.kind, &mut |place, node| {
                fields += 1;
                visit(place, node);
            });
        }
    }
    assert!(fields > 350, "only {fields} fields were visited");
}

/// The shortest sentence that can say more than the name of the field does.
const MIN_WORDS: usize = 3;

#[test]
fn every_field_is_described() {
    let mut bad = Vec::new();
    all_nodes(|place, node| {
        let description = node["description"].as_str().unwrap_or_default();
        if place.ends_with(".metadata") && place.matches('.').count() == 1 {
            // The API server describes it, and refuses a CRD that does.
            assert_eq!(description, "");
            return;
        }
        // A few words would only repeat the name.
        if description.split_whitespace().count() < MIN_WORDS || !description.ends_with('.') {
            bad.push(format!("{place}: {description:?}"));
        }
    });
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn every_default_is_explained() {
    let mut bad = Vec::new();
    all_nodes(|place, node| {
        let description = node["description"].as_str().unwrap_or_default();
        if !node["default"].is_null() && !description.to_lowercase().contains("default") {
            bad.push(place.to_owned());
        }
    });
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn every_enum_value_is_explained() {
    let mut bad = Vec::new();
    all_nodes(|place, node| {
        let description = node["description"].as_str().unwrap_or_default();
        for value in node["enum"].as_array().into_iter().flatten() {
            if !description.contains(value.as_str().unwrap()) {
                bad.push(format!("{place}: {value}"));
            }
        }
    });
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn no_text_is_wrapped_and_nothing_may_be_null() {
    let mut bad = Vec::new();
    all_nodes(|place, node| {
        let description = node["description"].as_str().unwrap_or_default();
        if description.contains("  ") || description.replace("\n\n", "").contains('\n') {
            bad.push(format!("{place}: {description:?}"));
        }
        assert!(node["nullable"].is_null(), "{place} may be null");
    });
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn printer_columns_list_the_age_and_hide_only_what_is_meant_for_wide_output() {
    for crd in medik8s_api::crd::all() {
        let kind = &crd.spec.names.kind;
        let columns = crd.spec.versions[0]
            .additional_printer_columns
            .as_ref()
            .unwrap();
        let age = columns.last().unwrap();
        assert_eq!(
            (
                age.name.as_str(),
                age.json_path.as_str(),
                age.type_.as_str()
            ),
            ("Age", ".metadata.creationTimestamp", "date"),
            "{kind}"
        );
        let wide: Vec<&str> = columns
            .iter()
            .filter(|column| column.priority.unwrap_or_default() > 0)
            .map(|column| column.name.as_str())
            .collect();
        let expected: &[&str] = match kind.as_str() {
            "NodeHealthCheck" => &["Max Unhealthy", "Reason"],
            "SelfNodeRemediation" => &["Assumed Rebooted", "Message", "Last Error"],
            "NodeMaintenance" => &["Last Error"],
            "MachineDeletionRemediation" => &["Node Deletion Expected"],
            "MeatwareRemediation" => &["Challenge", "Requested"],
            _ => &[],
        };
        assert_eq!(wide, expected, "{kind}");
        assert_eq!(
            crd.spec.names.categories.as_deref(),
            Some(&["medik8s".to_owned()][..])
        );
    }
}
