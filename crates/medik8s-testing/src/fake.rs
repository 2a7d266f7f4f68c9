//! An API server in memory.
//!
//! # Guarantees Objects have UIDs, resource versions, generations and finalizers as on a real
//! server. A PUT or a patch with an old resource version conflicts, a JSON patch whose test fails
//! answers 422, deletes obey their preconditions, the status is a subresource, lists have selectors
//! and pages, watches deliver what changed. Any request can be made to fail ([`Fault`]), a client
//! can be cut off, and the server can go away at the k-th write ([`FakeApi::die_at_write`]).
//!
//! # Caveats No schema is validated, nothing is defaulted, no controller runs (no garbage
//! collection, no scheduling). Server-side apply merges objects, replaces lists, and removes the
//! fields that the same manager applied before and no longer does; it knows no conflicts.
//! `kubectl`-only features are missing.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use jiff::Timestamp;
use kube::client::Body;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tower::Service;

pub use crate::fake::fault::{Failure, Fault, Moment};
use crate::fake::kinds::Kind;
use crate::fake::state::{Outcome, State};
use crate::wire::{Answer, AnswerBody, BoxError, Recorded, Reply, broken, respond};

mod delete;
mod discovery;
mod fault;
mod kinds;
mod path;
mod select;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod update;

/// The server. Cheap to clone; all clones are the same server.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    /// Counts changes, so that watches wake up.
    changed: watch::Sender<u64>,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeApi {
    /// A server with the built-in kinds that the operators use, and the namespaces `default`,
    /// `kube-system`, `medik8s` and `medik8s-leases`.
    pub fn new() -> Self {
        let api = Self {
            state: Arc::new(Mutex::new(State::new())),
            changed: watch::Sender::new(0),
        };
        for namespace in ["default", "kube-system", "medik8s", "medik8s-leases"] {
            api.add_namespace(namespace);
        }
        api
    }

    /// A server that knows all medik8s kinds as well.
    pub fn with_medik8s_kinds() -> Self {
        let api = Self::new();
        kinds::add_medik8s(&mut api.lock());
        api
    }

    /// A client of this server. Needs a tokio runtime.
    pub fn client(&self) -> Client {
        self.client_as("client")
    }

    /// A client with a name, by which it can be cut off and its requests can be told apart.
    pub fn client_as(&self, name: &str) -> Client {
        Client::new(
            Connection {
                api: self.clone(),
                name: name.to_owned(),
            },
            "default",
        )
    }

    /// Lets the server know a kind, as installing its CRD would.
    pub fn add_kind<K: Resource<DynamicType = ()>>(&self) {
        self.lock().kinds.add(Kind::of::<K>());
    }

    /// Lets the server know a kind that has no Rust type.
    pub fn add_dynamic_kind(&self, api_version: &str, kind: &str, plural: &str, namespaced: bool) {
        self.lock()
            .kinds
            .add(Kind::new(api_version, kind, plural, namespaced));
    }

    /// Lets the server forget a kind and its objects, as removing its CRD would.
    pub fn remove_kind(&self, api_version: &str, kind: &str) {
        self.change(|state| state.forget(api_version, kind));
    }

    /// Makes a namespace.
    pub fn add_namespace(&self, name: &str) {
        self.change(|state| state.ensure_namespace(name));
    }

    /// Stores an object as it is (kind and namespace become known), as somebody else than the
    /// tested code would. UID, creation time and generation are filled in if they are missing.
    /// Returns it as stored.
    #[track_caller]
    pub fn put<K>(&self, object: &K) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        self.add_kind::<K>();
        let value = serde_json::to_value(object).expect("a Kubernetes object is JSON");
        let kind = Kind::of::<K>();
        typed(self.change(|state| state.put(&kind, value)))
    }

    /// Stores an object of a kind that has no Rust type; the kind must be known.
    #[track_caller]
    pub fn put_value(&self, object: Value) -> Value {
        self.change(|state| {
            let kind = state
                .kinds
                .of_object(&object)
                .expect("the kind is known")
                .clone();
            state.put(&kind, object)
        })
    }

    /// The stored object.
    #[track_caller]
    pub fn get<K>(&self, namespace: Option<&str>, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let kind = Kind::of::<K>();
        self.lock().find(&kind, namespace, name).map(typed)
    }

    /// A stored object of a kind that has no Rust type.
    pub fn get_value(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Value> {
        let state = self.lock();
        let kind = state.kinds.named(api_version, kind)?.clone();
        state.find(&kind, namespace, name)
    }

    /// All stored objects of a kind, sorted by namespace and name.
    #[track_caller]
    pub fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let kind = Kind::of::<K>();
        self.lock().all(&kind).into_iter().map(typed).collect()
    }

    /// Changes a stored object, as somebody else than the tested code would.
    #[track_caller]
    pub fn update<K>(&self, namespace: Option<&str>, name: &str, change: impl FnOnce(&mut K)) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let mut object: K = self.get(namespace, name).expect("the object is stored");
        change(&mut object);
        self.put(&object)
    }

    /// Takes an object away at once, finalizers or not.
    pub fn remove<K: Resource<DynamicType = ()>>(&self, namespace: Option<&str>, name: &str) {
        let kind = Kind::of::<K>();
        self.change(|state| state.remove(&kind, namespace, name));
    }

    /// Takes an object of a kind without a Rust type away at once.
    pub fn remove_value(&self, api_version: &str, kind: &str, namespace: Option<&str>, name: &str) {
        self.change(|state| {
            if let Some(kind) = state.kinds.named(api_version, kind).cloned() {
                state.remove(&kind, namespace, name);
            }
        });
    }

    /// Marks an object as being deleted, as a DELETE of somebody else would: without finalizers it
    /// goes at once.
    pub fn delete<K: Resource<DynamicType = ()>>(&self, namespace: Option<&str>, name: &str) {
        let kind = Kind::of::<K>();
        self.change(|state| state.mark_deleted(&kind, namespace, name));
    }

    /// The server's time: of creation, of deletion, and in the header `Date`.
    pub fn set_time(&self, now: Timestamp) {
        self.lock().time = Box::new(move || now);
    }

    /// Takes the server's time from a clock.
    pub fn follow_clock(&self, now: impl Fn() -> Timestamp + Send + 'static) {
        self.lock().time = Box::new(now);
    }

    /// The version that `GET /version` reports; 1.33 until then.
    pub fn set_version(&self, major: &str, minor: &str) {
        self.lock().version_info = (major.to_owned(), minor.to_owned());
    }

    /// Lets pods end gracefully: a delete or eviction marks them, and they stay until
    /// [`Self::remove`] takes them away as a kubelet would. Otherwise they go at once.
    pub fn keep_terminating_pods(&self) {
        self.lock().graceful_pods = true;
    }

    /// Answers requests before the server sees them, if the function returns an answer.
    pub fn intercept(&self, answer: impl FnMut(&Recorded) -> Option<Answer> + Send + 'static) {
        self.lock().interceptors.push(Box::new(answer));
    }

    /// Makes requests fail.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Cuts a client off, or lets it in again. Its watches end.
    pub fn set_reachable(&self, client: &str, reachable: bool) {
        self.change(|state| {
            if reachable {
                state.cut.remove(client);
            } else {
                state.cut.insert(client.to_owned());
                *state.cuts.entry(client.to_owned()).or_default() += 1;
            }
        });
    }

    /// The server goes away right before or right after it carries out the `nth` write (counted
    /// from 1, from now on).
    pub fn die_at_write(&self, nth: usize, moment: Moment) {
        let mut state = self.lock();
        state.death = Some((state.writes + nth, moment));
    }

    /// Whether the server went away.
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// The server comes back, with all it had stored, and will not go away again.
    pub fn revive(&self) {
        self.change(|state| {
            state.dead = false;
            state.death = None;
            state.watch_epoch += 1;
        });
    }

    /// Ends all watches; their clients have to open new ones.
    pub fn drop_watches(&self) {
        self.change(|state| state.watch_epoch += 1);
    }

    /// Forgets what happened before now: a watch from an older resource version ends with 410.
    pub fn compact(&self) {
        self.change(State::compact);
    }

    /// Everything that arrived, in order.
    pub fn requests(&self) -> Vec<Recorded> {
        self.lock().recorded.clone()
    }

    /// The writes that arrived, in order.
    pub fn writes(&self) -> Vec<Recorded> {
        self.requests()
            .into_iter()
            .filter(Recorded::is_write)
            .collect()
    }

    /// Forgets what arrived.
    pub fn clear_requests(&self) {
        self.lock().recorded.clear();
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes the state and wakes the watches.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    async fn serve(
        self,
        client: String,
        request: Request<Body>,
    ) -> Result<Response<AnswerBody>, BoxError> {
        let request = Recorded::receive(&client, request).await?;
        let mut outcome = self.change(|state| state.accept(&request));
        if let Outcome::Late(delay, index) = outcome {
            tokio::time::sleep(delay).await;
            outcome = self.change(|state| state.perform(&request, index));
        }
        let now = self.lock().now();
        match outcome {
            Outcome::Answer(Answer::Reply(reply)) => Ok(reply.into_response(now)),
            Outcome::Answer(Answer::Break) => Err(broken()),
            Outcome::Answer(Answer::Hang) => pending().await,
            Outcome::Watch(watch) => {
                Ok(respond(200, None, now, stream::body(self, client, *watch)))
            }
            Outcome::Late(..) => {
                Ok(Reply::failure(500, "InternalError", "late twice").into_response(now))
            }
        }
    }
}

#[track_caller]
fn typed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the stored object fits its type")
}

/// What a client talks to.
#[derive(Clone)]
struct Connection {
    api: FakeApi,
    name: String,
}

impl Service<Request<Body>> for Connection {
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.api.clone().serve(self.name.clone(), request))
    }
}
