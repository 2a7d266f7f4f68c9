//! kube's own watcher works against the fake: it lists, watches, starts anew when it must.
#![cfg(test)]

use std::time::Duration;

use futures::{Stream, StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, ResourceExt};
use medik8s_testing::build::{MetaExt, node};
use medik8s_testing::fake::FakeApi;

type Item = Result<Event<Node>, watcher::Error>;

/// The next events as text, errors left out: the watcher recovers from them by itself.
async fn next(events: &mut (impl Stream<Item = Item> + Unpin), count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
        match event
            .expect("the watcher delivers")
            .expect("the watcher goes on")
        {
            Ok(Event::Init) => seen.push("init".to_owned()),
            Ok(Event::InitDone) => seen.push("done".to_owned()),
            Ok(Event::InitApply(node)) => seen.push(format!("init {}", node.name_any())),
            Ok(Event::Apply(node)) => seen.push(format!("apply {}", node.name_any())),
            Ok(Event::Delete(node)) => seen.push(format!("delete {}", node.name_any())),
            Err(_) => {}
        }
    }
    seen
}

async fn follows(config: Config) {
    let api = FakeApi::new();
    api.put(&node("a"));
    let events = watcher(Api::<Node>::all(api.client()), config);
    pin_mut!(events);
    assert_eq!(next(&mut events, 3).await, ["init", "init a", "done"]);
    api.put(&node("b"));
    api.update::<Node>(None, "a", |node| *node = node.clone().labelled("x", "y"));
    api.remove::<Node>(None, "b");
    assert_eq!(
        next(&mut events, 3).await,
        ["apply b", "apply a", "delete b"]
    );
    // A dropped watch goes on where it was; a forgotten version makes it start anew.
    api.drop_watches();
    api.put(&node("c"));
    assert_eq!(next(&mut events, 1).await, ["apply c"]);
    api.remove::<Node>(None, "c");
    assert_eq!(next(&mut events, 1).await, ["delete c"]);
    api.set_reachable("client", false);
    api.put(&node("d"));
    api.compact();
    api.put(&node("e"));
    api.set_reachable("client", true);
    let anew = next(&mut events, 5).await;
    assert_eq!(anew, ["init", "init a", "init d", "init e", "done"]);
}

#[tokio::test(start_paused = true)]
async fn lists_then_watches() {
    follows(Config::default()).await;
}

#[tokio::test(start_paused = true)]
async fn streams_the_list() {
    follows(Config::default().streaming_lists()).await;
}
