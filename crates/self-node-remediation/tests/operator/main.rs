//! The whole remediation controller against a fake API server, agents that answer over the real wire, and a clock that
//! only moves when told to. The real server is the business of the harness.
#![cfg(test)]

mod checker;
mod crash;
mod hazards;
mod lab;
