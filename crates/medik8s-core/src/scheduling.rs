//! What a user may write into the scheduling fields of a DaemonSet that an operator renders.
//!
//! Source: section 4 of the SelfNodeRemediation specification. A value that the API server would
//! refuse in the DaemonSet must be refused where the user writes it; later nobody would see why no
//! agent runs.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Toleration};

use crate::taints::Effect;

#[cfg(test)]
mod tests;

/// Why a toleration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TolerationError {
    /// The operator is neither empty nor one of the two that exist.
    #[error("toleration has the unknown operator {0}")]
    Operator(String),
    /// `Exists` matches every value, so a value next to it is a mistake.
    #[error("toleration has a value, which its operator Exists does not take")]
    ValueWithExists,
    /// The effect is neither empty nor one of the three that exist.
    #[error("toleration has the unknown effect {0}")]
    Effect(String),
}

/// Checks a toleration.
pub fn check_toleration(toleration: &Toleration) -> Result<(), TolerationError> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let operator = text(&toleration.operator);
    match operator.as_str() {
        "" | "Equal" => {}
        "Exists" if text(&toleration.value).is_empty() => {}
        "Exists" => return Err(TolerationError::ValueWithExists),
        _ => return Err(TolerationError::Operator(operator)),
    }
    let effect = text(&toleration.effect);
    let known = [
        Effect::NoSchedule,
        Effect::PreferNoSchedule,
        Effect::NoExecute,
    ];
    if effect.is_empty() || known.iter().any(|known| known.as_str() == effect) {
        Ok(())
    } else {
        Err(TolerationError::Effect(effect))
    }
}

/// Why a node selector requirement cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// No key.
    #[error("node selector requirement has no key")]
    NoKey,
    /// No operator.
    #[error("node selector requirement for {key} has no operator")]
    NoOperator {
        /// Key of the requirement.
        key: String,
    },
    /// An operator that does not exist.
    #[error("node selector requirement for {key} has the unknown operator {operator}")]
    UnknownOperator {
        /// Key of the requirement.
        key: String,
        /// Its operator.
        operator: String,
    },
    /// The number of values does not fit the operator.
    #[error(
        "node selector requirement for {key}: {operator} takes {expected}, but there are {found}"
    )]
    Values {
        /// Key of the requirement.
        key: String,
        /// Its operator.
        operator: String,
        /// What the operator takes.
        expected: &'static str,
        /// How many there are.
        found: usize,
    },
    /// The value for a comparison is no integer.
    #[error("node selector requirement for {key}: {operator} takes an integer, not {value}")]
    NotAnInteger {
        /// Key of the requirement.
        key: String,
        /// Its operator.
        operator: String,
        /// Its value.
        value: String,
    },
}

/// Checks a node selector requirement.
pub fn check_requirement(requirement: &NodeSelectorRequirement) -> Result<(), RequirementError> {
    let NodeSelectorRequirement {
        key,
        operator,
        values,
    } = requirement;
    let values = values.as_deref().unwrap_or_default();
    if key.is_empty() {
        return Err(RequirementError::NoKey);
    }
    let (key, operator) = (key.clone(), operator.clone());
    let takes = |expected| RequirementError::Values {
        key: key.clone(),
        operator: operator.clone(),
        expected,
        found: values.len(),
    };
    match (operator.as_str(), values) {
        ("", _) => Err(RequirementError::NoOperator { key }),
        ("Exists" | "DoesNotExist", []) | ("In" | "NotIn", [_, ..]) => Ok(()),
        ("Exists" | "DoesNotExist", _) => Err(takes("no value")),
        ("In" | "NotIn", []) => Err(takes("at least one value")),
        ("Gt" | "Lt", [value]) if value.parse::<i64>().is_ok() => Ok(()),
        ("Gt" | "Lt", [value]) => Err(RequirementError::NotAnInteger {
            key,
            operator,
            value: value.clone(),
        }),
        ("Gt" | "Lt", _) => Err(takes("one value")),
        (_, _) => Err(RequirementError::UnknownOperator { key, operator }),
    }
}
