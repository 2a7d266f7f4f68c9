//! Label selectors: reading, matching and comparing them.
//!
//! # Guarantees [`parse`] accepts what `LabelSelectorAsSelector` of apimachinery accepts, with the
//! same meaning, and its errors name the same field and value. Two selectors are [`same`] if they
//! must select the same objects for a reason that shows in their text: absent equals empty, and
//! order does not matter.
//!
//! # Caveats
//! An empty selector selects everything. Where that is a mistake, ask [`is_empty`] first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::SelectorExt;
pub use kube::core::{Expression, Selector};
use serde_json::Value;

use crate::roles::Labels;

#[cfg(test)]
mod tests;

/// Longest name part of a label key, and longest label value.
const MAX_NAME: usize = 63;
/// Longest prefix of a label key.
const MAX_PREFIX: usize = 253;

/// Why a selector cannot be used: everything that is wrong with its first faulty requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorError {
    problems: Vec<String>,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

impl std::error::Error for SelectorError {}

/// Whether the selector asks for nothing, and so selects everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty)
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
}

/// Checks a selector and makes it ready for matching.
pub fn parse(selector: &LabelSelector) -> Result<Selector, SelectorError> {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| {
        let mut problems = key_problems(key);
        problems.extend(value_problem(0, key, value));
        checked(Expression::Equal(key.clone(), value.clone()), problems)
    });
    let expressions = selector
        .match_expressions
        .iter()
        .flatten()
        .map(parse_requirement);
    labels.chain(expressions).collect()
}

/// Whether a selector selects an object with these labels.
pub fn selects(selector: &Selector, labels: Option<&Labels>) -> bool {
    match labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches(&Labels::new()),
    }
}

/// Whether two selectors say the same.
pub fn same(left: &LabelSelector, right: &LabelSelector) -> bool {
    canonical(left) == canonical(right)
}

/// A requirement as key, operator and set of values.
type Canonical<'a> = (&'a str, &'a str, BTreeSet<&'a str>);

/// All requirements without order; `key: value` is `key in (value)`.
fn canonical(selector: &LabelSelector) -> BTreeSet<Canonical<'_>> {
    let labels = selector.match_labels.iter().flatten();
    let labels = labels.map(|(key, value)| (key.as_str(), "In", BTreeSet::from([value.as_str()])));
    let expressions = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|requirement| {
            let values = requirement
                .values
                .iter()
                .flatten()
                .map(String::as_str)
                .collect();
            (
                requirement.key.as_str(),
                requirement.operator.as_str(),
                values,
            )
        });
    labels.chain(expressions).collect()
}

fn parse_requirement(requirement: &LabelSelectorRequirement) -> Result<Expression, SelectorError> {
    let LabelSelectorRequirement {
        key,
        operator,
        values,
    } = requirement;
    let values = values.as_deref().unwrap_or_default();
    let set = || values.iter().cloned().collect();
    let (expression, takes_values) = match operator.as_str() {
        "In" => (Expression::In(key.clone(), set()), true),
        "NotIn" => (Expression::NotIn(key.clone(), set()), true),
        "Exists" => (Expression::Exists(key.clone()), false),
        "DoesNotExist" => (Expression::DoesNotExist(key.clone()), false),
        other => {
            let problem = format!(
                "{} is not a valid label selector operator",
                Value::from(other)
            );
            return Err(SelectorError {
                problems: vec![problem],
            });
        }
    };
    let mut problems = key_problems(key);
    if takes_values && values.is_empty() {
        problems.push(invalid(
            "values",
            &Value::Null,
            &format!("{operator} needs a value"),
        ));
    } else if !takes_values && !values.is_empty() {
        problems.push(invalid(
            "values",
            &Value::from(values),
            &format!("{operator} takes none"),
        ));
    }
    problems.extend(
        values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| value_problem(index, key, value)),
    );
    checked(expression, problems)
}

fn checked(expression: Expression, problems: Vec<String>) -> Result<Expression, SelectorError> {
    if problems.is_empty() {
        Ok(expression)
    } else {
        Err(SelectorError { problems })
    }
}

fn invalid(field: &str, value: &Value, why: &str) -> String {
    format!("{field}: Invalid value: {value}: {why}")
}

/// What is wrong with a label key: an optional DNS subdomain and a slash, then a name.
fn key_problems(key: &str) -> Vec<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let mut problems = Vec::new();
    if name.contains('/') {
        problems.push("there is more than one slash");
    } else {
        match prefix {
            Some("") => problems.push("the prefix before the slash is empty"),
            Some(prefix) if prefix.len() > MAX_PREFIX => {
                problems.push("the prefix is longer than 253 bytes");
            }
            Some(prefix) if !is_dns_subdomain(prefix) => {
                problems.push("the prefix is not a DNS name in lower case");
            }
            Some(_) | None => {}
        }
        if name.is_empty() {
            problems.push("the name is empty");
        } else if name.len() > MAX_NAME {
            problems.push("the name is longer than 63 bytes");
        } else if !is_label_text(name) {
            problems.push(
                "the name must begin and end with a letter or digit and may contain '-', '_' and \
                 '.' between",
            );
        }
    }
    if problems.is_empty() {
        return Vec::new();
    }
    vec![invalid("key", &Value::from(key), &problems.join("; "))]
}

/// What is wrong with a label value; an empty one is fine.
fn value_problem(index: usize, key: &str, value: &str) -> Option<String> {
    let why = if value.len() > MAX_NAME {
        "it is longer than 63 bytes"
    } else if !value.is_empty() && !is_label_text(value) {
        "it must be empty, or begin and end with a letter or digit and contain only those, '-', \
         '_' and '.'"
    } else {
        return None;
    };
    Some(invalid(
        &format!("values[{index}][{key}]"),
        &Value::from(value),
        why,
    ))
}

/// Letters and digits at both ends; between them also `-`, `_` and `.`.
fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter()
        .all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Labels of lower-case letters, digits and inner dashes, joined by dots.
fn is_dns_subdomain(text: &str) -> bool {
    text.split('.').all(|label| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        label.bytes().all(|byte| inner(byte) || byte == b'-')
            && label.bytes().next().is_some_and(inner)
            && label.bytes().last().is_some_and(inner)
    })
}
