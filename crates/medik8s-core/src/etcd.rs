//! Whether a control-plane node of OpenShift may be disrupted without endangering etcd (remediation
//! contract, B.4).
//!
//! # Guarantees "Cannot tell" is never "allowed": no budget, several budgets, a stale or unreadable
//! one refuse or fail.
//!
//! # Caveats The budget is asked first; pods are needed only if it allows no disruption. [`budget`]
//! says so, so that the caller lists pods only then.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::conditions::Status;
use crate::selector::{self, Selector, SelectorError};

#[cfg(test)]
mod tests;

/// Whether a node may be disrupted, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// etcd can do without one more member.
    BudgetLeft,
    /// The node's member is down already.
    AlreadyDisrupted,
    /// The node has no member.
    NoMember,
    /// There is no budget to ask.
    NoBudget,
    /// There are several budgets: nobody can tell which counts.
    SeveralBudgets,
    /// The number in the budget is about an earlier state.
    StaleBudget,
    /// The node's member is alive, and etcd needs it.
    LiveMember,
}

impl Verdict {
    /// Whether the node may be disrupted.
    pub const fn is_allowed(self) -> bool {
        match self {
            Self::BudgetLeft | Self::AlreadyDisrupted | Self::NoMember => true,
            Self::NoBudget | Self::SeveralBudgets | Self::StaleBudget | Self::LiveMember => false,
        }
    }
}

/// What the budgets alone tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Budget {
    /// Enough.
    Decided(Verdict),
    /// The guard pods that this selector selects must be asked.
    AskPods(Selector),
}

/// A budget whose selector cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// It selects nothing at all.
    #[error("the pod disruption budget {0} has no selector")]
    NoSelector(String),
    /// An expression other than one value of a label.
    #[error("the selector of the pod disruption budget {0} is not understood")]
    Unsupported(String),
    /// The API server would not accept it.
    #[error("the selector of the pod disruption budget {budget} is not valid")]
    Invalid {
        /// Name of the budget.
        budget: String,
        /// Why.
        #[source]
        source: SelectorError,
    },
}

/// Asks the budgets in the namespace of etcd.
pub fn budget(budgets: &[PodDisruptionBudget]) -> Result<Budget, BudgetError> {
    let budget = match budgets {
        [] => return Ok(Budget::Decided(Verdict::NoBudget)),
        [one] => one,
        [_, _, ..] => return Ok(Budget::Decided(Verdict::SeveralBudgets)),
    };
    let status = budget.status.clone().unwrap_or_default();
    let observed = status.observed_generation.unwrap_or(0);
    if observed > 0 && observed < budget.metadata.generation.unwrap_or(0) {
        return Ok(Budget::Decided(Verdict::StaleBudget));
    }
    if status.disruptions_allowed >= 1 {
        return Ok(Budget::Decided(Verdict::BudgetLeft));
    }
    let name = || budget.metadata.name.clone().unwrap_or_default();
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.ok_or_else(|| BudgetError::NoSelector(name()))?;
    if !is_supported(selector) {
        return Err(BudgetError::Unsupported(name()));
    }
    selector::parse(selector)
        .map(Budget::AskPods)
        .map_err(|source| BudgetError::Invalid {
            budget: name(),
            source,
        })
}

/// Labels, and expressions that say the same as a label.
fn is_supported(selector: &LabelSelector) -> bool {
    selector
        .match_expressions
        .iter()
        .flatten()
        .all(|requirement| {
            requirement.operator == "In"
                && requirement.values.as_ref().is_some_and(|v| v.len() == 1)
        })
}

/// Asks the guard pods: the first selected one on the node decides.
pub fn guard<'a>(
    node: &str,
    selector: &Selector,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Verdict {
    let on_node = |pod: &&Pod| {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
            && selector::selects(selector, pod.metadata.labels.as_ref())
    };
    let Some(pod) = pods.into_iter().find(on_node) else {
        return Verdict::NoMember;
    };
    let conditions = pod
        .status
        .iter()
        .filter_map(|status| status.conditions.as_ref())
        .flatten();
    let ready = conditions
        .into_iter()
        .find(|condition| condition.type_ == "Ready");
    match ready.map(|ready| Status::parse(&ready.status)) {
        Some(Status::True | Status::Unknown) => Verdict::LiveMember,
        Some(Status::False) | None => Verdict::AlreadyDisrupted,
    }
}
