use std::sync::atomic::{AtomicUsize, Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use json_patch::{AddOperation, PatchOperation, jsonptr::PointerBuf};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::*;
use crate::{
    certs::CertFiles,
    serve::tests::{free_address, https, localhost},
    tls::{CertSlot, Profile},
};

const HOOK: Hook = Hook {
    kind: HookKind::Validating,
    name: "vtest.kb.io",
    path: "/validate-test",
    api_group: "",
    api_version: "v1",
    resource: "configmaps",
    operations: &[Operation::Create, Operation::Update, Operation::Delete],
    failure_policy: FailurePolicy::Fail,
    timeout_seconds: Some(2),
};

fn review(operation: &str, object: &Value, old: &Value) -> Vec<u8> {
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    serde_json::to_vec(&json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
            "resource": resource,
            "name": "c",
            "namespace": "ns",
            "operation": operation,
            "userInfo": {"username": "someone"},
            "object": object,
            "oldObject": old,
            "dryRun": false,
        },
    }))
    .unwrap()
}

fn config_map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

async fn judged(rule: Rule, body: Vec<u8>) -> (u16, Value) {
    let answer = judge(&HOOK, &rule, &body).await;
    let code = answer.status().as_u16();
    let bytes = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap()
        .to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn rule<F>(rule: impl Fn(AdmissionRequest<DynamicObject>) -> F + Send + Sync + 'static) -> Rule
where
    F: Future<Output = Verdict> + Send + 'static,
{
    Arc::new(move |request| rule(request).boxed())
}

#[tokio::test]
async fn a_denial_is_a_403_with_the_rules_message() {
    let body = review("CREATE", &config_map(&json!({})), &Value::Null);
    let (code, answer) = judged(
        rule(|_| async { Verdict::deny("not today").warn("careful") }),
        body,
    )
    .await;
    assert_eq!(code, 200);
    assert_eq!(
        answer,
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {
            "uid": "u-1",
            "allowed": false,
            "status": {
                "status": "Failure", "code": 403, "reason": "Forbidden", "message": "not today",
            },
            "warnings": ["careful"],
        }})
    );
}

#[tokio::test]
async fn a_patch_is_base64_json() {
    let patch = json_patch::Patch(vec![PatchOperation::Add(AddOperation {
        path: PointerBuf::from_tokens(["metadata", "annotations"]),
        value: json!({"a": "b"}),
    })]);
    let expected = serde_json::to_value(&patch).unwrap();
    let body = review("CREATE", &config_map(&json!({})), &Value::Null);
    let (_, answer) = judged(
        rule(move |_| {
            let patch = patch.clone();
            async move { Verdict::patch(patch) }
        }),
        body,
    )
    .await;
    assert_eq!(answer["response"]["allowed"], true);
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    let bytes = STANDARD
        .decode(answer["response"]["patch"].as_str().unwrap())
        .unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), expected);
    assert_eq!(answer["response"].get("status"), None);
}

#[tokio::test]
async fn what_cannot_be_judged_is_left_to_the_failure_policy() {
    for body in [
        b"nonsense".to_vec(),
        br#"{"kind":"AdmissionReview"}"#.to_vec(),
    ] {
        let (code, _) = judged(rule(|_| async { Verdict::allow() }), body).await;
        assert_eq!(code, 400);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_takes_too_long_is_an_error_before_the_api_server_gives_up() {
    let body = review("CREATE", &config_map(&json!({})), &Value::Null);
    let started = tokio::time::Instant::now();
    let (code, _) = judged(rule(|_| std::future::pending()), body).await;
    assert_eq!((code, started.elapsed().as_secs()), (504, 1));
}

fn request(body: &[u8]) -> AdmissionRequest<DynamicObject> {
    serde_json::from_slice::<AdmissionReview<DynamicObject>>(body)
        .unwrap()
        .request
        .unwrap()
}

#[test]
fn objects_are_decoded_by_operation() {
    let (good, bad) = (
        config_map(&json!({"a": "b"})),
        config_map(&json!("not a map")),
    );
    let create = decode::<ConfigMap>(&request(&review("CREATE", &good, &Value::Null)));
    assert!(matches!(create, Ok(Decoded::Create(map)) if map.data.is_some()));
    let update = decode::<ConfigMap>(&request(&review("UPDATE", &good, &good)));
    assert!(matches!(update, Ok(Decoded::Update { old: Some(_), .. })));
    // A stored object that cannot be read must not block its repair or removal.
    let repair = decode::<ConfigMap>(&request(&review("UPDATE", &good, &bad)));
    assert!(matches!(repair, Ok(Decoded::Update { old: None, .. })));
    let remove = decode::<ConfigMap>(&request(&review("DELETE", &Value::Null, &bad)));
    assert!(matches!(remove, Ok(Decoded::Delete(None))));
    let refused = decode::<ConfigMap>(&request(&review("CREATE", &bad, &Value::Null))).unwrap_err();
    assert!(
        refused
            .denial()
            .unwrap()
            .starts_with("the object is not valid: invalid type")
    );
}

struct Running {
    address: std::net::SocketAddr,
    certificate: String,
    stop: Shutdown,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
    metrics: Metrics,
    _dir: tempfile::TempDir,
}

/// A server on loopback with a certificate from files.
async fn running(rule: impl Fn() -> Verdict + Clone + Send + Sync + 'static) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = localhost();
    std::fs::write(dir.path().join("tls.crt"), &certificate).unwrap();
    std::fs::write(dir.path().join("tls.key"), key).unwrap();
    let free = free_address();
    let metrics = Metrics::new().unwrap();
    let check = Check::detached();
    let settings = Settings {
        bind: BindAddress::Address(free),
        http2: false,
        tls: ServerTls::new(CertSlot::default(), &Profile::default(), false).unwrap(),
        certificates: certificates::Source::Files(vec![CertFiles::in_dir(dir.path())]),
        check: check.clone(),
    };
    let server = Server::new(&metrics, Clock::system()).route(&HOOK, move |_| {
        let rule = rule.clone();
        async move { rule() }
    });
    let stop = Shutdown::manual();
    let server = tokio::spawn(server.run(settings, stop.clone()));
    while check.state().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Running {
        address: free,
        certificate,
        stop,
        server,
        metrics,
        _dir: dir,
    }
}

impl Running {
    async fn send(&self, method: &str, path: &str, body: &[u8]) -> String {
        let request = format!("{method} {path}?timeout=2s");
        https(self.address, &self.certificate, &request, "", body).await
    }
}

#[tokio::test]
async fn serves_reviews_over_tls_and_counts_them() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let running = running(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Verdict::allow()
    })
    .await;
    let body = review("CREATE", &config_map(&json!({})), &Value::Null);
    let answer = running.send("POST", HOOK.path, &body).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains(r#""allowed":true"#), "{answer}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let lost = running.send("POST", "/other", &body).await;
    assert!(lost.starts_with("HTTP/1.1 404"), "{lost}");
    let got = running.send("GET", HOOK.path, b"").await;
    assert!(got.starts_with("HTTP/1.1 405"), "{got}");
    let text = running.metrics.text().unwrap();
    let line =
        r#"controller_runtime_webhook_requests_total{code="200",webhook="/validate-test"} 1"#;
    assert!(text.contains(line), "{text}");
    running.stop.trigger();
    running.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_review_that_is_too_large_is_refused() {
    let running = running(Verdict::allow).await;
    let body = vec![b' '; LARGEST + 1];
    let answer = running.send("POST", HOOK.path, &body).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    running.stop.trigger();
    running.server.await.unwrap().unwrap();
}
