//! Watches with a local copy.
//!
//! # Purpose
//! An [`Informer`] keeps a [`Cache`] of one kind and tells what changed, with the object before and
//! after, so that pure mappers can decide whom to wake.
//!
//! # Guarantees
//! Deletes are told too, also those that happened while the watch was interrupted (the new list is
//! compared with the old copy). An object that cannot be decoded stops neither the watch nor the
//! others: it is logged, and the copy keeps its last readable state, since it is still there.
//! Watch errors are logged and counted, with a growing pause between attempts.
//!
//! # Caveats
//! The copy lags behind the server. A plan over it needs preconditions on what it writes.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    pin::pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

mod lenient;

use lenient::{Lenient, Unreadable};

use crate::{
    error::{Class, classify, classify_status},
    metrics::Metrics,
    shutdown::Shutdown,
};

/// Objects per page of the first list: decoding a page needs several times its size.
pub const PAGE: u32 = 100;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Key = (Option<String>, String);

/// One object before and after.
#[derive(Debug)]
pub struct Change<K> {
    /// What the copy had; `None` for an object that is new.
    pub old: Option<Arc<K>>,
    /// What it has now; `None` for an object that is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object, whichever side has it; the newer one if both do.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// A local copy of all objects of one kind. Cheap to clone.
#[derive(Debug)]
pub struct Cache<K> {
    objects: Arc<RwLock<BTreeMap<Key, Arc<K>>>>,
    synced: watch::Receiver<bool>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            objects: Arc::clone(&self.objects),
            synced: self.synced.clone(),
        }
    }
}

impl<K> Cache<K> {
    /// One object. Nothing can be concluded from `None` before the copy is complete.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        let key = (namespace.map(str::to_owned), name.to_owned());
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Whether the copy has been complete once.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the copy is complete; false when stopped first.
    pub async fn synced(&self, stop: &Shutdown) -> bool {
        let mut synced = self.synced.clone();
        let done = async move { synced.wait_for(|synced| *synced).await.is_ok() };
        stop.or_stop(done).await.unwrap_or(false)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

type Prune<K> = Box<dyn Fn(&mut K) + Send>;
type Handler<K> = Box<dyn FnMut(&Change<K>) + Send>;
type FailureHandler = Box<dyn FnMut(Class) + Send>;
type Guarded<K> = Result<K, Unreadable>;

/// Watches one kind.
pub struct Informer<K> {
    name: String,
    events: BoxStream<'static, Result<Event<Guarded<K>>, watcher::Error>>,
    objects: Arc<RwLock<BTreeMap<Key, Arc<K>>>>,
    synced: watch::Sender<bool>,
    prune: Prune<K>,
    handlers: Vec<Handler<K>>,
    on_failure: Option<FailureHandler>,
    metrics: Metrics,
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default,
{
    /// Watches a kind with a Rust type; of a `PartialObjectMeta<K>` only the metadata is decoded.
    pub fn new(name: &str, api: Api<K>, config: watcher::Config, metrics: &Metrics) -> Self {
        let kind = K::DynamicType::default();
        let api: Api<Lenient<K>> = match api.namespace().map(str::to_owned) {
            Some(namespace) => Api::namespaced_with(api.into_client(), &namespace, &kind),
            None => Api::all_with(api.into_client(), &kind),
        };
        Self::from_api(name, api, config, metrics)
    }
}

impl Informer<DynamicObject> {
    /// Watches a kind that is only known at run time, in one namespace or everywhere.
    pub fn dynamic(
        name: &str,
        client: Client,
        kind: &ApiResource,
        namespace: Option<&str>,
        config: watcher::Config,
        metrics: &Metrics,
    ) -> Self {
        let api: Api<Lenient<DynamicObject>> = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, kind),
            None => Api::all_with(client, kind),
        };
        Self::from_api(name, api, config, metrics)
    }
}

impl<K> Informer<K>
where
    K: Resource + Send + Sync + 'static,
{
    fn from_api(
        name: &str,
        api: Api<Lenient<K>>,
        config: watcher::Config,
        metrics: &Metrics,
    ) -> Self
    where
        K: Clone + DeserializeOwned + Debug,
    {
        metrics.watch_started(name);
        Self {
            name: name.to_owned(),
            events: watcher(api, sized(config))
                .map(|event| event.map(opened))
                .boxed(),
            objects: Arc::default(),
            synced: watch::Sender::new(false),
            prune: Box::new(prune_metadata),
            handlers: Vec::new(),
            on_failure: None,
            metrics: metrics.clone(),
        }
    }

    /// What to drop from each object before it is kept, instead of [`prune_metadata`].
    #[must_use]
    pub fn prune(mut self, prune: impl Fn(&mut K) + Send + 'static) -> Self {
        self.prune = Box::new(prune);
        self
    }

    /// Calls `handler` after each change. The first list arrives as changes without an old side,
    /// at once when it is complete.
    pub fn on_change(&mut self, handler: impl FnMut(&Change<K>) + Send + 'static) {
        self.handlers.push(Box::new(handler));
    }

    /// Calls `handler` with the class of each failure of a list or a watch. The informer goes on
    /// trying by itself.
    pub fn on_failure(&mut self, handler: impl FnMut(Class) + Send + 'static) {
        self.on_failure = Some(Box::new(handler));
    }

    /// The local copy.
    pub fn cache(&self) -> Cache<K> {
        Cache {
            objects: Arc::clone(&self.objects),
            synced: self.synced.subscribe(),
        }
    }

    /// Watches until `stop`. Does not end by itself.
    pub async fn run(mut self, stop: Shutdown) -> anyhow::Result<()> {
        let events = std::mem::replace(&mut self.events, futures::stream::empty().boxed());
        let mut events = pin!(events);
        let mut listing: Option<BTreeMap<Key, Arc<K>>> = None;
        let mut failures = 0_u32;
        while let Some(event) = stop.or_stop(events.next()).await {
            match event {
                Some(Ok(event)) => {
                    // `Init` only says that a list is about to be tried.
                    if !matches!(event, Event::Init) {
                        failures = 0;
                    }
                    self.take(event, &mut listing);
                }
                Some(Err(error)) => {
                    self.failed(&error, failures);
                    if let Some(handler) = &mut self.on_failure {
                        handler(class_of(&error));
                    }
                    let pause = pause(failures, rand::random());
                    failures = failures.saturating_add(1);
                    if stop.or_stop(tokio::time::sleep(pause)).await.is_none() {
                        break;
                    }
                }
                None => anyhow::bail!("the watch of {} ended", self.name),
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event<Guarded<K>>, listing: &mut Option<BTreeMap<Key, Arc<K>>>) {
        match event {
            Event::Init => *listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let Some((key, object)) = self.readable(object) else {
                    return;
                };
                listing.get_or_insert_default().insert(key, object);
            }
            Event::InitDone => {
                let old = std::mem::replace(
                    &mut *self.objects.write().unwrap_or_else(PoisonError::into_inner),
                    listing.take().unwrap_or_default(),
                );
                self.synced.send_replace(true);
                self.tell_difference(old);
            }
            Event::Apply(object) => {
                let Some((key, new)) = self.readable(object) else {
                    return;
                };
                let old = self
                    .objects
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(key, Arc::clone(&new));
                self.tell(&Change {
                    old,
                    new: Some(new),
                });
            }
            Event::Delete(object) => {
                let (key, last) = match object {
                    Ok(object) => (key_of(&object), Some(Arc::new(object))),
                    Err(unreadable) => (unreadable.key(), None),
                };
                let old = self
                    .objects
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&key);
                // The state at the deletion is newer than the copy.
                self.tell(&Change {
                    old: last.or(old),
                    new: None,
                });
            }
        }
    }

    /// Prunes an object; an unreadable one is logged and keeps its last readable state, since it
    /// is still there and nobody may conclude that it is gone.
    fn readable(&self, object: Guarded<K>) -> Option<(Key, Arc<K>)> {
        match object {
            Ok(mut object) => {
                (self.prune)(&mut object);
                Some((key_of(&object), Arc::new(object)))
            }
            Err(unreadable) => {
                let key = unreadable.key();
                let (namespace, name) = &key;
                let why = unreadable.why;
                tracing::warn!(
                    watch = self.name,
                    namespace,
                    name,
                    why,
                    "object cannot be read"
                );
                let last = self
                    .objects
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(&key)
                    .cloned()?;
                Some((key, last))
            }
        }
    }

    /// Tells what a new list changed.
    fn tell_difference(&mut self, mut old: BTreeMap<Key, Arc<K>>) {
        let now: Vec<(Key, Arc<K>)> = self
            .objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        let mut changes = Vec::with_capacity(now.len());
        for (key, new) in now {
            let before = old.remove(&key);
            let same = before
                .as_ref()
                .is_some_and(|old| old.resource_version() == new.resource_version());
            if !same {
                changes.push(Change {
                    old: before,
                    new: Some(new),
                });
            }
        }
        changes.extend(old.into_values().map(|gone| Change {
            old: Some(gone),
            new: None,
        }));
        for change in &changes {
            self.tell(change);
        }
    }

    fn tell(&mut self, change: &Change<K>) {
        for handler in &mut self.handlers {
            handler(change);
        }
    }

    fn failed(&self, error: &watcher::Error, failures: u32) {
        // A watch that is too old or was closed is routine and is repeated by a new list.
        if class_of(error) == Class::Gone {
            tracing::debug!(watch = self.name, "the watch is too old, listing anew");
            return;
        }
        self.metrics.watch_failed(&self.name);
        tracing::warn!(
            watch = self.name,
            failures,
            class = %class_of(error),
            error = error as &dyn std::error::Error,
            "watch failed, trying again"
        );
    }
}

fn class_of(error: &watcher::Error) -> Class {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => classify(error),
        watcher::Error::WatchError(status) => classify_status(status),
        watcher::Error::NoResourceVersion => Class::Config,
    }
}

/// Half a second, doubled with each failure in a row up to half a minute, plus up to a fifth so
/// that processes do not return together.
fn pause(failures: u32, chance: f64) -> Duration {
    medik8s_core::backoff::Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
        .with_spread(0.2)
        .delay(failures.saturating_add(1), chance)
}

/// Drops what no rule reads and what can be large: managed fields and kubectl's copy of the object.
pub fn prune_metadata<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

fn key_of<K: Resource>(object: &K) -> Key {
    (object.namespace(), object.name_any())
}

fn sized(config: watcher::Config) -> watcher::Config {
    if config.page_size == watcher::Config::default().page_size {
        config.page_size(PAGE)
    } else {
        config
    }
}

fn opened<K>(event: Event<Lenient<K>>) -> Event<Guarded<K>> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(object.0),
        Event::Apply(object) => Event::Apply(object.0),
        Event::Delete(object) => Event::Delete(object.0),
    }
}

#[cfg(test)]
mod tests;
