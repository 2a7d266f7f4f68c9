//! Is it this node that is cut off, or is only the control plane away? Asked by control-plane nodes
//! whose peers have no API either (SelfNodeRemediation section 17).
//!
//! Passed: the configured endpoint is not lost, and the own kubelet answers. An endpoint that could
//! not be reached when the agent started says nothing later either.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_peer::net::Dialer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio_rustls::TlsConnector;

use crate::directory::Directory;

/// Limit of each part.
const LIMIT: Duration = Duration::from_secs(5);
/// Echo requests that are sent, and the pause between them.
const ECHOES: u16 = 3;
const ECHO_PAUSE: Duration = Duration::from_secs(1);
const KUBELET_PORT: u16 = 10250;

/// What is tried to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An HTTP server that answers with a status below 500.
    Http {
        /// With TLS; the certificate is not checked, since only reachability matters.
        tls: bool,
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
    },
    /// A TCP port.
    Tcp(String, u16),
    /// A host that answers ICMP echo.
    Echo(String),
}

impl Endpoint {
    /// Reads `endpointHealthCheckUrl`: `http(s)://...`, `host:port`, or a bare host or address.
    /// Empty means none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        for (scheme, tls, default) in [("http://", false, 80), ("https://", true, 443)] {
            if let Some(rest) = text.strip_prefix(scheme) {
                let (authority, path) = match rest.find(['/', '?']) {
                    Some(at) => rest.split_at_checked(at)?,
                    None => (rest, "/"),
                };
                let path = if path.starts_with('/') {
                    path.to_owned()
                } else {
                    format!("/{path}")
                };
                let (host, port) = split_port(authority);
                let host = host.to_owned();
                return (!host.is_empty()).then(|| Self::Http {
                    tls,
                    host,
                    port: port.unwrap_or(default),
                    path,
                });
            }
        }
        match split_port(text) {
            ("", _) => None,
            (host, Some(port)) => Some(Self::Tcp(host.to_owned(), port)),
            (host, None) => Some(Self::Echo(host.to_owned())),
        }
    }

    async fn is_reachable(&self, tls: &TlsConnector) -> io::Result<bool> {
        match self {
            Self::Http {
                tls: with_tls,
                host,
                port,
                path,
            } => {
                let tcp = TcpStream::connect((host.as_str(), *port)).await?;
                let status = if *with_tls {
                    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                    get(tls.connect(name, tcp).await?, host, path).await?
                } else {
                    get(tcp, host, path).await?
                };
                Ok(status < 500)
            }
            Self::Tcp(host, port) => TcpStream::connect((host.as_str(), *port))
                .await
                .map(|_connected| true),
            Self::Echo(host) => {
                let address = lookup_host((host.as_str(), 0))
                    .await?
                    .next()
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                echo(address.ip()).await
            }
        }
    }
}

/// `host:port` or `[v6]:port`; a bare IPv6 address has no port.
fn split_port(text: &str) -> (&str, Option<u16>) {
    if text.parse::<Ipv6Addr>().is_ok() {
        return (text, None);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_not_a_port) => (text, None),
        },
        None => (text, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// The diagnostics of this node. Cheap to clone.
#[derive(Clone)]
pub struct Diagnostics {
    endpoint: Option<Endpoint>,
    endpoint_counts: Arc<AtomicBool>,
    node: NodeName,
    directory: Directory,
    tls: TlsConnector,
    dialer: Dialer,
}

impl std::fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diagnostics")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Diagnostics {
    /// For this node and its configured endpoint.
    pub fn new(
        endpoint: Option<&str>,
        node: NodeName,
        directory: Directory,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            endpoint: endpoint.and_then(Endpoint::parse),
            endpoint_counts: Arc::default(),
            node,
            directory,
            tls: TlsConnector::from(Arc::new(unverified()?)),
            dialer: Dialer::tcp(),
        })
    }

    /// The kubelet is reached through another network.
    #[must_use]
    pub fn through(self, dialer: Dialer) -> Self {
        Self { dialer, ..self }
    }

    /// Finds out whether the endpoint is reachable at all.
    pub async fn learn(&self) {
        let Some(endpoint) = &self.endpoint else {
            return;
        };
        let reachable = self.reach(endpoint).await;
        self.endpoint_counts.store(reachable, Ordering::SeqCst);
        if !reachable {
            tracing::warn!(
                ?endpoint,
                "the health check endpoint is not reachable now and will be ignored"
            );
        }
    }

    /// Whether both parts pass.
    pub async fn run(&self) -> bool {
        let endpoint = async {
            match &self.endpoint {
                Some(endpoint) if self.endpoint_counts.load(Ordering::SeqCst) => {
                    self.reach(endpoint).await
                }
                Some(_) | None => true,
            }
        };
        let (endpoint, kubelet) = futures::join!(endpoint, self.kubelet_answers());
        tracing::info!(endpoint, kubelet, "diagnostics");
        endpoint && kubelet
    }

    async fn reach(&self, endpoint: &Endpoint) -> bool {
        match tokio::time::timeout(LIMIT, endpoint.is_reachable(&self.tls)).await {
            Ok(Ok(reachable)) => reachable,
            Ok(Err(error)) => {
                tracing::info!(?endpoint, %error, "the endpoint cannot be reached");
                false
            }
            Err(_elapsed) => false,
        }
    }

    /// Any HTTP answer counts, also a refusal.
    async fn kubelet_answers(&self) -> bool {
        let tries = async {
            let known = self.directory.remembered().internal;
            let mut addresses: Vec<SocketAddr> = known
                .into_iter()
                .map(|ip| SocketAddr::new(ip, KUBELET_PORT))
                .collect();
            if addresses.is_empty() {
                // The name needs DNS, which may be down as well; better than nothing.
                match lookup_host((self.node.as_str(), KUBELET_PORT)).await {
                    Ok(found) => addresses.extend(found),
                    Err(error) => tracing::info!(%error, "the own node's address is unknown"),
                }
            }
            for address in addresses {
                if self.kubelet_at(address).await.is_ok() {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(LIMIT, tries).await.unwrap_or(false)
    }

    async fn kubelet_at(&self, address: SocketAddr) -> io::Result<u16> {
        let tcp = self.dialer.dial(address).await?;
        let tls = self
            .tls
            .connect(ServerName::IpAddress(address.ip().into()), tcp)
            .await?;
        get(tls, self.node.as_str(), "/pods").await
    }
}

/// Sends a request and reads the status of the answer.
async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> io::Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: self-node-remediation-agent\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    // `HTTP/1.1 200`: all that is needed of the answer.
    let mut start = [0_u8; 12];
    stream.read_exact(&mut start).await?;
    status_of(&start).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn status_of(start: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(start).ok()?;
    text.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

/// Unprivileged ICMP echo: whether at least one of three requests is answered.
async fn echo(ip: IpAddr) -> io::Result<bool> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let (family, protocol, kind) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8_u8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128_u8),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(family, SockType::Datagram, flags, protocol)?;
    // An ICMP datagram socket takes the same calls as a UDP socket; the kernel fills in identifier
    // and checksum and hands back only answers to this socket's requests.
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(descriptor))?;
    socket.connect(SocketAddr::new(ip, 0)).await?;
    let mut answer = [0_u8; 64];
    for sequence in 1..=ECHOES {
        let [high, low] = sequence.to_be_bytes();
        socket.send(&[kind, 0, 0, 0, 0, 0, high, low]).await?;
        if let Ok(received) = tokio::time::timeout(ECHO_PAUSE, socket.recv(&mut answer)).await {
            received?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// TLS without any check of who answers.
fn unverified() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Anybody(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Accepts every certificate: only whether something answers is asked, and nothing secret is sent.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
