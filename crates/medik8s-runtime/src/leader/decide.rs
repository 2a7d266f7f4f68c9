//! The rules of the election, without I/O: client-go's `tryAcquireOrRenew`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};

use super::{Timing, micro_time};

/// What was seen of the lease, and when it was first seen like that on our own clock. Another
/// machine's clock is never compared with ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    record: LeaseSpec,
    /// Boot time at which this record was first seen.
    since: Duration,
}

impl Observation {
    /// The observation after the lease was read at `now`.
    pub fn update(before: Option<Self>, found: Option<&Lease>, now: Duration) -> Option<Self> {
        let record = found?.spec.clone().unwrap_or_default();
        match before {
            Some(before) if before.record == record => Some(before),
            Some(_) | None => Some(Self { record, since: now }),
        }
    }

    /// Who holds the lease; empty for nobody.
    pub fn holder(&self) -> &str {
        self.record.holder_identity.as_deref().unwrap_or_default()
    }

    /// Whether its holder must be respected at `now`.
    fn is_valid(&self, timing: Timing, now: Duration) -> bool {
        let duration = self
            .record
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map_or(timing.lease_duration, Duration::from_secs);
        now < self.since.saturating_add(duration)
    }
}

/// What to do about the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// There is none: make it.
    Create,
    /// It is ours already.
    Renew,
    /// It is free or ran out.
    Take,
    /// Somebody else has it.
    Wait,
}

/// Decides what `me` may do about the lease at boot time `now`.
pub fn claim(seen: Option<&Observation>, me: &str, timing: Timing, now: Duration) -> Claim {
    match seen {
        None => Claim::Create,
        Some(seen) if seen.holder() == me => Claim::Renew,
        Some(seen) if seen.holder().is_empty() || !seen.is_valid(timing, now) => Claim::Take,
        Some(_) => Claim::Wait,
    }
}

pub(super) fn created(lease: &Lease, me: &str, timing: Timing, now: Timestamp) -> Lease {
    with_spec(
        lease,
        LeaseSpec {
            acquire_time: Some(micro_time(now)),
            lease_transitions: Some(0),
            ..held(LeaseSpec::default(), me, timing, now)
        },
    )
}

pub(super) fn taken(lease: &Lease, me: &str, timing: Timing, now: Timestamp) -> Lease {
    let spec = lease.spec.clone().unwrap_or_default();
    with_spec(
        lease,
        LeaseSpec {
            acquire_time: Some(micro_time(now)),
            lease_transitions: Some(spec.lease_transitions.unwrap_or_default().saturating_add(1)),
            ..held(spec, me, timing, now)
        },
    )
}

pub(super) fn renewed(lease: &Lease, me: &str, timing: Timing, now: Timestamp) -> Lease {
    let spec = lease.spec.clone().unwrap_or_default();
    with_spec(lease, held(spec, me, timing, now))
}

/// Nobody's, and to be respected for one second only.
pub(super) fn released(lease: &Lease, now: Timestamp) -> Lease {
    let spec = lease.spec.clone().unwrap_or_default();
    with_spec(
        lease,
        LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(micro_time(now)),
            renew_time: Some(micro_time(now)),
            ..spec
        },
    )
}

fn held(spec: LeaseSpec, me: &str, timing: Timing, now: Timestamp) -> LeaseSpec {
    let seconds = i32::try_from(timing.lease_duration.as_secs()).unwrap_or(i32::MAX);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(micro_time(now)),
        ..spec
    }
}

fn with_spec(lease: &Lease, spec: LeaseSpec) -> Lease {
    Lease {
        metadata: lease.metadata.clone(),
        spec: Some(spec),
    }
}
