//! The self-node-remediation manager.
//!
//! # Purpose
//! Runs the agents ([`install`]) and carries out remediations: orders the reboot
//! of a node, waits until it is proven that nothing of its workload runs any more, and frees the
//! workload.

pub mod install;
pub mod rbac;
pub mod remediation;
pub mod run;
pub mod settings;
pub mod validate;
pub mod webhooks;

pub use run::run;
pub use webhooks::webhooks;
