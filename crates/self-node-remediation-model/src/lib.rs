//! The proof of the fencing rules by exhaustive search.
//!
//! # Purpose
//! fencing-safety section 8.1: the production decisions of agent and manager in a model of everything around them, in
//! which everything that can happen does happen, in every order. See `docs/fencing.md`.
//!
//! # Guarantees
//! What agents, peers and manager decide is decided by the functions of `self-node-remediation-core`; a rule is broken
//! only here, in what those functions are told or in what becomes of what they say.

#![expect(
    clippy::indexing_slicing,
    reason = "the models count their own nodes, and a mistake must not be searched over"
)]

pub mod cases;
pub mod document;
pub mod effects;
pub mod host;
pub mod liveness;
pub mod manager;
pub mod outage;
pub mod peer;
pub mod rules;
pub mod search;
pub mod setup;
pub mod story;
pub mod view;
pub mod world;
