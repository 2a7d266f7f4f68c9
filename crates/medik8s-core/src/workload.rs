//! Freeing the workload of a fenced node (remediation contract, B.6; SelfNodeRemediation, section
//! 8).
//!
//! # Guarantees Every deletion names the UID that was listed, so that a pod of the same name that
//! starts elsewhere meanwhile is safe. Only pods that were created before the node was fenced are
//! deleted by force: a younger one may run on a node that is back.
//!
//! # Caveats
//! Nothing here proves that the node is fenced. **Never** call this before that is proven.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use medik8s_api::names::kubernetes::MIRROR_POD_ANNOTATION;

use crate::time::{elapsed, until};

#[cfg(test)]
mod tests;

/// One pod to delete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodDeletion {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The only incarnation that may be deleted.
    pub uid: String,
    /// The version that was judged. A pod keeps its UID when its node reboots; the kubelet of the new boot changes the
    /// version.
    pub resource_version: Option<String>,
}

/// Pods of a node to delete by force: all that were created before `fenced`, also those of
/// DaemonSets, mirrors of static pods, finished ones and those that are terminating already.
///
/// Creation times are whole seconds. A pod created in the second of the fencing is kept: it was
/// created when the node was off, or comes from after. Sorted, so that plans are stable.
pub fn pods_to_force_delete<'a>(
    node: &str,
    fenced: Timestamp,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Vec<PodDeletion> {
    let old = |pod: &Pod| {
        let created = pod.metadata.creation_timestamp.as_ref();
        created.is_some_and(|created| created.0.as_second() < fenced.as_second())
    };
    deletions(node, pods, old)
}

/// Pods of a node that came back to delete gracefully: those created before `ordered`, the time of
/// the order to reboot, that are not terminating yet. The kubelet of the new boot confirms that
/// they are gone.
///
/// Pods of DaemonSets and mirrors of static pods stay: they belong on this node and would only be
/// made again.
pub fn pods_to_delete_gracefully<'a>(
    node: &str,
    ordered: Timestamp,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Vec<PodDeletion> {
    let wanted = |pod: &Pod| {
        let created = pod.metadata.creation_timestamp.as_ref();
        created.is_some_and(|created| created.0.as_second() < ordered.as_second())
            && pod.metadata.deletion_timestamp.is_none()
            && !is_mirror(pod)
            && !belongs_to_daemon_set(pod)
    };
    deletions(node, pods, wanted)
}

fn deletions<'a>(
    node: &str,
    pods: impl IntoIterator<Item = &'a Pod>,
    wanted: impl Fn(&Pod) -> bool,
) -> Vec<PodDeletion> {
    let mut deletions: Vec<PodDeletion> = pods
        .into_iter()
        .filter(|pod| is_on(pod, node) && wanted(pod))
        .filter_map(|pod| {
            let metadata = &pod.metadata;
            Some(PodDeletion {
                namespace: metadata.namespace.clone()?,
                name: metadata.name.clone()?,
                uid: metadata.uid.clone()?,
                resource_version: metadata.resource_version.clone(),
            })
        })
        .collect();
    deletions.sort();
    deletions
}

/// Whether a pod is bound to a node.
pub fn is_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

/// Whether a pod is the mirror of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(MIRROR_POD_ANNOTATION))
}

/// Whether a DaemonSet controls a pod.
pub fn belongs_to_daemon_set(pod: &Pod) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| {
        owner.controller == Some(true)
            && owner.kind == "DaemonSet"
            && owner.api_version == "apps/v1"
    })
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

/// How far Kubernetes is with emptying a node that has the out-of-service taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfService {
    /// The node is empty: remove the taint.
    Done,
    /// Look again after this time.
    Wait(Duration),
    /// It takes too long, but the node is healthy again: remove the taint and say so.
    GivenUp,
    /// It takes too long: keep the taint and report an error.
    Late,
}

/// Rules for waiting on the out-of-service taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfServiceRules {
    /// How often to look.
    pub poll: Duration,
    /// Nothing is judged earlier than this after the taint was added: right then nothing is
    /// terminating yet.
    pub settle: Duration,
    /// If no pod starts to terminate within this time after the taint was added, nothing will end
    /// them.
    pub no_eviction: Duration,
}

impl Default for OutOfServiceRules {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(5),
            settle: Duration::from_secs(1),
            no_eviction: Duration::from_secs(20),
        }
    }
}

/// What was seen of a node with the out-of-service taint.
#[derive(Debug, Clone, Copy)]
pub struct OutOfServiceSeen<'a> {
    /// The taint as it stands on the node.
    pub taint: &'a Taint,
    /// All pods bound to the node.
    pub pods: &'a [Pod],
    /// How many VolumeAttachments name the node.
    pub attachments: usize,
    /// When waiting ends.
    pub deadline: Timestamp,
    /// Whether the remediation is being deleted: the node is healthy again.
    pub deleting: bool,
}

/// Judges how far Kubernetes is with emptying a node.
///
/// `exempt` tells which pods need not go although they do not tolerate the taint (the remediator's
/// own agent); pods of DaemonSets and mirrors are exempt anyway.
pub fn out_of_service(
    seen: &OutOfServiceSeen<'_>,
    exempt: impl Fn(&Pod) -> bool,
    rules: OutOfServiceRules,
    now: Timestamp,
) -> OutOfService {
    // A taint without a time was not added by us, but was there before we looked.
    let age = seen
        .taint
        .time_added
        .as_ref()
        .map_or(rules.settle, |added| elapsed(added.0, now));
    let terminating = seen
        .pods
        .iter()
        .any(|pod| pod.metadata.deletion_timestamp.is_some());
    let must_go = |pod: &Pod| {
        let tolerations = pod
            .spec
            .iter()
            .filter_map(|spec| spec.tolerations.as_ref())
            .flatten();
        let mut tolerations = tolerations.into_iter();
        !(belongs_to_daemon_set(pod)
            || is_mirror(pod)
            || exempt(pod)
            || tolerations.any(|toleration| tolerates(toleration, seen.taint)))
    };
    let left = seen.pods.iter().any(must_go);
    let gone = !terminating && seen.attachments == 0;
    if gone && age >= rules.settle && (!left || age >= rules.no_eviction) {
        return OutOfService::Done;
    }
    if now < seen.deadline {
        let settled = rules.settle.saturating_sub(age);
        let next = if settled.is_zero() {
            rules.poll
        } else {
            settled.min(rules.poll)
        };
        return OutOfService::Wait(next.min(until(seen.deadline, now)));
    }
    if seen.deleting {
        OutOfService::GivenUp
    } else {
        OutOfService::Late
    }
}
