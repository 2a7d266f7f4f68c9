//! What can go wrong in a pass.

use medik8s_runtime::{
    controller::{Class, Classify},
    error::ApiError,
};
use self_node_remediation_core::{budget::BudgetError, order::Target};

/// Why a pass ended early. It is tried again, with growing pauses.
#[derive(Debug, thiserror::Error)]
pub enum RemediationError {
    /// The API server did not do what was asked.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The configuration has no usable times.
    #[error("the configuration cannot be used")]
    Budget(#[from] BudgetError),
    /// The object has no UID, or no name.
    #[error("the remediation was not read from an API server")]
    NotStored,
    /// The node was read without a resource version.
    #[error("the node was not read from an API server")]
    NodeNotStored,
    /// A precondition of the order is missing.
    #[error("{0}")]
    CannotStart(String),
    /// The phase is none that any release writes.
    #[error("unknown phase {0:?}")]
    UnknownPhase(String),
    /// The strategy is none that this release knows.
    #[error("unknown remediation strategy {0:?}")]
    UnknownStrategy(String),
    /// The node of a Machine could not be found out.
    #[error("{why}, so the node of {target:?} is not known")]
    Unresolved {
        /// Whose node.
        target: Target,
        /// What is wrong.
        why: String,
    },
    /// The out-of-service taint did not empty the node in time.
    #[error("the out-of-service taint did not empty the node in time: {0}")]
    OutOfServiceLate(String),
    /// Certificates for the calls to the agents are missing or broken.
    #[error("the Secret with the agents' certificates cannot be used: {0}")]
    Certificates(String),
}

impl Classify for RemediationError {
    fn class(&self) -> Class {
        match self {
            Self::Api(error) => error.class(),
            Self::Budget(_)
            | Self::UnknownPhase(_)
            | Self::UnknownStrategy(_)
            | Self::NotStored
            | Self::NodeNotStored => Class::Config,
            Self::CannotStart(_)
            | Self::Unresolved { .. }
            | Self::OutOfServiceLate(_)
            | Self::Certificates(_) => Class::Retry,
        }
    }
}

impl RemediationError {
    /// The text for `status.lastError`: the error and what caused it.
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}
