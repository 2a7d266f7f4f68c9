//! Reads with a deadline.
//!
//! # Guarantees
//! Without a resource version in the parameters every read here is consistent: it shows at least
//! what was committed when it started. [`list_all`] returns all pages, or an error.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use http::header::DATE;
use http_body_util::BodyExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, OwnerReference, Time};
use kube::{
    Api, Resource,
    api::{ListParams, ObjectList, PartialObjectMeta},
    core::response::Status,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::error::Cause;
pub use crate::error::{Class, Error};

/// The deadline of a read unless told otherwise.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Objects per page of [`list_all`]; small pages keep the peak memory low.
pub const PAGE: u32 = 250;

/// Reads one object.
pub async fn get<K>(api: &Api<K>, name: &str) -> Result<K, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    get_within(api, name, DEADLINE).await
}

/// Reads one object within `deadline`.
pub async fn get_within<K>(api: &Api<K>, name: &str, deadline: Duration) -> Result<K, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    bounded("read", &object(api, name), deadline, api.get(name)).await
}

/// Reads one object; `None` when there is none.
pub async fn get_opt<K>(api: &Api<K>, name: &str) -> Result<Option<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    absent_as_none(get(api, name).await)
}

/// Reads the metadata of one object; `None` when there is none.
pub async fn get_metadata_opt<K>(
    api: &Api<K>,
    name: &str,
) -> Result<Option<PartialObjectMeta<K>>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let read = api.get_metadata(name);
    absent_as_none(bounded("read", &object(api, name), DEADLINE, read).await)
}

/// Reads one page.
pub async fn list<K>(api: &Api<K>, params: &ListParams) -> Result<ObjectList<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    bounded("list", api.resource_url(), DEADLINE, api.list(params)).await
}

/// Reads all pages. `deadline` counts for all of them together.
pub async fn list_all_within<K>(
    api: &Api<K>,
    params: &ListParams,
    deadline: Duration,
) -> Result<Vec<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let all = async {
        let mut found = Vec::new();
        let mut params = ListParams {
            limit: params.limit.or(Some(PAGE)),
            ..params.clone()
        };
        loop {
            let page = api.list(&params).await?;
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(found),
            }
        }
    };
    bounded("list", api.resource_url(), deadline, all).await
}

/// Reads all pages within [`DEADLINE`].
pub async fn list_all<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    list_all_within(api, params, DEADLINE).await
}

/// What a list showed and what the server's clock said.
#[derive(Debug, Clone)]
pub struct Dated<T> {
    /// What was kept of the objects.
    pub items: Vec<T>,
    /// The `Date` header of the first page: not later than any object in it was read.
    pub server_time: Option<Timestamp>,
}

/// A page of which nothing but the metadata is kept.
#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
    /// An API server writes an empty list of metadata as null. An answer without this key is no list.
    #[serde(deserialize_with = "Option::deserialize")]
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
}

/// Decodes metadata, but for `managedFields`: for `#[serde(deserialize_with)]` of types that decode a part of an object.
/// Who wrote which field is never looked at, and decoded it is many times the rest, in memory and in time.
pub fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Kept::deserialize(deserializer).map(ObjectMeta::from)
}

/// See [`metadata`].
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    uid: Option<String>,
}

impl From<Kept> for ObjectMeta {
    fn from(kept: Kept) -> Self {
        Self {
            annotations: kept.annotations,
            creation_timestamp: kept.creation_timestamp,
            deletion_grace_period_seconds: kept.deletion_grace_period_seconds,
            deletion_timestamp: kept.deletion_timestamp,
            finalizers: kept.finalizers,
            generate_name: kept.generate_name,
            generation: kept.generation,
            labels: kept.labels,
            managed_fields: None,
            name: kept.name,
            namespace: kept.namespace,
            owner_references: kept.owner_references,
            resource_version: kept.resource_version,
            self_link: None,
            uid: kept.uid,
        }
    }
}

/// Reads the metadata of all objects, but for `managedFields`, together with the server's own time. What `keep` makes
/// of each is all that stays of a page when the next one is read.
pub async fn list_metadata_dated<K, T>(
    api: &Api<K>,
    params: &ListParams,
    deadline: Duration,
    mut keep: impl FnMut(ObjectMeta) -> Option<T>,
) -> Result<Dated<T>, Error>
where
    K: Resource + Clone,
{
    let client = api.clone().into_client();
    let request = kube::core::Request::new(api.resource_url());
    let all = async {
        let mut dated = Dated {
            items: Vec::new(),
            server_time: None,
        };
        let mut params = ListParams {
            limit: params.limit.or(Some(PAGE)),
            ..params.clone()
        };
        loop {
            let next = request
                .list_metadata(&params)
                .map_err(kube::Error::BuildRequest)?;
            let response = client.send(next.map(Into::into)).await?;
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await?.to_bytes();
            if !parts.status.is_success() {
                return Err(kube::Error::Api(status_of(parts.status, &bytes).boxed()));
            }
            if dated.server_time.is_none() {
                dated.server_time = parts
                    .headers
                    .get(DATE)
                    .and_then(|date| http_date(date.to_str().ok()?));
            }
            let page: Page = serde_json::from_slice(&bytes).map_err(kube::Error::SerdeError)?;
            let items = page.items.into_iter().flatten();
            let kept = items.filter_map(|item| keep(item.metadata));
            dated.items.extend(kept);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(dated),
            }
        }
    };
    bounded("list", api.resource_url(), deadline, all).await
}

/// The server's answer as a `Status`, also when it is not JSON (proxies, overload).
pub(crate) fn status_of(code: http::StatusCode, body: &[u8]) -> Status {
    let parsed = serde_json::from_slice::<Status>(body)
        .ok()
        .filter(Status::is_failure);
    let mut status =
        parsed.unwrap_or_else(|| Status::failure(String::from_utf8_lossy(body).trim(), ""));
    if status.code == 0 {
        status.code = code.as_u16();
    }
    status
}

/// The one form of date that servers send (RFC 9110, IMF-fixdate).
fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text)
        .ok()
        .map(|zoned| zoned.timestamp())
}

pub(crate) fn object<K: Resource>(api: &Api<K>, name: &str) -> String {
    format!("{}/{name}", api.resource_url())
}

pub(crate) async fn bounded<T>(
    operation: &'static str,
    object: &str,
    deadline: Duration,
    work: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(deadline, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Error::new(operation, object, error)),
        Err(_) => Err(Error::new(operation, object, Cause::Deadline(deadline))),
    }
}

fn absent_as_none<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_page_has_null_for_its_items() {
        let text = r#"{"kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "7"}, "items": null}"#;
        let page: Page = serde_json::from_str(text).unwrap();
        assert!(page.items.is_none());
        let no_list =
            r#"{"kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "7"}}"#;
        assert!(serde_json::from_str::<Page>(no_list).is_err());
    }

    /// Rules rest on owners and finalizers as much as on names: all of it arrives but who wrote it.
    #[test]
    fn listed_metadata_is_whole_but_for_the_managed_fields() {
        let all = serde_json::json!({
            "annotations": {"a": "1"}, "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 30, "deletionTimestamp": "2026-01-02T00:00:00Z",
            "finalizers": ["f"], "generateName": "n-", "generation": 2, "labels": {"l": "1"}, "name": "n-1",
            "namespace": "ns", "resourceVersion": "7", "uid": "u",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "o", "uid": "ou", "controller": true}],
            "managedFields": [{"manager": "m", "fieldsV1": {"f:metadata": {}}}],
        });
        let kept = metadata(&all).unwrap();
        let mut whole: ObjectMeta = serde_json::from_value(all).unwrap();
        assert!(whole.managed_fields.take().is_some());
        assert_eq!(kept, whole);
    }

    #[test]
    fn dates_of_the_api_server() {
        let date = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date.to_string(), "1994-11-06T08:49:37Z");
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn answers_that_are_not_json_keep_their_code() {
        let status = status_of(http::StatusCode::TOO_MANY_REQUESTS, b"slow down\n");
        assert_eq!((status.code, status.message.as_str()), (429, "slow down"));
    }
}
