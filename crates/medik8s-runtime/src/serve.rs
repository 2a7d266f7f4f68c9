//! HTTP and HTTPS servers: probes, metrics, webhooks.
//!
//! # Guarantees
//! A slow or silent client cannot hold the server: handshake, headers and bodies have limits, and
//! so has the number of connections. On stop, requests in progress are finished.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{shutdown::Shutdown, tls::ServerTls};

/// Connections served at a time; the next ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// For the headers of a request, and for the next request of a connection. Longer than the 90 s for
/// which Go's clients keep idle connections: if we closed first, a POST of the API server could meet
/// a closed connection, and it does not try that again.
const HEADER_LIMIT: Duration = Duration::from_mins(2);
const BODY_LIMIT: Duration = Duration::from_secs(15);
/// How long requests in progress may take after the stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// What every server answers with.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What a server does with a request.
pub(crate) type Handler =
    Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// An answer of plain text.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(code, "text/plain; charset=utf-8", body)
}

/// An answer with a content type.
pub(crate) fn with_type(
    code: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    answer
}

/// The body of a request; `None` when it is longer than `limit`, late or broken.
pub(crate) async fn body(request: Request<Incoming>, limit: usize) -> Option<Bytes> {
    let read = Limited::new(request.into_body(), limit).collect();
    Some(timeout(BODY_LIMIT, read).await.ok()?.ok()?.to_bytes())
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<ServerTls>,
    http2: bool,
    handler: Handler,
    stop: Shutdown,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some(permit) = stop.or_stop(Arc::clone(&permits).acquire_owned()).await {
        let stream = tokio::select! {
            biased;
            () = stop.triggered() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_about_the_peer(&error) => continue,
                Err(error) => {
                    // Out of file descriptors or memory: connections that end free some.
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not accept");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
            },
        };
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.current()));
        let (handler, stop) = (Arc::clone(&handler), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            match acceptor {
                None => connection(stream, http2, handler, stop).await,
                Some(acceptor) => match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, http2, handler, stop).await,
                    Ok(Err(error)) => tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "TLS handshake failed"
                    ),
                    Err(_) => tracing::debug!("TLS handshake took too long"),
                },
            }
        });
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN_LIMIT, finished).await.is_err() {
        tracing::debug!("closed connections with requests in progress");
    }
    Ok(())
}

fn is_about_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn connection<S>(stream: S, http2: bool, handler: Handler, stop: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100);
    let builder = if http2 { builder } else { builder.http1_only() };
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.triggered() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended");
    }
}

#[cfg(test)]
pub(crate) mod tests;
