//! What the cluster offers: server version and served API groups.
//!
//! # Guarantees
//! Asked at start and again every few minutes, so that an upgrade of the cluster or a new CRD needs
//! no restart. Unknown is a state of its own: [`Capability::current`] is `None` until the server
//! has answered, and an answer stays when the server cannot be asked later.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use http::Request;
use k8s_openapi::apimachinery::pkg::{
    apis::meta::v1::{APIGroupList, APIResourceList},
    version::Info,
};
use kube::{Client, api::ApiResource};
use medik8s_core::{backoff::Backoff, version::ServerVersion};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use crate::{
    error::{Cause, Error},
    read::bounded,
    shutdown::Shutdown,
};

/// How often the answers are checked.
const REFRESH: Duration = Duration::from_mins(5);
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
const DEADLINE: Duration = Duration::from_secs(10);

/// Group version that only OpenShift serves.
const OPENSHIFT: &str = "config.openshift.io/v1";
/// Group version of the Machines that are used. Not `v1`, for which the originals look: that one is
/// of other kinds and says nothing about Machines.
const MACHINE_API: &str = "machine.openshift.io/v1beta1";
/// Pause after a hint that something has changed, in which a new CRD comes to be served.
const HINTED: Duration = Duration::from_secs(1);

/// What the cluster offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The API server's version.
    pub version: ServerVersion,
    /// Served group versions, such as `apps/v1`.
    pub group_versions: BTreeSet<String>,
}

impl Capabilities {
    /// Whether a group version is served.
    pub fn serves(&self, group_version: &str) -> bool {
        self.group_versions.contains(group_version)
    }

    /// Whether this is OpenShift.
    pub fn is_openshift(&self) -> bool {
        self.serves(OPENSHIFT)
    }

    /// Whether the cluster has the Machine API.
    pub fn has_machine_api(&self) -> bool {
        self.serves(MACHINE_API)
    }
}

/// The latest answer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Capability {
    found: watch::Receiver<Option<Arc<Capabilities>>>,
    look: Arc<Notify>,
}

impl Capability {
    /// What the cluster offers, for tests.
    pub fn fixed(capabilities: Capabilities) -> Self {
        Self {
            found: watch::Sender::new(Some(Arc::new(capabilities))).subscribe(),
            look: Arc::default(),
        }
    }

    /// The latest answer; `None` while there is none.
    pub fn current(&self) -> Option<Arc<Capabilities>> {
        self.found.borrow().clone()
    }

    /// Waits for the first answer; `None` when stopped first.
    pub async fn known(&self, stop: &Shutdown) -> Option<Arc<Capabilities>> {
        let mut receiver = self.found.clone();
        let found = async move {
            receiver
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|found| found.clone())
        };
        stop.or_stop(found).await.flatten()
    }

    /// Asks again soon: something hints that the cluster offers more or less than before.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// Waits until the answer changes; false when stopped first.
    pub async fn changed(&mut self, stop: &Shutdown) -> bool {
        stop.or_stop(self.found.changed())
            .await
            .is_some_and(|changed| changed.is_ok())
    }
}

/// The task that asks.
pub struct Discovery {
    client: Client,
    found: watch::Sender<Option<Arc<Capabilities>>>,
    look: Arc<Notify>,
}

/// Makes the handle to ask and the task that works on it.
pub fn discover(client: Client) -> (Capability, Discovery) {
    let found = watch::Sender::new(None);
    let capability = Capability {
        found: found.subscribe(),
        look: Arc::default(),
    };
    let look = Arc::clone(&capability.look);
    (
        capability,
        Discovery {
            client,
            found,
            look,
        },
    )
}

impl Discovery {
    /// Asks until `stop`.
    pub async fn run(self, stop: Shutdown) -> anyhow::Result<()> {
        let mut failures = 0_u32;
        loop {
            let Some(answer) = stop.or_stop(self.ask()).await else {
                return Ok(());
            };
            let pause = match answer {
                Ok(found) => {
                    failures = 0;
                    self.publish(found);
                    REFRESH
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(
                        class = %error.class(),
                        error = &error as &dyn std::error::Error,
                        "could not find out what the cluster offers"
                    );
                    RETRY.delay(failures, rand::random())
                }
            };
            let hinted = tokio::time::timeout(pause, self.look.notified());
            match stop.or_stop(hinted).await {
                None => return Ok(()),
                Some(Err(_)) => {}
                Some(Ok(())) => {
                    if stop.or_stop(tokio::time::sleep(HINTED)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn publish(&self, found: Capabilities) {
        self.found.send_if_modified(|current| {
            if current.as_deref() == Some(&found) {
                return false;
            }
            tracing::info!(
                version = %format_args!("{}.{}", found.version.major, found.version.minor),
                openshift = found.is_openshift(),
                machine_api = found.has_machine_api(),
                "cluster capabilities"
            );
            *current = Some(Arc::new(found));
            true
        });
    }

    async fn ask(&self) -> Result<Capabilities, Error> {
        let info: Info = fetch(&self.client, "/version").await?;
        let version = ServerVersion::parse(&info.major, &info.minor)
            .map_err(|error| Error::new("read", "/version", Cause::Request(error.to_string())))?;
        let groups: APIGroupList = fetch(&self.client, "/apis").await?;
        let group_versions = groups
            .groups
            .into_iter()
            .flat_map(|group| group.versions)
            .map(|version| version.group_version)
            .collect();
        Ok(Capabilities {
            version,
            group_versions,
        })
    }
}

/// A kind that the cluster serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedKind {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// Whether its objects have a namespace.
    pub namespaced: bool,
}

/// Looks up a kind; `None` when the cluster does not serve it.
pub async fn resolve(
    client: &Client,
    api_version: &str,
    kind: &str,
) -> Result<Option<ServedKind>, Error> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let path = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let resources: APIResourceList = match fetch(client, &path).await {
        Ok(list) => list,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    // Subresources have the kind of what they return and a slash in the name.
    let found = resources
        .resources
        .into_iter()
        .find(|one| one.kind == kind && !one.name.contains('/'));
    Ok(found.map(|one| ServedKind {
        resource: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: one.name,
        },
        namespaced: one.namespaced,
    }))
}

async fn fetch<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, Error> {
    let request = Request::get(path)
        .body(Vec::new())
        .map_err(|error| Error::new("read", path, Cause::Request(error.to_string())))?;
    bounded("read", path, DEADLINE, client.request(request)).await
}

#[cfg(test)]
mod tests;
