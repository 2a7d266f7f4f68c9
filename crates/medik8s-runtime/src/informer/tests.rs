use std::sync::Mutex;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Node},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::response::Status;
use serde_json::json;

use super::*;

fn object(name: &str, version: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("ns".to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

fn unreadable(name: &str) -> Unreadable {
    let metadata = json!({"name": name, "namespace": "ns", "resourceVersion": "9"});
    let parsed: Lenient<ConfigMap> =
        serde_json::from_value(json!({"metadata": metadata, "data": "not a map"})).unwrap();
    parsed.0.unwrap_err()
}

type Step = Result<Event<Guarded<ConfigMap>>, watcher::Error>;

fn listed(objects: &[(&str, &str)]) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![Ok(Event::Init)];
    steps.extend(
        objects
            .iter()
            .map(|(name, v)| Ok(Event::InitApply(Ok(object(name, v))))),
    );
    steps.push(Ok(Event::InitDone));
    steps
}

/// What was told, as `old>new` versions.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn informer(steps: Vec<Step>) -> (Informer<ConfigMap>, Told, Metrics) {
    let metrics = Metrics::new().unwrap();
    let mut informer = Informer {
        name: "test".to_owned(),
        events: futures::stream::iter(steps)
            .chain(futures::stream::pending())
            .boxed(),
        objects: Arc::default(),
        synced: watch::Sender::new(false),
        prune: Box::new(prune_metadata),
        handlers: Vec::new(),
        on_failure: None,
        metrics: metrics.clone(),
    };
    let told = Told::default();
    let tell = told.clone();
    informer.on_change(move |change: &Change<ConfigMap>| {
        let version = |object: &Option<Arc<ConfigMap>>| {
            object
                .as_ref()
                .and_then(|o| o.resource_version())
                .unwrap_or_else(|| "-".to_owned())
        };
        let name = change.object().unwrap().name_any();
        let line = format!("{name}:{}>{}", version(&change.old), version(&change.new));
        tell.0.lock().unwrap().push(line);
    });
    (informer, told, metrics)
}

/// Runs until all steps are taken.
async fn run(informer: Informer<ConfigMap>) {
    let stop = Shutdown::manual();
    let end = async {
        tokio::time::sleep(Duration::from_mins(10)).await;
        stop.trigger();
    };
    let (ran, ()) = tokio::join!(informer.run(stop.clone()), end);
    ran.unwrap();
}

#[tokio::test(start_paused = true)]
async fn tells_the_object_before_and_after() {
    let mut steps = listed(&[("a", "1"), ("b", "2")]);
    steps.push(Ok(Event::Apply(Ok(object("a", "3")))));
    steps.push(Ok(Event::Apply(Ok(object("c", "4")))));
    steps.push(Ok(Event::Delete(Ok(object("b", "5")))));
    let (informer, told, _) = informer(steps);
    let cache = informer.cache();
    assert!(!cache.is_synced());
    run(informer).await;
    assert_eq!(told.take(), ["a:->1", "b:->2", "a:1>3", "c:->4", "b:5>-"]);
    assert!(cache.is_synced());
    let names: Vec<String> = cache
        .list()
        .iter()
        .map(|object| object.name_any())
        .collect();
    assert_eq!(names, ["a", "c"]);
    assert!(cache.get(Some("ns"), "a").is_some() && cache.get(None, "a").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_new_list_tells_what_was_missed() {
    let mut steps = listed(&[("a", "1"), ("b", "2"), ("c", "3")]);
    // b was deleted and a changed while nobody watched; c is as before.
    steps.extend(listed(&[("a", "7"), ("c", "3"), ("d", "8")]));
    let (informer, told, _) = informer(steps);
    let cache = informer.cache();
    run(informer).await;
    assert_eq!(told.take()[3..], ["a:1>7", "d:->8", "b:2>-"]);
    assert_eq!(cache.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_copy_stays_complete_while_a_new_list_comes_in() {
    let mut steps = listed(&[("a", "1"), ("b", "2")]);
    steps.push(Ok(Event::Init));
    steps.push(Ok(Event::InitApply(Ok(object("a", "1")))));
    let (informer, told, _) = informer(steps);
    let cache = informer.cache();
    run(informer).await;
    assert_eq!(cache.len(), 2);
    assert_eq!(told.take().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_object_neither_stops_the_watch_nor_vanishes() {
    let mut steps = listed(&[("a", "1")]);
    steps.push(Ok(Event::Apply(Err(unreadable("a")))));
    steps.push(Ok(Event::Apply(Err(unreadable("never-readable")))));
    steps.push(Ok(Event::Apply(Ok(object("b", "2")))));
    steps.extend(listed(&[("b", "2")]));
    let position = steps.len() - 1;
    steps.insert(position, Ok(Event::InitApply(Err(unreadable("a")))));
    steps.push(Ok(Event::Delete(Err(unreadable("a")))));
    let (informer, told, _) = informer(steps);
    let cache = informer.cache();
    run(informer).await;
    assert_eq!(told.take(), ["a:->1", "a:1>1", "b:->2", "a:1>-"]);
    assert_eq!(cache.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn errors_are_counted_and_repeated_with_a_growing_pause() {
    let failed = || {
        let status = Status::failure("no", "Forbidden").with_code(403);
        Err(watcher::Error::InitialListFailed(kube::Error::Api(
            status.boxed(),
        )))
    };
    let tried = || [Ok(Event::Init), failed()];
    let mut steps: Vec<Step> = [tried(), tried(), tried()].into_iter().flatten().collect();
    steps.extend(listed(&[("a", "1")]));
    let (informer, told, metrics) = informer(steps);
    let cache = informer.cache();
    let stop = Shutdown::manual();
    let watch = async {
        let started = tokio::time::Instant::now();
        assert!(cache.synced(&stop).await);
        let waited = started.elapsed().as_secs_f64();
        // 0.5 + 1 + 2 seconds, and up to a fifth more.
        assert!((3.5..4.3).contains(&waited), "{waited}");
        stop.trigger();
    };
    let (ran, ()) = tokio::join!(informer.run(stop.clone()), watch);
    ran.unwrap();
    assert_eq!(told.take(), ["a:->1"]);
    let text = metrics.text().unwrap();
    assert!(
        text.contains(r#"medik8s_watch_errors_total{watch="test"} 3"#),
        "{text}"
    );
}

#[test]
fn managed_fields_are_dropped_while_decoding() {
    let object = json!({"metadata": {"name": "n", "managedFields": "not even a list"}});
    let parsed: Lenient<Node> = serde_json::from_value(object).unwrap();
    assert_eq!(parsed.0.unwrap().metadata.managed_fields, None);
}

#[test]
fn pruning_keeps_other_annotations() {
    let mut node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": "{}", "keep": "me",
    }}}))
    .unwrap();
    prune_metadata(&mut node);
    let annotations = node.metadata.annotations.unwrap();
    assert_eq!(annotations.keys().collect::<Vec<_>>(), ["keep"]);
}
