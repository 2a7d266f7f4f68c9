//! What self-node-remediation peers say to each other, and how.
//!
//! # Purpose
//!
//! A node that has lost the API server asks its peers whether anybody has ordered its reboot,
//! and the manager asks agents to acknowledge an order. Both use one unary gRPC call over
//! mutual TLS. The wire contract is that of the Go agents, so that both kinds can run in one
//! cluster during an upgrade.
//!
//! # Guarantees
//!
//! * TLS 1.3 only, ALPN `h2` only, both sides verified against the CA certificates of the shared
//!   Secret. The server's name is always the IP address `192.0.2.1`, whatever address was
//!   dialled, because all agents share one certificate ([`tls`]).
//! * Every wait has a limit, on both sides.
//! * Memory is bounded: messages of at most 4 KiB, a fixed number of connections.
//!
//! # Caveats
//!
//! What an answer means, and when it may be given, is decided elsewhere
//! (`self-node-remediation-core`). This crate only carries it.

pub mod certificates;
pub mod client;
mod codec;
pub mod message;
pub mod net;
pub mod pace;
pub mod server;
pub mod tls;

pub use certificates::CertificateSet;
pub use client::{AskError, Client};
pub use message::{HealthRequest, HealthResponse, RelayRequest, RelayResponse, Status};
pub use tls::{Identity, TlsError};
