//! The pods of a node: one LIST, then one WATCH from exactly there.
//!
//! # Guarantees
//! What the stream says is in the order of the API server and without gaps: after an interruption
//! the watch goes on where it stopped, and if that is too long ago a complete list comes first.
//! Interruptions are no errors of a drain, so the stream has none; it waits longer after each.
//! Nothing is lost when the stream is not polled for a while: it can be used in `select!`.

use std::time::Duration;

use futures::{StreamExt, stream, stream::BoxStream};
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use medik8s_core::backoff::Backoff;
use medik8s_runtime::{
    error::{Class, Error, classify, classify_status},
    read,
};

use super::{
    machine::Event,
    pod::{PodFacts, SlimPod},
};

/// Pods per page.
const PAGE: u32 = 500;

/// The server ends a watch after this many seconds.
const WATCH_SECONDS: u32 = 290;

/// The longest silence of a watch before the connection counts as dead.
const SILENCE: Duration = Duration::from_secs(295);

const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));

/// A complete list of the pods of a node, and where to go on watching.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The pods.
    pub pods: Vec<PodFacts>,
    /// The version of the list.
    pub resource_version: String,
}

/// The pods of one node.
#[derive(Clone)]
pub struct Pods {
    api: Api<SlimPod>,
    selector: String,
}

impl Pods {
    /// The pods of a node. The name must be one that a node can have.
    pub fn of(client: Client, node: &str) -> Self {
        Self {
            api: Api::all(client),
            selector: format!("spec.nodeName={node}"),
        }
    }

    /// Lists them.
    pub async fn list(&self) -> Result<Listing, Error> {
        let mut params = ListParams::default().fields(&self.selector).limit(PAGE);
        let mut pods = Vec::new();
        loop {
            let page = read::list(&self.api, &params).await?;
            pods.extend(page.items.into_iter().filter_map(PodFacts::read));
            let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else {
                let resource_version = page.metadata.resource_version.unwrap_or_default();
                return Ok(Listing {
                    pods,
                    resource_version,
                });
            };
            params.continue_token = Some(token);
        }
    }

    /// Tells what happens to them, from a list on, or beginning with one.
    pub fn follow(self, from: Option<String>) -> BoxStream<'static, Event> {
        let state = match from.filter(|version| !version.is_empty()) {
            Some(version) => State::Open(version),
            None => State::List,
        };
        stream::unfold((self, state, 0), |(pods, state, failures)| async move {
            let (event, state, failures) = pods.step(state, failures).await;
            Some((event, (pods, state, failures)))
        })
        .filter_map(|event| async move { event })
        .boxed()
    }

    async fn step(&self, state: State, failures: u32) -> (Option<Event>, State, u32) {
        match state {
            State::List => match self.list().await {
                Ok(listing) => {
                    let next = State::Open(listing.resource_version);
                    (Some(Event::Listed(listing.pods)), next, failures)
                }
                Err(error) => {
                    pause("list", failures, &error).await;
                    (None, State::List, failures.saturating_add(1))
                }
            },
            State::Open(version) => {
                let params = WatchParams::default()
                    .fields(&self.selector)
                    .timeout(WATCH_SECONDS);
                match self.api.watch(&params, &version).await {
                    Ok(events) => (None, State::Watch(version, events.boxed()), failures),
                    Err(error) if classify(&error) == Class::Gone => {
                        again(State::List, failures).await
                    }
                    Err(error) => {
                        pause("watch", failures, &error).await;
                        (None, State::Open(version), failures.saturating_add(1))
                    }
                }
            }
            State::Watch(version, events) => watch(version, events, failures).await,
        }
    }
}

enum State {
    List,
    Open(String),
    Watch(
        String,
        BoxStream<'static, kube::Result<WatchEvent<SlimPod>>>,
    ),
}

async fn watch(
    version: String,
    mut events: BoxStream<'static, kube::Result<WatchEvent<SlimPod>>>,
    failures: u32,
) -> (Option<Event>, State, u32) {
    let Ok(Some(event)) = tokio::time::timeout(SILENCE, events.next()).await else {
        return again(State::Open(version), failures).await;
    };
    match event {
        Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
            let version = pod.metadata.resource_version.clone().unwrap_or(version);
            (
                PodFacts::read(pod).map(Event::Applied),
                State::Watch(version, events),
                0,
            )
        }
        Ok(WatchEvent::Deleted(pod)) => {
            let version = pod.metadata.resource_version.clone().unwrap_or(version);
            let gone = PodFacts::read(pod).map(|pod| Event::Deleted(pod.key, pod.uid));
            (gone, State::Watch(version, events), 0)
        }
        Ok(WatchEvent::Bookmark(mark)) => (
            None,
            State::Watch(mark.metadata.resource_version, events),
            0,
        ),
        Ok(WatchEvent::Error(status)) if classify_status(&status) == Class::Gone => {
            again(State::List, failures).await
        }
        Ok(WatchEvent::Error(status)) => {
            pause("watch", failures, &kube::Error::Api(status.boxed())).await;
            (None, State::Open(version), failures.saturating_add(1))
        }
        Err(error) => {
            pause("watch", failures, &error).await;
            (None, State::Open(version), failures.saturating_add(1))
        }
    }
}

async fn pause(what: &str, failures: u32, error: &(dyn std::error::Error + Sync)) {
    tracing::warn!(
        what,
        failures,
        error = crate::error::chain(error),
        "pods cannot be followed"
    );
    tokio::time::sleep(RETRY.delay(failures.saturating_add(1), 0.0)).await;
}

/// The server ends each watch in its time: goes on at once. Only what a watch says proves that it
/// works; after one that said nothing there is a pause.
async fn again(next: State, failures: u32) -> (Option<Event>, State, u32) {
    tokio::time::sleep(RETRY.delay(failures, 0.0)).await;
    (None, next, failures.saturating_add(1))
}
