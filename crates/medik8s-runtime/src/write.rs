//! The closed list of ways to change something in the cluster.
//!
//! # Purpose
//! No other code calls a writing method of `kube::Api` (clippy refuses it). Which way to use for
//! what is decided in the project's style rules: apply by default; JSON patch with `test` for lists
//! that others write too; PUT with resourceVersion for leases; POST once for things that must not
//! exist twice; DELETE and eviction only of the incarnation that was seen.
//!
//! # Guarantees
//! Every write has a deadline. A [`Writer::gated`] writer sends nothing when the leader lease is
//! not provably ours at that moment, and waits for no answer longer than the lease is, which may be
//! renewed meanwhile.
//! Deletes and evictions always carry a UID precondition.

use std::{fmt::Debug, time::Duration};

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    error::Cause,
    leader::Leadership,
    read::{self, bounded, object},
};

mod delete;
mod diff;
mod evict;

pub use delete::{Delete, Deleted};
pub use diff::merge_diff;
pub use evict::{EVICTION_DEADLINE, EvictOutcome, Eviction};
pub use json_patch;

pub use crate::error::{Class, Classify, Error};

/// The deadline of a write unless told otherwise; an eviction has its own, longer one.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Writes as one field manager. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer {
    manager: String,
    status_manager: String,
    deadline: Duration,
    leadership: Option<Leadership>,
}

/// What [`Writer::create_once`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Created<K> {
    /// It is there because of us.
    New(K),
    /// It was there already. Whose it is must be checked before it counts as ours.
    Existing(K),
}

impl<K> Created<K> {
    /// The object, whoever made it.
    pub fn into_inner(self) -> K {
        match self {
            Self::New(object) | Self::Existing(object) => object,
        }
    }
}

impl Writer {
    /// A writer with field managers `<binary>` and `<binary>/status`.
    pub fn new(binary: &str) -> Self {
        Self {
            manager: binary.to_owned(),
            status_manager: format!("{binary}/status"),
            deadline: DEADLINE,
            leadership: None,
        }
    }

    /// The same writer with another deadline for each call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same writer, that acts only while we are the leader.
    #[must_use]
    pub fn gated(mut self, leadership: Leadership) -> Self {
        self.leadership = Some(leadership);
        self
    }

    /// The field manager of everything but status.
    pub fn manager(&self) -> &str {
        &self.manager
    }

    /// The field manager of status.
    pub fn status_manager(&self) -> &str {
        &self.status_manager
    }

    /// Server-side apply of the full intent, forced. Creates what is missing: for an object that
    /// must exist already put its `metadata.uid` into the body, and a gone one is a conflict.
    ///
    /// The body needs `apiVersion`, `kind` and `metadata.name`.
    pub async fn apply<K, B>(&self, api: &Api<K>, name: &str, body: &B) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
        B: Serialize + Debug,
    {
        let params = PatchParams::apply(&self.manager).force();
        self.patch(api, name, &params, &Patch::Apply(body)).await
    }

    /// Server-side apply of the status, forced. The body needs `apiVersion`, `kind` and
    /// `metadata.name` beside `status`.
    pub async fn apply_status<K, B>(&self, api: &Api<K>, name: &str, body: &B) -> Result<K, Error>
    where
        K: Resource + DeserializeOwned,
        B: Serialize + Debug,
    {
        let params = PatchParams::apply(&self.status_manager).force();
        self.patch_status(api, name, &params, &Patch::Apply(body))
            .await
    }

    /// JSON patch. With `test` operations an object that changed meanwhile is a conflict.
    pub async fn json_patch<K>(
        &self,
        api: &Api<K>,
        name: &str,
        patch: &json_patch::Patch,
    ) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let body = Patch::Json::<()>(patch.clone());
        test_failure_is_conflict(patch, self.patch(api, name, &self.params(), &body).await)
    }

    /// JSON patch of the status subresource.
    pub async fn json_patch_status<K>(
        &self,
        api: &Api<K>,
        name: &str,
        patch: &json_patch::Patch,
    ) -> Result<K, Error>
    where
        K: Resource + DeserializeOwned,
    {
        let body = Patch::Json::<()>(patch.clone());
        let sent = self
            .patch_status(api, name, &self.status_params(), &body)
            .await;
        test_failure_is_conflict(patch, sent)
    }

    /// Merge patch. Missing fields stay as they are, `null` removes. With
    /// `metadata.resourceVersion` in the body it fails when the object changed meanwhile.
    pub async fn merge_patch<K, B>(&self, api: &Api<K>, name: &str, body: &B) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
        B: Serialize + Debug,
    {
        self.patch(api, name, &self.params(), &Patch::Merge(body))
            .await
    }

    /// Merge patch of the status; `status` is the content of the field `status` (see
    /// [`merge_diff`] for making one that also removes). With a `resource_version` it fails with a
    /// conflict when the object changed since that version was read: use it for a record that must
    /// be true before something irreversible is done.
    pub async fn merge_patch_status<K, B>(
        &self,
        api: &Api<K>,
        name: &str,
        status: &B,
        resource_version: Option<&str>,
    ) -> Result<K, Error>
    where
        K: Resource + DeserializeOwned,
        B: Serialize,
    {
        let status = serde_json::to_value(status).map_err(|error| {
            let cause = Cause::Request(error.to_string());
            Error::new("patch status of", object(api, name), cause)
        })?;
        let body = match resource_version {
            Some(version) => json!({"metadata": {"resourceVersion": version}, "status": status}),
            None => json!({ "status": status }),
        };
        self.patch_status(api, name, &self.status_params(), &Patch::Merge(&body))
            .await
    }

    /// POST. For objects with `generateName`, or where an existing one is an error.
    #[expect(clippy::disallowed_methods, reason = "one of the writers")]
    pub async fn create<K>(&self, api: &Api<K>, body: &K) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    {
        let meta = body.meta();
        let name = meta
            .name
            .as_deref()
            .or(meta.generate_name.as_deref())
            .unwrap_or_default();
        let params = self.post();
        self.send("create", api, name, api.create(&params, body))
            .await
    }

    /// POST of an object with a derived name. One that is there already is not an error, but may
    /// be somebody else's.
    pub async fn create_once<K>(&self, api: &Api<K>, body: &K) -> Result<Created<K>, Error>
    where
        K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    {
        match self.create(api, body).await {
            Ok(new) => Ok(Created::New(new)),
            Err(error) if error.is_already_exists() => {
                match read::get_opt(api, &body.name_any()).await? {
                    Some(existing) => Ok(Created::Existing(existing)),
                    // Deleted between the two requests.
                    None => self.create(api, body).await.map(Created::New),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// PUT. The body must carry the resourceVersion it was made from.
    #[expect(clippy::disallowed_methods, reason = "one of the writers")]
    pub async fn replace<K>(&self, api: &Api<K>, body: &K) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    {
        let name = body.name_any();
        require_version("replace", api, &name, body)?;
        let params = self.post();
        self.send("replace", api, &name, api.replace(&name, &params, body))
            .await
    }

    /// PUT of the status subresource. The body must carry the resourceVersion it was made from.
    #[expect(clippy::disallowed_methods, reason = "one of the writers")]
    pub async fn replace_status<K>(&self, api: &Api<K>, body: &K) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    {
        let name = body.name_any();
        require_version("replace status of", api, &name, body)?;
        let params = PostParams {
            dry_run: false,
            field_manager: Some(self.status_manager.clone()),
        };
        let sent = api.replace_status(&name, &params, body);
        self.send("replace status of", api, &name, sent).await
    }

    fn params(&self) -> PatchParams {
        PatchParams {
            field_manager: Some(self.manager.clone()),
            ..PatchParams::default()
        }
    }

    fn status_params(&self) -> PatchParams {
        PatchParams {
            field_manager: Some(self.status_manager.clone()),
            ..PatchParams::default()
        }
    }

    fn post(&self) -> PostParams {
        PostParams {
            dry_run: false,
            field_manager: Some(self.manager.clone()),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "one of the writers")]
    async fn patch<K, B>(
        &self,
        api: &Api<K>,
        name: &str,
        params: &PatchParams,
        patch: &Patch<B>,
    ) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
        B: Serialize + Debug,
    {
        self.send("patch", api, name, api.patch(name, params, patch))
            .await
    }

    #[expect(clippy::disallowed_methods, reason = "one of the writers")]
    async fn patch_status<K, B>(
        &self,
        api: &Api<K>,
        name: &str,
        params: &PatchParams,
        patch: &Patch<B>,
    ) -> Result<K, Error>
    where
        K: Resource + DeserializeOwned,
        B: Serialize + Debug,
    {
        self.send(
            "patch status of",
            api,
            name,
            api.patch_status(name, params, patch),
        )
        .await
    }

    async fn send<K: Resource, T>(
        &self,
        operation: &'static str,
        api: &Api<K>,
        name: &str,
        work: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        self.send_within(self.deadline, operation, api, name, work)
            .await
    }

    /// The one place where a write leaves: checks the lease first, then waits no longer than both
    /// the limit and the lease allow.
    async fn send_within<K: Resource, T>(
        &self,
        limit: Duration,
        operation: &'static str,
        api: &Api<K>,
        name: &str,
        work: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let object = object(api, name);
        // Every write of every caller holds this future; in place it would be there twice.
        let sent = Box::pin(bounded(operation, &object, limit, work));
        let Some(leadership) = &self.leadership else {
            return sent.await;
        };
        if !leadership.is_leader() {
            return Err(Error::new(operation, object.as_str(), Cause::NotLeader));
        }
        tokio::select! {
            biased;
            sent = sent => sent,
            () = leadership.ended() => Err(Error::new(operation, object.as_str(), Cause::LeaseEnded)),
        }
    }
}

fn require_version<K: Resource>(
    operation: &'static str,
    api: &Api<K>,
    name: &str,
    body: &K,
) -> Result<(), Error> {
    if body
        .meta()
        .resource_version
        .as_deref()
        .is_some_and(|version| !version.is_empty())
    {
        return Ok(());
    }
    let why = "metadata.resourceVersion is missing, this would overwrite blindly".to_owned();
    Err(Error::new(
        operation,
        object(api, name),
        Cause::Request(why),
    ))
}

/// The API server answers a failed `test` with 422 and no causes (`applyJSPatch` in
/// k8s.io/apiserver's patch handler); a refused value comes with at least one cause.
fn test_failure_is_conflict<K>(
    patch: &json_patch::Patch,
    sent: Result<K, Error>,
) -> Result<K, Error> {
    let tests = patch
        .0
        .iter()
        .any(|operation| matches!(operation, json_patch::PatchOperation::Test(_)));
    sent.map_err(|error| {
        if tests {
            error.with_failed_test()
        } else {
            error
        }
    })
}

#[cfg(test)]
mod tests;
