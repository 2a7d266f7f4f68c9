//! What the server stores, and how a request goes through it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::discovery::unknown;
use super::fault::{Failure, Fault, Moment};
use super::kinds::{Kind, Kinds, builtin};
use super::path::{Target, parse};
use super::select::Filter;
use super::stream::Watch;
use crate::build::at;
use crate::wire::{Answer, Recorded, Reply};

/// Where an object is stored. Sorts as lists do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) api_version: String,
    pub(crate) plural: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(kind: &Kind, namespace: Option<&str>, name: &str) -> Self {
        let namespace = if kind.namespaced {
            namespace.unwrap_or("default")
        } else {
            ""
        };
        Self {
            api_version: kind.api_version.clone(),
            plural: kind.plural.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// One change, for watches.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) key: Key,
    pub(crate) old: Option<Value>,
    pub(crate) new: Option<Value>,
}

/// What becomes of a request.
pub(crate) enum Outcome {
    /// This.
    Answer(Answer),
    /// A stream of changes.
    Watch(Box<Watch>),
    /// It is performed after this time; the number is its place in the record.
    Late(Duration, usize),
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self::Answer(Answer::Reply(reply))
    }
}

type Interceptor = Box<dyn FnMut(&Recorded) -> Option<Answer> + Send>;

/// The server's memory.
pub(crate) struct State {
    pub(crate) kinds: Kinds,
    pub(crate) objects: BTreeMap<Key, Value>,
    /// What each field manager applied last, by object, subresource and manager.
    pub(crate) applied: BTreeMap<(Key, String, String), Value>,
    pub(crate) log: Vec<Change>,
    pub(crate) version: u64,
    /// Changes up to here are forgotten.
    pub(crate) compacted: u64,
    pub(crate) uids: u64,
    pub(crate) time: Box<dyn Fn() -> Timestamp + Send>,
    pub(crate) version_info: (String, String),
    pub(crate) graceful_pods: bool,
    pub(crate) interceptors: Vec<Interceptor>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) cut: BTreeSet<String>,
    /// How often each client was cut off.
    pub(crate) cuts: BTreeMap<String, u64>,
    pub(crate) writes: usize,
    pub(crate) death: Option<(usize, Moment)>,
    pub(crate) dead: bool,
    pub(crate) watch_epoch: u64,
    pub(crate) recorded: Vec<Recorded>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            kinds: builtin(),
            objects: BTreeMap::new(),
            applied: BTreeMap::new(),
            log: Vec::new(),
            version: 100,
            compacted: 0,
            uids: 0,
            time: Box::new(|| at(0)),
            version_info: ("1".to_owned(), "33".to_owned()),
            graceful_pods: false,
            interceptors: Vec::new(),
            faults: Vec::new(),
            cut: BTreeSet::new(),
            cuts: BTreeMap::new(),
            writes: 0,
            death: None,
            dead: false,
            watch_epoch: 0,
            recorded: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.time)()
    }

    /// A number that changes when the watches of a client end.
    pub(crate) fn watch_epoch(&self, client: &str) -> u64 {
        self.watch_epoch + self.cuts.get(client).copied().unwrap_or(0)
    }

    /// Whether the server answers a client.
    pub(crate) fn is_reachable(&self, client: &str) -> bool {
        !self.dead && !self.cut.contains(client)
    }

    /// Takes a request in: records it, and performs it unless something is to go wrong.
    pub(crate) fn accept(&mut self, request: &Recorded) -> Outcome {
        let index = self.recorded.len();
        self.recorded.push(request.clone());
        if !self.is_reachable(&request.client) {
            return Outcome::Answer(Answer::Break);
        }
        let mut dies = None;
        if request.is_write() {
            self.writes += 1;
            dies = self
                .death
                .filter(|(nth, _)| *nth == self.writes)
                .map(|(_, moment)| moment);
        }
        if dies == Some(Moment::Before) {
            self.dead = true;
            return Outcome::Answer(Answer::Break);
        }
        let outcome = self.answer(request, index);
        if dies == Some(Moment::After) {
            self.dead = true;
            return Outcome::Answer(Answer::Break);
        }
        outcome
    }

    fn answer(&mut self, request: &Recorded, index: usize) -> Outcome {
        for interceptor in &mut self.interceptors {
            if let Some(answer) = interceptor(request) {
                return self.record(index, Outcome::Answer(answer));
            }
        }
        let fault = self.faults.iter_mut().find_map(|fault| {
            let applies = fault.applies(request);
            applies.then(|| fault.failure.clone())
        });
        match fault {
            None => self.perform(request, index),
            Some(Failure::Refuse(reply)) => self.record(index, reply.into()),
            Some(Failure::BreakBefore) => Outcome::Answer(Answer::Break),
            Some(Failure::Hang) => Outcome::Answer(Answer::Hang),
            Some(Failure::BreakAfter) => {
                self.perform(request, index);
                Outcome::Answer(Answer::Break)
            }
            Some(Failure::HangAfter) => {
                self.perform(request, index);
                Outcome::Answer(Answer::Hang)
            }
            Some(Failure::Late(delay)) => Outcome::Late(delay, index),
        }
    }

    /// Performs a request.
    pub(crate) fn perform(&mut self, request: &Recorded, index: usize) -> Outcome {
        if !self.is_reachable(&request.client) {
            return Outcome::Answer(Answer::Break);
        }
        let outcome = if request.query.contains_key("dryRun") {
            let before = (
                self.objects.clone(),
                self.applied.clone(),
                self.log.len(),
                self.version,
            );
            let outcome = self.route(request);
            (self.objects, self.applied) = (before.0, before.1);
            self.log.truncate(before.2);
            self.version = before.3;
            outcome
        } else {
            self.route(request)
        };
        self.record(index, outcome)
    }

    fn record(&mut self, index: usize, outcome: Outcome) -> Outcome {
        let status = match &outcome {
            Outcome::Answer(Answer::Reply(reply)) => Some(reply.code),
            Outcome::Watch(_) => Some(200),
            Outcome::Answer(Answer::Break | Answer::Hang) | Outcome::Late(..) => None,
        };
        if let Some(recorded) = self.recorded.get_mut(index) {
            recorded.status = status;
        }
        outcome
    }

    fn route(&mut self, request: &Recorded) -> Outcome {
        let Some(target) = parse(&request.path) else {
            return self.discover(&request.path).into();
        };
        let kind = self
            .kinds
            .by_plural(&target.api_version, &target.plural)
            .cloned();
        let Some(kind) = kind else {
            return unknown().into();
        };
        let subresource = target.subresource.as_deref().unwrap_or_default();
        match (request.method.as_str(), target.name.as_deref(), subresource) {
            ("GET", None, "") => self.read_many(&kind, &target, request),
            ("GET", Some(name), "" | "status") => {
                self.read_one(&kind, &target, name, request).into()
            }
            ("POST", None, "") => self.create(&kind, &target, &request.body).into(),
            ("POST", Some(name), "eviction") => self.evict(&kind, &target, name, request).into(),
            ("PUT", Some(name), "" | "status") => {
                self.replace(&kind, &target, name, &request.body).into()
            }
            ("PATCH", Some(name), "" | "status") => {
                self.patch(&kind, &target, name, request).into()
            }
            ("DELETE", Some(name), "") => self
                .delete_object(&kind, &target, name, &request.body)
                .into(),
            // Nobody may delete a collection: it has no UID precondition.
            _ => Reply::failure(405, "MethodNotAllowed", "the fake does not support this").into(),
        }
    }

    fn read_one(&self, kind: &Kind, target: &Target, name: &str, request: &Recorded) -> Reply {
        match self.find(kind, target.namespace.as_deref(), name) {
            Some(object) => Reply::ok(&shape(request, object)),
            None => Reply::not_found(&kind.resource(), name),
        }
    }

    fn read_many(&self, kind: &Kind, target: &Target, request: &Recorded) -> Outcome {
        let filter = Filter::parse(
            request.query("fieldSelector"),
            request.query("labelSelector"),
        );
        let namespace = target.namespace.clone();
        if request.is_watch() {
            return match Watch::open(self, kind, namespace, filter, request) {
                Ok(watch) => Outcome::Watch(Box::new(watch)),
                Err(reply) => reply.into(),
            };
        }
        // Nobody here may read what the API server remembers: a list is consistent, or it proves nothing.
        if request.query("resourceVersion").is_some()
            || request.query("resourceVersionMatch").is_some()
        {
            let why = "the fake serves consistent lists only";
            return Reply::failure(400, "BadRequest", why).into();
        }
        let all = self.selected(kind, namespace.as_deref(), &filter);
        let offset = request
            .query("continue")
            .and_then(|token| token.parse().ok())
            .unwrap_or(0);
        let limit = request
            .query("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(0usize);
        let rest = all.len().saturating_sub(offset);
        let page = if limit == 0 { rest } else { rest.min(limit) };
        let items: Vec<Value> = all
            .into_iter()
            .skip(offset)
            .take(page)
            .map(|object| shape(request, object.clone()))
            .collect();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if page < rest {
            metadata = json!({
                "resourceVersion": self.version.to_string(),
                "continue": (offset + page).to_string(),
                "remainingItemCount": rest - page,
            });
        }
        // As a real one does it.
        let items = if items.is_empty() && wants_metadata(request) {
            Value::Null
        } else {
            Value::Array(items)
        };
        Reply::ok(&json!({
            "apiVersion": kind.api_version, "kind": format!("{}List", kind.kind),
            "metadata": metadata, "items": items,
        }))
        .into()
    }

    /// The stored objects of a kind that a list selects.
    pub(crate) fn selected(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        filter: &Filter,
    ) -> Vec<&Value> {
        self.objects
            .iter()
            .filter(|(key, _)| {
                key.api_version == kind.api_version
                    && key.plural == kind.plural
                    && namespace.is_none_or(|namespace| key.namespace == namespace)
            })
            .map(|(_, object)| object)
            .filter(|object| filter.matches(object))
            .collect()
    }

    pub(crate) fn find(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.objects.get(&Key::new(kind, namespace, name)).cloned()
    }

    pub(crate) fn all(&self, kind: &Kind) -> Vec<Value> {
        self.selected(kind, None, &Filter::default())
            .into_iter()
            .cloned()
            .collect()
    }

    pub(crate) fn ensure_namespace(&mut self, name: &str) {
        let kind = Kind::of::<k8s_openapi::api::core::v1::Namespace>();
        if self.find(&kind, None, name).is_none() {
            self.put(&kind, json!({"metadata": {"name": name}}));
        }
    }

    /// Stores an object as it is, except for what only the server knows.
    pub(crate) fn put(&mut self, kind: &Kind, mut object: Value) -> Value {
        let text = |object: &Value, pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
        };
        let namespace = text(&object, "/metadata/namespace");
        let name = text(&object, "/metadata/name").expect("a stored object has a name");
        let key = Key::new(kind, namespace.as_deref(), &name);
        if kind.namespaced {
            self.ensure_namespace(&key.namespace);
        }
        let old = self.objects.get(&key).cloned();
        let kept = |pointer: &str| old.as_ref().and_then(|old| old.pointer(pointer)).cloned();
        let uid = kept("/metadata/uid").unwrap_or_else(|| self.next_uid().into());
        let created = kept("/metadata/creationTimestamp").unwrap_or_else(|| self.timestamp());
        let mut generation = kept("/metadata/generation")
            .and_then(|value| value.as_u64())
            .unwrap_or(1);
        if old
            .as_ref()
            .is_some_and(|old| super::update::differs(old, &object))
        {
            generation += 1;
        }
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), json!(kind.api_version));
            fields.insert("kind".to_owned(), json!(kind.kind));
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.entry("uid").or_insert(uid);
            metadata.entry("creationTimestamp").or_insert(created);
            metadata.insert("generation".to_owned(), json!(generation));
            if kind.namespaced {
                metadata.insert("namespace".to_owned(), json!(key.namespace));
            }
        }
        self.commit(key, Some(object)).unwrap_or_default()
    }

    pub(crate) fn remove(&mut self, kind: &Kind, namespace: Option<&str>, name: &str) {
        let key = Key::new(kind, namespace, name);
        if self.objects.contains_key(&key) {
            self.commit(key, None);
        }
    }

    pub(crate) fn forget(&mut self, api_version: &str, kind: &str) {
        let Some(kind) = self.kinds.named(api_version, kind).cloned() else {
            return;
        };
        let same = |key: &&Key| key.api_version == kind.api_version && key.plural == kind.plural;
        let keys: Vec<Key> = self.objects.keys().filter(same).cloned().collect();
        for key in keys {
            self.commit(key, None);
        }
        self.kinds.remove(&kind);
        self.watch_epoch += 1;
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.version;
    }

    /// Stores or removes an object under a new resource version. Returns it with that version.
    pub(crate) fn commit(&mut self, key: Key, new: Option<Value>) -> Option<Value> {
        self.version += 1;
        let version = json!(self.version.to_string());
        let stamp = |mut object: Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("resourceVersion".to_owned(), version.clone());
            }
            object
        };
        let new = new.map(stamp);
        let old = if let Some(new) = &new {
            self.objects.insert(key.clone(), new.clone())
        } else {
            self.applied.retain(|(applied, _, _), _| *applied != key);
            self.objects.remove(&key).map(stamp)
        };
        self.log.push(Change {
            version: self.version,
            key,
            old,
            new: new.clone(),
        });
        new
    }

    pub(crate) fn next_uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012}", self.uids)
    }

    /// The server's time as metadata holds it.
    pub(crate) fn timestamp(&self) -> Value {
        json!(medik8s_core::time::whole_second(self.now()))
    }
}

fn wants_metadata(request: &Recorded) -> bool {
    let accept = request.accept.as_ref();
    accept.is_some_and(|accept| accept.contains("PartialObjectMetadata"))
}

/// The object as the client wants it: in full, or its metadata only.
pub(crate) fn shape(request: &Recorded, object: Value) -> Value {
    if !wants_metadata(request) {
        return object;
    }
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": object.get("metadata"),
    })
}
