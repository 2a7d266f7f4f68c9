use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, Node, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use medik8s_testing::{
    fake::{Failure, FakeApi, Fault},
    wire::Reply,
};

use super::*;

fn named(name: &str, namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        uid: Some(format!("uid-{name}")),
        ..ObjectMeta::default()
    }
}

fn node(name: &str) -> ObjectReference {
    reference(&Node {
        metadata: named(name, None),
        ..Node::default()
    })
}

struct Set {
    fake: FakeApi,
    recorder: Recorder,
    metrics: Metrics,
    stop: Shutdown,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn set() -> Set {
    let (fake, metrics) = (FakeApi::new(), Metrics::new().unwrap());
    let clock = Clock::with_tokio(Timestamp::from_second(1_700_000_000).unwrap());
    let writer = Writer::new("test-operator");
    let (recorder, sink) = recorder(fake.client(), "NodeMaintenance", writer, clock, &metrics);
    let stop = Shutdown::manual();
    let running = tokio::spawn(sink.run(stop.clone()));
    Set {
        fake,
        recorder,
        metrics,
        stop,
        running,
    }
}

impl Set {
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }

    fn events(&self) -> Vec<Event> {
        self.fake.list::<Event>()
    }

    async fn end(self) {
        self.stop.trigger();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_what_kubectl_describe_looks_for() {
    let set = set();
    set.recorder
        .normal(&node("n1"), "BeginMaintenance", "Begin a node maintenance");
    set.settle().await;
    let events = set.events();
    let [event] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    let name = event.metadata.name.clone().unwrap();
    let (object, unique) = name.rsplit_once('.').unwrap();
    assert_eq!(object, "n1");
    assert!(
        unique.len() == 16 && unique.chars().all(|c| c.is_ascii_hexdigit()),
        "{unique}"
    );
    assert_eq!(event.involved_object.kind.as_deref(), Some("Node"));
    assert_eq!(event.involved_object.api_version.as_deref(), Some("v1"));
    assert_eq!(event.involved_object.uid.as_deref(), Some("uid-n1"));
    assert_eq!(event.type_.as_deref(), Some("Normal"));
    assert_eq!(event.reason.as_deref(), Some("BeginMaintenance"));
    assert_eq!(event.message.as_deref(), Some("Begin a node maintenance"));
    let source = event.source.as_ref().unwrap().component.as_deref();
    assert_eq!(source, Some("NodeMaintenance"));
    assert_eq!(
        event.reporting_component.as_deref(),
        Some("NodeMaintenance")
    );
    assert_eq!(event.count, Some(1));
    assert_eq!(event.first_timestamp, event.last_timestamp);
    set.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_of_namespaced_objects_live_beside_them() {
    let set = set();
    let pod = reference(&Pod {
        metadata: named("p", Some("kube-system")),
        ..Pod::default()
    });
    set.recorder
        .prefixed(REMEDIATION_PREFIX)
        .warning(&pod, "R", "text");
    set.settle().await;
    let event = set.events().pop().unwrap();
    assert_eq!(event.metadata.namespace.as_deref(), Some("kube-system"));
    assert_eq!(event.message.as_deref(), Some("[remediation] text"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    set.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_again_is_counted_and_anything_else_is_new() {
    let set = set();
    for _ in 0..3 {
        set.recorder.normal(&node("n1"), "R", "same");
        set.settle().await;
    }
    let events = set.events();
    let [event] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(event.count, Some(3));
    let (first, last) = (
        event.first_timestamp.clone().unwrap(),
        event.last_timestamp.clone(),
    );
    assert_eq!((last.unwrap().0 - first.0).get_seconds(), 60);
    set.recorder.normal(&node("n1"), "R", "other");
    set.recorder.warning(&node("n1"), "R", "same");
    set.recorder.normal(&node("n2"), "R", "same");
    set.settle().await;
    assert_eq!(set.events().len(), 4);
    set.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_expired_on_the_server_is_written_anew() {
    let set = set();
    set.recorder.normal(&node("n1"), "R", "same");
    set.settle().await;
    let name = set.events().pop().unwrap().metadata.name.unwrap();
    set.fake.remove::<Event>(Some("default"), &name);
    set.recorder.normal(&node("n1"), "R", "same");
    set.settle().await;
    assert_eq!(set.events().pop().unwrap().count, Some(1));
    set.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_cannot_flood_the_cluster() {
    let set = set();
    for index in 0..100 {
        set.recorder.normal(&node("n1"), "R", &format!("{index}"));
    }
    set.recorder
        .normal(&node("n2"), "R", "another object is not affected");
    set.recorder
        .normal(&node("n1"), "Why", "nor is another reason");
    set.settle().await;
    assert_eq!(set.events().len(), 27);
    let text = set.metrics.text().unwrap();
    assert!(
        text.contains(r#"medik8s_events_dropped_total{why="spam"} 75"#),
        "{text}"
    );
    tokio::time::sleep(Duration::from_mins(5)).await;
    set.recorder.normal(&node("n1"), "R", "one more");
    set.recorder.normal(&node("n1"), "R", "and another one");
    set.settle().await;
    assert_eq!(set.events().len(), 28);
    set.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_repeated_and_a_refusal_is_not() {
    let set = set();
    let busy = Failure::Refuse(Reply::failure(503, "ServiceUnavailable", "later"));
    set.fake.inject(Fault::on_write(1, busy).times(2));
    set.recorder.normal(&node("n1"), "R", "text");
    set.settle().await;
    assert_eq!(set.events().len(), 1);
    let denied = Failure::Refuse(Reply::failure(403, "Forbidden", "no"));
    set.fake.inject(Fault::on_write(1, denied).times(100));
    set.fake.clear_requests();
    set.recorder.normal(&node("n1"), "R", "other");
    set.settle().await;
    assert_eq!(set.fake.writes().len(), 1);
    let text = set.metrics.text().unwrap();
    assert!(
        text.contains(r#"medik8s_events_dropped_total{why="write_failed"} 1"#),
        "{text}"
    );
    set.end().await;
}

#[tokio::test(start_paused = true)]
async fn recording_never_waits_even_if_nobody_answers() {
    let set = set();
    set.fake
        .inject(Fault::on(|_| true, Failure::Hang).times(10_000));
    for index in 0..1000 {
        set.recorder
            .normal(&node(&format!("n{index}")), "R", "text");
    }
    let text = set.metrics.text().unwrap();
    assert!(
        text.contains(r#"medik8s_events_dropped_total{why="queue_full"} 488"#),
        "{text}"
    );
    // The end does not wait for them either.
    let started = tokio::time::Instant::now();
    set.end().await;
    assert!(started.elapsed() <= FLUSH_LIMIT, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_the_end_is_written() {
    let set = set();
    for index in 0..5 {
        set.recorder.normal(&node("n1"), "R", &format!("{index}"));
    }
    let fake = set.fake.clone();
    set.end().await;
    assert_eq!(fake.list::<Event>().len(), 5);
}

#[test]
fn long_messages_are_cut_between_characters() {
    assert_eq!(cut("short".to_owned()), "short");
    let long = cut("ä".repeat(1000));
    assert!(
        long.len() <= 1024 && long.ends_with("..."),
        "{}",
        long.len()
    );
}
