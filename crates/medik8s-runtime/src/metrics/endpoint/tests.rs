use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use jiff::Timestamp;
use medik8s_testing::{
    fake::FakeApi,
    wire::{Answer as Wire, Recorded, Reply},
};
use serde_json::json;

use super::*;
use crate::{
    clock::{Clock, ManualClock},
    serve::tests::{free_address, https, localhost, slot},
    tls::Profile,
};

/// An API server that knows the tokens `reader` and `stranger`, and counts reviews.
fn reviewer(fake: &FakeApi) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    fake.intercept(move |request: &Recorded| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut review = request.body.clone();
        match request.path.as_str() {
            "/apis/authentication.k8s.io/v1/tokenreviews" => {
                let token = review["spec"]["token"].as_str()?.to_owned();
                let known = ["reader", "stranger"].contains(&token.as_str());
                review["status"] = json!({
                    "authenticated": known,
                    "user": {"username": token, "groups": ["g"], "uid": "1"},
                });
            }
            "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
                assert_eq!(
                    review["spec"],
                    json!({
                        "user": review["spec"]["user"], "groups": ["g"], "uid": "1",
                        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
                    })
                );
                review["status"] = json!({"allowed": review["spec"]["user"] == "reader"});
            }
            other => panic!("unexpected request {other}"),
        }
        Some(Wire::from(Reply::created(&review)))
    });
    asked
}

struct Running {
    address: std::net::SocketAddr,
    certificate: String,
    hands: ManualClock,
    stop: Shutdown,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
}

async fn running(fake: &FakeApi) -> Running {
    let (certificate, key) = localhost();
    let tls = ServerTls::new(slot(&certificate, &key), &Profile::default(), false).unwrap();
    let address = free_address();
    let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
    let server = MetricsServer {
        bind: BindAddress::Address(address),
        tls,
        http2: false,
        authoriser: Some(Authoriser::new(fake.client(), "test-operator", clock)),
    };
    let stop = Shutdown::manual();
    let server = tokio::spawn(serve(Metrics::new().unwrap(), server, stop.clone()));
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Running {
        address,
        certificate,
        hands,
        stop,
        server,
    }
}

impl Running {
    async fn get(&self, path: &str, headers: &str) -> (u16, String) {
        let request = format!("GET {path}");
        let answer = https(self.address, &self.certificate, &request, headers, b"").await;
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    async fn as_token(&self, token: &str) -> u16 {
        self.get("/metrics", &format!("Authorization: Bearer {token}\r\n"))
            .await
            .0
    }
}

#[tokio::test]
async fn the_api_server_decides_who_may_read() {
    let fake = FakeApi::new();
    let asked = reviewer(&fake);
    let running = running(&fake).await;
    assert_eq!(running.get("/metrics", "").await.0, 401);
    assert_eq!(running.as_token("nobody").await, 401);
    assert_eq!(running.as_token("stranger").await, 403);
    assert_eq!(running.get("/other", "").await.0, 404);
    let (code, text) = running
        .get("/metrics", "Authorization: Bearer reader\r\n")
        .await;
    assert_eq!(code, 200);
    assert!(
        text.contains("content-type: text/plain; version=0.0.4\r\n"),
        "{text}"
    );
    assert!(text.contains("\n# TYPE process_open_fds gauge\n"), "{text}");
    assert_eq!(asked.load(Ordering::SeqCst), 1 + 2 + 2);
    running.stop.trigger();
    running.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_yes_is_remembered_for_five_minutes_and_a_no_for_half_a_minute() {
    let fake = FakeApi::new();
    let asked = reviewer(&fake);
    let running = running(&fake).await;
    for (after, reader, stranger) in [(0, 2, 2), (29, 0, 0), (1, 0, 2), (269, 0, 2), (1, 2, 0)] {
        running.hands.advance(Duration::from_secs(after));
        for (token, code, expected) in [("reader", 200, reader), ("stranger", 403, stranger)] {
            asked.store(0, Ordering::SeqCst);
            assert_eq!(running.as_token(token).await, code);
            assert_eq!(
                asked.load(Ordering::SeqCst),
                expected,
                "{token} after {after}"
            );
        }
    }
    running.stop.trigger();
    running.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_an_answer_nobody_may_read() {
    let fake = FakeApi::new();
    fake.intercept(|_| Some(Reply::failure(503, "ServiceUnavailable", "later").into()));
    let running = running(&fake).await;
    assert_eq!(running.as_token("reader").await, 500);
    running.stop.trigger();
    running.server.await.unwrap().unwrap();
}
