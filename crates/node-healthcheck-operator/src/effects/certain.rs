//! What must be certain before a remediation is created: consistent reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::api::{Api, DynamicObject, ListParams};
use medik8s_api::names::openshift::ETCD_NAMESPACE;
use medik8s_core::etcd::{self, Budget};
use medik8s_runtime::capabilities::ServedKind;
use medik8s_runtime::error::Class;
use medik8s_runtime::read;
use serde_json::Value;

use super::Effects;
use super::patient::Patient;
use crate::check::{ResourceKind, TemplateRef};
use crate::error::Failure;
use crate::facts::Refusal;
use crate::objects;
use crate::plan::Creation;
use crate::remediation::Remediation;
use crate::world::Listing;

/// Remediations of a kind, in a namespace or everywhere.
pub(super) type Listed = BTreeMap<(ResourceKind, Option<String>), Vec<Remediation>>;

/// Direct reads that are good for all creations under one hold of the lock: nobody else creates.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) templates: BTreeMap<TemplateRef, Option<DynamicObject>>,
    pub(super) listed: Listed,
    /// Kinds of which one could not be created for no fault of its own, and why. Each further one
    /// might hang as long, and everybody waits for the lock.
    pub(super) stuck: BTreeMap<ResourceKind, String>,
}

impl Effects {
    /// S7: a remediation that the patient has from the template already, also one that is being
    /// deleted.
    pub(super) async fn existing(
        &self,
        served: &ServedKind,
        patient: &Patient,
        creation: &Creation,
        name: &str,
        batch: &mut Batch,
    ) -> Result<Option<Remediation>, Failure> {
        let template = &creation.template;
        let kind = template.remediation_kind();
        let namespace = served.namespaced.then(|| template.namespace.clone());
        let is_its = |one: &&Remediation| patient.is_of(one, template);
        match self.listed(&kind, namespace, batch).await {
            Ok(list) => Ok(list.iter().find(is_its).cloned()),
            // Where listing is not permitted the name tells, if it is the only one that there can be.
            Err(Failure::Api(error))
                if error.class() == Class::Denied && name == creation.subject() =>
            {
                let api = self
                    .api(&kind, &template.namespace)
                    .ok_or_else(|| Failure::KindGone(kind.to_string()))?;
                let found = read::get_metadata_opt(&api, name).await?;
                let found =
                    found.map(|found| objects::remediation(&kind, &found.metadata, &Value::Null));
                Ok(found.filter(|one| is_its(&one)))
            }
            Err(error) => Err(error),
        }
    }

    /// The template as it is now.
    pub(super) async fn template(
        &self,
        template: &TemplateRef,
        batch: &mut Batch,
    ) -> Result<Option<DynamicObject>, Failure> {
        if let Some(known) = batch.templates.get(template) {
            return Ok(known.clone());
        }
        let api = self
            .api(&template.kind, &template.namespace)
            .ok_or_else(|| Failure::KindGone(template.kind.to_string()))?;
        let found = read::get_opt(&api, &template.name).await?;
        batch.templates.insert(template.clone(), found.clone());
        Ok(found)
    }

    /// All remediations of a kind, in a namespace or everywhere, as they are now.
    async fn listed<'b>(
        &self,
        kind: &ResourceKind,
        namespace: Option<String>,
        batch: &'b mut Batch,
    ) -> Result<&'b [Remediation], Failure> {
        let key = (kind.clone(), namespace.clone());
        if !batch.listed.contains_key(&key) {
            let api = self
                .api(kind, namespace.as_deref().unwrap_or_default())
                .ok_or_else(|| Failure::KindGone(kind.to_string()))?;
            let everything = ListParams::default();
            let remediation = |metadata| Some(objects::remediation(kind, &metadata, &Value::Null));
            let listed =
                read::list_metadata_dated(&api, &everything, read::DEADLINE, remediation).await?;
            batch.listed.insert(key.clone(), listed.items);
        }
        Ok(batch.listed.get(&key).map_or(&[], Vec::as_slice))
    }

    /// All remediations of a kind that may be for the control plane. Where listing is not permitted
    /// they are read by the names that they must have; of others it is known what the last look
    /// showed.
    async fn all_of<'b>(
        &self,
        kind: &ResourceKind,
        batch: &'b mut Batch,
    ) -> Result<&'b [Remediation], Failure> {
        match self.listed(kind, None, batch).await.map(|_| ()) {
            Err(Failure::Api(error)) if error.class() == Class::Denied => {
                let mut found = self.world.remediations_of(kind);
                for (namespace, name) in self.world.control_plane_keys(kind) {
                    found.retain(|one| one.namespace != namespace || one.name != name);
                    let api = self
                        .api(kind, &namespace)
                        .ok_or_else(|| Failure::KindGone(kind.to_string()))?;
                    let object = read::get_metadata_opt(&api, &name).await?;
                    found.extend(
                        object.map(|object| {
                            objects::remediation(kind, &object.metadata, &Value::Null)
                        }),
                    );
                }
                batch.listed.insert((kind.clone(), None), found);
            }
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        let listed = batch.listed.get(&(kind.clone(), None));
        Ok(listed.map_or(&[], Vec::as_slice))
    }

    /// Takes in a remediation that only the direct read showed.
    pub(super) async fn learn(&self, found: &Remediation) -> Result<(), Failure> {
        let handle = found.handle();
        if self.world.remediation(&handle).is_some() {
            return Ok(());
        }
        let Some(api) = self.api(&handle.kind, &handle.namespace) else {
            return Ok(());
        };
        if let Some(object) = read::get_opt(&api, &handle.name).await? {
            let whole = objects::remediation(&handle.kind, object.meta(), &object.data);
            self.world.put_written(whole, self.clock.now());
        }
        Ok(())
    }

    /// S2, over every kind that any health check uses, for a node or a machine without one.
    pub(super) async fn control_plane_forbids(
        &self,
        subject: &str,
        batch: &mut Batch,
    ) -> Result<Option<Refusal>, Failure> {
        let mut other = None;
        let mut own = false;
        for (kind, listing) in self.world.remediation_kinds() {
            match listing {
                Listing::Missing => continue,
                Listing::Known => {}
                Listing::Pending => return Ok(Some(Refusal::NotListedYet(kind.to_string()))),
                Listing::Failed(why) => {
                    return Ok(Some(Refusal::Quorum(format!(
                        "whether another control plane node is being remediated is not known: \
                         remediations of kind {kind} cannot be read: {why}"
                    ))));
                }
            }
            for one in self.all_of(&kind, batch).await? {
                if one.subject() == subject {
                    own |= one.control_plane_label;
                } else if self.world.is_for_control_plane(one) {
                    other = Some(one.clone());
                }
            }
        }
        // One that is being remediated already goes on. Not for a remediation by hand or for a
        // machine, before which nobody asked.
        if own {
            return Ok(None);
        }
        if let Some(other) = other {
            // From now on the plan waits for it by itself.
            self.learn(&other).await?;
            let other = other.subject().to_owned();
            return Ok(Some(Refusal::ControlPlaneBusy(other)));
        }
        if self.world.is_openshift() {
            return self.etcd_forbids(subject).await;
        }
        Ok(None)
    }

    async fn etcd_forbids(&self, node: &str) -> Result<Option<Refusal>, Failure> {
        let budgets: Api<PodDisruptionBudget> =
            Api::namespaced(self.client.clone(), ETCD_NAMESPACE);
        let budgets = read::list_all(&budgets, &ListParams::default()).await?;
        let verdict = match etcd::budget(&budgets) {
            Ok(Budget::Decided(verdict)) => verdict,
            Ok(Budget::AskPods(selector)) => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), ETCD_NAMESPACE);
                let params = ListParams::default().labels_from(&selector);
                let pods = read::list_all(&pods, &params).await?;
                etcd::guard(node, &selector, &pods)
            }
            Err(error) => return Ok(Some(Refusal::Quorum(error.to_string()))),
        };
        Ok((!verdict.is_allowed()).then(|| Refusal::Quorum(format!("etcd guard: {verdict:?}"))))
    }
}
