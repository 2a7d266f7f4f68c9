//! Deleting and evicting objects.

use serde_json::{Value, json};

use super::kinds::Kind;
use super::path::Target;
use super::state::{Key, State};
use super::update::finalizers;
use crate::wire::{Recorded, Reply};

impl State {
    pub(crate) fn delete_object(
        &mut self,
        kind: &Kind,
        target: &Target,
        name: &str,
        options: &Value,
    ) -> Reply {
        let key = Key::new(kind, target.namespace.as_deref(), name);
        let Some(old) = self.objects.get(&key).cloned() else {
            return Reply::not_found(&kind.resource(), name);
        };
        if let Some(reply) = unmet(&old, options) {
            return reply;
        }
        let forced = options.get("gracePeriodSeconds").and_then(Value::as_u64) == Some(0);
        let lingers = kind.kind == "Pod" && self.graceful_pods && !forced;
        if finalizers(&old).is_empty() && !lingers {
            self.commit(key, None);
            return Reply::success();
        }
        match self.mark(key, old) {
            Some(marked) => Reply::ok(&marked),
            None => Reply::failure(500, "InternalError", "the object was not stored"),
        }
    }

    pub(crate) fn mark_deleted(&mut self, kind: &Kind, namespace: Option<&str>, name: &str) {
        let key = Key::new(kind, namespace, name);
        let Some(old) = self.objects.get(&key).cloned() else {
            return;
        };
        if finalizers(&old).is_empty() {
            self.commit(key, None);
        } else {
            self.mark(key, old);
        }
    }

    /// Gives an object a deletion time, unless it has one.
    fn mark(&mut self, key: Key, old: Value) -> Option<Value> {
        if old.pointer("/metadata/deletionTimestamp").is_some() {
            return Some(old);
        }
        let mut marked = old;
        let now = self.timestamp();
        json_patch::merge(
            &mut marked,
            &json!({"metadata": {"deletionTimestamp": now}}),
        );
        self.commit(key, Some(marked))
    }

    pub(crate) fn evict(
        &mut self,
        kind: &Kind,
        target: &Target,
        name: &str,
        request: &Recorded,
    ) -> Reply {
        let eviction = &request.body;
        let is_eviction = eviction.get("kind").is_some_and(|kind| kind == "Eviction")
            && eviction
                .get("apiVersion")
                .is_some_and(|version| version == "policy/v1");
        if kind.kind != "Pod" || !is_eviction {
            let why = "the body of an eviction is a policy/v1 Eviction of a pod";
            return Reply::failure(400, "BadRequest", why);
        }
        let key = Key::new(kind, target.namespace.as_deref(), name);
        let Some(old) = self.objects.get(&key).cloned() else {
            return Reply::not_found(&kind.resource(), name);
        };
        let options = eviction.get("deleteOptions").cloned().unwrap_or_default();
        if let Some(reply) = unmet(&old, &options) {
            return reply;
        }
        let deleted = self.delete_object(kind, target, name, &options);
        if deleted.code >= 300 {
            return deleted;
        }
        Reply::created(&json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "code": 201,
        }))
    }
}

/// Refuses a delete whose preconditions name another version or incarnation than the stored one.
fn unmet(old: &Value, options: &Value) -> Option<Reply> {
    for field in ["uid", "resourceVersion"] {
        let expected = options.pointer(&format!("/preconditions/{field}"));
        let stored = old.pointer(&format!("/metadata/{field}"));
        if expected.is_some_and(|expected| !expected.is_null() && Some(expected) != stored) {
            return Some(Reply::conflict(&format!("precondition failed: {field}")));
        }
    }
    None
}
