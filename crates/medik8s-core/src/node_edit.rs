//! One patch for everything an operator changes on a Node.
//!
//! # Guarantees The patch begins with a `test` on the resource version that was read. It therefore
//! changes either exactly the node that was judged, or nothing: no taint that somebody added in
//! between is lost, and cordon, taints and label come together or not at all (NodeMaintenance,
//! section 7.1). A node that is as wanted already gives no patch.
//!
//! # Caveats The API server answers 422 when the test fails and 409 when it loses a race: read
//! again and build a new patch.

use std::collections::BTreeMap;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, TestOperation};
use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::{Value, json};

use crate::node::is_unschedulable;
use crate::taints::{self, TaintId};

#[cfg(test)]
mod tests;

/// A node that cannot be patched safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node was not read from the API server: it has no resource version")]
pub struct NoResourceVersion;

/// Wanted changes to a node that was read.
#[derive(Debug, Clone)]
#[must_use = "an edit does nothing until its patch is sent"]
pub struct NodeEdit<'a> {
    node: &'a Node,
    taints: Vec<Taint>,
    unschedulable: bool,
    labels: BTreeMap<String, Option<String>>,
    annotations: BTreeMap<String, Option<String>>,
}

impl<'a> NodeEdit<'a> {
    /// No change yet.
    pub fn of(node: &'a Node) -> Self {
        Self {
            node,
            taints: taints::of(node).to_vec(),
            unschedulable: is_unschedulable(node),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// Adds taints that are missing.
    pub fn add_taints(mut self, add: &[Taint]) -> Self {
        self.taints = taints::with(&self.taints, add);
        self
    }

    /// Removes taints that are there.
    pub fn remove_taints(mut self, remove: &[TaintId]) -> Self {
        self.taints = taints::without(&self.taints, remove);
        self
    }

    /// Takes the node out of scheduling.
    pub fn cordon(mut self) -> Self {
        self.unschedulable = true;
        self
    }

    /// Gives the node back to scheduling.
    pub fn uncordon(mut self) -> Self {
        self.unschedulable = false;
        self
    }

    /// Sets a label.
    pub fn set_label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), Some(value.to_owned()));
        self
    }

    /// Removes a label.
    pub fn remove_label(mut self, key: &str) -> Self {
        self.labels.insert(key.to_owned(), None);
        self
    }

    /// Sets an annotation.
    pub fn set_annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations
            .insert(key.to_owned(), Some(value.to_owned()));
        self
    }

    /// Removes an annotation.
    pub fn remove_annotation(mut self, key: &str) -> Self {
        self.annotations.insert(key.to_owned(), None);
        self
    }

    /// The patch, or `None` if the node is as wanted.
    pub fn patch(self) -> Result<Option<Patch>, NoResourceVersion> {
        let version = self
            .node
            .metadata
            .resource_version
            .as_ref()
            .ok_or(NoResourceVersion)?;
        let mut operations = Vec::new();
        let metadata = &self.node.metadata;
        edit_map(
            &mut operations,
            "labels",
            metadata.labels.as_ref(),
            self.labels,
        );
        edit_map(
            &mut operations,
            "annotations",
            metadata.annotations.as_ref(),
            self.annotations,
        );
        if self.taints != taints::of(self.node) {
            operations.push(if self.taints.is_empty() {
                remove(&["spec", "taints"])
            } else {
                add(&["spec", "taints"], json!(self.taints))
            });
        }
        if self.unschedulable != is_unschedulable(self.node) {
            operations.push(if self.unschedulable {
                add(&["spec", "unschedulable"], Value::Bool(true))
            } else {
                remove(&["spec", "unschedulable"])
            });
        }
        if operations.is_empty() {
            return Ok(None);
        }
        operations.insert(
            0,
            PatchOperation::Test(TestOperation {
                path: pointer(&["metadata", "resourceVersion"]),
                value: json!(version),
            }),
        );
        Ok(Some(Patch(operations)))
    }
}

/// Operations for a map of the metadata, which may be absent.
fn edit_map(
    operations: &mut Vec<PatchOperation>,
    field: &str,
    current: Option<&BTreeMap<String, String>>,
    wanted: BTreeMap<String, Option<String>>,
) {
    let mut exists = current.is_some();
    for (key, value) in wanted {
        let old = current.and_then(|map| map.get(&key));
        match value {
            Some(value) if old != Some(&value) => {
                if !exists {
                    operations.push(add(&["metadata", field], json!({})));
                    exists = true;
                }
                operations.push(add(&["metadata", field, &key], Value::String(value)));
            }
            None if old.is_some() => operations.push(remove(&["metadata", field, &key])),
            Some(_) | None => {}
        }
    }
}

/// A pointer of tokens; slashes in them are escaped.
fn pointer(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.iter().copied())
}

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: pointer(path),
        value,
    })
}

fn remove(path: &[&str]) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation {
        path: pointer(path),
    })
}
