//! The whole leader's part against an API server in memory, on a virtual clock.
#![cfg(test)]
#![expect(clippy::needless_pass_by_value, reason = "tests build values in place")]

mod crash;
mod kinds;
mod lab;
mod machines;
mod requests;
mod safety;
mod stories;
mod webhook;
