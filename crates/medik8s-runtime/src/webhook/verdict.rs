//! What a rule says about a request.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// The answer to an admission request.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    outcome: Outcome,
    warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Allowed(Option<json_patch::Patch>),
    Refused {
        code: u16,
        reason: &'static str,
        message: String,
    },
}

impl Verdict {
    /// The request may go on.
    pub const fn allow() -> Self {
        Self {
            outcome: Outcome::Allowed(None),
            warnings: Vec::new(),
        }
    }

    /// The request may go on with these changes (mutating webhooks only).
    pub const fn patch(patch: json_patch::Patch) -> Self {
        Self {
            outcome: Outcome::Allowed(Some(patch)),
            warnings: Vec::new(),
        }
    }

    /// The request is refused: 403 Forbidden with this message.
    pub fn deny(message: impl Into<String>) -> Self {
        Self::refused(403, "Forbidden", message)
    }

    /// The request is refused because something that is needed for a verdict cannot be read: 500.
    pub fn error(message: impl Into<String>) -> Self {
        Self::refused(500, "InternalError", message)
    }

    fn refused(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            outcome: Outcome::Refused {
                code,
                reason,
                message,
            },
            warnings: Vec::new(),
        }
    }

    /// The same verdict with a warning that `kubectl` prints.
    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }

    /// Whether the request may go on.
    pub const fn is_allowed(&self) -> bool {
        matches!(self.outcome, Outcome::Allowed(_))
    }

    /// Why the request is refused, if it is.
    pub fn denial(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Allowed(_) => None,
            Outcome::Refused { message, .. } => Some(message),
        }
    }

    /// The warnings.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The AdmissionReview that answers request `uid`.
    pub(super) fn into_review(self, uid: &str) -> Result<Vec<u8>, serde_json::Error> {
        let mut response = json!({"uid": uid, "allowed": self.is_allowed()});
        let mut set = |key: &str, value: Value| {
            if let Value::Object(fields) = &mut response {
                fields.insert(key.to_owned(), value);
            }
        };
        match &self.outcome {
            Outcome::Allowed(None) => {}
            Outcome::Allowed(Some(patch)) => {
                // The API reads bytes as base64.
                set("patch", STANDARD.encode(serde_json::to_vec(patch)?).into());
                set("patchType", "JSONPatch".into());
            }
            Outcome::Refused {
                code,
                reason,
                message,
            } => {
                let status = json!({"status": "Failure", "code": code, "reason": reason, "message": message});
                set("status", status);
            }
        }
        if !self.warnings.is_empty() {
            set("warnings", self.warnings.clone().into());
        }
        serde_json::to_vec(&json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": response,
        }))
    }
}
