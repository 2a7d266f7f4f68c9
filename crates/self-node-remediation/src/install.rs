//! The configuration: what runs because of it.
//!
//! # Purpose
//! Keeps the agents' DaemonSet, Service and certificates as the one SelfNodeRemediationConfig says
//! ([`plan`]), creates the defaults of a fresh install ([`defaults`]) and marks templates as usable
//! several times in one health check, so that no webhook is needed for that.

pub mod daemonset;
pub mod defaults;
pub mod effects;
pub mod plan;
pub mod policy;
pub mod rotation;
pub mod templates;
