//! The node health check operator.
//!
//! # Purpose
//! Decides **when** a node is sick and **which** remediator gets it: it creates and deletes
//! remediation objects from templates. It never reboots, taints, cordons or drains anything.
//!
//! ```text
//!   watches ─▶ world ─▶ observe ─▶ plan ─▶ effects ─▶ status, events
//!                │                              │
//!                └── wakes ─▶ queue             └── answers go back into the world
//! ```

pub mod aggregation;
pub mod check;
pub mod classify;
pub mod cluster;
pub mod controller;
pub mod effects;
pub mod error;
pub mod facts;
#[cfg(test)]
mod fixtures;
pub mod follow;
pub mod hooks;
pub mod machine;
pub mod metrics;
pub mod node;
pub mod notice;
pub mod objects;
pub mod plan;
pub mod queues;
pub mod rbac;
pub mod remediation;
pub mod run;
pub mod settings;
pub mod setup;
pub mod storm;
pub mod validate;
pub mod world;

pub use run::{run, webhooks};
