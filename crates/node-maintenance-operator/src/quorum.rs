//! Whether etcd can do without a control-plane node of OpenShift.
//!
//! # Purpose
//! Its budget says so for one node at a time: two that ask at the same moment are both told yes. So
//! the nodes of this process take turns.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{Api, Client, api::ListParams};
use medik8s_api::names::openshift::ETCD_NAMESPACE;
use medik8s_core::etcd;
use medik8s_runtime::read;

use crate::error::StepError;

/// How long a node that may go into maintenance has for it to be seen: the answer counts for some
/// seconds, and then there is a record of it.
const TURN: Duration = Duration::from_mins(1);

/// The node that may go into maintenance, and until when by boot time no other one may. Cheap to
/// clone; clones are the same turn.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<Mutex<Option<(String, Duration)>>>);

impl Turn {
    /// Takes the turn for a node; false while it is another one's.
    pub fn take(&self, node: &str, now: Duration) -> bool {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = turn
            .as_ref()
            .is_some_and(|(other, until)| other != node && now < *until);
        if !is_taken {
            *turn = Some((node.to_owned(), now.saturating_add(TURN)));
        }
        !is_taken
    }
}

/// Whether etcd can do without a node: narrow reads, and the pods only if the budget does not decide.
pub async fn allows(client: &Client, node: &str) -> Result<bool, StepError> {
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), ETCD_NAMESPACE);
    let budgets = read::list_all(&budgets, &ListParams::default()).await?;
    let failed = |source| StepError::Quorum {
        node: node.to_owned(),
        source,
    };
    let verdict = match etcd::budget(&budgets).map_err(failed)? {
        etcd::Budget::Decided(verdict) => verdict,
        etcd::Budget::AskPods(selector) => {
            let pods: Api<Pod> = Api::namespaced(client.clone(), ETCD_NAMESPACE);
            let params = ListParams::default().labels_from(&selector);
            let pods = read::list_all(&pods, &params).await?;
            etcd::guard(node, &selector, &pods)
        }
    };
    Ok(verdict.is_allowed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_take_turns() {
        let (turn, seconds) = (Turn::default(), Duration::from_secs);
        assert!(turn.take("a", seconds(0)) && !turn.take("b", seconds(1)));
        assert!(turn.take("a", seconds(30)), "it asks again");
        assert!(!turn.take("b", seconds(89)) && turn.take("b", seconds(90)));
    }
}
