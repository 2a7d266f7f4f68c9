//! What can go wrong in a pass over a health check.

use medik8s_runtime::error::{Class, Classify};
use medik8s_runtime::node_lease::LeaseError;

use crate::plan::Step;

/// One thing that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A request to the API server.
    #[error(transparent)]
    Api(#[from] medik8s_runtime::error::Error),
    /// A node lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The kind of a remediation is not served (any more).
    #[error("the cluster does not serve the kind {0}")]
    KindGone(String),
    /// Whether a remediation is still asked for could not be found out.
    #[error("could not read the health check again: {0}")]
    Unsure(String),
    /// It was not tried, since another one of its kind had just failed.
    #[error("not tried after a failure for another node: {0}")]
    Stuck(String),
    /// Several of them; the others went on.
    #[error("{count} of {total} steps failed, the first is {step}")]
    Steps {
        /// How many failed.
        count: usize,
        /// How many there were.
        total: usize,
        /// The first that failed.
        step: &'static str,
        /// Why.
        #[source]
        source: Box<Self>,
    },
}

impl Classify for Failure {
    fn class(&self) -> Class {
        match self {
            Self::Api(error) => error.class(),
            Self::Lease(error) => error.class(),
            Self::KindGone(_) => Class::NotFound,
            Self::Unsure(_) | Self::Stuck(_) => Class::Retry,
            Self::Steps { source, .. } => source.class(),
        }
    }
}

/// A step's name in logs.
pub const fn step_name(step: &Step) -> &'static str {
    match step {
        Step::ReleaseLease { .. } => "release lease",
        Step::Delete { .. } => "delete remediation",
        Step::StartHealthyDelay { .. } => "start healthy delay",
        Step::ClearHealthyDelay { .. } => "clear healthy delay",
        Step::DropConfirmation { .. } => "drop confirmation",
        Step::RenewLease { .. } => "renew lease",
        Step::TimeOut { .. } => "time out",
        Step::ReportOld { .. } => "report old remediation",
        Step::Create(_) => "create remediation",
    }
}
