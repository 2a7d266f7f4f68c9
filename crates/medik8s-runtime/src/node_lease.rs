//! Node leases: the reads and writes around the rules of [`medik8s_core::lease`].
//!
//! # Guarantees
//! Direct reads of the few leases that are needed, no watch (the cluster's Leases include a
//! heartbeat per node every 10 s). Every write carries what was read; a conflict means reading and
//! deciding again, never forcing.

use std::time::Duration;

use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::ListParams};
use medik8s_core::lease::{
    self, AlreadyHeld, Decision, Incident, Owner, Precondition, Request, Upkeep, node_lease_name,
};

use crate::{
    clock::Clock,
    error::{Class, Classify, Error},
    read,
    write::{Delete, Deleted, Writer},
};

/// How often a decision is taken anew after a conflict before the caller has to come back.
const ATTEMPTS: usize = 3;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds it.
    #[error(transparent)]
    AlreadyHeld(#[from] AlreadyHeld),
    /// The API server could not be asked, or said no.
    #[error("could not work with the lease of {object}")]
    Api {
        /// What the lease is about.
        object: String,
        /// Why not.
        #[source]
        source: Error,
    },
}

impl Classify for LeaseError {
    fn class(&self) -> Class {
        match self {
            Self::AlreadyHeld(_) => Class::Conflict,
            Self::Api { source, .. } => source.class(),
        }
    }
}

/// What became of giving a lease back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It was ours and is gone.
    Deleted,
    /// There was none.
    Absent,
}

/// What the upkeep of a lease came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    /// Ours for long enough; the lease as it is stored.
    Held(Box<Lease>),
    /// Not there, or somebody else's.
    NotOurs,
    /// It was held for too long and has been deleted.
    Overdue,
}

/// The leases of one namespace. Cheap to clone.
#[derive(Clone)]
pub struct NodeLeases {
    client: Client,
    api: Api<Lease>,
    namespace: String,
    writer: Writer,
    clock: Clock,
}

impl NodeLeases {
    /// Leases in `namespace`. Pass a gated writer, since only a leader may take leases.
    pub fn new(client: Client, namespace: impl Into<String>, writer: Writer, clock: Clock) -> Self {
        let namespace = namespace.into();
        let api = Api::namespaced(client.clone(), &namespace);
        Self {
            client,
            api,
            namespace,
            writer,
            clock,
        }
    }

    /// The namespace of the leases.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Creates the namespace if it is missing.
    pub async fn ensure_namespace(&self) -> Result<(), Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        if read::get_metadata_opt(&api, &self.namespace)
            .await?
            .is_some()
        {
            return Ok(());
        }
        let metadata = ObjectMeta {
            name: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        };
        let namespace = Namespace {
            metadata,
            ..Namespace::default()
        };
        match self.writer.create(&api, &namespace).await {
            Ok(_) => tracing::info!(
                namespace = self.namespace,
                "created the namespace of leases"
            ),
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gets or keeps the lease of `owner` for `holder`. Returns the lease as it is stored.
    pub async fn request(
        &self,
        owner: &Owner,
        holder: &str,
        duration: Duration,
        incident: Incident,
    ) -> Result<Lease, LeaseError> {
        let failed = |source| LeaseError::Api {
            object: format!("{} {}", owner.kind, owner.name),
            source,
        };
        let wish = Request {
            namespace: &self.namespace,
            owner,
            holder,
            duration,
            incident,
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            let current = read::get_opt(&self.api, &owner.lease_name())
                .await
                .map_err(failed)?;
            let decision = lease::request(current.as_ref(), &wish, self.clock.now())?;
            let written = match (decision, current) {
                (Decision::Keep, Some(current)) => return Ok(current),
                // `Keep` is only ever said about a lease that is there.
                (Decision::Keep, None) => continue,
                (Decision::Create(lease), _) => self.create(&lease).await,
                (Decision::Replace(lease), _) => self.writer.replace(&self.api, &lease).await,
            };
            match written {
                Ok(stored) => return Ok(stored),
                Err(error) if attempts < ATTEMPTS && lost_race(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// As [`Self::request`], for a lease that most likely nobody has: it is asked for without a look
    /// first, which is one request instead of two. What is there already is judged as usual.
    pub async fn claim(
        &self,
        owner: &Owner,
        holder: &str,
        duration: Duration,
    ) -> Result<Lease, LeaseError> {
        let wish = Request {
            namespace: &self.namespace,
            owner,
            holder,
            duration,
            incident: Incident::Ongoing,
        };
        if let Decision::Create(lease) = lease::request(None, &wish, self.clock.now())? {
            match self.create(&lease).await {
                Ok(stored) => return Ok(stored),
                Err(error) if error.is_already_exists() => {}
                Err(source) => {
                    return Err(LeaseError::Api {
                        object: format!("{} {}", owner.kind, owner.name),
                        source,
                    });
                }
            }
        }
        self.request(owner, holder, duration, Incident::Ongoing)
            .await
    }

    /// POST, with the namespace made when it turns out to be missing.
    async fn create(&self, lease: &Lease) -> Result<Lease, Error> {
        match self.writer.create(&self.api, lease).await {
            Err(error) if error.is_not_found() => {
                self.ensure_namespace().await?;
                self.writer.create(&self.api, lease).await
            }
            other => other,
        }
    }

    /// What a health checker does with the lease of a node that it is remediating; see
    /// [`medik8s_core::lease::upkeep`].
    pub async fn upkeep(
        &self,
        owner: &Owner,
        holder: &str,
        duration: Duration,
        step: Duration,
        earlier: Duration,
    ) -> Result<Kept, LeaseError> {
        let failed = |source| LeaseError::Api {
            object: format!("{} {}", owner.kind, owner.name),
            source,
        };
        let wish = Request {
            namespace: &self.namespace,
            owner,
            holder,
            duration,
            incident: Incident::Ongoing,
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            let current = read::get_opt(&self.api, &owner.lease_name())
                .await
                .map_err(failed)?;
            let decided = lease::upkeep(current.as_ref(), &wish, step, earlier, self.clock.now());
            let done = match (decided, current) {
                (Upkeep::NotOurs, _) | (Upkeep::Keep, None) => return Ok(Kept::NotOurs),
                (Upkeep::Keep, Some(lease)) => return Ok(Kept::Held(Box::new(lease))),
                (Upkeep::Overdue(which), _) => self
                    .delete(&owner.lease_name(), which)
                    .await
                    .map(|_| Kept::Overdue),
                (Upkeep::Replace(lease), _) => self
                    .writer
                    .replace(&self.api, &lease)
                    .await
                    .map(|stored| Kept::Held(Box::new(stored))),
            };
            match done {
                Ok(kept) => return Ok(kept),
                Err(error) if attempts < ATTEMPTS && lost_race(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Gives the lease of a node back. Works when the node is gone; a lease of somebody else is
    /// left alone and reported.
    pub async fn release(&self, node: &str, holder: &str) -> Result<Released, LeaseError> {
        let failed = |source| LeaseError::Api {
            object: format!("Node {node}"),
            source,
        };
        let name = node_lease_name(node);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let current = read::get_opt(&self.api, &name).await.map_err(failed)?;
            let Some(which) = lease::release(current.as_ref(), holder)? else {
                return Ok(Released::Absent);
            };
            match self.delete(&name, which).await {
                // Another lease under the same name: look whose it is.
                Ok(Deleted::Replaced) if attempts < ATTEMPTS => {}
                // The one that was seen is gone in any case.
                Ok(Deleted::Accepted | Deleted::Gone | Deleted::Replaced) => {
                    return Ok(Released::Deleted);
                }
                Err(error) if attempts < ATTEMPTS && lost_race(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn delete(&self, name: &str, which: Precondition) -> Result<Deleted, Error> {
        let mut delete = Delete::uid(which.uid.unwrap_or_default());
        if let Some(version) = which.resource_version {
            delete = delete.resource_version(version);
        }
        self.writer.delete(&self.api, name, &delete).await
    }

    /// The lease of a node as it is stored.
    pub async fn get(&self, node: &str) -> Result<Option<Lease>, LeaseError> {
        let object = || format!("Node {node}");
        read::get_opt(&self.api, &node_lease_name(node))
            .await
            .map_err(|source| LeaseError::Api {
                object: object(),
                source,
            })
    }

    /// All leases of the namespace, for a leader that starts and looks for what an earlier one
    /// left.
    pub async fn list(&self) -> Result<Vec<Lease>, LeaseError> {
        read::list_all(&self.api, &ListParams::default())
            .await
            .map_err(|source| LeaseError::Api {
                object: format!("namespace {}", self.namespace),
                source,
            })
    }
}

fn lost_race(error: &Error) -> bool {
    match error.class() {
        Class::Conflict | Class::AlreadyExists | Class::NotFound => true,
        Class::Retry | Class::Gone | Class::Denied | Class::Config | Class::NotLeader => false,
    }
}

#[cfg(test)]
mod tests;
