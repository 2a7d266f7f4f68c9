//! What the manager adds to an OpenShift cluster for others: monitoring and the console's page.
//!
//! # Guarantees
//! Protection of nodes never depends on it: a failure is logged, shown by a metric and tried again,
//! and a kind that the cluster does not have (yet) is waited for.
//!
//! # Caveats
//! Done once per leader. What somebody changes afterwards stays as he wants it until the next leader.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use medik8s_runtime::capabilities::Capability;
use medik8s_runtime::controller::Backoff;
use medik8s_runtime::error::Error;
use medik8s_runtime::metrics::prometheus::{self, IntGaugeVec, Opts, Registry};
use medik8s_runtime::read;
use medik8s_runtime::shutdown::Shutdown;
use medik8s_runtime::write::{Created, Writer};
use serde_json::json;

#[cfg(test)]
mod tests;

/// Label by which OpenShift's monitoring looks into a namespace.
const MONITORED: &str = "openshift.io/cluster-monitoring";
const SERVICE_MONITOR: &str = "node-healthcheck-controller-manager-metrics-monitor";
const METRICS_SERVICE: &str = "node-healthcheck-controller-manager-metrics-service";
const CA_BUNDLE: &str = "node-healthcheck-ca-bundle";
/// Name of the ConsolePlugin.
pub const CONSOLE_PLUGIN: &str = "node-remediation-console-plugin";
const CONSOLE_SERVICE: &str = "node-healthcheck-node-remediation-console-plugin";

const RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));

/// One thing to set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    NamespaceLabel,
    ServiceMonitor,
    ConsolePlugin,
}

impl Item {
    const ALL: [Self; 3] = [
        Self::NamespaceLabel,
        Self::ServiceMonitor,
        Self::ConsolePlugin,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::NamespaceLabel => "namespace label",
            Self::ServiceMonitor => "ServiceMonitor",
            Self::ConsolePlugin => "ConsolePlugin",
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The cluster does not serve the kind.
    Missing,
}

/// What it is made of.
pub struct SetupParts {
    /// Client for reads.
    pub client: Client,
    /// Writes while we lead.
    pub writer: Writer,
    /// What the cluster offers.
    pub capability: Capability,
    /// The manager's own namespace.
    pub namespace: String,
    /// The manager's own pod, if known.
    pub pod: Option<String>,
    /// Where its metric goes.
    pub registry: Registry,
}

/// Sets things up.
pub struct Setup {
    parts: SetupParts,
    done: IntGaugeVec,
}

impl Setup {
    /// Registers the metric.
    pub fn new(parts: SetupParts) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "nodehealthcheck_platform_setup",
            "1 for what was set up on OpenShift for monitoring and the console, 0 for what was not",
        );
        let done = IntGaugeVec::new(opts, &["object"])?;
        parts.registry.register(Box::new(done.clone()))?;
        Ok(Self { parts, done })
    }

    /// Works until `stop`. Does nothing off OpenShift.
    pub async fn run(self, stop: Shutdown) -> anyhow::Result<()> {
        let mut capability = self.parts.capability.clone();
        let mut pending = BTreeSet::from(Item::ALL);
        let mut failures = 0_u32;
        while !pending.is_empty() {
            let openshift = capability
                .current()
                .is_some_and(|found| found.is_openshift());
            let failed = openshift && self.attempt(&mut pending).await;
            failures = if failed {
                failures.saturating_add(1)
            } else {
                0
            };
            let pause = async {
                if failed {
                    tokio::time::sleep(RETRY.delay(failures, 0.0)).await;
                } else {
                    // A kind that is missing may come.
                    std::future::pending::<()>().await;
                }
            };
            if pending.is_empty() {
                break;
            }
            tokio::select! {
                changed = capability.changed(&stop) => {
                    if !changed {
                        break;
                    }
                }
                () = pause => {}
            }
        }
        stop.triggered().await;
        Ok(())
    }

    /// Tries what is pending; returns whether something failed.
    async fn attempt(&self, pending: &mut BTreeSet<Item>) -> bool {
        let mut failed = false;
        for item in Item::ALL {
            if !pending.contains(&item) {
                continue;
            }
            let done = match self.set_up(item).await {
                Ok(Outcome::Done) => {
                    pending.remove(&item);
                    true
                }
                Ok(Outcome::Missing) => {
                    tracing::info!(%item, "the cluster does not have this kind");
                    false
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%item, error, "could not be set up, trying again later");
                    failed = true;
                    false
                }
            };
            self.done
                .with_label_values(&[item.name()])
                .set(i64::from(done));
        }
        failed
    }

    async fn set_up(&self, item: Item) -> Result<Outcome, Error> {
        let namespace = &self.parts.namespace;
        match item {
            Item::NamespaceLabel => self.label_namespace().await.map(|()| Outcome::Done),
            Item::ServiceMonitor => {
                let owner = self.own_deployment().await?;
                let kind = resource("monitoring.coreos.com", "ServiceMonitor", "servicemonitors");
                let api = Api::namespaced_with(self.parts.client.clone(), namespace, &kind);
                self.put(&api, service_monitor(namespace, owner)).await
            }
            Item::ConsolePlugin => {
                let kind = resource("console.openshift.io", "ConsolePlugin", "consoleplugins");
                let api = Api::all_with(self.parts.client.clone(), &kind);
                self.put(&api, console_plugin(namespace)).await
            }
        }
    }

    async fn label_namespace(&self) -> Result<(), Error> {
        let name = &self.parts.namespace;
        let api: Api<Namespace> = Api::all(self.parts.client.clone());
        let found = read::get_metadata_opt(&api, name).await?;
        let labels = found
            .and_then(|found| found.metadata.labels)
            .unwrap_or_default();
        if labels.get(MONITORED).map(String::as_str) == Some("true") {
            return Ok(());
        }
        let patch = json!({"metadata": {"labels": {MONITORED: "true"}}});
        self.parts.writer.merge_patch(&api, name, &patch).await?;
        Ok(())
    }

    /// Creates an object, or brings its labels, owners and spec to what they should be.
    async fn put(&self, api: &Api<DynamicObject>, wanted: DynamicObject) -> Result<Outcome, Error> {
        let name = wanted.name_any();
        let existing = match read::get_opt(api, &name).await? {
            Some(existing) => existing,
            None => match self.parts.writer.create_once(api, &wanted).await {
                Ok(Created::New(_)) => {
                    tracing::info!(name, "created");
                    return Ok(Outcome::Done);
                }
                Ok(Created::Existing(existing)) => existing,
                // Neither the object nor its kind is there.
                Err(error) if error.is_not_found() => return Ok(Outcome::Missing),
                Err(error) => return Err(error),
            },
        };
        if let Some(changed) = merged(&existing, &wanted) {
            self.parts.writer.replace(api, &changed).await?;
            tracing::info!(name, "brought up to date");
        }
        Ok(Outcome::Done)
    }

    /// The Deployment of this pod, as an owner; `None` when the way to it has a gap.
    async fn own_deployment(&self) -> Result<Option<OwnerReference>, Error> {
        let (client, namespace) = (&self.parts.client, &self.parts.namespace);
        let Some(pod) = &self.parts.pod else {
            tracing::info!("POD_NAME is not set: the ServiceMonitor has no owner");
            return Ok(None);
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let pod = read::get_metadata_opt(&pods, pod).await?;
        let set = pod.and_then(|pod| controller(&pod.metadata, "ReplicaSet"));
        let Some(set) = set else {
            tracing::info!("this pod has no ReplicaSet: the ServiceMonitor has no owner");
            return Ok(None);
        };
        let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
        let set = read::get_metadata_opt(&sets, &set.name).await?;
        let deployment = set.and_then(|set| controller(&set.metadata, "Deployment"));
        if deployment.is_none() {
            tracing::info!("the ReplicaSet has no Deployment: the ServiceMonitor has no owner");
        }
        Ok(deployment.map(|deployment| OwnerReference {
            controller: Some(true),
            block_owner_deletion: None,
            ..deployment
        }))
    }
}

/// The controlling owner of an object, if it is of this kind.
fn controller(meta: &ObjectMeta, kind: &str) -> Option<OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners
        .find(|owner| owner.controller == Some(true) && owner.kind == kind)
        .cloned()
}

fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{group}/v1"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// How OpenShift's Prometheus reads our metrics: with its client certificate.
fn service_monitor(namespace: &str, owner: Option<OwnerReference>) -> DynamicObject {
    let kind = resource("monitoring.coreos.com", "ServiceMonitor", "servicemonitors");
    let component = ("app.kubernetes.io/component", "controller-manager");
    let mut object = DynamicObject::new(SERVICE_MONITOR, &kind)
        .within(namespace)
        .data(json!({"spec": {
            "scrapeClass": "tls-client-certificate-auth",
            "selector": {"matchLabels": {
                component.0: component.1,
                "app.kubernetes.io/name": "node-healthcheck-operator",
                "app.kubernetes.io/instance": "metrics",
            }},
            "endpoints": [{
                "port": "https",
                "scheme": "https",
                "interval": "15s",
                "tlsConfig": {
                    "ca": {"configMap": {"name": CA_BUNDLE, "key": "service-ca.crt"}},
                    "serverName": format!("{METRICS_SERVICE}.{namespace}.svc"),
                },
            }],
        }}));
    object.metadata.labels = Some([(component.0.to_owned(), component.1.to_owned())].into());
    object.metadata.owner_references = owner.map(|owner| vec![owner]);
    object
}

/// Where the console finds the pages about node remediation.
fn console_plugin(namespace: &str) -> DynamicObject {
    let kind = resource("console.openshift.io", "ConsolePlugin", "consoleplugins");
    DynamicObject::new(CONSOLE_PLUGIN, &kind).data(json!({"spec": {
        "displayName": "Node Remediation",
        "backend": {
            "type": "Service",
            "service": {
                "name": CONSOLE_SERVICE,
                "namespace": namespace,
                "port": 9443,
                "basePath": "/",
            },
        },
    }}))
}

/// The existing object with what is wanted; `None` if it is so already. Labels and annotations of
/// others stay, an owner that was found stays when none is found now.
fn merged(existing: &DynamicObject, wanted: &DynamicObject) -> Option<DynamicObject> {
    let mut new = existing.clone();
    new.data.as_object_mut()?.insert(
        "spec".to_owned(),
        wanted.data.get("spec").cloned().unwrap_or_default(),
    );
    if let Some(labels) = &wanted.metadata.labels {
        let all = new.metadata.labels.get_or_insert_default();
        all.extend(labels.clone());
    }
    if wanted.metadata.owner_references.is_some() {
        new.metadata
            .owner_references
            .clone_from(&wanted.metadata.owner_references);
    }
    (new != *existing).then_some(new)
}
