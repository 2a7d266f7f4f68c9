//! The HTTPS endpoint `/metrics`.

use std::sync::Arc;

use anyhow::Context as _;
use futures::future::FutureExt;
use http::{Method, Request, StatusCode, header::AUTHORIZATION};
use hyper::body::Incoming;

use super::{Authoriser, Decision, Metrics};
use crate::{
    cli::BindAddress,
    serve::{self, Answer, Handler, text, with_type},
    shutdown::Shutdown,
    tls::ServerTls,
};

/// How to serve `/metrics`.
#[derive(Clone)]
pub struct MetricsServer {
    /// Where to listen.
    pub bind: BindAddress,
    /// Certificate and protocol; see [`crate::certs::self_signed`].
    pub tls: ServerTls,
    /// Offer HTTP/2.
    pub http2: bool,
    /// Who may read; `None` when the TLS configuration demands client certificates.
    pub authoriser: Option<Authoriser>,
}

/// Serves `/metrics` until `stop`. With a disabled address it only waits.
pub async fn serve(metrics: Metrics, server: MetricsServer, stop: Shutdown) -> anyhow::Result<()> {
    let MetricsServer {
        bind,
        tls,
        http2,
        authoriser,
    } = server;
    let listener = bind
        .bind()
        .await
        .with_context(|| format!("could not listen on {bind} for metrics"))?;
    let Some(listener) = listener else {
        stop.triggered().await;
        return Ok(());
    };
    let handler: Handler = Arc::new(move |request| {
        let (metrics, authoriser) = (metrics.clone(), authoriser.clone());
        async move { answer(&metrics, authoriser.as_ref(), &request).await }.boxed()
    });
    serve::serve(listener, Some(tls), http2, handler, stop)
        .await
        .context("metrics server failed")
}

async fn answer(
    metrics: &Metrics,
    authoriser: Option<&Authoriser>,
    request: &Request<Incoming>,
) -> Answer {
    if request.uri().path() != "/metrics" {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    }
    if let Some(authoriser) = authoriser {
        let header = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        match authoriser.decide(header, "/metrics").await {
            Ok(Decision::Allowed) => {}
            Ok(Decision::Unauthenticated) => {
                return text(StatusCode::UNAUTHORIZED, "Unauthorized\n");
            }
            Ok(Decision::Forbidden) => return text(StatusCode::FORBIDDEN, "Forbidden\n"),
            Err(error) => {
                tracing::warn!(
                    class = %error.class(),
                    error = &error as &dyn std::error::Error,
                    "could not find out who may read /metrics"
                );
                return text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "authorization is not available\n",
                );
            }
        }
    }
    match metrics.text() {
        Ok(body) => with_type(StatusCode::OK, Metrics::CONTENT_TYPE, body),
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "could not print metrics"
            );
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics are not available\n",
            )
        }
    }
}

#[cfg(test)]
mod tests;
