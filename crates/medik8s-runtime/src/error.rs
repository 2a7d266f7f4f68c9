//! What can go wrong between us and the API server, in classes that decide the retry.
//!
//! # Guarantees
//! The class comes from the HTTP status code and the machine-readable reason, never from message
//! text. The message names the operation and the object and does not repeat its source.

use std::{fmt, time::Duration};

use kube::core::response::{Status, reason};

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Nothing is wrong with the request: try again later.
    Retry,
    /// Somebody else changed the object: read it again and decide anew.
    Conflict,
    /// The object (or its kind) is not there.
    NotFound,
    /// An object of that name is there already.
    AlreadyExists,
    /// What was asked for is no longer kept (watch too old, page expired): start over.
    Gone,
    /// We may not do this: permissions, or an admission webhook said no.
    Denied,
    /// The request itself is wrong; the same request will never succeed.
    Config,
    /// The leader lease is not provably ours, so nothing was sent.
    NotLeader,
}

impl Class {
    /// A short name for logs, metric labels and Event reasons.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "Retry",
            Self::Conflict => "Conflict",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Gone => "Gone",
            Self::Denied => "Denied",
            Self::Config => "Config",
            Self::NotLeader => "NotLeader",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Errors that know their [`Class`]. Operators implement it for their own error enum, so that the
/// controller can count and back off.
pub trait Classify {
    /// What to do about this error.
    fn class(&self) -> Class;
}

/// A request to the API server that did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} {object}")]
pub struct ApiError {
    operation: &'static str,
    object: String,
    #[source]
    cause: Cause,
}

/// The name under which modules that read and write know it.
pub use self::ApiError as Error;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The API server, or the way to it, failed.
    #[error(transparent)]
    Api(Box<kube::Error>),
    /// A `test` of a JSON patch failed: the object is not what was read.
    #[error("the object changed meanwhile")]
    TestFailed(#[source] Box<kube::Error>),
    /// No answer within the deadline. Whether the server acted is unknown.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The request could not be built.
    #[error("the request is not valid: {0}")]
    Request(String),
    /// The leader lease is not provably ours; nothing was sent.
    #[error("not the leader")]
    NotLeader,
    /// The leader lease ended before the answer came. Whether the server acted is unknown.
    #[error("the leader lease ended before the answer came")]
    LeaseEnded,
    /// Somebody said stop before it was sent.
    #[error("stopped before it was sent")]
    Stopped,
}

impl From<kube::Error> for Cause {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl Classify for ApiError {
    fn class(&self) -> Class {
        Self::class(self)
    }
}

impl ApiError {
    /// An error of `operation` (a verb: "patch", "read") on `object` (kind and name).
    pub fn new(
        operation: &'static str,
        object: impl Into<String>,
        cause: impl Into<Cause>,
    ) -> Self {
        Self {
            operation,
            object: object.into(),
            cause: cause.into(),
        }
    }

    /// Why it failed.
    pub const fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The API server's answer, if there was one.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "everything else happened on our side of the connection"
    )]
    pub fn status(&self) -> Option<&Status> {
        match &self.cause {
            Cause::Api(error) | Cause::TestFailed(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Cause::Deadline(_)
            | Cause::Request(_)
            | Cause::NotLeader
            | Cause::LeaseEnded
            | Cause::Stopped => None,
        }
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match &self.cause {
            Cause::Api(error) => classify(error),
            Cause::TestFailed(_) => Class::Conflict,
            Cause::Deadline(_) | Cause::LeaseEnded | Cause::Stopped => Class::Retry,
            Cause::Request(_) => Class::Config,
            Cause::NotLeader => Class::NotLeader,
        }
    }

    /// Whether the server may have acted although we saw a failure: the answer was lost, late, or
    /// the server itself could not tell. A write must then be looked up before it is relied on.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "kube's error enum differs by feature; what is not listed may have been sent"
    )]
    pub fn outcome_unknown(&self) -> bool {
        match &self.cause {
            Cause::Deadline(_) | Cause::LeaseEnded => true,
            Cause::Request(_) | Cause::NotLeader | Cause::Stopped | Cause::TestFailed(_) => false,
            Cause::Api(error) => match error.as_ref() {
                kube::Error::Api(status) => status.code >= 500 || status.code == 0,
                kube::Error::BuildRequest(_)
                | kube::Error::HttpError(_)
                | kube::Error::InferConfig(_)
                | kube::Error::InferKubeconfig(_)
                | kube::Error::Auth(_) => false,
                _ => true,
            },
        }
    }

    /// How long the server asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
    }

    /// The machine-readable causes the server gave.
    pub fn has_cause(&self, cause_reason: &str) -> bool {
        self.status()
            .and_then(|status| status.details.as_ref())
            .is_some_and(|details| {
                details
                    .causes
                    .iter()
                    .any(|cause| cause.reason == cause_reason)
            })
    }

    /// The same error, as a conflict if it is the server's answer to a failed `test`.
    pub(crate) fn with_failed_test(mut self) -> Self {
        if let Cause::Api(error) = self.cause {
            self.cause = if is_failed_test(&error) {
                Cause::TestFailed(error)
            } else {
                Cause::Api(error)
            };
        }
        self
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.class() == Class::NotFound
    }

    /// Whether somebody else changed the object first.
    pub fn is_conflict(&self) -> bool {
        self.class() == Class::Conflict
    }

    /// Whether an object of that name is there already.
    pub fn is_already_exists(&self) -> bool {
        self.class() == Class::AlreadyExists
    }
}

/// The class of an error of the API client.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "kube's error enum differs by feature; what is not listed is a transport failure"
)]
pub fn classify(error: &kube::Error) -> Class {
    match error {
        kube::Error::Api(status) => classify_status(status),
        kube::Error::BuildRequest(_)
        | kube::Error::HttpError(_)
        | kube::Error::TlsRequired
        | kube::Error::InferConfig(_)
        | kube::Error::InferKubeconfig(_)
        | kube::Error::SerdeError(_) => Class::Config,
        _ => Class::Retry,
    }
}

/// The class of an answer. The reason wins over the code where both are known, as in client-go.
pub fn classify_status(status: &Status) -> Class {
    match status.reason.as_str() {
        reason::ALREADY_EXISTS => Class::AlreadyExists,
        reason::CONFLICT => Class::Conflict,
        reason::NOT_FOUND => Class::NotFound,
        reason::GONE | reason::EXPIRED => Class::Gone,
        reason::FORBIDDEN | reason::UNAUTHORIZED => Class::Denied,
        reason::INVALID | reason::BAD_REQUEST => Class::Config,
        _ => match status.code {
            401 | 403 => Class::Denied,
            404 => Class::NotFound,
            409 => Class::Conflict,
            410 => Class::Gone,
            408 | 429 => Class::Retry,
            400..=499 => Class::Config,
            _ => Class::Retry,
        },
    }
}

fn is_failed_test(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    status.code == 422
        && status
            .details
            .as_ref()
            .is_none_or(|details| details.causes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, text: &str) -> Error {
        let status = Status::failure("text that must not matter", text).with_code(code);
        Error::new("patch", "node n1", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn classes_come_from_code_and_reason() {
        for (code, text, class) in [
            (409, "AlreadyExists", Class::AlreadyExists),
            (409, "Conflict", Class::Conflict),
            (409, "", Class::Conflict),
            (404, "NotFound", Class::NotFound),
            (410, "Expired", Class::Gone),
            (410, "Gone", Class::Gone),
            (401, "Unauthorized", Class::Denied),
            (403, "Forbidden", Class::Denied),
            (422, "Invalid", Class::Config),
            (400, "BadRequest", Class::Config),
            (415, "", Class::Config),
            (429, "TooManyRequests", Class::Retry),
            (500, "InternalError", Class::Retry),
            (504, "Timeout", Class::Retry),
        ] {
            assert_eq!(api(code, text).class(), class, "{code} {text}");
        }
    }

    #[test]
    fn only_answers_below_500_are_certain() {
        assert!(!api(409, "Conflict").outcome_unknown());
        assert!(!api(429, "TooManyRequests").outcome_unknown());
        assert!(api(504, "Timeout").outcome_unknown());
        assert!(
            Error::new("patch", "x", Cause::Deadline(Duration::from_secs(1))).outcome_unknown()
        );
        assert!(!Error::new("patch", "x", Cause::NotLeader).outcome_unknown());
    }

    #[test]
    fn the_message_names_operation_and_object() {
        assert_eq!(api(409, "").to_string(), "could not patch node n1");
    }
}
