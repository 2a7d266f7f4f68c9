//! Creating and changing objects.

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::path::Target;
use super::state::{Key, State};
use crate::wire::{Recorded, Reply};

/// Letters of generated names, as the API server uses them.
const SUFFIX_LETTERS: [char; 10] = ['b', 'c', 'd', 'f', 'g', 'h', 'j', 'k', 'l', 'm'];
/// The longest base of a generated name.
const MAX_BASE: usize = 58;

/// Metadata that only the server sets.
const SERVER_METADATA: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "name",
    "namespace",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

impl State {
    pub(crate) fn create(&mut self, kind: &Kind, target: &Target, body: &Value) -> Reply {
        if kind.plural.ends_with("reviews") {
            return Reply::created(&reviewed(body));
        }
        let mut object = body.clone();
        if let Some(sent) = object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
            && kind.namespaced
            && target
                .namespace
                .as_deref()
                .is_some_and(|namespace| namespace != sent)
        {
            return Reply::failure(
                400,
                "BadRequest",
                "the namespaces of path and object differ",
            );
        }
        if object
            .pointer("/metadata/resourceVersion")
            .is_some_and(|version| version != "")
        {
            let why = "resourceVersion should not be set on objects to be created";
            return Reply::failure(400, "BadRequest", why);
        }
        let namespace = target.namespace.as_deref();
        if kind.namespaced && self.is_missing_namespace(namespace) {
            return Reply::not_found("namespaces", namespace.unwrap_or_default());
        }
        let name = match text(&object, "/metadata/name") {
            Some(name) => name,
            None => match text(&object, "/metadata/generateName") {
                Some(base) => self.generate_name(&base),
                None => return Reply::invalid("metadata.name: name or generateName is required"),
            },
        };
        let key = Key::new(kind, namespace, &name);
        if self.objects.contains_key(&key) {
            return Reply::already_exists(&kind.resource(), &name);
        }
        let uid = self.next_uid();
        let created = self.timestamp();
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), json!(kind.api_version));
            fields.insert("kind".to_owned(), json!(kind.kind));
            // A kubelet registers its node with a status; nobody else may bring one.
            if kind.has_status() && kind.kind != "Node" {
                fields.remove("status");
            }
            let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.insert("name".to_owned(), json!(name));
                metadata.insert("uid".to_owned(), json!(uid));
                metadata.insert("creationTimestamp".to_owned(), created);
                metadata.insert("generation".to_owned(), json!(1));
                if kind.namespaced {
                    metadata.insert("namespace".to_owned(), json!(key.namespace));
                }
            }
        }
        match self.commit(key, Some(object)) {
            Some(stored) => Reply::created(&stored),
            None => Reply::failure(500, "InternalError", "the object was not stored"),
        }
    }

    fn is_missing_namespace(&self, namespace: Option<&str>) -> bool {
        let kind = Kind::of::<k8s_openapi::api::core::v1::Namespace>();
        namespace.is_some_and(|namespace| self.find(&kind, None, namespace).is_none())
    }

    fn generate_name(&mut self, base: &str) -> String {
        self.uids += 1;
        let mut number = self.uids;
        let mut name: String = base.chars().take(MAX_BASE).collect();
        for _ in 0..5 {
            let digit = usize::try_from(number % 10).unwrap_or_default();
            name.extend(SUFFIX_LETTERS.get(digit));
            number /= 10;
        }
        name
    }

    pub(crate) fn replace(
        &mut self,
        kind: &Kind,
        target: &Target,
        name: &str,
        body: &Value,
    ) -> Reply {
        let key = Key::new(kind, target.namespace.as_deref(), name);
        let Some(old) = self.objects.get(&key).cloned() else {
            return Reply::not_found(&kind.resource(), name);
        };
        if text(body, "/metadata/resourceVersion").is_none() {
            return Reply::invalid("metadata.resourceVersion: must be specified for an update");
        }
        if let Some(reply) = precondition(&old, body) {
            return reply;
        }
        self.store(kind, target, key, &old, body.clone())
    }

    pub(crate) fn patch(
        &mut self,
        kind: &Kind,
        target: &Target,
        name: &str,
        request: &Recorded,
    ) -> Reply {
        let key = Key::new(kind, target.namespace.as_deref(), name);
        let content_type = request.content_type.as_deref().unwrap_or_default();
        let old = self.objects.get(&key).cloned();
        if content_type == "application/apply-patch+yaml" {
            return self.apply(kind, target, key, old, request);
        }
        let Some(old) = old else {
            return Reply::not_found(&kind.resource(), name);
        };
        let new = match content_type {
            "application/json-patch+json" => match json_patched(&old, &request.body) {
                Ok(new) => new,
                Err(reply) => return reply,
            },
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                let mut new = old.clone();
                json_patch::merge(&mut new, &request.body);
                new
            }
            other => {
                let why = format!("the fake does not know the patch type {other:?}");
                return Reply::failure(415, "UnsupportedMediaType", &why);
            }
        };
        if let Some(reply) = precondition(&old, &new) {
            return reply;
        }
        self.store(kind, target, key, &old, new)
    }

    fn apply(
        &mut self,
        kind: &Kind,
        target: &Target,
        key: Key,
        old: Option<Value>,
        request: &Recorded,
    ) -> Reply {
        let Some(manager) = request
            .query("fieldManager")
            .filter(|name| !name.is_empty())
        else {
            return Reply::failure(
                400,
                "BadRequest",
                "fieldManager is required for apply patch",
            );
        };
        if request
            .body
            .pointer("/metadata/managedFields")
            .is_some_and(|fields| !fields.is_null())
        {
            return Reply::failure(400, "BadRequest", "metadata.managedFields must be nil");
        }
        let subresource = target.subresource.clone().unwrap_or_default();
        let slot = (key.clone(), subresource, manager.to_owned());
        let mut intent = request.body.clone();
        if let Some(metadata) = intent.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "resourceVersion",
                "uid",
                "name",
                "namespace",
                "creationTimestamp",
            ] {
                metadata.remove(field);
            }
        }
        let reply = if let Some(old) = old {
            if let Some(reply) = precondition(&old, &request.body) {
                return reply;
            }
            let mut new = old.clone();
            if let Some(before) = self.applied.get(&slot) {
                json_patch::merge(&mut new, &withdrawn(before, &intent));
            }
            json_patch::merge(&mut new, &intent);
            self.store(kind, target, key, &old, new)
        } else {
            if text(&request.body, "/metadata/uid").is_some() {
                return Reply::conflict("the UID in the precondition belongs to no object");
            }
            if target.subresource.is_some() {
                return Reply::not_found(&kind.resource(), &key.name);
            }
            let mut object = request.body.clone();
            json_patch::merge(&mut object, &json!({"metadata": {"name": key.name}}));
            self.create(kind, target, &object)
        };
        if reply.code < 300 {
            self.applied.insert(slot, intent);
        }
        reply
    }

    /// Stores the new content of an object, or of its status, by the rules of the server.
    pub(crate) fn store(
        &mut self,
        kind: &Kind,
        target: &Target,
        key: Key,
        old: &Value,
        sent: Value,
    ) -> Reply {
        let mut new = if target.subresource.is_some() {
            let mut new = old.clone();
            move_status(&sent, &mut new);
            new
        } else {
            let mut new = sent;
            if kind.has_status() {
                move_status(old, &mut new);
            }
            new
        };
        keep_metadata(old, &mut new);
        if kind.kind == "Secret" {
            keep_type(old, &mut new);
            if new.get("type") != old.get("type") {
                return Reply::invalid("type: Invalid value: field is immutable");
            }
        }
        let deleting = old.pointer("/metadata/deletionTimestamp").is_some();
        if deleting
            && finalizers(&new)
                .iter()
                .any(|name| !finalizers(old).contains(name))
        {
            let why = "no new finalizers can be added if the object is being deleted";
            return Reply::failure(422, "Invalid", why);
        }
        if deleting && finalizers(&new).is_empty() && !finalizers(old).is_empty() {
            self.commit(key, None);
            return Reply::ok(&new);
        }
        if new == *old {
            return Reply::ok(old);
        }
        if differs(old, &new)
            && let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut)
        {
            let generation = metadata
                .get("generation")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
        match self.commit(key, Some(new)) {
            Some(stored) => Reply::ok(&stored),
            None => Reply::failure(500, "InternalError", "the object was not stored"),
        }
    }
}

/// The server's default: the type that is there, which cannot be changed.
fn keep_type(old: &Value, new: &mut Value) {
    if let (Some(old), Some(new)) = (old.get("type"), new.as_object_mut()) {
        new.entry("type").or_insert_with(|| old.clone());
    }
}

/// A review with the answer yes.
fn reviewed(body: &Value) -> Value {
    let mut review = body.clone();
    let user = json!({"username": "test", "groups": []});
    let status = json!({"authenticated": true, "user": user, "allowed": true});
    json_patch::merge(&mut review, &json!({"status": status}));
    review
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .map(Into::into)
}

/// Refuses a change that names another version or incarnation of the object than the stored one.
fn precondition(old: &Value, sent: &Value) -> Option<Reply> {
    for pointer in ["/metadata/resourceVersion", "/metadata/uid"] {
        let expected = text(sent, pointer);
        if expected.is_some() && expected != text(old, pointer) {
            let field = pointer.trim_start_matches("/metadata/");
            return Some(Reply::conflict(&format!("{field} is not the stored one")));
        }
    }
    None
}

/// Applies a JSON patch as the API server does: a test for null passes where nothing is.
fn json_patched(old: &Value, body: &Value) -> Result<Value, Reply> {
    let Some(operations) = body.as_array() else {
        return Err(Reply::failure(400, "BadRequest", "a JSON patch is a list"));
    };
    let mut new = old.clone();
    for operation in operations {
        let test = operation.get("op").and_then(Value::as_str) == Some("test");
        let path = operation
            .get("path")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if test && operation.get("value").is_none_or(Value::is_null) && new.pointer(path).is_none()
        {
            continue;
        }
        let patch: json_patch::Patch = serde_json::from_value(json!([operation]))
            .map_err(|error| Reply::failure(400, "BadRequest", &error.to_string()))?;
        json_patch::patch(&mut new, &patch)
            .map_err(|error| Reply::invalid(&format!("the patch does not apply: {error}")))?;
    }
    Ok(new)
}

/// A merge patch that removes what was applied before and is not applied now.
fn withdrawn(before: &Value, now: &Value) -> Value {
    let mut patch = Map::new();
    if let (Value::Object(before), Value::Object(now)) = (before, now) {
        for (key, old) in before {
            match now.get(key) {
                None => {
                    patch.insert(key.clone(), Value::Null);
                }
                Some(new) if old.is_object() && new.is_object() => {
                    patch.insert(key.clone(), withdrawn(old, new));
                }
                Some(_) => {}
            }
        }
    }
    Value::Object(patch)
}

fn move_status(from: &Value, to: &mut Value) {
    let Some(fields) = to.as_object_mut() else {
        return;
    };
    match from.get("status") {
        Some(status) => fields.insert("status".to_owned(), status.clone()),
        None => fields.remove("status"),
    };
}

/// Takes over what only the server sets.
fn keep_metadata(old: &Value, new: &mut Value) {
    let kept = |field: &str| {
        old.get("metadata")
            .and_then(|metadata| metadata.get(field))
            .cloned()
    };
    let type_meta = ["apiVersion", "kind"].map(|field| (field, old.get(field).cloned()));
    let Some(fields) = new.as_object_mut() else {
        return;
    };
    for (field, value) in type_meta {
        fields.insert(field.to_owned(), value.unwrap_or_default());
    }
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else {
        return;
    };
    metadata.remove("managedFields");
    for field in SERVER_METADATA.into_iter().chain(["resourceVersion"]) {
        match kept(field) {
            Some(value) => metadata.insert(field.to_owned(), value),
            None => metadata.remove(field),
        };
    }
}

pub(super) fn finalizers(object: &Value) -> Vec<&str> {
    let list = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether two objects differ in more than metadata and status.
pub(super) fn differs(old: &Value, new: &Value) -> bool {
    let content = |object: &Value| {
        let mut fields = object.as_object().cloned().unwrap_or_default();
        for field in ["apiVersion", "kind", "metadata", "status"] {
            fields.remove(field);
        }
        fields
    };
    content(old) != content(new)
}
