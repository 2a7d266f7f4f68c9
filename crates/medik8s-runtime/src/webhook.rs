//! The admission webhook server.
//!
//! # Purpose
//! HTTPS, certificates, decoding, denials, warnings, patches and metrics are here; the rules are
//! pure functions in each operator's `validate`. A [`Hook`] says once where a webhook is, what it
//! is called for and how it fails: the server registers its path from it, and `xtask` generates the
//! webhook configuration from it.
//!
//! # Guarantees
//! A denial is a 403 with the message of the rule. A review that cannot be understood, or a rule
//! that takes too long, is an HTTP error, so that the API server applies the failure policy.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use kube::{
    api::DynamicObject,
    core::admission::{AdmissionRequest, AdmissionReview, Operation as RequestOperation},
};
use serde::de::DeserializeOwned;

use crate::{
    cli::BindAddress,
    clock::Clock,
    metrics::Metrics,
    probes::Check,
    serve::{self, Answer, Handler, text, with_type},
    shutdown::Shutdown,
    tls::ServerTls,
};

pub mod certificates;
mod verdict;

pub use verdict::Verdict;

/// The longest review: two objects of the largest size etcd takes, and some more.
const LARGEST: usize = 8 * 1024 * 1024;
/// The API server's own default for webhooks without a timeout.
const DEFAULT_TIMEOUT: u32 = 10;

/// Which list of the API server a webhook is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// ValidatingWebhookConfiguration.
    Validating,
    /// MutatingWebhookConfiguration.
    Mutating,
}

/// What a webhook is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Creation.
    Create,
    /// Change.
    Update,
    /// Deletion.
    Delete,
}

impl Operation {
    /// As webhook configurations spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// What happens when the webhook cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The request is refused.
    Fail,
    /// The request is admitted.
    Ignore,
}

impl FailurePolicy {
    /// As webhook configurations spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "Fail",
            Self::Ignore => "Ignore",
        }
    }
}

/// One webhook. Side effects are always `None` and the review version is always `v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Validating or mutating.
    pub kind: HookKind,
    /// Name in the configuration, e.g. `vnodehealthcheck.kb.io`.
    pub name: &'static str,
    /// Path on the server.
    pub path: &'static str,
    /// API group of the objects.
    pub api_group: &'static str,
    /// API version of the objects.
    pub api_version: &'static str,
    /// Plural name of the objects.
    pub resource: &'static str,
    /// What it is called for.
    pub operations: &'static [Operation],
    /// What happens when it cannot be asked.
    pub failure_policy: FailurePolicy,
    /// The API server's limit in seconds; `None` for its default of 10.
    pub timeout_seconds: Option<u32>,
}

type Rule =
    Arc<dyn Fn(AdmissionRequest<DynamicObject>) -> BoxFuture<'static, Verdict> + Send + Sync>;

/// The webhooks of a process.
pub struct Server {
    routes: BTreeMap<&'static str, (Hook, Rule)>,
    metrics: Metrics,
    clock: Clock,
}

/// How to serve.
pub struct Settings {
    /// Where to listen.
    pub bind: BindAddress,
    /// Offer HTTP/2.
    pub http2: bool,
    /// TLS versions and ciphers; the certificate in it comes from `certificates`.
    pub tls: ServerTls,
    /// Where the certificate comes from.
    pub certificates: certificates::Source,
    /// Passes while the server listens and has a certificate.
    pub check: Check,
}

impl Server {
    /// A server without webhooks.
    pub fn new(metrics: &Metrics, clock: Clock) -> Self {
        Self {
            routes: BTreeMap::new(),
            metrics: metrics.clone(),
            clock,
        }
    }

    /// Answers `hook` with `rule`. The rule may read (with deadlines) before it judges.
    #[must_use]
    pub fn route<F>(
        mut self,
        hook: &Hook,
        rule: impl Fn(AdmissionRequest<DynamicObject>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        self.metrics.webhook_registered(hook.path);
        let rule: Rule = Arc::new(move |request| rule(request).boxed());
        self.routes.insert(hook.path, (*hook, rule));
        self
    }

    /// Serves until `stop`. With a disabled address it only waits.
    pub async fn run(self, settings: Settings, stop: Shutdown) -> anyhow::Result<()> {
        let Settings {
            bind,
            http2,
            tls,
            certificates,
            check,
        } = settings;
        let listener = bind
            .bind()
            .await
            .with_context(|| format!("could not listen on {bind} for webhooks"))?;
        let Some(listener) = listener else {
            check.pass();
            stop.triggered().await;
            return Ok(());
        };
        let slot = tls.certificate().clone();
        let routes = Arc::new(self);
        let handler: Handler = Arc::new(move |request| {
            let routes = Arc::clone(&routes);
            async move { routes.answer(request).await }.boxed()
        });
        let serve = async {
            serve::serve(listener, Some(tls), http2, handler, stop.clone())
                .await
                .context("webhook server failed")
        };
        tokio::try_join!(serve, certificates.keep(&slot, &check, &stop))?;
        Ok(())
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let Some((hook, rule)) = self.routes.get(path.as_str()) else {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        };
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        }
        let started = self.clock.boottime();
        self.metrics.webhook_started(hook.path);
        let answer = match serve::body(request, LARGEST).await {
            Some(body) => judge(hook, rule, &body).await,
            None => text(StatusCode::BAD_REQUEST, "the review could not be read\n"),
        };
        let seconds = self.clock.boottime().saturating_sub(started).as_secs_f64();
        self.metrics
            .webhook_ended(hook.path, answer.status().as_u16(), seconds);
        answer
    }
}

async fn judge(hook: &Hook, rule: &Rule, body: &[u8]) -> Answer {
    let review = match serde_json::from_slice::<AdmissionReview<DynamicObject>>(body) {
        Ok(review) => review,
        Err(error) => {
            return text(
                StatusCode::BAD_REQUEST,
                format!("the review is not valid: {error}\n"),
            );
        }
    };
    let Some(request) = review.request else {
        return text(StatusCode::BAD_REQUEST, "the review has no request\n");
    };
    let uid = request.uid.clone();
    let (operation, name) = (request.operation.clone(), request.name.clone());
    // One second less than the API server waits, so that it hears the reason.
    let seconds = hook
        .timeout_seconds
        .unwrap_or(DEFAULT_TIMEOUT)
        .saturating_sub(1)
        .max(1);
    let limit = Duration::from_secs(u64::from(seconds));
    let Ok(verdict) = tokio::time::timeout(limit, rule(request)).await else {
        tracing::warn!(webhook = hook.name, name, "no verdict in time");
        return text(StatusCode::GATEWAY_TIMEOUT, "no verdict in time\n");
    };
    if let Some(why) = verdict.denial() {
        tracing::info!(webhook = hook.name, ?operation, name, why, "denied");
    }
    match verdict.into_review(&uid) {
        Ok(review) => with_type(StatusCode::OK, "application/json", review),
        Err(error) => {
            tracing::error!(
                webhook = hook.name,
                error = &error as &dyn std::error::Error,
                "could not encode the verdict"
            );
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the verdict could not be encoded\n",
            )
        }
    }
}

/// The objects of a request with their Rust type.
#[derive(Debug, Clone)]
pub enum Decoded<K> {
    /// A new object.
    Create(K),
    /// A change.
    Update {
        /// As it is stored; `None` if it cannot be read, which must not block its repair.
        old: Option<Box<K>>,
        /// As it would be stored.
        new: Box<K>,
    },
    /// A deletion, with the object as it is stored if it can be read.
    Delete(Option<K>),
}

/// Reads the objects of a request. An error is a denial that names the field.
pub fn decode<K: DeserializeOwned>(
    request: &AdmissionRequest<DynamicObject>,
) -> Result<Decoded<K>, Verdict> {
    let read = |object: Option<&DynamicObject>| -> Result<K, Verdict> {
        let object = object.ok_or_else(|| Verdict::deny("the request has no object"))?;
        let value = serde_json::to_value(object).map_err(|error| unreadable(&error))?;
        K::deserialize(&value).map_err(|error| unreadable(&error))
    };
    match request.operation {
        RequestOperation::Create => Ok(Decoded::Create(read(request.object.as_ref())?)),
        RequestOperation::Update => Ok(Decoded::Update {
            old: read(request.old_object.as_ref()).ok().map(Box::new),
            new: Box::new(read(request.object.as_ref())?),
        }),
        RequestOperation::Delete => Ok(Decoded::Delete(read(request.old_object.as_ref()).ok())),
        RequestOperation::Connect => Err(Verdict::deny(
            "this webhook does not handle CONNECT requests",
        )),
    }
}

fn unreadable(error: &serde_json::Error) -> Verdict {
    Verdict::deny(format!("the object is not valid: {error}"))
}

#[cfg(test)]
mod tests;
