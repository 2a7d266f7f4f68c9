//! The rules of self node remediation on which manager and agent must agree, as pure functions.
//!
//! # Purpose
//! Both processes, their tests and the proofs use these functions and no copies of them: how long a node may go on
//! without proof ([`budget`], [`permit`]), what an order is ([`order`]), who votes ([`table`]) and what the votes mean
//! ([`verdict`]), what an agent remembers and answers ([`knowledge`], [`peer_server`]), what it tells about itself
//! ([`announcement`]), and what it does ([`agent`]).
//!
//! # Guarantees
//! No clock, no I/O, no randomness: time, chance and observations are arguments. The promises that these rules keep,
//! and the assumptions under which they do, are those of `docs/fencing.md`.

pub mod agent;
pub mod announcement;
pub mod budget;
pub mod ids;
pub mod knowledge;
pub mod order;
pub mod peer_server;
pub mod permit;
pub mod release;
pub mod table;
pub mod time;
pub mod verdict;
