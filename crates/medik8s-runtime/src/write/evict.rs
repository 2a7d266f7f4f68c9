//! Evicting a pod through the eviction API.
//!
//! The request is built by hand: `Api::<Pod>::evict` of kube 5 writes its options under a key that
//! the API server ignores, so that preconditions and grace period would be lost without a sound.

use std::time::Duration;

use futures::future::pending;
use http::{Request, header, header::RETRY_AFTER};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::capture_connection;
use k8s_openapi::{
    api::{core::v1::Pod, policy::v1 as policy},
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions},
};
use kube::{Api, client::Body};

use super::{
    Error, Writer,
    delete::{Incarnation, incarnation},
};
use crate::{
    error::Cause,
    read::{object, status_of},
    shutdown::Shutdown,
};

/// How long an eviction may take. Admission webhooks may take 30 s, and one that does not answer
/// takes all of its time although its failure is ignored.
pub const EVICTION_DEADLINE: Duration = Duration::from_secs(35);

/// Which incarnation of a pod to evict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// UID of the pod that was seen.
    pub uid: String,
    /// Grace period instead of the pod's own.
    pub grace_seconds: Option<u32>,
}

/// What the server said to an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvictOutcome {
    /// Accepted: the pod will terminate.
    Evicted,
    /// There is no such pod.
    Gone,
    /// The name now belongs to another pod, which was left alone.
    Replaced,
    /// Refused for now (429): a PodDisruptionBudget, an eviction webhook, or overload.
    Blocked {
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// Why, in the server's words; names the PodDisruptionBudget if one is the reason.
        why: String,
    },
    /// Refused because the pod's namespace is being deleted.
    NamespaceTerminating,
}

/// `details.causes[].reason` of a refusal in a namespace that is being deleted
/// (`corev1.NamespaceTerminatingCause`).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

impl Writer {
    /// POST of an Eviction with the UID as precondition, within [`EVICTION_DEADLINE`].
    ///
    /// Once `stop` is triggered nothing is sent any more, also not by a call that waits for its
    /// connection. One that was sent before goes on: nobody can call it back.
    ///
    /// `api` should come from a client without retry ([`crate::client::Profile::NoRetry`]), since a
    /// refusal is an answer here and not a failure.
    pub async fn evict(
        &self,
        api: &Api<Pod>,
        name: &str,
        eviction: &Eviction,
        stop: &Shutdown,
    ) -> Result<EvictOutcome, Error> {
        let mut request = request(api, name, eviction)?;
        let connection = capture_connection(&mut request);
        let client = api.clone().into_client();
        let answer = self.send_within(EVICTION_DEADLINE, "evict", api, name, async move {
            let (parts, body) = client.send(request).await?.into_parts();
            let bytes = body.collect().await?.to_bytes();
            Ok((parts, bytes))
        });
        let stopped = async {
            stop.triggered().await;
            // The client tells of a connection at the moment it writes the request to it.
            if connection.connection_metadata().is_some() {
                pending::<()>().await;
            }
        };
        let answer = tokio::select! {
            biased;
            () = stopped => return Err(Error::new("evict", object(api, name), Cause::Stopped)),
            answer = answer => answer,
        };
        let (parts, bytes) = answer?;
        if parts.status.is_success() {
            return Ok(EvictOutcome::Evicted);
        }
        let header_wait = parts
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let status = status_of(parts.status, &bytes);
        let code = parts.status.as_u16();
        let error = Error::new("evict", object(api, name), kube::Error::Api(status.boxed()));
        match code {
            404 => Ok(EvictOutcome::Gone),
            409 => match incarnation(api, name, &eviction.uid).await? {
                Incarnation::Gone => Ok(EvictOutcome::Gone),
                Incarnation::Other => Ok(EvictOutcome::Replaced),
                Incarnation::Same => Err(error),
            },
            429 => Ok(EvictOutcome::Blocked {
                retry_after: header_wait.or_else(|| error.retry_after()),
                why: refusal(&error),
            }),
            403 if error.has_cause(NAMESPACE_TERMINATING) => Ok(EvictOutcome::NamespaceTerminating),
            _ => Err(error),
        }
    }
}

fn request(api: &Api<Pod>, name: &str, eviction: &Eviction) -> Result<Request<Body>, Error> {
    let body = policy::Eviction {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            grace_period_seconds: eviction.grace_seconds.map(i64::from),
            preconditions: Some(Preconditions {
                uid: Some(eviction.uid.clone()),
                resource_version: None,
            }),
            ..DeleteOptions::default()
        }),
    };
    let invalid = |why: String| Error::new("evict", object(api, name), Cause::Request(why));
    let valid_name = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    if !valid_name {
        return Err(invalid("not a pod name".to_owned()));
    }
    let bytes = serde_json::to_vec(&body).map_err(|error| invalid(error.to_string()))?;
    Request::post(format!("{}/{name}/eviction", api.resource_url()))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(bytes))
        .map_err(|error| invalid(error.to_string()))
}

/// The causes if there are any, since they name the budget; else the message.
fn refusal(error: &Error) -> String {
    let Some(status) = error.status() else {
        return String::new();
    };
    let causes: Vec<&str> = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|cause| cause.message.as_str())
        .filter(|message| !message.is_empty())
        .collect();
    if causes.is_empty() {
        status.message.clone()
    } else {
        causes.join("; ")
    }
}
