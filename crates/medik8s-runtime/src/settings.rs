//! The environment, read once.
//!
//! # Purpose
//! `main` takes one snapshot; everything else gets values as arguments. A missing variable names
//! itself and what to do about it.

use std::{collections::BTreeMap, fmt::Display, path::Path, str::FromStr};

/// Where the kubelet mounts the namespace of a pod's service account.
pub const SERVICE_ACCOUNT_NAMESPACE: &str =
    "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// A snapshot of the environment.
#[derive(Debug, Clone, Default)]
pub struct Env(BTreeMap<String, String>);

/// An environment variable that is missing or wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// The variable is not set or empty.
    #[error("environment variable {name} is not set: {remedy}")]
    Missing {
        /// The variable.
        name: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The variable cannot be understood.
    #[error("environment variable {name}={value:?} is not valid ({why}): {remedy}")]
    Invalid {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// Why not.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl Env {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    /// An environment made of these variables, for tests and the harness.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The value of a variable; an empty one counts as not set.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Whether OLM made the Deployment: it sets this variable in every one.
    pub fn is_under_olm(&self) -> bool {
        self.olm_condition().is_some()
    }

    /// Name of the OperatorCondition that OLM made for this operator.
    pub fn olm_condition(&self) -> Option<&str> {
        self.optional("OPERATOR_CONDITION_NAME")
    }

    /// The value of a variable that must be there.
    pub fn required(&self, name: &str, remedy: &'static str) -> Result<&str, EnvError> {
        self.optional(name).ok_or_else(|| EnvError::Missing {
            name: name.to_owned(),
            remedy,
        })
    }

    /// The parsed value of a variable that must be there.
    pub fn parse<T>(&self, name: &str, remedy: &'static str) -> Result<T, EnvError>
    where
        T: FromStr,
        T::Err: Display,
    {
        let value = self.required(name, remedy)?;
        value.parse().map_err(|why: T::Err| EnvError::Invalid {
            name: name.to_owned(),
            value: value.to_owned(),
            why: why.to_string(),
            remedy,
        })
    }

    /// The parsed value of a variable that may be missing.
    pub fn parse_optional<T>(&self, name: &str, remedy: &'static str) -> Result<Option<T>, EnvError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.optional(name)
            .map(|_| self.parse(name, remedy))
            .transpose()
    }

    /// The namespace this operator runs in: the variable if set, else the service account's.
    pub fn own_namespace(&self, name: &str) -> Result<String, EnvError> {
        self.own_namespace_from(name, Path::new(SERVICE_ACCOUNT_NAMESPACE))
    }

    fn own_namespace_from(&self, name: &str, file: &Path) -> Result<String, EnvError> {
        if let Some(namespace) = self.optional(name) {
            return Ok(namespace.to_owned());
        }
        std::fs::read_to_string(file)
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .ok_or_else(|| EnvError::Missing {
                name: name.to_owned(),
                remedy: "set it to the operator's namespace (in the Deployment: fieldRef \
                         metadata.namespace), or run with a mounted service account",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_counts_as_missing_and_the_error_says_what_to_do() {
        let env = Env::from_pairs([("A", "")]);
        assert_eq!(env.optional("A"), None);
        let error = env.required("A", "set it").unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable A is not set: set it"
        );
    }

    #[test]
    fn wrong_numbers_are_named() {
        let env = Env::from_pairs([("N", "x1")]);
        let error = env.parse::<u32>("N", "use an integer").unwrap_err();
        assert!(error.to_string().contains("N=\"x1\""), "{error}");
        assert_eq!(env.parse_optional::<u32>("M", "-").unwrap(), None);
    }

    #[test]
    fn own_namespace_prefers_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("namespace");
        std::fs::write(&file, "from-file\n").unwrap();
        let env = Env::from_pairs([("NS", "from-env")]);
        assert_eq!(env.own_namespace_from("NS", &file).unwrap(), "from-env");
        assert_eq!(
            Env::default().own_namespace_from("NS", &file).unwrap(),
            "from-file"
        );
        let error = Env::default()
            .own_namespace_from("NS", &dir.path().join("no"))
            .unwrap_err();
        assert!(error.to_string().contains("NS is not set"), "{error}");
    }
}
