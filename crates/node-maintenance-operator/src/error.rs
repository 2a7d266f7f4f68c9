//! What can go wrong in this operator.

use std::{fmt::Write as _, time::Duration};

use medik8s_core::etcd::BudgetError;
use medik8s_runtime::{
    error::{Class, Classify, Error as ApiError},
    node_lease::LeaseError,
};

/// A step that did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A request to the API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The lease could not be asked for or given back.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// It depends on something unreadable which pods have to go.
    #[error("could not decide which pods of node {node} have to go: {why}")]
    Undecided {
        /// The node.
        node: String,
        /// What could not be read.
        why: String,
    },
    /// Nobody answered what state the node is in.
    #[error("node {node} could not be read within {limit:?}")]
    NodeUnknown {
        /// The node.
        node: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The node changed each time before it could be patched.
    #[error("node {node} changed {attempts} times before it could be patched")]
    NodeContended {
        /// The node.
        node: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The object of the step is gone.
    #[error("the NodeMaintenance with UID {uid} is gone")]
    Vanished {
        /// UID of the object.
        uid: String,
    },
    /// A node as the API server does not send it.
    #[error("node {node} has no resource version")]
    NoResourceVersion {
        /// The node.
        node: String,
    },
    /// The etcd guard of OpenShift cannot be understood.
    #[error("could not check the etcd quorum for node {node}")]
    Quorum {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: BudgetError,
    },
    /// A status or patch that does not encode.
    #[error("could not encode {what}")]
    Encode {
        /// What it was.
        what: &'static str,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The steps do not come to an end.
    #[error("the plan for node {node} did not come to rest after {steps} steps")]
    Restless {
        /// The node.
        node: String,
        /// How many steps were done.
        steps: usize,
    },
}

impl Classify for StepError {
    fn class(&self) -> Class {
        match self {
            Self::Api(error) => error.class(),
            Self::Lease(error) => error.class(),
            Self::Undecided { .. } | Self::NodeUnknown { .. } | Self::Restless { .. } => {
                Class::Retry
            }
            Self::NodeContended { .. } | Self::Vanished { .. } => Class::Conflict,
            Self::NoResourceVersion { .. } | Self::Quorum { .. } | Self::Encode { .. } => {
                Class::Config
            }
        }
    }
}

/// An error with its causes on one line. The layers do not repeat each other.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        // Writing to a String cannot fail.
        if write!(text, ": {source}").is_err() {
            break;
        }
        cause = source.source();
    }
    text
}
