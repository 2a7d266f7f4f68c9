//! PodDisruptionBudgets, as far as they explain why a pod is blocked and tell when to try again.
//!
//! # Caveats
//! Whether an eviction is allowed is the API server's decision alone. Nothing here stops or allows
//! one; budgets only choose the moment of the next try and the words for people.

use std::fmt;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use medik8s_core::selector::{self, Selector};

use super::pod::PodFacts;

/// What matters of one PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Its name.
    pub name: String,
    /// Generation of its rules.
    pub generation: Option<i64>,
    /// Which pods it covers; `None` covers none.
    pub selector: Option<Selector>,
    /// How many pods may be disrupted now.
    pub allowed: i32,
    /// How many covered pods are healthy.
    pub healthy: i32,
    /// How many have to be.
    pub required: i32,
    /// Whether the numbers belong to the budget as it is now.
    pub is_current: bool,
}

impl Budget {
    /// Reads a budget. A selector that cannot be understood covers nothing: it explains nothing.
    pub fn read(object: &PodDisruptionBudget) -> Option<Self> {
        let status = object.status.as_ref();
        let observed = status.and_then(|status| status.observed_generation);
        let selector = object.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Some(Self {
            name: object.metadata.name.clone()?,
            generation: object.metadata.generation,
            selector: selector.and_then(|selector| selector::parse(selector).ok()),
            allowed: status.map_or(0, |status| status.disruptions_allowed),
            healthy: status.map_or(0, |status| status.current_healthy),
            required: status.map_or(0, |status| status.desired_healthy),
            // Controllers before 1.15 did not set it, test set-ups do not either.
            is_current: observed.is_none_or(|seen| {
                object
                    .metadata
                    .generation
                    .is_none_or(|generation| seen >= generation)
            }),
        })
    }

    /// Whether it covers the pod.
    pub fn covers(&self, pod: &PodFacts) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|s| selector::selects(s, Some(&pod.labels)))
    }

    /// How many evictions it would let through now.
    pub fn openings(&self) -> usize {
        if self.is_current {
            usize::try_from(self.allowed).unwrap_or(0)
        } else {
            0
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            allowed,
            healthy,
            required,
            ..
        } = self;
        write!(
            f,
            "{name} ({allowed} disruptions allowed, {healthy} healthy, {required} required)"
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::drain::filter::tests::pod;

    /// A budget over the pods with label `app: <app>`.
    pub(crate) fn budget(name: &str, app: &str, allowed: i32) -> Budget {
        read(
            json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 2,
                "expectedPods": 2}}),
        )
    }

    fn read(object: serde_json::Value) -> Budget {
        Budget::read(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn covers_by_labels() {
        let web = budget("b", "web", 0);
        assert!(web.covers(&pod("ns", "web", "u")));
        assert!(!web.covers(&pod("ns", "db", "u")));
        let all = read(json!({"metadata": {"name": "b"}, "spec": {"selector": {}}}));
        assert!(all.covers(&pod("ns", "db", "u")));
        let none = read(json!({"metadata": {"name": "b"}, "spec": {}}));
        assert!(!none.covers(&pod("ns", "db", "u")));
    }

    #[test]
    fn stale_numbers_open_nothing() {
        let with = |observed: Option<i64>| {
            let mut object = json!({"metadata": {"name": "b", "generation": 2}, "spec": {"selector": {}},
                "status": {"disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 0, "expectedPods": 1}});
            if let Some(observed) = observed {
                object["status"]["observedGeneration"] = observed.into();
            }
            read(object).openings()
        };
        assert_eq!(with(Some(1)), 0);
        assert_eq!(with(Some(2)), 1);
        assert_eq!(with(None), 1);
    }
}
