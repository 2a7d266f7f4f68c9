//! Remediation objects: what is read of them, whose they are, and how a new one looks.

use std::fmt;

use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject};
use medik8s_api::names::contract::{
    CONTROL_PLANE_NODE_LABEL, MULTIPLE_TEMPLATES_ANNOTATION, NODE_NAME_ANNOTATION, PART_OF_LABEL,
    PART_OF_VALUE, TEMPLATE_NAME_ANNOTATION,
};
use medik8s_core::conditions::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::check::{ResourceKind, TemplateRef};
use crate::node::MachineRef;

#[cfg(test)]
mod tests;

/// One owner reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Kind of the owner.
    pub kind: ResourceKind,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Whose a remediation is, seen from one health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// This health check's.
    Ours,
    /// It belongs to a health check of the same name that does not exist any more: garbage collection takes it.
    Predecessor,
    /// Somebody else's.
    Other,
}

/// The facts of a remediation object of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remediation {
    /// Kind.
    pub kind: ResourceKind,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Resource version that was read.
    pub resource_version: String,
    /// When it was created.
    pub created: Timestamp,
    /// Since when it is being deleted.
    pub deleting_since: Option<Timestamp>,
    /// Annotation with the node's name; may be empty (a machine without a node).
    pub node_annotation: Option<String>,
    /// Annotation with the template's name.
    pub template: Option<String>,
    /// Annotation that tells the remediator to stop.
    pub timed_out: Option<String>,
    /// Annotation with the start of the healthy delay.
    pub healthy_delay: Option<String>,
    /// Whether it was reported as older than 48 hours.
    pub reported_old: bool,
    /// Whether it carries the label of control-plane nodes.
    pub control_plane_label: bool,
    /// Owners.
    pub owners: Vec<Owner>,
    /// Status of its condition `Succeeded`.
    pub succeeded: Option<Status>,
    /// Whether its condition `PermanentNodeDeletionExpected` is True.
    pub node_deletion_expected: bool,
}

impl Remediation {
    /// The node that it is for.
    pub fn node(&self) -> &str {
        self.node_annotation.as_deref().unwrap_or(&self.name)
    }

    /// What it is for: its node, or else the machine without a node that it is named after.
    pub fn subject(&self) -> &str {
        Some(self.node())
            .filter(|node| !node.is_empty())
            .unwrap_or(&self.name)
    }

    /// Whether it was made from a template.
    ///
    /// The name alone identifies a template only within its namespace: the remediation lives in its template's.
    pub fn is_from(&self, template: &TemplateRef) -> bool {
        if self.namespace != template.namespace || self.kind != template.remediation_kind() {
            return false;
        }
        match &self.template {
            Some(name) => *name == template.name && self.node_annotation.is_some(),
            None => self.name == self.node(),
        }
    }

    /// Whether the health check of this kind, name and UID owns it.
    pub fn ownership(&self, owner: &Owner) -> Ownership {
        let mut predecessor = false;
        for candidate in &self.owners {
            if candidate.kind == owner.kind && candidate.name == owner.name {
                if candidate.uid == owner.uid {
                    return Ownership::Ours;
                }
                predecessor = true;
            }
        }
        if predecessor {
            Ownership::Predecessor
        } else {
            Ownership::Other
        }
    }

    /// Whether its remediator reported success.
    pub fn has_succeeded(&self) -> bool {
        self.succeeded == Some(Status::True)
    }

    /// Whether its remediator reported failure.
    pub fn has_failed(&self) -> bool {
        self.succeeded == Some(Status::False)
    }

    /// A handle for writing to it.
    pub fn handle(&self) -> Handle {
        Handle {
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

/// Which remediation object to write to: this UID and no other of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle {
    /// Kind.
    pub kind: ResourceKind,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind.kind, self.namespace, self.name)
        }
    }
}

/// Everything that a new remediation object is made of.
#[derive(Debug, Clone)]
pub struct Blueprint<'a> {
    /// The template's reference.
    pub template: &'a TemplateRef,
    /// The template as read.
    pub object: &'a DynamicObject,
    /// The node's name; empty for a machine without a node.
    pub node: &'a str,
    /// Name of the object.
    pub name: String,
    /// Whether the node belongs to the control plane (only a NodeHealthCheck says so).
    pub control_plane: bool,
    /// The health check.
    pub owner: &'a Owner,
    /// The Machine, with its UID, if it lives in the template's namespace.
    pub machine: Option<(&'a MachineRef, &'a ResourceKind, &'a str)>,
}

/// Letters and digits that the API server uses in generated names: no vowels, nothing that looks like another.
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Where the API server cuts the base of a generated name.
const GENERATED_BASE_LIMIT: usize = 58;

/// Length of the suffix that it appends.
const SUFFIX_LENGTH: usize = 5;

/// Whether a template says that several templates of its kind may be used for one node.
pub fn supports_multiple_templates(template: &DynamicObject) -> bool {
    template
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(MULTIPLE_TEMPLATES_ANNOTATION))
}

/// Name of a remediation that must not be named like its node, because the node may have several of its kind.
///
/// It looks like a name that the API server generated, but it is the same each time: a create that is repeated because
/// its outcome was lost ends in a conflict, not in a second object.
pub fn derived_name(owner_uid: &str, template: &TemplateRef, node: &str) -> String {
    let mut hash = Sha256::new();
    let parts = [
        owner_uid,
        &template.kind.api_version,
        &template.kind.kind,
        &template.namespace,
        &template.name,
        node,
    ];
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let mut name: String = node
        .chars()
        .chain(std::iter::once('-'))
        .take(GENERATED_BASE_LIMIT)
        .collect();
    name.extend(digest.iter().take(SUFFIX_LENGTH).filter_map(|byte| {
        SUFFIX_ALPHABET
            .get(usize::from(*byte) % SUFFIX_ALPHABET.len())
            .map(|letter| char::from(*letter))
    }));
    name
}

/// The `spec` of the remediations of a template: a copy of `spec.template.spec`, which may be absent.
pub fn spec_of(template: &DynamicObject) -> Option<Value> {
    let inner = template.data.get("spec")?.get("template")?;
    inner.as_object()?;
    match inner.get("spec") {
        None | Some(Value::Null) => Some(json!({})),
        Some(spec) => Some(spec.clone()),
    }
}

/// A new remediation object. `None` if the template has no `spec.template`.
pub fn build(blueprint: &Blueprint<'_>, resource: &ApiResource) -> Option<DynamicObject> {
    let spec = spec_of(blueprint.object)?;
    let mut object = DynamicObject::new(&blueprint.name, resource).data(json!({ "spec": spec }));
    let metadata = &mut object.metadata;
    if !blueprint.template.namespace.is_empty() {
        metadata.namespace = Some(blueprint.template.namespace.clone());
    }
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let annotations = [
        pair(TEMPLATE_NAME_ANNOTATION, &blueprint.template.name),
        // Empty for a machine without a node, as remediators know it.
        pair(NODE_NAME_ANNOTATION, blueprint.node),
    ];
    metadata.annotations = Some(annotations.into());
    let mut labels = vec![pair(PART_OF_LABEL, PART_OF_VALUE)];
    if blueprint.control_plane {
        labels.push(pair(CONTROL_PLANE_NODE_LABEL, ""));
    }
    metadata.labels = Some(labels.into_iter().collect());
    let mut owners = vec![owner_reference(
        &blueprint.owner.kind,
        &blueprint.owner.name,
        &blueprint.owner.uid,
        Some(false),
    )];
    if let Some((machine, kind, uid)) = blueprint.machine
        && machine.namespace == blueprint.template.namespace
    {
        owners.push(owner_reference(kind, &machine.name, uid, None));
    }
    metadata.owner_references = Some(owners);
    Some(object)
}

fn owner_reference(
    kind: &ResourceKind,
    name: &str,
    uid: &str,
    controller: Option<bool>,
) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        api_version: kind.api_version.clone(),
        kind: kind.kind.clone(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller,
        block_owner_deletion: None,
    }
}
