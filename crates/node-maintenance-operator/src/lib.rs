//! Keeps nodes in maintenance: cordoned, tainted and drained while a NodeMaintenance exists.

pub mod drain;
pub mod error;
pub mod facts;
pub mod plan;
pub mod status;
pub mod validate;
