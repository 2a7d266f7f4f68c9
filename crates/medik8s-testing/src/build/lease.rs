//! Leases.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use medik8s_core::time::whole_micro;

use super::{MetaExt, meta};

/// A lease that somebody took and last renewed at one moment.
pub fn lease(namespace: &str, name: &str, holder: &str, renewed: Timestamp, seconds: i32) -> Lease {
    let lease = Lease {
        metadata: meta(name),
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            acquire_time: Some(whole_micro(renewed)),
            renew_time: Some(whole_micro(renewed)),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        }),
    };
    lease.within(namespace)
}
