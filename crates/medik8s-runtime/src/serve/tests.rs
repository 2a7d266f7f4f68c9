use std::net::SocketAddr;

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{CertSlot, Profile, certified_key};

/// A certificate for `localhost`, as PEM.
pub(crate) fn localhost() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A slot that serves it.
pub(crate) fn slot(certificate: &str, key: &str) -> CertSlot {
    let slot = CertSlot::default();
    slot.set(certified_key(certificate.as_bytes(), key.as_bytes()).unwrap());
    slot
}

/// A client that trusts this certificate.
fn connector(certificate: &str, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// Sends one request over TLS and returns the whole answer.
pub(crate) async fn https(
    address: SocketAddr,
    certificate: &str,
    request: &str,
    headers: &str,
    body: &[u8],
) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector(certificate, &[])
        .connect(name, stream)
        .await
        .unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// An address on loopback that nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

struct Running {
    address: SocketAddr,
    stop: Shutdown,
    server: tokio::task::JoinHandle<io::Result<()>>,
}

async fn running(tls: Option<ServerTls>, http2: bool, delay: Duration) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Shutdown::manual();
    let handler: Handler = Arc::new(move |_| {
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            text(StatusCode::OK, "hello")
        })
    });
    let server = tokio::spawn(serve(listener, tls, http2, handler, stop.clone()));
    Running {
        address,
        stop,
        server,
    }
}

async fn plain(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn requests_in_progress_are_finished_on_stop() {
    let Running {
        address,
        stop,
        server,
    } = running(None, false, Duration::from_millis(300)).await;
    let asked = tokio::spawn(plain(address));
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.trigger();
    assert!(asked.await.unwrap().ends_with("hello"));
    server.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_stop() {
    let Running {
        address,
        stop,
        server,
    } = running(None, false, Duration::ZERO).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).await.unwrap();
    let started = Instant::now();
    stop.trigger();
    server.await.unwrap().unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn silent_clients_do_not_hold_the_server() {
    let (certificate, key) = localhost();
    let tls = ServerTls::new(slot(&certificate, &key), &Profile::default(), false).unwrap();
    let Running {
        address,
        stop,
        server,
    } = running(Some(tls), false, Duration::ZERO).await;
    let silent = TcpStream::connect(address).await.unwrap();
    let answer = https(address, &certificate, "GET /", "", b"").await;
    assert!(answer.ends_with("hello"), "{answer}");
    stop.trigger();
    drop(silent);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn http2_is_spoken_only_if_asked_for() {
    let (certificate, key) = localhost();
    for http2 in [false, true] {
        let tls = ServerTls::new(slot(&certificate, &key), &Profile::default(), http2).unwrap();
        let Running {
            address,
            stop,
            server,
        } = running(Some(tls), http2, Duration::ZERO).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = connector(&certificate, &[b"h2", b"http/1.1"]);
        let mut stream = connector.connect(name, stream).await.unwrap();
        let spoken = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(
            spoken,
            Some(if http2 {
                b"h2".to_vec()
            } else {
                b"http/1.1".to_vec()
            })
        );
        if http2 {
            // The connection preface and empty SETTINGS; the server answers with its own SETTINGS.
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await
                .unwrap();
            let mut frame = [0; 9];
            stream.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame[3], 4, "a SETTINGS frame");
        }
        drop(stream);
        stop.trigger();
        server.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn another_certificate_is_served_without_a_restart() {
    let ((first, key), (second, other)) = (localhost(), localhost());
    let slot = slot(&first, &key);
    let tls = ServerTls::new(slot.clone(), &Profile::default(), false).unwrap();
    let Running {
        address,
        stop,
        server,
    } = running(Some(tls), false, Duration::ZERO).await;
    assert!(
        https(address, &first, "GET /", "", b"")
            .await
            .ends_with("hello")
    );
    slot.set(certified_key(second.as_bytes(), other.as_bytes()).unwrap());
    assert!(
        https(address, &second, "GET /", "", b"")
            .await
            .ends_with("hello")
    );
    stop.trigger();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_ca_shuts_out_everybody_else() {
    let (certificate, key) = localhost();
    let tls = ServerTls::new(slot(&certificate, &key), &Profile::default(), false).unwrap();
    tls.require_client_ca(certificate.as_bytes()).unwrap();
    let Running {
        address,
        stop,
        server,
    } = running(Some(tls), false, Duration::ZERO).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector(&certificate, &[])
        .connect(name, stream)
        .await
        .unwrap();
    // With TLS 1.3 the client learns of the refusal when it reads.
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut byte = [0];
    assert!(sent.is_err() || stream.read_exact(&mut byte).await.is_err());
    stop.trigger();
    server.await.unwrap().unwrap();
}
