//! What tests of the medik8s crates share. Never part of a product: only dev-dependencies name it.
//!
//! # Purpose
//! * [`build`]: Kubernetes objects in one expression.
//! * [`strategies`]: proptest strategies for nodes, fleets, times and values as users write them.
//! * [`script`]: an API server that expects exactly one sequence of requests; for tests of effects.
//! * [`fake`]: an API server in memory, good enough to run a reconciler against, with faults.
//! * [`crash`]: runs a piece of work again and again, killing it at every write.
//!
//! # Caveats
//! The fake stores and answers like an API server, but validates no schema and runs no controller.
//! What depends on those is tested on the real control plane (`tests/harness`).

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a broken fixture or an unmet expectation ends the test"
)]

pub mod build;
pub mod crash;
pub mod fake;
pub mod script;
pub mod strategies;
pub mod wire;
