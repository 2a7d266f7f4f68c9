//! Field and label selectors in queries.

use serde_json::Value;

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    /// The field or label has, or has not, one of these values.
    OneOf(Vec<String>, bool),
    /// The label is there, or not.
    Exists(bool),
}

/// What a list or watch selects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    fields: Vec<(String, Requirement)>,
    labels: Vec<(String, Requirement)>,
}

impl Filter {
    pub(crate) fn parse(fields: Option<&str>, labels: Option<&str>) -> Self {
        Self {
            fields: requirements(fields),
            labels: requirements(labels),
        }
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let field = |key: &str| {
            let pointer = format!("/{}", key.replace('.', "/"));
            // A field that is not there counts as empty: `spec.nodeName=` selects unscheduled pods.
            Some(text(object.pointer(&pointer)).unwrap_or_default())
        };
        let label = |key: &str| text(object.pointer("/metadata/labels").and_then(|l| l.get(key)));
        self.fields
            .iter()
            .all(|(key, requirement)| holds(field(key), requirement))
            && self
                .labels
                .iter()
                .all(|(key, requirement)| holds(label(key), requirement))
    }
}

fn holds(value: Option<String>, requirement: &Requirement) -> bool {
    match requirement {
        Requirement::Exists(expected) => value.is_some() == *expected,
        Requirement::OneOf(values, expected) => {
            value.is_some_and(|value| values.contains(&value)) == *expected
        }
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Some(other.to_string())
        }
    }
}

fn requirements(selector: Option<&str>) -> Vec<(String, Requirement)> {
    split(selector.unwrap_or_default())
        .iter()
        .map(|text| requirement(text))
        .collect()
}

/// Splits at commas outside parentheses.
fn split(selector: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in selector.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
        .into_iter()
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

fn requirement(text: &str) -> (String, Requirement) {
    let set = |values: &str| {
        let values = values.trim().trim_start_matches('(').trim_end_matches(')');
        values
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect()
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    let (key, requirement) = if let Some((key, values)) = text.split_once(" notin ") {
        (key, Requirement::OneOf(set(values), false))
    } else if let Some((key, values)) = text.split_once(" in ") {
        (key, Requirement::OneOf(set(values), true))
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Requirement::OneOf(one(value), false))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Requirement::OneOf(one(value), true))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Requirement::Exists(false))
    } else {
        (text, Requirement::Exists(true))
    };
    (key.trim().to_owned(), requirement)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select() {
        let object = json!({
            "metadata": {"name": "p", "labels": {"app": "web", "tier": "1"}},
            "spec": {"nodeName": "n1"},
        });
        for (fields, labels, expected) in [
            ("", "", true),
            ("spec.nodeName=n1", "", true),
            ("spec.nodeName=n2", "", false),
            ("spec.nodeName!=n2,metadata.name=p", "", true),
            ("spec.nodeName=", "", false),
            ("status.phase=", "", true),
            ("", "app=web", true),
            ("", "app==web,tier in (1, 2)", true),
            ("", "app notin (web,db)", false),
            ("", "zone notin (a)", true),
            ("", "zone!=a", true),
            ("", "app,!zone", true),
            ("", "zone", false),
            ("", "!app", false),
        ] {
            let filter = Filter::parse(Some(fields), Some(labels));
            assert_eq!(filter.matches(&object), expected, "{fields} {labels}");
        }
    }
}
