//! Leader election on a Lease, with the semantics of client-go, so that an original Go manager and
//! ours never act together.
//!
//! # Guarantees [`Election`] is a state machine without clock and network: it is told what was read
//! and written, and says what to do next. A lease of another holder counts as expired when its
//! record has not changed for its duration **as measured here**; remote clocks play no part. This
//! process counts itself as leader only until the renew deadline after the
//! *sending* of its last successful write, which ends before anybody else may take over.
//!
//! # Caveats All monotonic times must come from one clock that also counts suspended time. After
//! [`Decision::Lost`] the process must end: work in flight may belong to the next leader.
//!
//! ```text
//! Follower --lease free, expired, released--> claim --stored--> Leader --every 5 s--> renew
//!     ^                                         | refused         | deadline passed, other holder
//!     +------------- retry after 2 s -----------+                 +--> Lost
//! ```

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::lease::{duration, holder};
use crate::time::whole_micro;

#[cfg(test)]
mod tests;

/// Times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// For how long others must see no change before they take over.
    pub lease_duration: Duration,
    /// For how long a leader goes on without a successful renewal.
    pub renew_deadline: Duration,
    /// How often a leader renews.
    pub renew_period: Duration,
    /// How long to wait after a failure, and between two looks of a follower.
    pub retry_period: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            renew_period: Duration::from_secs(5),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Read the lease, then report with [`Election::saw`] or [`Election::failed`].
    Read,
    /// Create this lease, then report with [`Election::wrote`] or [`Election::failed`].
    Create(Lease),
    /// Replace the stored lease by this one under its resource version, then report likewise. For a
    /// follower this takes the lease over, for a leader it renews it.
    Replace(Lease),
    /// Nothing until this monotonic time.
    Wait(Duration),
    /// Leadership is lost: end the process.
    Lost,
}

/// What is known about the stored lease.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    lease: Option<Lease>,
    /// When this content was first seen here.
    since: Duration,
    /// When it was last looked at.
    looked: Duration,
}

/// One candidate's view of an election.
#[derive(Debug, Clone, PartialEq)]
pub struct Election {
    namespace: String,
    name: String,
    identity: String,
    params: Params,
    seen: Option<Seen>,
    /// Sending time of the last write that made or kept us leader.
    renewed: Option<Duration>,
    /// Time of the last failure, until the next success.
    failed: Option<Duration>,
}

impl Election {
    /// A candidate that knows nothing yet. The identity must be unique per process.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        identity: impl Into<String>,
        params: Params,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            params,
            seen: None,
            renewed: None,
            failed: None,
        }
    }

    /// The name under which this process leads.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether this process may act as leader at a moment.
    pub fn leads(&self, now: Duration) -> bool {
        self.deadline().is_some_and(|deadline| now < deadline) && !self.displaced()
    }

    /// When leadership ends unless it is renewed; `None` for a follower.
    pub fn deadline(&self) -> Option<Duration> {
        self.renewed
            .map(|renewed| renewed.saturating_add(self.params.renew_deadline))
    }

    /// Who holds the lease, as far as it is known.
    pub fn holder(&self) -> Option<&str> {
        self.spec().and_then(holder)
    }

    /// The lease was read; `None` if it does not exist. `answered` is the time of the answer.
    pub fn saw(&mut self, lease: Option<Lease>, answered: Duration) {
        self.failed = None;
        let since = match &self.seen {
            Some(seen) if record(seen.lease.as_ref()) == record(lease.as_ref()) => seen.since,
            Some(_) | None => answered,
        };
        self.seen = Some(Seen {
            lease,
            since,
            looked: answered,
        });
    }

    /// A write succeeded: `lease` is what the server returned. `sent` is the time **before** the
    /// request, since the server may have stored it at any moment from then on.
    pub fn wrote(&mut self, lease: Lease, sent: Duration, answered: Duration) {
        self.saw(Some(lease), answered);
        if self.holder() == Some(self.identity.as_str()) {
            self.renewed = Some(sent);
        }
    }

    /// A read or write failed, was refused, or its outcome is unknown.
    pub fn failed(&mut self, now: Duration) {
        self.failed = Some(now);
    }

    /// What to do now. `now` is monotonic, `wall` goes into the record for people and for other
    /// holders to compare.
    pub fn decide(&self, now: Duration, wall: Timestamp) -> Decision {
        if self.renewed.is_some() && !self.leads(now) {
            return Decision::Lost;
        }
        let retry = |since: Duration| since.saturating_add(self.params.retry_period);
        if let Some(failed) = self.failed {
            // What is stored is unknown now: look before writing again.
            let next = self.deadline().unwrap_or(Duration::MAX).min(retry(failed));
            return wait_or(next, now, || Decision::Read);
        }
        let Some(seen) = &self.seen else {
            return Decision::Read;
        };
        if let Some(renewed) = self.renewed {
            let next = renewed.saturating_add(self.params.renew_period);
            return wait_or(next, now, || self.claim(seen, wall));
        }
        match self.expiry(seen) {
            Some(expiry) if expiry > now => {
                wait_or(retry(seen.looked).min(expiry), now, || Decision::Read)
            }
            // A claim rests on a fresh look only; otherwise it would just meet a conflict.
            Some(_) | None => {
                if now >= retry(seen.looked) {
                    Decision::Read
                } else {
                    self.claim(seen, wall)
                }
            }
        }
    }

    /// The lease to store on a clean end, so that others need not wait; `None` if it is not ours.
    pub fn release(&self, now: Duration, wall: Timestamp) -> Option<Lease> {
        if !self.leads(now) {
            return None;
        }
        let mut lease = self.seen.as_ref()?.lease.clone()?;
        let spec = lease.spec.take().unwrap_or_default();
        lease.metadata.managed_fields = None;
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(whole_micro(wall)),
            renew_time: Some(whole_micro(wall)),
            ..spec
        });
        Some(lease)
    }

    fn spec(&self) -> Option<&LeaseSpec> {
        self.seen.as_ref()?.lease.as_ref()?.spec.as_ref()
    }

    /// The stored lease does not name us. One that was deleted names nobody: creating it again
    /// decides.
    fn displaced(&self) -> bool {
        let stored = self.seen.as_ref().is_some_and(|seen| seen.lease.is_some());
        stored && self.holder() != Some(self.identity.as_str())
    }

    /// Until when another holder's lease binds us; `None` if nobody else holds it.
    fn expiry(&self, seen: &Seen) -> Option<Duration> {
        let spec = seen.lease.as_ref()?.spec.as_ref()?;
        if holder(spec)? == self.identity {
            return None;
        }
        // A holder that states no duration gets ours.
        Some(
            seen.since
                .saturating_add(duration(spec).unwrap_or(self.params.lease_duration)),
        )
    }

    /// The lease with us as holder.
    fn claim(&self, seen: &Seen, wall: Timestamp) -> Decision {
        let seconds = i32::try_from(self.params.lease_duration.as_secs()).unwrap_or(i32::MAX);
        let now = Some(whole_micro(wall));
        let claimed = |spec: LeaseSpec| LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            renew_time: now.clone(),
            ..spec
        };
        let Some(lease) = &seen.lease else {
            let metadata = ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            };
            let spec = LeaseSpec {
                acquire_time: now.clone(),
                lease_transitions: Some(0),
                ..claimed(LeaseSpec::default())
            };
            return Decision::Create(Lease {
                metadata,
                spec: Some(spec),
            });
        };
        let mut lease = lease.clone();
        lease.metadata.managed_fields = None;
        let old = lease.spec.take().unwrap_or_default();
        let ours = holder(&old) == Some(self.identity.as_str());
        let transitions = old.lease_transitions.unwrap_or(0);
        let spec = claimed(old);
        lease.spec = Some(if ours {
            spec
        } else {
            LeaseSpec {
                acquire_time: now.clone(),
                lease_transitions: Some(transitions.saturating_add(1)),
                ..spec
            }
        });
        Decision::Replace(lease)
    }
}

/// The part of a lease whose change shows that its holder is alive.
fn record(lease: Option<&Lease>) -> Option<&LeaseSpec> {
    lease.and_then(|lease| lease.spec.as_ref())
}

fn wait_or(until: Duration, now: Duration, otherwise: impl FnOnce() -> Decision) -> Decision {
    if until > now {
        Decision::Wait(until)
    } else {
        otherwise()
    }
}
