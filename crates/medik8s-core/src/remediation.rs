//! The contract between health checkers and remediators: which node a remediation is for, whose it
//! is, whether it may go on.
//!
//! # Guarantees Sections A.2 to A.7 of the remediation contract. A remediation never falls back to
//! another node: an annotation that is there and empty says that there is no node (a
//! MachineHealthCheck writes that for a machine without one), and then the object's name is not
//! taken for a node's.
//!
//! # Caveats A remediation owned by a Machine is for the node of that Machine, which has to be
//! read. [`Target`] says so instead of reading it.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use medik8s_api::names::contract::{
    NHC_TIMED_OUT_ANNOTATION, NODE_NAME_ANNOTATION, TEMPLATE_NAME_ANNOTATION,
};

#[cfg(test)]
mod tests;

/// Kind of the health checks that own remediations.
const NODE_HEALTH_CHECK: &str = "NodeHealthCheck";
/// Kind of the machines that own remediations.
const MACHINE: &str = "Machine";
/// Suffix of the kinds of templates.
const TEMPLATE: &str = "Template";

/// Which Machine API an owner belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MachineApi {
    /// `machine.openshift.io`
    OpenShift,
    /// `cluster.x-k8s.io`
    ClusterApi,
}

/// A Machine that has to be read: `status.nodeRef.name` is the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineRef {
    /// Its API.
    pub api: MachineApi,
    /// Group and version, as the owner reference has them.
    pub api_version: String,
    /// Its namespace: that of the remediation, since an owner lives beside what it owns.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Why a remediation is for no node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoTarget {
    /// The node-name annotation is there and empty.
    EmptyAnnotation,
    /// The owner is a Machine of an API that is not known.
    UnknownMachineApi(String),
}

impl fmt::Display for NoTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyAnnotation => {
                write!(
                    f,
                    "the annotation {NODE_NAME_ANNOTATION} is empty: there is no node"
                )
            }
            Self::UnknownMachineApi(version) => {
                write!(f, "the owner is a Machine of the unknown API {version}")
            }
        }
    }
}

/// Where the name of a remediation's node comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This node, if it exists.
    Node(String),
    /// The node of this Machine.
    Machine(MachineRef),
    /// None.
    None(NoTarget),
}

/// Finds the node of a remediation (contract, A.4).
pub fn target(remediation: &ObjectMeta) -> Target {
    if owner(remediation, NODE_HEALTH_CHECK).is_some() {
        return named(remediation);
    }
    let Some(machine) = owner(remediation, MACHINE) else {
        return named(remediation);
    };
    let Some(api) = machine_api(&machine.api_version) else {
        return Target::None(NoTarget::UnknownMachineApi(machine.api_version.clone()));
    };
    Target::Machine(MachineRef {
        api,
        api_version: machine.api_version.clone(),
        namespace: remediation.namespace.clone().unwrap_or_default(),
        name: machine.name.clone(),
    })
}

/// The annotation, or else the name of the remediation.
fn named(remediation: &ObjectMeta) -> Target {
    match annotation(remediation, NODE_NAME_ANNOTATION) {
        Some("") => Target::None(NoTarget::EmptyAnnotation),
        Some(node) => Target::Node(node.to_owned()),
        None => Target::Node(remediation.name.clone().unwrap_or_default()),
    }
}

fn owner<'a>(object: &'a ObjectMeta, kind: &str) -> Option<&'a OwnerReference> {
    object
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.kind == kind)
}

fn machine_api(api_version: &str) -> Option<MachineApi> {
    match group(api_version) {
        "machine.openshift.io" => Some(MachineApi::OpenShift),
        "cluster.x-k8s.io" => Some(MachineApi::ClusterApi),
        _ => None,
    }
}

/// Group of an apiVersion; empty for the core group.
pub fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

fn annotation<'a>(object: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    object.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether a remediation is for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// That depends on the node of this Machine.
    Ask(MachineRef),
    /// Nobody can tell.
    Unknown(NoTarget),
}

/// Tells whether a remediation is for a node (SelfNodeRemediation, section 9). `machine` is the
/// name of the node's Machine, if the asker knows it: it saves reading the Machine.
pub fn matches(remediation: &ObjectMeta, node: &str, machine: Option<&str>) -> Match {
    let owned_by = owner(remediation, MACHINE).map(|owner| owner.name.as_str());
    if machine.is_some_and(|machine| !machine.is_empty() && owned_by == Some(machine)) {
        return Match::Yes;
    }
    match target(remediation) {
        Target::Node(name) if name == node => Match::Yes,
        Target::Node(_) => Match::No,
        Target::Machine(machine) => Match::Ask(machine),
        Target::None(why) => Match::Unknown(why),
    }
}

/// An object that owns remediations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerId<'a> {
    /// Group and version.
    pub api_version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Name.
    pub name: &'a str,
    /// UID.
    pub uid: &'a str,
}

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Ours.
    Ours,
    /// It belongs to an earlier object of our name, and will be garbage collected.
    Predecessor,
    /// Not ours.
    Foreign,
}

/// Tells whether an object belongs to an owner.
pub fn ownership(object: &ObjectMeta, id: OwnerId<'_>) -> Ownership {
    let named = |owner: &&OwnerReference| {
        owner.api_version == id.api_version && owner.kind == id.kind && owner.name == id.name
    };
    let mut owners = object
        .owner_references
        .iter()
        .flatten()
        .filter(named)
        .peekable();
    if owners.peek().is_none() {
        Ownership::Foreign
    } else if owners.any(|owner| owner.uid == id.uid) {
        Ownership::Ours
    } else {
        Ownership::Predecessor
    }
}

/// Whether the health checker told the remediator to stop. Presence counts, the time is for people.
pub fn is_timed_out(remediation: &ObjectMeta) -> bool {
    annotation(remediation, NHC_TIMED_OUT_ANNOTATION).is_some()
}

/// Value of the annotation that tells a remediator to stop.
pub fn timed_out_value(now: Timestamp) -> String {
    crate::time::whole_second(now).0.to_string()
}

/// The node of a remediation as a health checker names it: annotation, else name (NodeHealthCheck,
/// section 7.7). An empty annotation names no node.
pub fn node_name(remediation: &ObjectMeta) -> Option<&str> {
    annotation(remediation, NODE_NAME_ANNOTATION)
        .or(remediation.name.as_deref())
        .filter(|node| !node.is_empty())
}

/// Whether a remediation was made from a template (NodeHealthCheck, section 7.7). Templates of one
/// name in two namespaces are two templates: a remediation lives in its template's namespace.
pub fn is_from_template(remediation: &ObjectMeta, template: &ObjectMeta) -> bool {
    if remediation.namespace != template.namespace {
        return false;
    }
    let node = annotation(remediation, NODE_NAME_ANNOTATION);
    match annotation(remediation, TEMPLATE_NAME_ANNOTATION) {
        Some(name) => node.is_some() && template.name.as_deref() == Some(name),
        // Made by hand, or by something that knows nothing of templates: it is named after its
        // node.
        None => node.is_none_or(|node| remediation.name.as_deref() == Some(node)),
    }
}

/// The kind of the remediations that templates of a kind make; `None` if the kind is no template
/// kind.
pub fn kind_of_template(template_kind: &str) -> Option<&str> {
    template_kind
        .strip_suffix(TEMPLATE)
        .filter(|kind| !kind.is_empty())
}
