//! The merge patch between two values.

use serde_json::{Map, Value};

/// The JSON merge patch (RFC 7396) that turns `old` into `new`; `None` when they are equal.
///
/// For statuses: what `new` no longer has is removed, and an unchanged status needs no write. Merge
/// patches cannot set a field to `null`, so a `null` in `new` counts as missing.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for (key, value) in new {
                match old.get(key) {
                    _ if value.is_null() => {}
                    Some(before) => {
                        if let Some(change) = merge_diff(before, value) {
                            patch.insert(key.clone(), change);
                        }
                    }
                    None => {
                        patch.insert(key.clone(), value.clone());
                    }
                }
            }
            for (key, before) in old {
                if !before.is_null() && new.get(key).is_none_or(Value::is_null) {
                    patch.insert(key.clone(), Value::Null);
                }
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ => (old != new).then(|| new.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn applying_the_difference_gives_the_new_value() {
        let cases = [
            (json!({}), json!({"a": 1})),
            (
                json!({"a": 1, "b": {"c": [1, 2], "d": "x"}}),
                json!({"b": {"c": [2]}}),
            ),
            (json!({"a": {"b": 1}}), json!({"a": 5})),
            (json!({"a": [1]}), json!({"a": [1], "n": {"m": {}}})),
            (json!({"a": 1}), json!({})),
        ];
        for (old, new) in cases {
            let patch = merge_diff(&old, &new).unwrap();
            let mut result = old.clone();
            json_patch::merge(&mut result, &patch);
            assert_eq!(result, new, "{old} -> {patch}");
        }
    }

    #[test]
    fn equal_values_need_no_patch() {
        let value = json!({"a": {"b": [1, {"c": null}]}});
        assert_eq!(merge_diff(&value, &value), None);
        assert_eq!(merge_diff(&json!({}), &json!({"a": null})), None);
        assert_eq!(merge_diff(&json!({"a": null}), &json!({})), None);
    }
}
