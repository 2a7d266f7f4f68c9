//! Watches.

use std::collections::VecDeque;

use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::FakeApi;
use super::kinds::Kind;
use super::select::Filter;
use super::state::{Change, State, shape};
use crate::wire::{AnswerBody, BoxError, Recorded, Reply};

/// What a watch delivers.
pub(crate) struct Watch {
    kind: Kind,
    namespace: Option<String>,
    filter: Filter,
    request: Recorded,
    /// Events to deliver before anything new.
    pending: VecDeque<Value>,
    /// Place in the log of changes.
    next: usize,
    epoch: u64,
    /// Nothing comes after the pending events.
    ends: bool,
}

impl Watch {
    pub(crate) fn open(
        state: &State,
        kind: &Kind,
        namespace: Option<String>,
        filter: Filter,
        request: &Recorded,
    ) -> Result<Self, Reply> {
        let from = request.query("resourceVersion").unwrap_or_default();
        let initial_events = request.query("sendInitialEvents") == Some("true");
        let mut watch = Self {
            kind: kind.clone(),
            namespace,
            filter,
            request: request.clone(),
            pending: VecDeque::new(),
            next: state.log.len(),
            epoch: state.watch_epoch(&request.client),
            ends: false,
        };
        if initial_events || from.is_empty() || from == "0" {
            let objects = state.selected(kind, watch.namespace.as_deref(), &watch.filter);
            let events = objects
                .into_iter()
                .map(|object| watch.event("ADDED", object.clone()));
            watch.pending = events.collect();
            if initial_events {
                watch
                    .pending
                    .push_back(json!({"type": "BOOKMARK", "object": {
                        "apiVersion": kind.api_version, "kind": kind.kind,
                        "metadata": {
                            "resourceVersion": state.version.to_string(),
                            "annotations": {"k8s.io/initial-events-end": "true"},
                        },
                    }}));
            }
            return Ok(watch);
        }
        let from: u64 = from
            .parse()
            .map_err(|_| Reply::failure(400, "BadRequest", "the resource version is no number"))?;
        if from < state.compacted {
            // Like a real server: the watch opens, says so, and ends.
            let expired = Reply::failure(410, "Expired", "too old resource version").body;
            watch
                .pending
                .push_back(json!({"type": "ERROR", "object": expired}));
            watch.ends = true;
            return Ok(watch);
        }
        watch.next = state.log.partition_point(|change| change.version <= from);
        Ok(watch)
    }

    fn event(&self, type_: &str, object: Value) -> Value {
        json!({"type": type_, "object": shape(&self.request, object)})
    }

    /// The event that a change means for this watch.
    fn translate(&self, change: &Change) -> Option<Value> {
        let key = &change.key;
        let elsewhere = self
            .namespace
            .as_ref()
            .is_some_and(|namespace| *namespace != key.namespace);
        if key.api_version != self.kind.api_version || key.plural != self.kind.plural || elsewhere {
            return None;
        }
        let selected = |object: &&Value| self.filter.matches(object);
        let old = change.old.as_ref().filter(selected);
        match (old, change.new.as_ref().filter(selected)) {
            (None, None) => None,
            (None, Some(new)) => Some(self.event("ADDED", new.clone())),
            (Some(_), Some(new)) => Some(self.event("MODIFIED", new.clone())),
            // An object that leaves the selection is reported with its new content.
            (Some(old), None) => {
                Some(self.event("DELETED", change.new.as_ref().unwrap_or(old).clone()))
            }
        }
    }

    /// The next event; `None` if there is none yet, an error if the watch has ended.
    fn poll(&mut self, state: &State, client: &str) -> Result<Option<Value>, ()> {
        if self.epoch != state.watch_epoch(client) || !state.is_reachable(client) {
            return Err(());
        }
        if let Some(event) = self.pending.pop_front() {
            return Ok(Some(event));
        }
        if self.ends {
            return Err(());
        }
        while let Some(change) = state.log.get(self.next) {
            self.next += 1;
            if let Some(event) = self.translate(change) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

struct Open {
    api: FakeApi,
    client: String,
    watch: Watch,
    changes: watch::Receiver<u64>,
}

/// The body of a response that goes on until the watch ends.
pub(crate) fn body(api: FakeApi, client: String, watch: Watch) -> AnswerBody {
    let changes = api.subscribe();
    let open = Open {
        api,
        client,
        watch,
        changes,
    };
    let events = stream::unfold(open, |mut open| async move {
        loop {
            open.changes.borrow_and_update();
            let polled = open.watch.poll(&open.api.lock(), &open.client);
            match polled {
                Ok(Some(event)) => {
                    let mut line = serde_json::to_vec(&event).unwrap_or_default();
                    line.push(b'\n');
                    let frame: Result<Frame<Bytes>, BoxError> = Ok(Frame::data(line.into()));
                    return Some((frame, open));
                }
                Ok(None) => open.changes.changed().await.ok()?,
                Err(()) => return None,
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(events))
}
