//! Whatever the schema accepts comes back unchanged: values are made from the generated schemas.
//!
//! Times are the exception: they are made in the one form in which the original writes them too
//! (UTC, whole seconds).
#![cfg(test)]

use medik8s_api as api;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Values that the schema node `schema` accepts.
fn values(schema: &Value) -> BoxedStrategy<Value> {
    if schema["x-kubernetes-int-or-string"] == true {
        let texts = strings(schema["pattern"].as_str().unwrap_or_default());
        return prop_oneof![any::<i64>().prop_map(Value::from), texts].boxed();
    }
    if let Some(values) = schema["enum"].as_array() {
        return prop::sample::select(values.clone()).boxed();
    }
    match schema["type"].as_str() {
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("integer") => {
            let (lowest, highest) = match schema["format"].as_str() {
                Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            #[expect(
                clippy::cast_possible_truncation,
                reason = "limits in schemas are small"
            )]
            let limit = |key: &str| schema[key].as_f64().map(|limit| limit as i64);
            let range = limit("minimum").unwrap_or(lowest)..=limit("maximum").unwrap_or(highest);
            range.prop_map(Value::from).boxed()
        }
        Some("string") if schema["format"] == "date-time" => {
            prop::sample::select(vec!["2026-01-02T03:04:05Z", "1999-12-31T23:59:59Z"])
                .prop_map(Value::from)
                .boxed()
        }
        Some("string") => strings(schema["pattern"].as_str().unwrap_or_default()),
        Some("array") => prop::collection::vec(values(&schema["items"]), 0..3)
            .prop_map(Value::from)
            .boxed(),
        Some("object") if schema["additionalProperties"].is_object() => {
            prop::collection::btree_map("[a-z]{1,4}", values(&schema["additionalProperties"]), 0..3)
                .prop_map(|map| map.into_iter().collect())
                .boxed()
        }
        Some("object") => object(schema),
        other => panic!("what is {other:?}? {schema}"),
    }
}

/// Objects with all required fields and some of the others.
fn object(schema: &Value) -> BoxedStrategy<Value> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let fields: Vec<BoxedStrategy<Option<(String, Value)>>> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, field)| {
            let name = name.clone();
            let value = if required.contains(&json!(name)) {
                values(field).prop_map(Some).boxed()
            } else {
                prop::option::of(values(field)).boxed()
            };
            value
                .prop_map(move |value| value.map(|value| (name.clone(), value)))
                .boxed()
        })
        .collect();
    fields
        .prop_map(|fields| Value::Object(fields.into_iter().flatten().collect::<Map<_, _>>()))
        .boxed()
}

/// Strings that match `pattern`, odd ones included.
fn strings(pattern: &str) -> BoxedStrategy<Value> {
    let examples: &[&str] = match pattern {
        "" => return any::<String>().prop_map(Value::from).boxed(),
        api::value::DURATION_PATTERN => &["0s", "1h30m", "1.5h", "00m", "9µs3ms", "99999999999h"],
        api::value::SIGNED_DURATION_PATTERN => &["-1s", "5m0s", "-0.5h", "-99999999999h"],
        api::value::COUNT_OR_PERCENT_PATTERN => {
            &["0%", "51%", "100%", "08", "99999999999999999999"]
        }
        "^([0-9]+(s|m|h))+$" => &["5s", "1m30s", "600s"],
        "fence_.+" => &["fence_ipmilan", "x fence_y"],
        conditions if conditions.starts_with("^[A-Za-z](") => &["A", "RemediationStarted"],
        conditions if conditions.starts_with("^([a-z0-9](") => &["Ready", "example.com/Ready"],
        other => panic!("give examples for {other}"),
    };
    prop::sample::select(examples.to_vec())
        .prop_map(Value::from)
        .boxed()
}

/// Makes objects of one kind from its schema, and expects each unchanged after reading it as `T`.
fn keeps_any_value<T: Serialize + DeserializeOwned>() {
    let kind = std::any::type_name::<T>().rsplit("::").next().unwrap();
    let crds = api::crd::all();
    let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let version = &crd.spec.versions[0];
    let schema = version
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .as_ref()
        .unwrap();
    let schema = serde_json::to_value(schema).unwrap();
    let (spec, status) = (
        values(&schema["properties"]["spec"]),
        values(&schema["properties"]["status"]),
    );
    let mut runner = TestRunner::deterministic();
    let mut different = std::collections::BTreeSet::new();
    for round in 0..100 {
        let mut object = json!({
            "apiVersion": format!("{}/{}", crd.spec.group, version.name),
            "kind": kind,
            "metadata": { "name": "a" },
            "spec": spec.new_tree(&mut runner).unwrap().current(),
        });
        if round % 2 == 0 {
            object["status"] = status.new_tree(&mut runner).unwrap().current();
        }
        let read: T =
            serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{e}: {object}"));
        assert_eq!(serde_json::to_value(&read).unwrap(), object);
        different.insert(object.to_string());
    }
    assert!(different.len() > 1, "{kind}: the objects are all alike");
}

#[test]
fn every_kind() {
    keeps_any_value::<api::NodeHealthCheck>();
    keeps_any_value::<api::NodeMaintenance>();
    keeps_any_value::<api::SelfNodeRemediation>();
    keeps_any_value::<api::SelfNodeRemediationConfig>();
    keeps_any_value::<api::SelfNodeRemediationTemplate>();
    keeps_any_value::<api::FenceAgentsRemediation>();
    keeps_any_value::<api::FenceAgentsRemediationTemplate>();
    keeps_any_value::<api::MachineDeletionRemediation>();
    keeps_any_value::<api::MachineDeletionRemediationTemplate>();
    keeps_any_value::<api::StorageBasedRemediation>();
    keeps_any_value::<api::StorageBasedRemediationConfig>();
    keeps_any_value::<api::StorageBasedRemediationTemplate>();
    keeps_any_value::<api::CustomizedUserRemediation>();
    keeps_any_value::<api::CustomizedUserRemediationConfig>();
    keeps_any_value::<api::CustomizedUserRemediationTemplate>();
    keeps_any_value::<api::MeatwareRemediation>();
    keeps_any_value::<api::MeatwareRemediationTemplate>();
}
