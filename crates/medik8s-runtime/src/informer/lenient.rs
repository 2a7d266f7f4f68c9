//! An object that may not fit its type.
//!
//! kube's `DeserializeGuard` does the same, but copies each object twice on the way. This one
//! decodes once into a JSON value, drops the managed fields there (often the largest part), and
//! reads the object from it.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::DynamicResourceScope};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// Either an object or what is known about an unreadable one.
#[derive(Debug, Clone)]
pub(super) struct Lenient<K>(pub(super) Result<K, Unreadable>);

/// An object that does not fit its type.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    pub(super) meta: ObjectMeta,
    pub(super) why: String,
}

impl Unreadable {
    pub(super) fn key(&self) -> super::Key {
        (
            self.meta.namespace.clone(),
            self.meta.name.clone().unwrap_or_default(),
        )
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        if let Some(Value::Object(meta)) = value.get_mut("metadata") {
            meta.remove("managedFields");
        }
        Ok(Self(K::deserialize(&value).map_err(|error| {
            let text = |field: &str| {
                value
                    .get("metadata")?
                    .get(field)?
                    .as_str()
                    .map(str::to_owned)
            };
            Unreadable {
                meta: ObjectMeta {
                    name: text("name"),
                    namespace: text("namespace"),
                    uid: text("uid"),
                    resource_version: text("resourceVersion"),
                    ..ObjectMeta::default()
                },
                why: error.to_string(),
            }
        })))
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    /// The namespace, if any, is chosen at run time.
    type Scope = DynamicResourceScope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(unreadable) => &unreadable.meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => object.meta_mut(),
            Err(unreadable) => &mut unreadable.meta,
        }
    }
}
