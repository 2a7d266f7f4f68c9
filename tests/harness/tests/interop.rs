//! The peer contract against an independent TLS and gRPC stack (Go's), in both directions, with a Secret made by the
//! original's recipe: RSA-4096, equal serial numbers and subjects, PKCS#1.
#![cfg(test)]

use std::path::Path;
use std::time::Duration;

use medik8s_harness::interop::GoPeer;
use self_node_remediation_peer::server::{self, Settings};
use self_node_remediation_peer::{
    AskError, CertificateSet, Client, HealthRequest, HealthResponse, Identity, Status,
};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(5);

fn read(folder: &Path) -> CertificateSet {
    let field = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    CertificateSet {
        ca_pem: field("caPem"),
        cert_pem: field("certPem"),
        key_pem: field("keyPem"),
    }
}

fn write(set: &CertificateSet, folder: &Path) {
    for (name, text) in [
        ("caPem", &set.ca_pem),
        ("certPem", &set.cert_pem),
        ("keyPem", &set.key_pem),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

fn now() -> jiff::Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the Go side uses the machine's clock"
    )]
    jiff::Timestamp::now()
}

fn question(node: &str) -> HealthRequest {
    HealthRequest {
        node_name: node.to_owned(),
        machine_name: "machine-7".to_owned(),
        // Unknown to Go agents, who must not mind it.
        order_uid: "some-order".to_owned(),
    }
}

/// Our server, which answers by the node's name.
async fn our_server(identity: Identity) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let answer = |question: HealthRequest| async move {
            match question.node_name.as_str() {
                "healthy" => Ok(HealthResponse::of(Status::Healthy)),
                // With a field that Go agents do not know.
                "unhealthy" => Ok(HealthResponse::acknowledging("some-order")),
                "api-error" => Ok(HealthResponse::of(Status::ApiError)),
                _ => Err(tonic::Status::unavailable("nothing can be said")),
            }
        };
        let settings = Settings::answering_within(LIMIT);
        server::serve(
            listener,
            &identity,
            settings,
            answer,
            std::future::pending(),
        )
        .await
        .unwrap();
    });
    address
}

/// Both directions with the certificates of this folder.
async fn speaks(peer: &GoPeer, folder: &Path) {
    let identity = read(folder).identity().unwrap();
    let path = folder.to_str().unwrap();

    let go = peer.serve(path, "").await.unwrap();
    let client = Client::new(&identity, LIMIT, LIMIT).unwrap();
    for (node, status) in [
        ("healthy", Status::Healthy),
        ("unhealthy", Status::Unhealthy),
        ("api-error", Status::ApiError),
    ] {
        let answer = client.ask(go.address, question(node)).await.unwrap();
        assert_eq!(answer.status_value(), Some(status));
        assert_eq!(
            answer.acknowledged_uid, "",
            "a Go agent acknowledges nothing"
        );
    }
    let refused = client.ask(go.address, question("other")).await;
    assert!(matches!(refused, Err(AskError::Refused(_))), "{refused:?}");

    let ours = our_server(identity).await.to_string();
    for (node, printed) in [
        ("healthy", "1"),
        ("unhealthy", "2"),
        ("api-error", "3"),
        ("other", "Unavailable"),
        ("", "Unknown"),
    ] {
        let answer = peer.run(&["ask", path, &ours, node]).await.unwrap();
        assert_eq!(answer, printed, "{node}");
    }
}

#[tokio::test]
async fn with_certificates_of_the_original() {
    let peer = GoPeer::ready().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    peer.run(&["certificates", path]).await.unwrap();
    let set = read(folder.path());
    assert!(set.key_pem.contains("BEGIN RSA PRIVATE KEY"));
    set.validate(now()).unwrap();
    speaks(&peer, folder.path()).await;

    // Whoever is not one of us is refused by our server, whatever its certificate.
    let ours = our_server(set.identity().unwrap()).await.to_string();
    let dial = async |mode: &str| peer.run(&["dial", path, &ours, mode]).await.unwrap();
    assert_eq!(dial("good").await, "accepted");
    for mode in ["tls12", "no-alpn", "no-certificate"] {
        let outcome = dial(mode).await;
        assert!(outcome.starts_with("refused"), "{mode}: {outcome}");
    }
    let other = tempfile::tempdir().unwrap();
    write(&CertificateSet::create(now()).unwrap(), other.path());
    let foreign = other.path().to_str().unwrap();
    let outcome = peer.run(&["ask", foreign, &ours, "healthy"]).await.unwrap();
    assert_eq!(outcome, "Unavailable", "another CA");

    // And our client refuses servers that are none of ours.
    let client = Client::new(&set.identity().unwrap(), LIMIT, LIMIT).unwrap();
    for mode in ["tls12", "no-alpn"] {
        let go = peer.serve(path, mode).await.unwrap();
        let answer = client.ask(go.address, question("healthy")).await;
        let refused = matches!(answer, Err(AskError::Tls(_) | AskError::Alpn));
        assert!(refused, "{mode}: {answer:?}");
    }
    let go = peer.serve(foreign, "").await.unwrap();
    let answer = client.ask(go.address, question("healthy")).await;
    assert!(matches!(answer, Err(AskError::Tls(_))), "{answer:?}");
}

#[tokio::test]
async fn with_certificates_of_ours() {
    let peer = GoPeer::ready().unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(&CertificateSet::create(now()).unwrap(), folder.path());
    speaks(&peer, folder.path()).await;
}

/// The middle of a rotation: two CAs in one file, the old certificate and the new one side by side.
#[tokio::test]
async fn with_two_cas() {
    let peer = GoPeer::ready().unwrap();
    let old = tempfile::tempdir().unwrap();
    let path = old.path().to_str().unwrap();
    peer.run(&["certificates", path]).await.unwrap();
    let (old_set, new_set) = (read(old.path()), CertificateSet::create(now()).unwrap());
    let both_cas = format!("{}\n{}", old_set.ca_pem.trim_end(), new_set.ca_pem);
    let stage_1 = CertificateSet {
        ca_pem: both_cas.clone(),
        ..old_set
    };
    let stage_2 = CertificateSet {
        ca_pem: both_cas,
        ..new_set
    };
    let folder = tempfile::tempdir().unwrap();
    write(&stage_2, folder.path());
    let next = folder.path().to_str().unwrap();
    let go = peer.serve(next, "").await.unwrap();
    let client = Client::new(&stage_1.identity().unwrap(), LIMIT, LIMIT).unwrap();
    let answer = client.ask(go.address, question("healthy")).await.unwrap();
    assert_eq!(answer.status_value(), Some(Status::Healthy));
    let ours = our_server(stage_1.identity().unwrap()).await.to_string();
    let answer = peer.run(&["ask", next, &ours, "healthy"]).await.unwrap();
    assert_eq!(answer, "1");
}
