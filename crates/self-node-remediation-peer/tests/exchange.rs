//! Client and service over loopback: certificates of all kinds, wrong ones, limits.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the tests measure real time")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use self_node_remediation_peer::server::{self, Settings};
use self_node_remediation_peer::tls::SERVER_NAME;
use self_node_remediation_peer::{
    AskError, CertificateSet, Client, HealthRequest, HealthResponse, Identity, Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const SECOND: Duration = Duration::from_secs(1);

fn fixture(name: &str) -> Identity {
    let dir = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let read = |key: &str| std::fs::read(format!("{dir}/{key}")).unwrap();
    Identity::from_pem(&read("caPem"), &read("certPem"), &read("keyPem")).unwrap()
}

fn now() -> jiff::Timestamp {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap();
    jiff::Timestamp::from_second(i64::try_from(since_epoch.as_secs()).unwrap()).unwrap()
}

fn fresh() -> CertificateSet {
    CertificateSet::create(now()).unwrap()
}

struct Running {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

/// A service that acknowledges orders, hangs on the name "hang", and otherwise says Healthy.
fn start(identity: Identity, settings: Settings) -> Running {
    let listener = server::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move |question: HealthRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            if question.node_name == "hang" {
                std::future::pending::<()>().await;
            }
            if question.node_name == "slow" {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            if question.node_name == "abstain" {
                return Err(tonic::Status::unavailable("no knowledge"));
            }
            if question.order_uid.is_empty() {
                Ok(HealthResponse::of(Status::Healthy))
            } else {
                Ok(HealthResponse::acknowledging(question.order_uid))
            }
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let stopped = async {
            stopped.await.unwrap_or_default();
        };
        server::serve(listener, &identity, settings, answer, stopped)
            .await
            .unwrap();
    });
    Running {
        address,
        asked,
        _stop: stop,
    }
}

fn settings() -> Settings {
    Settings::answering_within(5 * SECOND)
}

fn client(identity: &Identity) -> Client {
    Client::new(identity, 5 * SECOND, 5 * SECOND).unwrap()
}

fn question(node: &str) -> HealthRequest {
    HealthRequest {
        node_name: node.to_owned(),
        ..HealthRequest::default()
    }
}

async fn speaks(server: Identity, caller: &Identity) {
    let running = start(server, settings());
    let answer = client(caller)
        .ask(running.address, question("n1"))
        .await
        .unwrap();
    assert_eq!(answer, HealthResponse::of(Status::Healthy));
    assert_eq!(running.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn certificates_of_the_original_work() {
    speaks(fixture("original"), &fixture("original")).await;
}

#[tokio::test]
async fn own_certificates_work() {
    let set = fresh();
    speaks(set.identity().unwrap(), &set.identity().unwrap()).await;
}

#[tokio::test]
async fn a_sec1_key_works() {
    speaks(fixture("sec1"), &fixture("sec1")).await;
}

#[tokio::test]
async fn rotation_with_two_cas_works_in_both_directions() {
    let (old, new) = (fresh(), fresh());
    let both = format!("{}{}", old.ca_pem, new.ca_pem);
    let stage_one = CertificateSet {
        ca_pem: both.clone(),
        ..old
    };
    let stage_two = CertificateSet {
        ca_pem: both,
        ..new
    };
    speaks(
        stage_one.identity().unwrap(),
        &stage_two.identity().unwrap(),
    )
    .await;
    speaks(
        stage_two.identity().unwrap(),
        &stage_one.identity().unwrap(),
    )
    .await;
}

#[tokio::test]
async fn the_order_is_acknowledged() {
    let set = fresh();
    let running = start(set.identity().unwrap(), settings());
    let asked = HealthRequest {
        order_uid: "uid-1".to_owned(),
        ..question("n1")
    };
    let answer = client(&set.identity().unwrap())
        .ask(running.address, asked)
        .await
        .unwrap();
    assert_eq!(answer, HealthResponse::acknowledging("uid-1"));
}

#[tokio::test]
async fn a_foreign_caller_is_refused() {
    let running = start(fresh().identity().unwrap(), settings());
    let error = client(&fresh().identity().unwrap())
        .ask(running.address, question("n1"))
        .await;
    assert!(matches!(error, Err(AskError::Tls(_))), "{error:?}");
    assert_eq!(running.asked.load(Ordering::SeqCst), 0);
}

/// The caller trusts the service, but shows a certificate of another CA.
#[tokio::test]
async fn a_caller_with_another_certificate_is_refused() {
    let (ours, theirs) = (fresh(), fresh());
    let running = start(ours.identity().unwrap(), settings());
    let intruder = CertificateSet {
        ca_pem: ours.ca_pem,
        ..theirs
    };
    let answer = client(&intruder.identity().unwrap())
        .ask(running.address, question("n"))
        .await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(running.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn errors_of_the_answer_reach_the_caller() {
    let set = fresh();
    let running = start(set.identity().unwrap(), settings());
    let client = client(&set.identity().unwrap());
    for (node, code) in [
        ("abstain", tonic::Code::Unavailable),
        ("", tonic::Code::Unknown),
    ] {
        match client.ask(running.address, question(node)).await {
            Err(AskError::Refused(status)) => assert_eq!(status.code(), code),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        running.asked.load(Ordering::SeqCst),
        1,
        "an empty name is not even asked about"
    );
}

#[tokio::test]
async fn the_call_has_a_limit_on_both_sides() {
    let set = fresh();
    let running = start(
        set.identity().unwrap(),
        Settings::answering_within(Duration::from_millis(200)),
    );
    let identity = set.identity().unwrap();
    match client(&identity)
        .ask(running.address, question("hang"))
        .await
    {
        Err(AskError::Refused(status)) => assert_eq!(status.code(), tonic::Code::DeadlineExceeded),
        other => panic!("{other:?}"),
    }
    let running = start(set.identity().unwrap(), settings());
    let hasty = Client::new(&identity, 5 * SECOND, Duration::from_millis(200)).unwrap();
    let began = Instant::now();
    let answer = hasty.ask(running.address, question("hang")).await;
    assert!(
        matches!(&answer, Err(AskError::RequestTimeout(_)))
            || matches!(&answer, Err(AskError::Refused(status))
                if status.code() == tonic::Code::DeadlineExceeded
                    || status.code() == tonic::Code::Cancelled),
        "{answer:?}"
    );
    assert!(began.elapsed() < 2 * SECOND);
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_dial_budget() {
    // Accepts TCP, never speaks TLS.
    let listener = server::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let set = fresh();
    let client = Client::new(
        &set.identity().unwrap(),
        Duration::from_millis(200),
        5 * SECOND,
    )
    .unwrap();
    let began = Instant::now();
    let answer = client
        .ask(listener.local_addr().unwrap(), question("n"))
        .await;
    assert!(
        matches!(answer, Err(AskError::DialTimeout(_))),
        "{answer:?}"
    );
    assert!(began.elapsed() < 2 * SECOND);
}

#[tokio::test]
async fn a_closed_port_is_an_error_at_once() {
    let listener = server::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let answer = client(&fresh().identity().unwrap())
        .ask(address, question("n"))
        .await;
    assert!(matches!(answer, Err(AskError::Connect(_))), "{answer:?}");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_ended() {
    let limits = Settings {
        handshake: Duration::from_millis(100),
        ..settings()
    };
    let running = start(fresh().identity().unwrap(), limits);
    let mut tcp = TcpStream::connect(running.address).await.unwrap();
    tcp.write_all(b"\x16").await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(5 * SECOND, tcp.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the service hangs up");
}

#[tokio::test]
async fn plaintext_is_refused() {
    let running = start(fresh().identity().unwrap(), settings());
    let mut tcp = TcpStream::connect(running.address).await.unwrap();
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(5 * SECOND, tcp.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap_or(0);
    assert!(!rest.windows(4).any(|bytes| bytes == b"HTTP"));
    assert_eq!(running.asked.load(Ordering::SeqCst), 0);
}

/// TLS 1.2, and TLS 1.3 without `h2`, end in the handshake or right after it.
#[tokio::test]
async fn old_tls_and_missing_alpn_are_refused() {
    let set = fresh();
    let running = start(set.identity().unwrap(), settings());
    for (versions, alpn) in [
        (&[&rustls::version::TLS12][..], &b"h2"[..]),
        (&[&rustls::version::TLS13][..], b"http/1.1"),
        (&[&rustls::version::TLS13][..], b""),
    ] {
        let config = raw_config(&set, versions, alpn);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let tcp = TcpStream::connect(running.address).await.unwrap();
        let name = ServerName::IpAddress(SERVER_NAME.into());
        let Ok(mut tls) = connector.connect(name, tcp).await else {
            continue;
        };
        // The handshake may look finished to the client; then the connection must end.
        let written = tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(5 * SECOND, tls.read_to_end(&mut rest))
            .await
            .unwrap();
        assert!(
            written.is_err() || read.is_err() || rest.is_empty(),
            "{alpn:?}"
        );
    }
    assert_eq!(running.asked.load(Ordering::SeqCst), 0);
}

fn raw_config(
    set: &CertificateSet,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[u8],
) -> rustls::ClientConfig {
    let identity = set.identity().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.cas()[0].clone()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(set.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain().to_vec(), key)
        .unwrap();
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    config
}

#[tokio::test]
async fn callers_beyond_the_limit_wait_their_turn() {
    let set = fresh();
    let running = start(
        set.identity().unwrap(),
        Settings {
            connections: 2,
            ..settings()
        },
    );
    let client = client(&set.identity().unwrap());
    let asks = (0..12).map(|_| client.ask(running.address, question("slow")));
    let began = Instant::now();
    let answers = futures::future::join_all(asks).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(
        began.elapsed() >= Duration::from_millis(1_700),
        "six turns of 300 ms"
    );
}

#[tokio::test]
async fn an_aged_connection_is_closed() {
    let set = fresh();
    let limits = Settings {
        connection_age: Duration::from_millis(100),
        answer: Duration::from_millis(400),
        ..settings()
    };
    let running = start(set.identity().unwrap(), limits);
    let config = raw_config(&set, &[&rustls::version::TLS13], b"h2");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(running.address).await.unwrap();
    let name = ServerName::IpAddress(SERVER_NAME.into());
    let mut idle = connector.connect(name, tcp).await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(5 * SECOND, idle.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the service hangs up on an idle connection");
    // A question under way when the age is reached is still answered.
    let answer = client(&set.identity().unwrap())
        .ask(running.address, question("slow"))
        .await;
    assert_eq!(answer.unwrap(), HealthResponse::of(Status::Healthy));
}

#[tokio::test]
async fn both_address_families_are_served() {
    let set = fresh();
    let listener = server::listen_any(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let six = listener.local_addr().unwrap().is_ipv6();
    let identity = set.identity().unwrap();
    tokio::spawn(async move {
        let answer = |_| async { Ok(HealthResponse::of(Status::ApiError)) };
        server::serve(
            listener,
            &identity,
            settings(),
            answer,
            std::future::pending(),
        )
        .await
    });
    let client = client(&set.identity().unwrap());
    let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    if six {
        addresses.push((Ipv6Addr::LOCALHOST, port).into());
    }
    for address in addresses {
        let answer = client.ask(address, question("n")).await.unwrap();
        assert_eq!(answer.status_value(), Some(Status::ApiError), "{address}");
    }
}
