//! The service side.
//!
//! Connections are short: each is closed after [`Settings::connection_age`], unauthenticated
//! ones after [`Settings::handshake`]. When all places are taken, new connections wait in the
//! kernel's backlog instead of being refused: in an outage every peer asks at once, and a
//! question that is answered late still counts.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::sockopt::Ipv6V6Only;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;

use crate::codec::SmallCodec;
use crate::message::{
    HealthRequest, HealthResponse, IS_HEALTHY_PATH, MAX_MESSAGE, RELAY_PATH, RelayRequest,
    RelayResponse,
};
use crate::net::{Connection, Listener};
use crate::tls::{ALPN, Identity, TlsError};

const BACKLOG: u32 = 1024;
const WINDOW: u32 = 65_535;
const HEADERS: u32 = 8 * 1024;
const STREAMS: u32 = 16;
/// After a failed accept (no file descriptors left) there is no use in trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of the service.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// TLS must be up within this time.
    pub handshake: Duration,
    /// A question is answered within this time, or with the gRPC code DEADLINE_EXCEEDED.
    pub answer: Duration,
    /// A connection is closed after this time; the question under way is still answered.
    pub connection_age: Duration,
    /// Connections open at once.
    pub connections: usize,
}

impl Settings {
    /// The service's limits, with a given limit for one answer.
    pub const fn answering_within(answer: Duration) -> Self {
        Self {
            handshake: Duration::from_secs(5),
            answer,
            connection_age: Duration::from_mins(2),
            connections: 256,
        }
    }
}

/// Listens on a port of all addresses, IPv4 and IPv6, or of IPv4 alone where the kernel has no
/// IPv6.
pub fn listen_any(port: u16) -> io::Result<TcpListener> {
    match listen(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)) {
        Ok(listener) => Ok(listener),
        Err(error) => {
            tracing::info!(%error, "no IPv6 listener, using IPv4 alone");
            listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
        }
    }
}

/// Listens on one address; `[::]` includes IPv4.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        nix::sys::socket::setsockopt(&socket, Ipv6V6Only, &false)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    // A restarted agent binds while old connections linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes in last words that are to be passed on, and the address they came from. Must not block.
pub type TakeWords = Arc<dyn Fn(RelayRequest, IpAddr) + Send + Sync>;

/// Answers questions until `stop` resolves. `answer` is called once per question. Last words of others are not taken.
pub async fn serve<F, A>(
    listener: impl Listener,
    identity: &Identity,
    settings: Settings,
    answer: F,
    stop: impl Future<Output = ()>,
) -> Result<(), TlsError>
where
    F: Fn(HealthRequest) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<HealthResponse, tonic::Status>> + Send + 'static,
{
    serve_and_relay(listener, identity, settings, answer, None, stop).await
}

/// [`serve`], and takes in last words for `relay`.
pub async fn serve_and_relay<F, A>(
    listener: impl Listener,
    identity: &Identity,
    settings: Settings,
    answer: F,
    relay: Option<TakeWords>,
    stop: impl Future<Output = ()>,
) -> Result<(), TlsError>
where
    F: Fn(HealthRequest) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<HealthResponse, tonic::Status>> + Send + 'static,
{
    let tls = TlsAcceptor::from(identity.server_config()?);
    let places = Arc::new(Semaphore::new(settings.connections));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let place = tokio::select! {
            () = &mut stop => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let accepted = loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some(_ended) = connections.join_next() => {}
                accepted = listener.accept() => break accepted,
            }
        };
        match accepted {
            Ok((tcp, peer)) => {
                let service = IsHealthy {
                    answer: answer.clone(),
                    limit: settings.answer,
                    relay: relay.clone(),
                    // IPv4 on a socket that takes both.
                    caller: peer.ip().to_canonical(),
                };
                let connection = connection(tcp, tls.clone(), settings, service);
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(%peer, error, "peer connection failed");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a peer connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("no TLS handshake within the limit")]
    HandshakeTimeout,
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the caller did not negotiate h2")]
    Alpn,
    #[error("the HTTP/2 connection failed")]
    Http(#[source] hyper::Error),
}

async fn connection<F, A>(
    tcp: Connection,
    tls: TlsAcceptor,
    settings: Settings,
    service: IsHealthy<F>,
) -> Result<(), ConnectionError>
where
    F: Fn(HealthRequest) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<HealthResponse, tonic::Status>> + Send + 'static,
{
    let stream = tokio::time::timeout(settings.handshake, tls.accept(tcp))
        .await
        .map_err(|_elapsed| ConnectionError::HandshakeTimeout)?
        .map_err(ConnectionError::Handshake)?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(ConnectionError::Alpn);
    }
    let service = TowerToHyperService::new(Router(service));
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(MAX_MESSAGE)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = std::pin::pin!(http);
    let aged = tokio::time::sleep(settings.connection_age);
    tokio::select! {
        ended = &mut http => return ended.map_err(ConnectionError::Http),
        () = aged => http.as_mut().graceful_shutdown(),
    }
    // What is under way ends by its own limit; a caller that does not hang up is cut off.
    match tokio::time::timeout(settings.answer, http).await {
        Ok(ended) => ended.map_err(ConnectionError::Http),
        Err(_elapsed) => Ok(()),
    }
}

type Pending<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The one method.
#[derive(Clone)]
struct IsHealthy<F> {
    answer: F,
    limit: Duration,
    relay: Option<TakeWords>,
    caller: IpAddr,
}

impl<F, A> tower::Service<tonic::Request<HealthRequest>> for IsHealthy<F>
where
    F: Fn(HealthRequest) -> A,
    A: Future<Output = Result<HealthResponse, tonic::Status>> + Send + 'static,
{
    type Response = tonic::Response<HealthResponse>;
    type Error = tonic::Status;
    type Future = Pending<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<HealthRequest>) -> Self::Future {
        let question = request.into_inner();
        if question.node_name.is_empty() {
            // The Go agent answers a plain error, which gRPC carries as code Unknown.
            return Box::pin(async { Err(tonic::Status::unknown("empty node name")) });
        }
        let answer = (self.answer)(question);
        let limit = self.limit;
        Box::pin(async move {
            match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer.map(tonic::Response::new),
                Err(_elapsed) => Err(tonic::Status::deadline_exceeded("no answer in time")),
            }
        })
    }
}

/// The extension.
struct Relay(TakeWords, IpAddr);

impl tower::Service<tonic::Request<RelayRequest>> for Relay {
    type Response = tonic::Response<RelayResponse>;
    type Error = tonic::Status;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<RelayRequest>) -> Self::Future {
        (self.0)(request.into_inner(), self.1);
        std::future::ready(Ok(tonic::Response::new(RelayResponse {})))
    }
}

/// Path to method.
#[derive(Clone)]
struct Router<F>(IsHealthy<F>);

impl<F, A> tower::Service<http::Request<Incoming>> for Router<F>
where
    F: Fn(HealthRequest) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<HealthResponse, tonic::Status>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pending<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        if request.uri().path() == RELAY_PATH
            && let Some(relay) = self.0.relay.clone()
        {
            let caller = self.0.caller;
            return Box::pin(async move {
                let codec = SmallCodec::<RelayResponse, RelayRequest>::default();
                let mut grpc = tonic::server::Grpc::new(codec)
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE);
                Ok(grpc.unary(Relay(relay, caller), request).await)
            });
        }
        if request.uri().path() != IS_HEALTHY_PATH {
            let status = tonic::Status::unimplemented("unknown method");
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let method = self.0.clone();
        Box::pin(async move {
            let codec = SmallCodec::<HealthResponse, HealthRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(method, request).await)
        })
    }
}
