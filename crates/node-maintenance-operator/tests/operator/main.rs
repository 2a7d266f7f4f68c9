//! The whole controller against the fake API server, on a clock that only moves when told to:
//! what it sends, in which order, what it survives. The real server is the business of the harness.
#![cfg(test)]

mod admission;
mod contention;
mod crash;
mod drain;
mod lab;
mod maintenance;
