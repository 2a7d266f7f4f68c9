//! What the webhook admits.
//!
//! # Guarantees
//! Pure: the objects that a rule needs are read beforehand, and only those (see `admission.rs`).
//! The texts are asserted by public test suites; do not reword them.

use std::collections::BTreeSet;

use medik8s_api::{
    NodeMaintenance,
    names::{contract::TRUE, nmo},
};
use medik8s_core::conditions::Status;
use medik8s_runtime::webhook::Verdict;

use crate::facts::{DrainOrders, NodeFacts};

#[cfg(test)]
mod tests;

/// Denial of a node that does not exist.
pub fn missing_node_text(node: &str) -> String {
    format!("invalid nodeName, no node with name {node} found")
}

/// Denial of a second maintenance for a node.
pub fn duplicate_text(node: &str) -> String {
    format!("invalid nodeName, a NodeMaintenance for node {node} already exists")
}

/// Denial when etcd cannot do without a node.
pub fn quorum_text(node: &str) -> String {
    format!(
        "can not put master/control-plane node into maintenance at this moment, disrupting node \
         {node} will violate etcd quorum"
    )
}

/// Beginning of the denial when the node could not be read.
pub const UNREADABLE_NODE: &str =
    "could not get node for validating spec.NodeName, please try again";

/// Denial of a changed node name.
pub const CHANGED_NODE: &str = "updating spec.NodeName isn't allowed";

/// What is wrong with `spec.drain`, if anything.
pub fn drain_orders(new: &NodeMaintenance) -> Result<(), Verdict> {
    DrainOrders::read(new.spec.drain.as_ref())
        .map(drop)
        .map_err(Verdict::deny)
}

/// Whether a maintenance for this node may be created, as far as the other maintenances say. One
/// that is being deleted still counts: its node is not handed back yet.
pub fn no_duplicate<'a>(
    node: &str,
    existing: impl IntoIterator<Item = &'a NodeMaintenance>,
) -> Result<(), Verdict> {
    if existing
        .into_iter()
        .any(|other| other.spec.node_name == node)
    {
        Err(Verdict::deny(duplicate_text(node)))
    } else {
        Ok(())
    }
}

/// Whether an object may be changed like this. `old` is `None` if it cannot be read, which must not
/// block its repair.
pub fn update(old: Option<&NodeMaintenance>, new: &NodeMaintenance) -> Verdict {
    if old.is_some_and(|old| old.spec.node_name != new.spec.node_name) {
        return Verdict::deny(CHANGED_NODE);
    }
    // Only a change is judged: an object that was admitted otherwise must stay editable, or its
    // finalizer could never be removed.
    let has_new_orders = old.is_none_or(|old| old.spec.drain != new.spec.drain);
    if has_new_orders && let Err(denied) = drain_orders(new) {
        return denied;
    }
    warn_about_annotations(Verdict::allow(), new)
}

/// The verdict about a new object that passed everything else.
pub fn create(new: &NodeMaintenance, warning: Option<String>) -> Verdict {
    let verdict = warn_about_annotations(Verdict::allow(), new);
    match warning {
        Some(warning) => verdict.warn(warning),
        None => verdict,
    }
}

/// A hint outside OpenShift, where nobody guards etcd: another control-plane node is already out.
pub fn control_plane_warning<'a>(
    node: &str,
    others: impl IntoIterator<Item = (&'a str, &'a NodeFacts)>,
    in_maintenance: &BTreeSet<&str>,
) -> Option<String> {
    let mut out: Vec<String> = others
        .into_iter()
        .filter(|(name, facts)| *name != node && facts.is_control_plane)
        .filter_map(|(name, facts)| {
            if in_maintenance.contains(name) {
                Some(format!("{name} (in maintenance)"))
            } else if facts.ready == Status::True {
                None
            } else {
                Some(format!("{name} (not Ready)"))
            }
        })
        .collect();
    if out.is_empty() {
        return None;
    }
    out.sort();
    Some(format!(
        "node {node} belongs to the control plane, and so do nodes that are out already: {}; \
         make sure that etcd keeps its quorum",
        out.join(", ")
    ))
}

/// An annotation that was meant to switch something on, and does not.
fn warn_about_annotations(mut verdict: Verdict, new: &NodeMaintenance) -> Verdict {
    let annotations = new.metadata.annotations.as_ref();
    for key in [
        nmo::RESTORE_CORDON_ANNOTATION,
        nmo::EXCLUDE_FROM_LOAD_BALANCERS_ANNOTATION,
    ] {
        if let Some(value) = annotations.and_then(|all| all.get(key))
            && value != TRUE
            && value != "false"
        {
            verdict = verdict.warn(format!(
                "metadata.annotations[{key}]: value {value:?} has no effect, only \"true\" has"
            ));
        }
    }
    verdict
}
