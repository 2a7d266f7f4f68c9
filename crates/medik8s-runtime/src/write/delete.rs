//! Deleting the incarnation that was seen, and no other.

use std::fmt::Debug;

use kube::{
    Api, Resource,
    api::{DeleteParams, Preconditions, PropagationPolicy},
};
use serde::de::DeserializeOwned;

use super::{Error, Writer};
use crate::read;

/// Which incarnation to delete, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    uid: String,
    resource_version: Option<String>,
    grace_seconds: Option<u32>,
    propagation: Option<PropagationPolicy>,
}

/// What became of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The server took it; the object goes when its finalizers and grace period are over.
    Accepted,
    /// There is no such object.
    Gone,
    /// The name now belongs to another incarnation, which was left alone.
    Replaced,
}

impl Delete {
    /// The incarnation with this UID.
    pub fn uid(uid: impl Into<String>) -> Self {
        Self {
            uid: uid.into(),
            resource_version: None,
            grace_seconds: None,
            propagation: None,
        }
    }

    /// Only if it has not changed since this version.
    #[must_use]
    pub fn resource_version(mut self, version: impl Into<String>) -> Self {
        self.resource_version = Some(version.into());
        self
    }

    /// Grace period in seconds instead of the object's own; 0 does not wait for the kubelet.
    #[must_use]
    pub fn grace(mut self, seconds: u32) -> Self {
        self.grace_seconds = Some(seconds);
        self
    }

    /// The garbage collector deletes dependents afterwards.
    #[must_use]
    pub fn background(mut self) -> Self {
        self.propagation = Some(PropagationPolicy::Background);
        self
    }

    fn params(&self) -> DeleteParams {
        DeleteParams {
            dry_run: false,
            grace_period_seconds: self.grace_seconds,
            propagation_policy: self.propagation.clone(),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: self.resource_version.clone(),
            }),
        }
    }
}

impl Writer {
    /// DELETE with the UID as precondition. A conflict is looked into with one read: another
    /// incarnation is [`Deleted::Replaced`], the same one (a resourceVersion that no longer fits)
    /// is an error of class conflict.
    #[expect(clippy::disallowed_methods, reason = "one of the writers")]
    pub async fn delete<K>(
        &self,
        api: &Api<K>,
        name: &str,
        which: &Delete,
    ) -> Result<Deleted, Error>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let params = which.params();
        match self
            .send("delete", api, name, api.delete(name, &params))
            .await
        {
            Ok(_) => Ok(Deleted::Accepted),
            Err(error) if error.is_not_found() => Ok(Deleted::Gone),
            Err(error) if error.is_conflict() => match incarnation(api, name, &which.uid).await? {
                Incarnation::Gone => Ok(Deleted::Gone),
                Incarnation::Other => Ok(Deleted::Replaced),
                Incarnation::Same => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

/// Who has a name now.
pub(super) enum Incarnation {
    Gone,
    Other,
    Same,
}

pub(super) async fn incarnation<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
) -> Result<Incarnation, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    Ok(match read::get_metadata_opt(api, name).await? {
        None => Incarnation::Gone,
        Some(found) if found.metadata.uid.as_deref() == Some(uid) => Incarnation::Same,
        Some(_) => Incarnation::Other,
    })
}
