//! The only road of the medik8s operators to the outside.
//!
//! # Purpose
//! Clients of the API server, reads and writes with deadlines, leader lease, watches and work
//! queues, Events, probes, metrics, admission webhooks, logs, time, flags and environment. The
//! operators' own modules hold rules; everything that talks to somebody else is here once.
//!
//! # Guarantees
//! - Each wait on the outside has a deadline, each task is watched ([`process`]).
//! - Nothing is written except through [`mod@write`]; a gated writer only while we lead ([`leader`]).
//! - Failures are classified by status codes and types ([`error`]), never by text.
//!
//! # Caveats
//! Must run inside a tokio runtime; [`process::block_on`] starts one.

pub mod capabilities;
pub mod certs;
pub mod cli;
pub mod client;
pub mod clock;
pub mod controller;
pub mod error;
pub mod events;
pub mod guard;
pub mod informer;
pub mod leader;
pub mod metrics;
pub mod node_lease;
pub mod olm;
pub mod operator;
pub mod probes;
pub mod process;
pub mod rbac;
pub mod read;
mod serve;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod webhook;
pub mod write;
