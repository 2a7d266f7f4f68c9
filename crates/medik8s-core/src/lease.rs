//! The lease of a node: mutual exclusion between health checkers, maintenance and everything else
//! that takes a node out of service.
//!
//! # Guarantees Pure decisions over the Lease that was read (remediation contract, B.3;
//! NodeHealthCheck, section 8.3). A lease that somebody else holds and that is valid is never
//! written. Every write carries the resource version that was read, so of two writers at most one
//! wins; the loser reads again and decides anew.
//!
//! # Caveats
//! * Validity is judged by wall clocks. A renew time in the future counts as valid up to one
//!   duration ahead, so that clocks that differ by a second do not make a fresh lease look free.
//! * The lease belongs to its Node object and goes with it. Whoever holds one asks again when its
//!   node is created anew: the stored owner would make the garbage collector delete the lease of a
//!   running maintenance.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::time::{after, elapsed, until, whole_micro};

#[cfg(test)]
mod tests;

/// The object that a lease is about, and that owns the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Group and version of the object.
    pub api_version: String,
    /// Kind of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
}

impl Owner {
    /// A Node as it was read.
    pub fn node(name: impl Into<String>, uid: impl Into<String>) -> Self {
        Self {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.into(),
            uid: uid.into(),
        }
    }

    /// The name of the lease of this object.
    pub fn lease_name(&self) -> String {
        format!("{}-{}", self.kind, self.name).to_lowercase()
    }

    fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: None,
            block_owner_deletion: None,
        }
    }

    /// Whether the lease names this incarnation of the object as its only owner.
    fn owns(&self, lease: &Lease) -> bool {
        match lease.metadata.owner_references.as_deref() {
            Some([owner]) => {
                owner.kind == self.kind && owner.name == self.name && owner.uid == self.uid
            }
            Some(_) | None => false,
        }
    }
}

/// The name of the lease of a node. Enough to give a lease back when the node is gone.
pub fn node_lease_name(node: &str) -> String {
    format!("{}{node}", medik8s_api::names::lease::NODE_PREFIX).to_lowercase()
}

/// Whether the caller goes on with something, or begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incident {
    /// The caller is in the middle of something that it holds the lease for.
    Ongoing,
    /// The caller begins something new: a lease that it still has counts from now, otherwise it
    /// could be overdue at once.
    New,
}

/// A wish for the lease of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Namespace of the leases.
    pub namespace: &'a str,
    /// The object.
    pub owner: &'a Owner,
    /// Who asks.
    pub holder: &'a str,
    /// For how long.
    pub duration: Duration,
    /// For what.
    pub incident: Incident,
}

/// Somebody else holds the lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't update or invalidate the lease because it is held by different owner: {holder}")]
pub struct AlreadyHeld {
    /// Who; `unknown` if the lease does not say.
    pub holder: String,
}

/// What to do to get or keep a lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Create this lease. If there is one by now, read it and decide again.
    Create(Lease),
    /// Replace the stored lease, under its resource version. On conflict read and decide again.
    Replace(Lease),
    /// The lease is ours for long enough.
    Keep,
}

/// How to get or keep the lease of an object.
pub fn request(
    current: Option<&Lease>,
    request: &Request<'_>,
    now: Timestamp,
) -> Result<Decision, AlreadyHeld> {
    let Some(lease) = current else {
        return Ok(Decision::Create(new_lease(request, now)));
    };
    let spec = lease.spec.clone().unwrap_or_default();
    if holder(&spec) != Some(request.holder) {
        return if is_valid(&spec, now) {
            Err(AlreadyHeld {
                holder: holder(&spec).unwrap_or("unknown").to_owned(),
            })
        } else {
            Ok(Decision::Replace(taken(lease, &spec, request, now)))
        };
    }
    let goes_on = request.incident == Incident::Ongoing;
    if goes_on && enough_left(&spec, request.duration, now) && request.owner.owns(lease) {
        return Ok(Decision::Keep);
    }
    Ok(Decision::Replace(renewed(lease, &spec, request, now)))
}

/// What identifies a stored lease exactly, for a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// UID of the lease.
    pub uid: Option<String>,
    /// Resource version of the lease.
    pub resource_version: Option<String>,
}

impl Precondition {
    fn of(lease: &Lease) -> Self {
        Self {
            uid: lease.metadata.uid.clone(),
            resource_version: lease.metadata.resource_version.clone(),
        }
    }
}

/// How to give a lease back: `None` if there is nothing to delete.
pub fn release(current: Option<&Lease>, me: &str) -> Result<Option<Precondition>, AlreadyHeld> {
    let Some(lease) = current else {
        return Ok(None);
    };
    match lease.spec.as_ref().and_then(holder) {
        Some(other) if other != me => Err(AlreadyHeld {
            holder: other.to_owned(),
        }),
        Some(_) | None => Ok(Some(Precondition::of(lease))),
    }
}

/// What a health checker does with the lease of a node that it is remediating.
#[derive(Debug, Clone, PartialEq)]
pub enum Upkeep {
    /// It is not there, or not ours: leave it alone.
    NotOurs,
    /// It was held for too long: delete it and give up this step.
    Overdue(Precondition),
    /// It ends too early: replace it.
    Replace(Box<Lease>),
    /// It lasts long enough.
    Keep,
}

/// The upkeep of a lease during a remediation step of duration `step`, after steps that took
/// `earlier` in total.
///
/// The caller comes back after `step`, so the lease is renewed unless it lasts until then. That is
/// stricter than [`request`], which is content with half of the duration.
pub fn upkeep(
    current: Option<&Lease>,
    request: &Request<'_>,
    step: Duration,
    earlier: Duration,
    now: Timestamp,
) -> Upkeep {
    let Some((lease, spec)) = current.and_then(|lease| Some((lease, lease.spec.as_ref()?))) else {
        return Upkeep::NotOurs;
    };
    if holder(spec) != Some(request.holder) {
        return Upkeep::NotOurs;
    }
    if is_overdue(spec, step, earlier, now) {
        return Upkeep::Overdue(Precondition::of(lease));
    }
    let lasts = end(spec).is_some_and(|end| end >= after(now, step)) && is_valid(spec, now);
    if lasts && request.owner.owns(lease) {
        Upkeep::Keep
    } else {
        Upkeep::Replace(Box::new(renewed(lease, spec, request, now)))
    }
}

/// Whether a lease has been held for longer than three times a step and all steps before it.
///
/// Without an acquire time nobody can tell; the next renewal writes one.
pub fn is_overdue(spec: &LeaseSpec, step: Duration, earlier: Duration, now: Timestamp) -> bool {
    let limit = step.saturating_mul(3).saturating_add(earlier);
    spec.acquire_time
        .as_ref()
        .is_some_and(|acquired| now > after(acquired.0, limit))
}

/// Who holds a lease; an empty name is nobody.
pub fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity
        .as_deref()
        .filter(|holder| !holder.is_empty())
}

/// Whether a lease binds others: it has not ended, and was not renewed absurdly far in the future.
pub fn is_valid(spec: &LeaseSpec, now: Timestamp) -> bool {
    let (Some(renewed), Some(duration)) = (spec.renew_time.as_ref(), duration(spec)) else {
        return false;
    };
    after(renewed.0, duration) >= now && until(renewed.0, now) <= duration
}

/// When a lease ends.
pub fn end(spec: &LeaseSpec) -> Option<Timestamp> {
    Some(after(spec.renew_time.as_ref()?.0, duration(spec)?))
}

/// For how long a lease is valid after its renewal.
pub fn duration(spec: &LeaseSpec) -> Option<Duration> {
    spec.lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
}

/// More than half of the wanted duration is left, and the stored duration is the wanted one.
fn enough_left(spec: &LeaseSpec, wanted: Duration, now: Timestamp) -> bool {
    let Some(renewed) = spec.renew_time.as_ref() else {
        return false;
    };
    spec.lease_duration_seconds == Some(whole_seconds(wanted))
        // A renew time in the future comes from a clock that was set back: others may take such a
        // lease early.
        && renewed.0 <= now
        && duration(spec).is_some_and(|duration| elapsed(renewed.0, now) < duration / 2)
}

/// Whole seconds of a duration, rounded up and at least one, as the API wants it.
fn whole_seconds(duration: Duration) -> i32 {
    let round_up = u64::from(duration.subsec_nanos() > 0);
    let seconds = duration.as_secs().saturating_add(round_up).max(1);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn new_lease(request: &Request<'_>, now: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(request.owner.lease_name()),
            namespace: Some(request.namespace.to_owned()),
            owner_references: Some(vec![request.owner.reference()]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            acquire_time: Some(whole_micro(now)),
            lease_transitions: Some(0),
            ..claimed(LeaseSpec::default(), request, now)
        }),
    }
}

/// A spec that says: ours, from now, for the wanted duration.
fn claimed(spec: LeaseSpec, request: &Request<'_>, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(request.holder.to_owned()),
        lease_duration_seconds: Some(whole_seconds(request.duration)),
        renew_time: Some(whole_micro(now)),
        ..spec
    }
}

/// One more change of hands.
fn next_transition(spec: &LeaseSpec) -> i32 {
    spec.lease_transitions.unwrap_or(0).saturating_add(1)
}

/// The stored lease with another spec and exactly one owner.
fn rewritten(lease: &Lease, spec: LeaseSpec, owner: &Owner) -> Lease {
    let mut metadata = lease.metadata.clone();
    metadata.owner_references = Some(vec![owner.reference()]);
    metadata.managed_fields = None;
    Lease {
        metadata,
        spec: Some(spec),
    }
}

fn taken(lease: &Lease, spec: &LeaseSpec, request: &Request<'_>, now: Timestamp) -> Lease {
    let spec = LeaseSpec {
        acquire_time: Some(whole_micro(now)),
        lease_transitions: Some(next_transition(spec)),
        ..claimed(spec.clone(), request, now)
    };
    rewritten(lease, spec, request.owner)
}

fn renewed(lease: &Lease, spec: &LeaseSpec, request: &Request<'_>, now: Timestamp) -> Lease {
    let broken = spec.renew_time.is_none()
        || spec.lease_duration_seconds.is_none()
        || spec.acquire_time.is_none();
    if broken || request.incident == Incident::New {
        return taken(lease, spec, request, now);
    }
    rewritten(lease, claimed(spec.clone(), request, now), request.owner)
}
