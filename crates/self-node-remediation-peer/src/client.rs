//! Asking one peer.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use crate::codec::SmallCodec;
use crate::message::{
    HealthRequest, HealthResponse, IS_HEALTHY_PATH, MAX_MESSAGE, RELAY_PATH, RelayRequest,
    RelayResponse,
};
use crate::net::Dialer;
use crate::tls::{ALPN, Identity, TlsError, server_name};

/// The authority Go clients send; servers do not look at it.
const ORIGIN: &str = "https://192.0.2.1";
/// Calls are tiny, so the flow-control windows are the smallest the protocol starts with.
const WINDOW: u32 = 65_535;
const HEADERS: u32 = 8 * 1024;

/// Why there is no answer. For every rule this is silence; the difference is for logs.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// TCP, TLS and HTTP/2 did not come up within the budget.
    #[error("no connection within {0:?}")]
    DialTimeout(Duration),
    /// The address does not take connections.
    #[error("could not connect")]
    Connect(#[source] std::io::Error),
    /// The TLS handshake failed: other certificates, or not a peer.
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
    /// The peer did not agree to HTTP/2.
    #[error("the peer did not negotiate h2")]
    Alpn,
    /// The HTTP/2 connection failed.
    #[error("the HTTP/2 connection failed")]
    Http(#[source] hyper::Error),
    /// The peer did not answer in time.
    #[error("no answer within {0:?}")]
    RequestTimeout(Duration),
    /// The peer answered with a gRPC error.
    #[error("the peer answered {:?}", .0.code())]
    Refused(#[source] Box<tonic::Status>),
}

/// The caller's side: certificates and limits. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    dialer: Dialer,
    dial: Duration,
    request: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("dial", &self.dial)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// `dial` limits TCP, TLS and HTTP/2 together, `request` the call after them; it is also
    /// sent to the peer as `grpc-timeout`.
    pub fn new(identity: &Identity, dial: Duration, request: Duration) -> Result<Self, TlsError> {
        Ok(Self {
            tls: TlsConnector::from(identity.client_config()?),
            dialer: Dialer::tcp(),
            dial,
            request,
        })
    }

    /// The same through another network.
    #[must_use]
    pub fn through(self, dialer: Dialer) -> Self {
        Self { dialer, ..self }
    }

    /// Asks the peer at `address`.
    pub async fn ask(
        &self,
        address: SocketAddr,
        question: HealthRequest,
    ) -> Result<HealthResponse, AskError> {
        self.call(address, IS_HEALTHY_PATH, question).await
    }

    /// Asks the peer at `address` to pass last words on.
    pub async fn relay(
        &self,
        address: SocketAddr,
        request: RelayRequest,
    ) -> Result<RelayResponse, AskError> {
        self.call(address, RELAY_PATH, request).await
    }

    async fn call<Q, R>(
        &self,
        address: SocketAddr,
        path: &'static str,
        question: Q,
    ) -> Result<R, AskError>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        // `_driver` ends the connection when this call is over or dropped.
        let (sender, _driver) = tokio::time::timeout(self.dial, self.connect(address))
            .await
            .map_err(|_elapsed| AskError::DialTimeout(self.dial))??;
        let mut request = tonic::Request::new(question);
        request.set_timeout(self.request);
        let mut grpc = tonic::client::Grpc::with_origin(Channel(sender), origin())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let codec = SmallCodec::<Q, R>::default();
        let path = PathAndQuery::from_static(path);
        tokio::time::timeout(self.request, grpc.unary(request, path, codec))
            .await
            .map_err(|_elapsed| AskError::RequestTimeout(self.request))?
            .map(tonic::Response::into_inner)
            .map_err(|status| AskError::Refused(Box::new(status)))
    }

    async fn connect(
        &self,
        address: SocketAddr,
    ) -> Result<(SendRequest<Body>, DriverGuard), AskError> {
        let tcp = self.dialer.dial(address).await.map_err(AskError::Connect)?;
        let tls = self
            .tls
            .connect(server_name(), tcp)
            .await
            .map_err(AskError::Tls)?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(AskError::Alpn);
        }
        let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(HEADERS)
            .max_concurrent_reset_streams(1)
            .max_send_buf_size(MAX_MESSAGE)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(AskError::Http)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "peer connection ended");
            }
        });
        Ok((send, DriverGuard(driver)))
    }
}

fn origin() -> Uri {
    Uri::from_static(ORIGIN)
}

/// The task that moves a connection's bytes.
struct DriverGuard(tokio::task::JoinHandle<()>);

impl Drop for DriverGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// hyper's sender as the service tonic wants.
struct Channel(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
