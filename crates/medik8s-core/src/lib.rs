//! Rules that more than one medik8s operator needs, as pure functions.
//!
//! # Purpose
//! One home for each shared decision: durations and thresholds as users write them, conditions,
//! taints, label selectors, node leases, leader leases, back-off, the contract between health
//! checkers and remediators.
//!
//! # Guarantees
//! Nothing here reads a clock, the environment or the network, and nothing is random: time, jitter
//! and observed objects are arguments. Equal arguments give equal results, so every rule can be
//! tested as a table or as a property.
//!
//! # Caveats
//! A pure rule over a stale object is still wrong. Callers attach the preconditions these functions
//! return (resource version, UID) to their writes.

pub mod backoff;
pub mod conditions;
pub mod etcd;
pub mod go_duration;
pub mod int_or_percent;
pub mod leader;
pub mod lease;
pub mod node;
pub mod node_edit;
pub mod remediation;
pub mod roles;
pub mod scheduling;
pub mod selector;
pub mod taints;
pub mod time;
pub mod version;
pub mod workload;
