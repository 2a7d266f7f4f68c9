//! Taints: which are ours, and lists with and without them.
//!
//! # Guarantees The identity of a taint is its key and effect; the value does not count
//! (SelfNodeRemediation, section 2.1). A foreign taint is never dropped or changed: it keeps value,
//! time and relative order.
//!
//! # Caveats `spec.taints` is one atomic value for the API server. Write these lists only through
//! [`crate::node_edit`], whose patch fails if the list read is not the list stored.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use medik8s_api::names::{kubernetes, nmo, remediators, snr};

use crate::time::whole_second;

#[cfg(test)]
mod tests;

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// No new pods.
    NoSchedule,
    /// No new pods if there is another place.
    PreferNoSchedule,
    /// No new pods, and running ones are deleted.
    NoExecute,
}

impl Effect {
    /// The value in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// Identity of a taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaintId {
    /// Key of the taint.
    pub key: &'static str,
    /// Effect of the taint.
    pub effect: Effect,
}

/// Maintenance: the node is being drained.
pub const DRAIN: TaintId = TaintId {
    key: nmo::DRAIN_TAINT,
    effect: Effect::NoSchedule,
};

/// Maintenance: the taint of a cordoned node, which the node lifecycle controller adds and removes
/// as well, but late.
pub const UNSCHEDULABLE: TaintId = TaintId {
    key: kubernetes::UNSCHEDULABLE_TAINT,
    effect: Effect::NoSchedule,
};

/// Self node remediation: no new pods on a node that is being fenced.
pub const SELF_NODE_REMEDIATION: TaintId = TaintId {
    key: snr::REMEDIATION_TAINT,
    effect: Effect::NoSchedule,
};

/// Fence agents remediation: no new pods on a node that is being fenced.
pub const FENCE_AGENTS_REMEDIATION: TaintId = TaintId {
    key: remediators::FENCE_AGENTS_TAINT,
    effect: Effect::NoSchedule,
};

/// Meatware remediation: no new pods on a node that waits for a person.
pub const MEATWARE_REMEDIATION: TaintId = TaintId {
    key: remediators::MEATWARE_TAINT,
    effect: Effect::NoSchedule,
};

/// Self node remediation up to release 0.11: only ever removed.
pub const SELF_NODE_REMEDIATION_LEGACY: TaintId = TaintId {
    key: snr::LEGACY_TAINT,
    effect: Effect::NoExecute,
};

/// The node is off for certain: Kubernetes deletes its pods and detaches its volumes.
pub const OUT_OF_SERVICE: TaintId = TaintId {
    key: kubernetes::OUT_OF_SERVICE_TAINT,
    effect: Effect::NoExecute,
};

impl TaintId {
    /// Whether a taint has this identity.
    pub fn is(self, taint: &Taint) -> bool {
        taint.key == self.key && taint.effect == self.effect.as_str()
    }

    /// The taint of this identity, without value and time.
    pub fn taint(self) -> Taint {
        Taint {
            key: self.key.to_owned(),
            effect: self.effect.as_str().to_owned(),
            value: None,
            time_added: None,
        }
    }

    /// The taint of this identity, added now.
    pub fn taint_added(self, now: Timestamp) -> Taint {
        Taint {
            time_added: Some(whole_second(now)),
            ..self.taint()
        }
    }
}

/// The out-of-service taint as Kubernetes documents it, added now.
pub fn out_of_service(now: Timestamp) -> Taint {
    Taint {
        value: Some(kubernetes::OUT_OF_SERVICE_TAINT_VALUE.to_owned()),
        ..OUT_OF_SERVICE.taint_added(now)
    }
}

/// Whether two taints have the same identity.
pub fn same(left: &Taint, right: &Taint) -> bool {
    left.key == right.key && left.effect == right.effect
}

/// The taints of a node.
pub fn of(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

/// The taint of an identity on a node.
pub fn find(node: &Node, id: TaintId) -> Option<&Taint> {
    of(node).iter().find(|taint| id.is(taint))
}

/// Whether a node has a taint.
pub fn has(node: &Node, id: TaintId) -> bool {
    find(node, id).is_some()
}

/// The list with the given taints first, in their order, and all others behind (NodeMaintenance,
/// section 7.1).
///
/// A taint that is there already is taken over with its value and time. If all are there, the list
/// stays as it is.
#[must_use]
pub fn with(current: &[Taint], add: &[Taint]) -> Vec<Taint> {
    let missing = |new: &Taint| !current.iter().any(|old| same(old, new));
    if !add.iter().any(missing) {
        return current.to_vec();
    }
    let mut list: Vec<Taint> = Vec::with_capacity(current.len() + add.len());
    for new in add {
        if list.iter().any(|taint| same(taint, new)) {
            continue;
        }
        let known = current.iter().find(|old| same(old, new));
        list.push(known.unwrap_or(new).clone());
    }
    list.extend(
        current
            .iter()
            .filter(|old| !add.iter().any(|new| same(old, new)))
            .cloned(),
    );
    list
}

/// The list without the given taints, whatever their values.
#[must_use]
pub fn without(current: &[Taint], remove: &[TaintId]) -> Vec<Taint> {
    current
        .iter()
        .filter(|taint| !remove.iter().any(|id| id.is(taint)))
        .cloned()
        .collect()
}
