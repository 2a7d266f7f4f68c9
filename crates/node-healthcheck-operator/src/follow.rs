//! Watches of template and remediation kinds, which start and stop with their use.
//!
//! # Guarantees
//! A kind that is missing, forbidden or broken concerns only the health checks that use it, and
//! waits for its better days in the background: for an event of its CRD, or for some seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use medik8s_runtime::capabilities::{self, ServedKind};
use medik8s_runtime::controller::Backoff;
use medik8s_runtime::error::Class;
use medik8s_runtime::informer::{Cache, Informer};
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::process::Spawner;
use medik8s_runtime::read;
use medik8s_runtime::shutdown::Shutdown;
use tokio::sync::Notify;

mod poll;

use poll::Ended;

use crate::check::ResourceKind;
use crate::cluster::ClusterWatch;
use crate::objects;
use crate::queues::Queues;
use crate::world::{Listing, Wakes, World};

/// How often a kind that is missing or could not be read is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// How long a first list may take before somebody asks what is wrong.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// What the groups of OpenShift's own kinds end with.
const PLATFORM: &str = ".openshift.io";

/// Pauses after failures to find out how a kind is served.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), LOOK_AGAIN);

/// What the objects of a kind are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Template,
    Remediation,
}

/// One watch.
struct Followed {
    stop: Shutdown,
    look: Arc<Notify>,
}

/// Follows the kinds in use. Cheap to clone.
#[derive(Clone)]
pub struct Follower {
    client: Client,
    world: World,
    queues: Queues,
    metrics: Metrics,
    spawner: Spawner,
    followed: Arc<Mutex<BTreeMap<(Role, ResourceKind), Followed>>>,
}

impl Follower {
    /// Folds what it sees into `world` and wakes health checks in `queues`.
    pub fn new(
        client: Client,
        world: World,
        queues: Queues,
        metrics: Metrics,
        spawner: Spawner,
    ) -> Self {
        Self {
            client,
            world,
            queues,
            metrics,
            spawner,
            followed: Arc::default(),
        }
    }

    /// Starts what is needed and not followed yet, stops what nobody needs any more.
    pub fn adjust(&self) {
        let (templates, remediations) = self.world.needed_kinds();
        let tag = |role, kinds: &BTreeSet<ResourceKind>| -> Vec<(Role, ResourceKind)> {
            kinds.iter().map(|kind| (role, kind.clone())).collect()
        };
        let mut needed: BTreeSet<(Role, ResourceKind)> = BTreeSet::new();
        needed.extend(tag(Role::Template, &templates));
        needed.extend(tag(Role::Remediation, &remediations));
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.retain(|key, one| {
            let keep = needed.contains(key);
            if !keep {
                tracing::info!(kind = %key.1, "no health check uses this kind any more");
                one.stop.trigger();
            }
            keep
        });
        for (role, kind) in needed {
            followed.entry((role, kind.clone())).or_insert_with(|| {
                let look = Arc::new(Notify::new());
                let (this, notified) = (self.clone(), Arc::clone(&look));
                let name = format!("watch {kind}");
                let stop = self.spawner.worker(name, |stop| async move {
                    this.follow(role, kind, notified, stop).await
                });
                Followed { stop, look }
            });
        }
        drop(followed);
        self.world.retain_kinds(&templates, &remediations);
    }

    /// Kinds of a group may be served differently now.
    pub fn group_changed(&self, group: &str) {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for ((_, kind), one) in followed.iter() {
            if kind.group() == group {
                one.look.notify_one();
            }
        }
    }

    /// Tells [`Self::group_changed`] when a CRD comes, changes or goes, and the cluster's watch when
    /// it is one of the platform's.
    pub fn watch_definitions(&self, cluster: ClusterWatch) {
        let mut informer = Informer::new(
            "customresourcedefinitions",
            Api::<PartialObjectMeta<CustomResourceDefinition>>::all(self.client.clone()),
            watcher::Config::default(),
            &self.metrics,
        )
        .prune(objects::prune_identity);
        let this = self.clone();
        informer.on_change(move |change| {
            // The name of a CRD is `<plural>.<group>`.
            let name = change
                .object()
                .map(|object| object.name_any())
                .unwrap_or_default();
            if let Some((_, group)) = name.split_once('.') {
                this.group_changed(group);
                if group.ends_with(PLATFORM) {
                    cluster.platform_changed();
                }
            }
        });
        self.spawner
            .worker("watch definitions", |stop| informer.run(stop));
    }

    fn set(&self, role: Role, kind: &ResourceKind, listing: Listing, served: Option<ServedKind>) {
        let wakes = match role {
            Role::Template => self.world.set_template_listing(kind, listing, served),
            Role::Remediation => self.world.set_remediation_listing(kind, listing, served),
        };
        self.queues.wake(wakes);
    }

    async fn resolve(&self, kind: &ResourceKind) -> Result<Option<ServedKind>, read::Error> {
        capabilities::resolve(&self.client, &kind.api_version, &kind.kind).await
    }

    /// Follows one kind until `stop`.
    async fn follow(
        self,
        role: Role,
        kind: ResourceKind,
        look: Arc<Notify>,
        stop: Shutdown,
    ) -> anyhow::Result<()> {
        let mut failures = 0;
        let mut denials = 0;
        let mut first = true;
        while !stop.is_triggered() {
            let Some(answer) = stop.or_stop(self.resolve(&kind)).await else {
                break;
            };
            let pause = match answer {
                Ok(Some(served)) => {
                    failures = 0;
                    if first {
                        self.set(role, &kind, Listing::Pending, Some(served.clone()));
                    }
                    let before = self.world.unconfirmed(&kind);
                    match self.watch(role, &kind, &served, &look, &stop).await {
                        Ended::Changed => {
                            first = true;
                            continue;
                        }
                        Ended::Denied(listed) => {
                            // What is known stays known until the next look.
                            first = false;
                            if self.poll(role, &kind, &served, listed, &before).await {
                                denials = 0;
                                role.period()
                            } else {
                                // A role that comes with the kind may be a moment late.
                                denials += 1;
                                RETRY.delay(denials, 0.0)
                            }
                        }
                    }
                }
                Ok(None) => {
                    first = true;
                    tracing::info!(%kind, "the cluster does not serve this kind");
                    self.set(role, &kind, Listing::Missing, None);
                    LOOK_AGAIN
                }
                Err(error) => {
                    failures += 1;
                    let why = chain(&error);
                    tracing::warn!(%kind, why, "could not find out how this kind is served");
                    self.set(role, &kind, Listing::Failed(why), None);
                    RETRY.delay(failures, 0.0)
                }
            };
            let looked = tokio::time::timeout(pause, look.notified());
            if stop.or_stop(looked).await.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Watches the objects of a kind, until it is served differently, turns out not to be permitted,
    /// or `stop`.
    async fn watch(
        &self,
        role: Role,
        kind: &ResourceKind,
        served: &ServedKind,
        look: &Notify,
        stop: &Shutdown,
    ) -> Ended {
        let stop_watch = stop.child();
        let mut informer = self.informer(role, kind, served);
        let denied = Arc::new(Notify::new());
        let told = Arc::clone(&denied);
        informer.on_failure(move |class| {
            if class == Class::Denied {
                told.notify_one();
            }
        });
        let cache = informer.cache();
        let running = informer.run(stop_watch.clone());
        let watching = async {
            self.await_first_list(role, kind, served, &cache, &stop_watch)
                .await;
            // A denial of the watch comes right after the list.
            if stop_watch
                .or_stop(tokio::time::sleep(FIRST_LIST))
                .await
                .is_some()
            {
                self.set_polled(role, kind, None);
            }
            loop {
                if stop_watch.or_stop(look.notified()).await.is_none() {
                    return;
                }
                match self.resolve(kind).await {
                    Ok(Some(now)) if now == *served => {}
                    Ok(_) => return,
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(%kind, error, "could not look at this kind again");
                    }
                }
            }
        };
        let ended = tokio::select! {
            ended = running => {
                if let Err(error) = ended {
                    tracing::warn!(%kind, why = format!("{error:#}"), "the watch ended");
                }
                Ended::Changed
            }
            () = watching => Ended::Changed,
            () = denied.notified() => Ended::Denied(cache.is_synced().then(|| cache.list())),
        };
        stop_watch.trigger();
        ended
    }

    /// Tells when all objects are known, or why they are not.
    async fn await_first_list(
        &self,
        role: Role,
        kind: &ResourceKind,
        served: &ServedKind,
        cache: &Cache<DynamicObject>,
        stop: &Shutdown,
    ) {
        loop {
            let listed = tokio::time::timeout(FIRST_LIST, cache.synced(stop));
            match listed.await {
                Ok(true) => {
                    self.set(role, kind, Listing::Known, Some(served.clone()));
                    return;
                }
                Ok(false) => return,
                Err(_) => {}
            }
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &served.resource);
            let tried = stop
                .or_stop(read::list(&api, &ListParams::default().limit(1)))
                .await;
            if let Some(Err(error)) = tried {
                self.set(
                    role,
                    kind,
                    Listing::Failed(chain(&error)),
                    Some(served.clone()),
                );
            }
            if stop.is_triggered() {
                return;
            }
        }
    }

    fn informer(
        &self,
        role: Role,
        kind: &ResourceKind,
        served: &ServedKind,
    ) -> Informer<DynamicObject> {
        let mut informer = Informer::dynamic(
            &served.resource.plural,
            self.client.clone(),
            &served.resource,
            None,
            watcher::Config::default(),
            &self.metrics,
        )
        .prune(match role {
            Role::Template => objects::prune_template,
            Role::Remediation => objects::prune_remediation,
        });
        let (this, kind) = (self.clone(), kind.clone());
        informer.on_change(move |change| {
            let wakes = match (role, &change.new, &change.old) {
                (Role::Template, Some(new), _) => {
                    this.put_template(&kind, new, Some(objects::template(new)))
                }
                (Role::Template, None, Some(old)) => this.put_template(&kind, old, None),
                (Role::Remediation, Some(new), _) => this
                    .world
                    .put_remediation(objects::remediation(&kind, &new.metadata, &new.data)),
                (Role::Remediation, None, Some(old)) => {
                    let gone = objects::remediation(&kind, &old.metadata, &old.data);
                    this.world.remove_remediation(&gone.handle())
                }
                (Role::Template | Role::Remediation, None, None) => Wakes::new(),
            };
            this.queues.wake(wakes);
        });
        informer
    }

    fn put_template(
        &self,
        kind: &ResourceKind,
        object: &DynamicObject,
        facts: Option<objects::TemplateFacts>,
    ) -> Wakes {
        let meta = object.meta();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        self.world
            .put_template(kind, &text(&meta.namespace), &text(&meta.name), facts)
    }
}

/// An error with its causes, for a status.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
