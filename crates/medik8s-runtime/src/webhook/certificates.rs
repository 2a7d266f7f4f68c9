//! Where the webhook server's certificate comes from.
//!
//! # Purpose
//! Either somebody mounts one (OLM, cert-manager), or the operator is its own certificate
//! authority, so that a plain `kubectl apply` of its manifests works.
//!
//! # Guarantees
//! Mounted files are loaded again when they change. The own authority lives in one Secret that all
//! replicas share; its certificate is in the `caBundle` of our webhook configurations before
//! anything signed by it is served, and an old authority stays in there until it runs out. A
//! configuration that is applied anew gets the bundle again at once; when somebody else keeps taking
//! it out, it is put back ever more seldom and the log says who.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Resource, runtime::watcher};
use medik8s_core::backoff::Backoff;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::{
    certs::{CertFiles, follow},
    cli::{CertMode, WebhookArgs},
    clock::Clock,
    error::Error,
    informer::Informer,
    metrics::Metrics,
    probes::Check,
    read,
    shutdown::Shutdown,
    tls::{CertSlot, certified_key},
    write::Writer,
};

mod authority;
mod bundle;

use authority::{AuthorityError, Material, Plan};
use bundle::{ClientConfigs, bundle_patch};

/// How often the Secret is looked at, for what another replica has renewed.
const REFRESH: Duration = Duration::from_mins(30);
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// Between two passes, by how often the bundle was written lately.
const REST: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(2));
/// Writes older than this are forgotten.
const LATELY: Duration = Duration::from_mins(10);
/// So many writes lately come from somebody who takes the bundle out again.
const CONTESTED: u32 = 4;
/// An API server has a new bundle after this; only then something signed by a new authority is served.
const BUNDLE_ARRIVES: Duration = Duration::from_secs(3);

/// Where the certificate comes from.
pub enum Source {
    /// The first of these pairs of files that exists.
    Files(Vec<CertFiles>),
    /// An authority of our own.
    SelfManaged(Box<SelfManaged>),
}

/// An authority of our own, in a Secret.
#[derive(Clone)]
pub struct SelfManaged {
    /// Client for the Secret and the webhook configurations.
    pub client: Client,
    /// The operator's namespace.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of the Service through which the API server calls.
    pub service: String,
    /// Names of our ValidatingWebhookConfigurations.
    pub validating: Vec<String>,
    /// Names of our MutatingWebhookConfigurations.
    pub mutating: Vec<String>,
    /// Further DNS names or IP addresses, for API servers that call by URL.
    pub extra_names: Vec<String>,
    /// Writes as the operator; not gated, since every replica serves.
    pub writer: Writer,
    /// Time.
    pub clock: Clock,
    /// Metrics of the watches.
    pub metrics: Metrics,
}

/// Why the own certificate is not in place.
#[derive(Debug, thiserror::Error)]
enum ManageError {
    #[error("could not make or read the webhook's certificate")]
    Authority(#[from] AuthorityError),
    #[error("could not use the webhook's certificate")]
    Tls(#[from] crate::tls::TlsError),
    #[error(transparent)]
    Api(#[from] Error),
}

impl Source {
    /// What the flags and the mounted files ask for.
    pub fn choose(args: &WebhookArgs, own: SelfManaged) -> Self {
        candidates(args).map_or_else(|| Self::SelfManaged(Box::new(own)), Self::Files)
    }

    /// Keeps `slot` filled until `stop`.
    pub(super) async fn keep(
        self,
        slot: &CertSlot,
        check: &Check,
        stop: &Shutdown,
    ) -> anyhow::Result<()> {
        match self {
            Self::Files(files) => {
                follow(&files, slot, check, stop).await;
                Ok(())
            }
            Self::SelfManaged(own) => own.keep(slot, check, stop).await,
        }
    }
}

/// The files to follow; `None` for a certificate of our own.
fn candidates(args: &WebhookArgs) -> Option<Vec<CertFiles>> {
    let files = match &args.webhook_cert_dir {
        Some(dir) => vec![CertFiles::in_dir(dir)],
        None => vec![CertFiles::olm(), CertFiles::serving()],
    };
    match args.webhook_cert_mode {
        CertMode::Files => Some(files),
        CertMode::Auto => files.iter().any(CertFiles::exist).then_some(files),
        CertMode::SelfManaged => None,
    }
}

impl SelfManaged {
    async fn keep(&self, slot: &CertSlot, check: &Check, stop: &Shutdown) -> anyhow::Result<()> {
        let changed = std::sync::Arc::new(Notify::new());
        let mut watches: Vec<futures::future::BoxFuture<'_, anyhow::Result<()>>> = Vec::new();
        for name in &self.validating {
            let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
            watches.push(Box::pin(self.watch(name, api, &changed).run(stop.clone())));
        }
        for name in &self.mutating {
            let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
            watches.push(Box::pin(self.watch(name, api, &changed).run(stop.clone())));
        }
        let maintain = async {
            self.maintain(slot, check, &changed, stop).await;
            Ok(())
        };
        let watch = async {
            try_join_all(watches)
                .await
                .context("watch of the webhook configurations failed")
        };
        tokio::try_join!(maintain, watch)?;
        Ok(())
    }

    /// Wakes the maintenance when one of our configurations changes.
    fn watch<K>(&self, name: &str, api: Api<K>, changed: &std::sync::Arc<Notify>) -> Informer<K>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
        K::DynamicType: Default,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut informer = Informer::new("webhook configurations", api, config, &self.metrics);
        let changed = std::sync::Arc::clone(changed);
        informer.on_change(move |_| changed.notify_one());
        informer
    }

    async fn maintain(&self, slot: &CertSlot, check: &Check, changed: &Notify, stop: &Shutdown) {
        let mut served: Option<Material> = None;
        let mut failures = 0_u32;
        let mut writes = Writes::default();
        loop {
            let Some(ensured) = stop
                .or_stop(self.ensure(slot, &mut served, &mut writes))
                .await
            else {
                return;
            };
            let pause = match ensured {
                Ok(()) => {
                    failures = 0;
                    check.pass();
                    REFRESH
                }
                Err(error) => {
                    let expired = served
                        .as_ref()
                        .is_none_or(|served| authority::has_expired(served, self.clock.now()));
                    if expired {
                        check.fail(error.to_string());
                    }
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the webhook's own certificate is not in place yet"
                    );
                    failures = failures.saturating_add(1);
                    RETRY.delay(failures, rand::random())
                }
            };
            let rest = REST.delay(writes.lately(self.clock.boottime()), rand::random());
            let woken = async {
                tokio::time::sleep(rest.min(pause)).await;
                tokio::select! {
                    () = tokio::time::sleep(pause.saturating_sub(rest)) => {}
                    () = changed.notified() => {}
                }
            };
            if stop.or_stop(woken).await.is_none() {
                return;
            }
        }
    }

    /// Secret, then bundle, then the certificate that is served.
    async fn ensure(
        &self,
        slot: &CertSlot,
        served: &mut Option<Material>,
        writes: &mut Writes,
    ) -> Result<(), ManageError> {
        let material = self.material(served.as_ref()).await?;
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        for name in &self.validating {
            self.publish(&validating, name, &material, writes).await?;
        }
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        for name in &self.mutating {
            self.publish(&mutating, name, &material, writes).await?;
        }
        if served.as_ref() != Some(&material) {
            if served
                .as_ref()
                .is_some_and(|served| served.bundle != material.bundle)
            {
                tokio::time::sleep(BUNDLE_ARRIVES).await;
            }
            slot.set(certified_key(&material.certificate, &material.key)?);
            tracing::info!(
                secret = self.secret,
                "serving the webhook's own certificate"
            );
            *served = Some(material);
        }
        Ok(())
    }

    /// What the Secret has, made or renewed where needed. Of several replicas one wins, the others
    /// take what it wrote. What is `served` stays trusted when the Secret was lost.
    async fn material(&self, served: Option<&Material>) -> Result<Material, ManageError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let names = self.names();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let stored = read::get_opt(&api, &self.secret).await?;
            let current = stored
                .as_ref()
                .and_then(|secret| Material::read(secret.data.as_ref()?));
            let material = match authority::plan(current.as_ref(), &names, self.clock.now()) {
                Plan::Keep => match current {
                    Some(current) => return Ok(current),
                    // `Keep` is only ever said about something that is there.
                    None => continue,
                },
                Plan::Make(wanted) => {
                    tracing::info!(
                        secret = self.secret,
                        ?wanted,
                        "making a webhook certificate"
                    );
                    let earlier = current.as_ref().or(served);
                    authority::make(wanted, earlier, &names, self.clock.now())?
                }
            };
            let written = match stored {
                None => {
                    let new = self.secret_of(ObjectMeta::default(), None, &material);
                    self.writer.create(&api, &new).await
                }
                Some(secret) => {
                    let updated = self.secret_of(secret.metadata, secret.type_, &material);
                    self.writer.replace(&api, &updated).await
                }
            };
            match written {
                Ok(_) => return Ok(material),
                Err(error)
                    if attempts < 5 && (error.is_conflict() || error.is_already_exists()) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// `type_`: of the Secret that is there; it cannot be changed.
    fn secret_of(
        &self,
        metadata: ObjectMeta,
        type_: Option<String>,
        material: &Material,
    ) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(self.secret.clone()),
                namespace: Some(self.namespace.clone()),
                managed_fields: None,
                ..metadata
            },
            type_: type_.or_else(|| Some("kubernetes.io/tls".to_owned())),
            data: Some(
                material
                    .entries()
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), ByteString(value)))
                    .collect(),
            ),
            ..Secret::default()
        }
    }

    /// The names under which the API server calls us.
    fn names(&self) -> Vec<String> {
        let base = format!("{}.{}", self.service, self.namespace);
        let mut names = vec![
            format!("{base}.svc"),
            base.clone(),
            format!("{base}.svc.cluster.local"),
        ];
        names.extend(self.extra_names.iter().cloned());
        names
    }

    /// Puts the bundle into one webhook configuration.
    async fn publish<K>(
        &self,
        api: &Api<K>,
        name: &str,
        material: &Material,
        writes: &mut Writes,
    ) -> Result<(), ManageError>
    where
        K: Resource + ClientConfigs + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let Some(found) = read::get_opt(api, name).await? else {
            tracing::debug!(name, "there is no such webhook configuration");
            return Ok(());
        };
        let Some(patch) = bundle_patch(&found.client_configs(), &material.bundle) else {
            return Ok(());
        };
        self.writer.json_patch(api, name, &patch).await?;
        tracing::info!(name, "wrote caBundle into the webhook configuration");
        if writes.add(self.clock.boottime()) >= CONTESTED {
            tracing::warn!(
                name,
                last_changed_by = self.last_other_manager(found.meta()),
                "somebody keeps taking our caBundle out of the webhook configuration; let it leave \
                 that field alone, or give the operator a mounted certificate"
            );
        }
        Ok(())
    }

    /// The field manager that changed an object last, ourselves left out.
    fn last_other_manager(&self, metadata: &ObjectMeta) -> Option<String> {
        metadata
            .managed_fields
            .iter()
            .flatten()
            .filter(|entry| entry.manager.as_deref() != Some(self.writer.manager()))
            .max_by_key(|entry| entry.time.as_ref().map(|time| time.0))
            .and_then(|entry| entry.manager.clone())
    }
}

/// How often the bundle was written lately.
#[derive(Debug, Default)]
struct Writes {
    count: u32,
    last: Duration,
}

impl Writes {
    /// One more; how many it is.
    fn add(&mut self, now: Duration) -> u32 {
        self.count = self.lately(now).saturating_add(1);
        self.last = now;
        self.count
    }

    fn lately(&self, now: Duration) -> u32 {
        if now.saturating_sub(self.last) < LATELY {
            self.count
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests;
