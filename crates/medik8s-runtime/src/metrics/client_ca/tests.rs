use std::sync::Arc;
use std::time::Duration;

use medik8s_testing::fake::FakeApi;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    cli::BindAddress,
    metrics::{MetricsServer, serve},
    serve::tests::{free_address, localhost, slot},
    tls::{MinVersion, Profile},
};

/// A CA, and a client certificate that it signed.
struct Authority {
    ca: String,
    certificate: String,
    key: String,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.clone().self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["prometheus".to_owned()])
        .unwrap()
        .signed_by(&own, &issuer)
        .unwrap();
    Authority {
        ca: ca.pem(),
        certificate: certificate.pem(),
        key: own.serialize_pem(),
    }
}

/// Reads `/metrics`; `None` when the handshake fails.
async fn read(
    address: std::net::SocketAddr,
    server: &str,
    who: Option<&Authority>,
) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(server.as_bytes()).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match who {
        None => builder.with_no_client_auth(),
        Some(who) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(who.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(who.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = String::new();
    // With TLS 1.3 the client learns of the refusal when it reads.
    stream.read_to_string(&mut answer).await.ok()?;
    (!answer.is_empty()).then_some(answer)
}

fn config_map(ca: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE},
        "data": {KEY: ca},
    })
}

#[tokio::test]
async fn readers_are_known_by_the_clusters_client_ca() {
    let (first, second) = (authority(), authority());
    let fake = FakeApi::new();
    let (certificate, key) = localhost();
    let tls = ServerTls::new(slot(&certificate, &key), &Profile::default(), false).unwrap();
    tls.require_client_certificates().unwrap();
    let address = free_address();
    let server = MetricsServer {
        bind: BindAddress::Address(address),
        tls: tls.clone(),
        http2: false,
        authoriser: None,
    };
    let metrics = Metrics::new().unwrap();
    let stop = Shutdown::manual();
    let serving = tokio::spawn(serve(metrics.clone(), server, stop.clone()));
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // No CA is known: nobody is accepted.
    assert_eq!(read(address, &certificate, Some(&first)).await, None);
    assert_eq!(read(address, &certificate, None).await, None);

    let following = tokio::spawn(follow(fake.client(), tls.clone(), metrics, stop.clone()));
    fake.put_value(config_map(&first.ca));
    let accepted = async |who: &Authority| read(address, &certificate, Some(who)).await;
    let until = async |who: &Authority| {
        for _ in 0..400 {
            if let Some(answer) = accepted(who).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not accepted");
    };
    let answer = until(&first).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(accepted(&second).await, None);
    assert_eq!(read(address, &certificate, None).await, None);

    // Another TLS profile changes nothing about that.
    let modern = Profile::Custom {
        min_version: MinVersion::Tls13,
        ciphers: vec!["TLS_AES_128_GCM_SHA256".to_owned()],
    };
    tls.set_profile(&modern).unwrap();
    assert!(accepted(&first).await.is_some());
    assert_eq!(read(address, &certificate, None).await, None);

    // Rotation: the new CA is accepted, the old one is not, without a restart.
    fake.put_value(config_map(&second.ca));
    until(&second).await;
    assert_eq!(accepted(&first).await, None);

    // Nonsense changes nothing.
    fake.put_value(config_map("nonsense"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(accepted(&second).await.is_some());
    stop.trigger();
    serving.await.unwrap().unwrap();
    following.await.unwrap().unwrap();
}
