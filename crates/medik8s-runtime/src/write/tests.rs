use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioIo},
};
use json_patch::{AddOperation, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::DynamicObject;
use medik8s_testing::{
    fake::{Failure, FakeApi, Fault},
    script::{Expect, Script},
    wire::Reply,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

use super::*;
use crate::{clock::Clock, shutdown::Shutdown};

const MAP: &str = "/api/v1/namespaces/ns/configmaps/c";
const PODS: &str = "/api/v1/namespaces/ns/pods";

fn maps(script: &Script) -> Api<ConfigMap> {
    Api::namespaced(script.client(), "ns")
}

fn pods(script: &Script) -> Api<Pod> {
    Api::namespaced(script.client(), "ns")
}

fn map() -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some("c".to_owned()),
            namespace: Some("ns".to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

fn pod_meta(uid: &str) -> Reply {
    Reply::ok(&json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": "p", "namespace": "ns", "uid": uid},
    }))
}

fn writer() -> Writer {
    Writer::new("test-operator")
}

#[tokio::test]
async fn apply_is_forced_and_names_its_manager() {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let script = Script::new([
        Expect::apply(MAP)
            .query("fieldManager", "test-operator")
            .query("force", "true")
            .body(body.clone()),
        Expect::apply(format!("{MAP}/status"))
            .query("fieldManager", "test-operator/status")
            .query("force", "true")
            .body(body.clone()),
    ]);
    writer().apply(&maps(&script), "c", &body).await.unwrap();
    writer()
        .apply_status(&maps(&script), "c", &body)
        .await
        .unwrap();
    script.verify();
}

#[tokio::test]
async fn a_status_patch_can_carry_the_version_it_was_made_from() {
    let script = Script::new([
        Expect::merge_patch(format!("{MAP}/status"))
            .query("fieldManager", "test-operator/status")
            .body(json!({"metadata": {"resourceVersion": "7"}, "status": {"phase": "x"}})),
        Expect::merge_patch(format!("{MAP}/status"))
            .body(json!({"status": {"phase": "x"}}))
            .reply(Reply::conflict("changed")),
    ]);
    let (api, status) = (maps(&script), json!({"phase": "x"}));
    writer()
        .merge_patch_status(&api, "c", &status, Some("7"))
        .await
        .unwrap();
    let error = writer()
        .merge_patch_status(&api, "c", &status, None)
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    assert!(!error.outcome_unknown());
    script.verify();
}

fn tested_patch() -> json_patch::Patch {
    json_patch::Patch(vec![
        PatchOperation::Test(TestOperation {
            path: PointerBuf::from_tokens(["data", "a"]),
            value: json!("1"),
        }),
        PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(["data", "a"]),
            value: json!("2"),
        }),
    ])
}

#[tokio::test]
async fn a_failed_test_is_a_conflict_but_a_refused_value_is_not() {
    let mut refused = Reply::invalid("data is wrong");
    json_patch::merge(
        &mut refused.body,
        &json!({"details": {"causes": [{"reason": "FieldValueInvalid", "field": "data"}]}}),
    );
    let script = Script::new([
        Expect::json_patch(MAP).reply(Reply::invalid("the server rejected our request")),
        Expect::json_patch(MAP).reply(refused),
        Expect::json_patch(MAP).reply(Reply::invalid("the server rejected our request")),
    ]);
    let api = maps(&script);
    let failed = writer()
        .json_patch(&api, "c", &tested_patch())
        .await
        .unwrap_err();
    assert_eq!(failed.class(), Class::Conflict);
    let refused = writer()
        .json_patch(&api, "c", &tested_patch())
        .await
        .unwrap_err();
    assert_eq!(refused.class(), Class::Config);
    let untested = json_patch::Patch(tested_patch().0.split_off(1));
    let other = writer().json_patch(&api, "c", &untested).await.unwrap_err();
    assert_eq!(other.class(), Class::Config);
    script.verify();
}

#[tokio::test]
async fn create_once_returns_what_is_there() {
    let script = Script::new([
        Expect::post("/api/v1/namespaces/ns/configmaps")
            .query("fieldManager", "test-operator")
            .reply(Reply::already_exists("configmaps", "c")),
        Expect::get(MAP).reply(Reply::ok(&json!({"metadata": {"name": "c", "uid": "old"}}))),
    ]);
    let created = writer().create_once(&maps(&script), &map()).await.unwrap();
    let Created::Existing(existing) = created else {
        panic!("it was there")
    };
    assert_eq!(existing.metadata.uid.as_deref(), Some("old"));
    script.verify();
}

#[tokio::test]
async fn create_once_makes_an_object_that_vanished_in_between() {
    let script = Script::new([
        Expect::post("/api/v1/namespaces/ns/configmaps")
            .reply(Reply::already_exists("configmaps", "c")),
        Expect::get(MAP).reply(Reply::not_found("configmaps", "c")),
        Expect::post("/api/v1/namespaces/ns/configmaps").reply(Reply::created(&map())),
    ]);
    let created = writer().create_once(&maps(&script), &map()).await.unwrap();
    assert!(matches!(created, Created::New(_)));
    script.verify();
}

#[tokio::test]
async fn replace_refuses_to_overwrite_blindly() {
    let script = Script::new([]);
    let error = writer().replace(&maps(&script), &map()).await.unwrap_err();
    assert_eq!(error.class(), Class::Config);
    assert!(!error.outcome_unknown());
    script.verify();
}

#[tokio::test]
async fn a_delete_names_the_incarnation() {
    let script = Script::new([Expect::delete(MAP)
        .body(json!({
            "gracePeriodSeconds": 0,
            "propagationPolicy": "Background",
            "preconditions": {"uid": "u", "resourceVersion": "7"},
        }))
        .reply(Reply::success())]);
    let which = Delete::uid("u").resource_version("7").grace(0).background();
    let done = writer().delete(&maps(&script), "c", &which).await.unwrap();
    assert_eq!(done, Deleted::Accepted);
    script.verify();
}

#[tokio::test]
async fn a_refused_delete_is_looked_into() {
    let conflict = || Expect::delete(MAP).reply(Reply::conflict("Precondition failed"));
    let found = |uid: &str| Expect::get(MAP).reply(pod_meta(uid));
    let script = Script::new([
        Expect::delete(MAP).reply(Reply::not_found("configmaps", "c")),
        conflict(),
        Expect::get(MAP).reply(Reply::not_found("configmaps", "c")),
        conflict(),
        found("another"),
        conflict(),
        found("u"),
    ]);
    let (api, which) = (maps(&script), Delete::uid("u"));
    assert_eq!(
        writer().delete(&api, "c", &which).await.unwrap(),
        Deleted::Gone
    );
    assert_eq!(
        writer().delete(&api, "c", &which).await.unwrap(),
        Deleted::Gone
    );
    assert_eq!(
        writer().delete(&api, "c", &which).await.unwrap(),
        Deleted::Replaced
    );
    let error = writer().delete(&api, "c", &which).await.unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    script.verify();
}

fn eviction() -> Eviction {
    Eviction {
        uid: "u".to_owned(),
        grace_seconds: None,
    }
}

fn evict(reply: Reply) -> Expect {
    Expect::post(format!("{PODS}/p/eviction")).reply(reply)
}

#[tokio::test]
async fn an_eviction_carries_its_precondition_under_the_key_the_server_reads() {
    let script = Script::new([
        evict(Reply::created(&json!({"kind": "Status"}))).body(json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": "p"},
            "deleteOptions": {"preconditions": {"uid": "u"}},
        })),
    ]);
    let done = writer()
        .evict(&pods(&script), "p", &eviction(), &Shutdown::manual())
        .await
        .unwrap();
    assert_eq!(done, EvictOutcome::Evicted);
    script.verify();
}

#[tokio::test]
async fn every_answer_to_an_eviction_has_its_meaning() {
    let mut terminating = Reply::failure(403, "Forbidden", "namespace is being terminated");
    json_patch::merge(
        &mut terminating.body,
        &json!({"details": {"causes": [{"reason": "NamespaceTerminating"}]}}),
    );
    let mut unset = Reply::failure(429, "TooManyRequests", "too many requests");
    json_patch::merge(
        &mut unset.body,
        &json!({"details": {"retryAfterSeconds": 3}}),
    );
    let script = Script::new([
        evict(Reply::not_found("pods", "p")),
        evict(Reply::too_many_requests("budget b needs 2 pods").retry_after(10)),
        evict(unset),
        evict(terminating),
        evict(Reply::failure(403, "Forbidden", "no")),
        evict(Reply::failure(
            500,
            "InternalError",
            "more than one PodDisruptionBudget",
        )),
        evict(Reply::conflict("uid")),
        Expect::get(format!("{PODS}/p")).reply(pod_meta("another")),
        evict(Reply::conflict("uid")),
        Expect::get(format!("{PODS}/p")).reply(pod_meta("u")),
    ]);
    let api = pods(&script);
    let stop = Shutdown::manual();
    let evict = async || writer().evict(&api, "p", &eviction(), &stop).await;
    assert_eq!(evict().await.unwrap(), EvictOutcome::Gone);
    let blocked = |seconds, why: &str| EvictOutcome::Blocked {
        retry_after: Some(Duration::from_secs(seconds)),
        why: why.to_owned(),
    };
    assert_eq!(evict().await.unwrap(), blocked(10, "budget b needs 2 pods"));
    assert_eq!(evict().await.unwrap(), blocked(3, "too many requests"));
    assert_eq!(evict().await.unwrap(), EvictOutcome::NamespaceTerminating);
    assert_eq!(evict().await.unwrap_err().class(), Class::Denied);
    assert_eq!(evict().await.unwrap_err().class(), Class::Retry);
    assert_eq!(evict().await.unwrap(), EvictOutcome::Replaced);
    assert_eq!(evict().await.unwrap_err().class(), Class::Conflict);
    script.verify();
}

#[tokio::test]
async fn a_wrong_uid_is_refused_by_a_server_that_checks_it() {
    let fake = FakeApi::new();
    fake.add_namespace("ns");
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some("p".to_owned()),
            namespace: Some("ns".to_owned()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    };
    let stored = fake.put(&pod);
    let api: Api<Pod> = Api::namespaced(fake.client(), "ns");
    let stop = Shutdown::manual();
    let wrong = Eviction {
        uid: "other".to_owned(),
        grace_seconds: None,
    };
    assert_eq!(
        writer().evict(&api, "p", &wrong, &stop).await.unwrap(),
        EvictOutcome::Replaced
    );
    assert!(fake.get::<Pod>(Some("ns"), "p").is_some());
    let right = Eviction {
        uid: stored.metadata.uid.unwrap(),
        grace_seconds: None,
    };
    assert_eq!(
        writer().evict(&api, "p", &right, &stop).await.unwrap(),
        EvictOutcome::Evicted
    );
    assert!(fake.get::<Pod>(Some("ns"), "p").is_none());
}

/// A server with a pod, and a writer for it with a lease that ends after 10 s.
fn leased() -> (Api<Pod>, Eviction, Writer, impl Fn()) {
    let fake = FakeApi::new();
    fake.add_namespace("ns");
    let mut pod = Pod::default();
    pod.metadata.name = Some("p".to_owned());
    pod.metadata.namespace = Some("ns".to_owned());
    let uid = fake.put(&pod).metadata.uid.unwrap();
    let late = Failure::Late(Duration::from_secs(12));
    fake.inject(Fault::on_request(
        "POST",
        &format!("{PODS}/p/eviction"),
        late,
    ));
    let clock = Clock::with_tokio(jiff::Timestamp::UNIX_EPOCH);
    let (leadership, lease) = Leadership::for_tests(clock.clone());
    let renew = move || {
        lease.send_replace(Some(clock.boottime() + Duration::from_secs(10)));
    };
    renew();
    let eviction = Eviction {
        uid,
        grace_seconds: None,
    };
    let api = Api::namespaced(fake.client(), "ns");
    (api, eviction, writer().gated(leadership), renew)
}

#[tokio::test(start_paused = true)]
async fn an_eviction_waits_for_slow_webhooks_while_the_lease_is_renewed() {
    let (api, eviction, writer, renew) = leased();
    let renewing = async {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            renew();
        }
    };
    let stop = Shutdown::manual();
    let evicted = tokio::select! {
        evicted = writer.evict(&api, "p", &eviction, &stop) => evicted.unwrap(),
        () = renewing => unreachable!(),
    };
    assert_eq!(evicted, EvictOutcome::Evicted);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_waits_no_longer_than_the_lease_is() {
    let (api, eviction, writer, _) = leased();
    let started = tokio::time::Instant::now();
    let error = writer
        .evict(&api, "p", &eviction, &Shutdown::manual())
        .await
        .unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(10));
    assert!(matches!(error.cause(), Cause::LeaseEnded), "{error:?}");
    assert!(error.outcome_unknown());
}

/// A client that needs `handshake` for a connection, to a server that never answers, and the number
/// of bytes that arrived there.
async fn unhurried(handshake: Duration) -> (kube::Client, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&arrived);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                count.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    });
    let connect = tower::service_fn(move |_: http::Uri| {
        Box::pin(async move {
            tokio::time::sleep(handshake).await;
            TcpStream::connect(address).await.map(TokioIo::new)
        })
    });
    let http = HttpClient::builder(TokioExecutor::new()).build(connect);
    let http = http.map_request(|mut request: http::Request<kube::client::Body>| {
        *request.uri_mut() = format!("http://api{}", request.uri()).parse().unwrap();
        request
    });
    (kube::Client::new(http, "default"), arrived)
}

#[tokio::test]
async fn a_stopped_eviction_is_not_sent_when_its_connection_is_there() {
    let (client, arrived) = unhurried(Duration::from_millis(300)).await;
    let api: Api<Pod> = Api::namespaced(client, "ns");
    let stop = Shutdown::manual();
    let sleep = |millis| tokio::time::sleep(Duration::from_millis(millis));
    let (writer, eviction) = (writer(), eviction());
    let stopping = async {
        sleep(100).await;
        stop.trigger();
        sleep(500).await;
    };
    let (sent, ()) = tokio::join!(writer.evict(&api, "p", &eviction, &stop), stopping);
    let error = sent.unwrap_err();
    assert!(matches!(error.cause(), Cause::Stopped), "{error:?}");
    assert!(!error.outcome_unknown());
    assert_eq!(arrived.load(Ordering::Relaxed), 0);
    // What has left is waited for.
    let stop = Shutdown::manual();
    let stopping = async {
        while arrived.load(Ordering::Relaxed) == 0 {
            sleep(10).await;
        }
        stop.trigger();
        sleep(300).await;
    };
    tokio::select! {
        biased;
        sent = writer.evict(&api, "p", &eviction, &stop) => panic!("{sent:?}"),
        () = stopping => {}
    }
}

#[tokio::test]
async fn a_name_cannot_leave_its_path() {
    let script = Script::new([]);
    let error = writer()
        .evict(
            &pods(&script),
            "p/../../x",
            &eviction(),
            &Shutdown::manual(),
        )
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Config);
    script.verify();
}

#[tokio::test(start_paused = true)]
async fn no_answer_within_the_deadline_is_an_unknown_outcome() {
    let script = Script::new([Expect::merge_patch(MAP).hang()]);
    let writer = writer().with_deadline(Duration::from_secs(3));
    let started = tokio::time::Instant::now();
    let error = writer
        .merge_patch(&maps(&script), "c", &json!({}))
        .await
        .unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    assert_eq!(error.class(), Class::Retry);
    assert!(error.outcome_unknown());
}

#[tokio::test]
async fn a_broken_connection_is_an_unknown_outcome() {
    let fake = FakeApi::new();
    fake.add_namespace("ns");
    fake.inject(Fault::on_write(1, Failure::BreakAfter));
    let api: Api<ConfigMap> = Api::namespaced(fake.client(), "ns");
    let error = writer().create(&api, &map()).await.unwrap_err();
    assert!(error.outcome_unknown());
    // A second attempt finds what the first one did.
    assert!(matches!(
        writer().create_once(&api, &map()).await,
        Ok(Created::Existing(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_gated_writer_sends_nothing_without_the_lease() {
    let script = Script::new([]);
    let clock = Clock::with_tokio(jiff::Timestamp::UNIX_EPOCH);
    let until = clock.boottime() + Duration::from_secs(2);
    let (leadership, lease) = Leadership::for_tests(clock);
    let writer = writer().gated(leadership);
    let api = maps(&script);
    let refused = async |writer: &Writer| {
        let patch = writer.merge_patch(&api, "c", &json!({})).await.unwrap_err();
        assert_eq!(patch.class(), Class::NotLeader);
        assert!(!patch.outcome_unknown());
        let delete = writer
            .delete(&api, "c", &Delete::uid("u"))
            .await
            .unwrap_err();
        assert_eq!(delete.class(), Class::NotLeader);
        let evict = writer
            .evict(&pods(&script), "p", &eviction(), &Shutdown::manual())
            .await
            .unwrap_err();
        assert_eq!(evict.class(), Class::NotLeader);
        let create = writer.create(&api, &map()).await.unwrap_err();
        assert_eq!(create.class(), Class::NotLeader);
    };
    refused(&writer).await;
    lease.send_replace(Some(until));
    Script::then(
        &script,
        [Expect::merge_patch(MAP), Expect::merge_patch(MAP).hang()],
    );
    writer.merge_patch(&api, "c", &json!({})).await.unwrap();
    // The deadline is cut to what is left of the lease.
    let started = tokio::time::Instant::now();
    let error = writer.merge_patch(&api, "c", &json!({})).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    assert!(error.outcome_unknown());
    refused(&writer).await;
    script.verify();
}

#[tokio::test]
async fn kinds_without_a_rust_type_work_too() {
    let fake = FakeApi::new();
    fake.add_namespace("ns");
    fake.add_dynamic_kind("example.com/v1", "Thing", "things", true);
    let kind = kube::api::ApiResource {
        group: "example.com".into(),
        version: "v1".into(),
        api_version: "example.com/v1".into(),
        kind: "Thing".into(),
        plural: "things".into(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(fake.client(), "ns", &kind);
    let object = DynamicObject::new("t", &kind).data(json!({"spec": {}}));
    let created = writer()
        .create_once(&api, &object)
        .await
        .unwrap()
        .into_inner();
    writer()
        .merge_patch(&api, "t", &json!({"spec": {"a": 1}}))
        .await
        .unwrap();
    let which = Delete::uid(created.metadata.uid.unwrap());
    assert_eq!(
        writer().delete(&api, "t", &which).await.unwrap(),
        Deleted::Accepted
    );
    assert!(read::get_opt(&api, "t").await.unwrap().is_none());
}
