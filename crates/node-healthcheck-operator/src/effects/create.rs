//! Creating remediations: everything is looked at again, directly, and then done at once.
//!
//! # Guarantees
//! Under one lock for all health checks (S12), in this order, each by a consistent read:
//! the template is there; the node still matches (S13); no remediation of the node and template
//! exists, not even one that is being deleted (S7); no other control-plane node is remediated by any
//! known kind, and etcd can spare the node (S2); the node's lease is ours (S1). Only then the
//! remediation is created, with a name that makes a second create a conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::api::{Api, DynamicObject, ListParams};
use medik8s_api::names::nhc;
use medik8s_api::names::openshift::ETCD_NAMESPACE;
use medik8s_core::etcd::{self, Budget};
use medik8s_core::lease::{self, Incident};
use medik8s_runtime::node_lease::LeaseError;
use medik8s_runtime::read;
use medik8s_runtime::write::Created;
use serde_json::Value;

use super::patient::Patient;
use super::{Effects, Outcome, Requester, describe, held, note, retry_at};
use crate::check::{ResourceKind, TemplateRef};
use crate::error::Failure;
use crate::facts::{Refusal, Refused};
use crate::machine::MACHINE_API;
use crate::node::NodeFacts;
use crate::objects;
use crate::plan::{Creation, RETRY};
use crate::remediation::{
    Blueprint, Ownership, Remediation, build, derived_name, supports_multiple_templates,
};
use crate::world::Listing;

/// How soon to try again when the cache is about to learn what a direct read showed.
const SOON: Duration = Duration::from_secs(5);

/// How soon to try again after a failure, beside the back-off of the pass.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Remediations of a kind, in a namespace or everywhere.
type Listed = BTreeMap<(ResourceKind, Option<String>), Vec<Remediation>>;

/// Direct reads that are good for all creations under one hold of the lock: nobody else creates.
#[derive(Default)]
struct Batch {
    templates: BTreeMap<TemplateRef, Option<DynamicObject>>,
    listed: Listed,
}

impl Effects {
    /// Creates remediations, one after the other. Returns what failed.
    pub(super) async fn create_all(
        &self,
        requester: &Requester,
        creations: &[Creation],
    ) -> Vec<(&'static str, Failure)> {
        if creations.is_empty() {
            return Vec::new();
        }
        let _one_at_a_time = self.creating.lock().await;
        let mut batch = Batch::default();
        let mut failed = Vec::new();
        for creation in creations {
            let name = &requester.name;
            let (why, wait) = match self.create(requester, creation, &mut batch).await {
                Ok(Outcome::Created) => {
                    self.world.clear_refusal(name, creation.subject());
                    continue;
                }
                Ok(Outcome::Refused(why)) => {
                    tracing::info!(healthcheck = name, %why, "did not create {}", describe(creation));
                    let wait = wait_after(&why);
                    (why, wait)
                }
                Err(error) => {
                    note(requester, "create remediation", &error);
                    let why = Refusal::Failed(format!(
                        "could not create {}: {}",
                        describe(creation),
                        root(&error)
                    ));
                    failed.push(("create remediation", error));
                    (why, AFTER_FAILURE)
                }
            };
            let refused = Refused {
                template: creation.template.clone(),
                why,
                retry_at: retry_at(self.clock.now(), wait),
            };
            self.world.refuse(name, creation.subject(), refused);
        }
        failed
    }

    async fn create(
        &self,
        requester: &Requester,
        creation: &Creation,
        batch: &mut Batch,
    ) -> Result<Outcome, Failure> {
        let refused = |why| Ok(Outcome::Refused(why));
        let template = &creation.template;
        let kind = template.remediation_kind();
        let Some(served) = self.world.served(&kind) else {
            return Err(Failure::KindGone(kind.to_string()));
        };
        let Some(object) = self.template(template, batch).await? else {
            return refused(Refusal::TemplateChanged(format!(
                "template {template} is gone"
            )));
        };
        let patient = match self.patient(requester, creation).await? {
            Ok(patient) => patient,
            Err(why) => return refused(why),
        };
        let namespace = served.namespaced.then(|| template.namespace.clone());
        let existing = self.listed(&kind, namespace, batch).await?;
        if let Some(found) = existing
            .iter()
            .find(|one| patient.is_of(one, template))
            .cloned()
        {
            self.learn(&found).await?;
            return refused(Refusal::AlreadyThere(found.handle().to_string()));
        }
        if let Some(node) = &patient.node {
            if node.is_control_plane()
                && let Some(why) = self.control_plane_forbids(node, batch).await?
            {
                return refused(why);
            }
            let under_way = existing_for(batch, &node.name);
            if let Some(why) = self
                .take_lease(requester, creation, node, under_way)
                .await?
            {
                return refused(why);
            }
        }
        let machine = self.owner_machine(&patient, template).await?;
        let machine_kind = ResourceKind::new(MACHINE_API, "Machine");
        let blueprint = Blueprint {
            template,
            object: &object,
            node: &patient.node_name,
            name: match &patient.machine {
                Some((machine, _)) => machine.name.clone(),
                None if supports_multiple_templates(&object) => {
                    derived_name(&requester.owner.uid, template, &patient.node_name)
                }
                None => patient.node_name.clone(),
            },
            control_plane: patient.is_labelled(),
            owner: &requester.owner,
            machine: machine
                .as_ref()
                .map(|(machine, uid)| (machine, &machine_kind, uid.as_str())),
        };
        let Some(new) = build(&blueprint, &served.resource) else {
            let why = format!("template {template} has no spec.template");
            return refused(Refusal::TemplateChanged(why));
        };
        self.post(requester, &patient, template, &new, batch).await
    }

    async fn post(
        &self,
        requester: &Requester,
        patient: &Patient,
        template: &TemplateRef,
        new: &DynamicObject,
        batch: &mut Batch,
    ) -> Result<Outcome, Failure> {
        let kind = &template.remediation_kind();
        let namespace = new.metadata.namespace.clone().unwrap_or_default();
        let api = self
            .api(kind, &namespace)
            .ok_or_else(|| Failure::KindGone(kind.to_string()))?;
        let (object, is_new) = match self.writer.create_once(&api, new).await? {
            Created::New(object) => (object, true),
            Created::Existing(object) => (object, false),
        };
        let found = objects::remediation(kind, object.meta(), &object.data);
        self.world.put_written(found.clone(), self.clock.now());
        for ((listed, _), list) in &mut batch.listed {
            if listed == kind {
                list.push(found.clone());
            }
        }
        // A name that is taken by a remediation of ours for this node and template is the answer to
        // a create whose outcome was lost.
        let ours =
            found.ownership(&requester.owner) == Ownership::Ours && patient.is_of(&found, template);
        if !is_new && !ours {
            return Ok(Outcome::Refused(Refusal::AlreadyThere(
                found.handle().to_string(),
            )));
        }
        tracing::info!(
            healthcheck = requester.name, node = patient.node_name, remediation = %found.handle(),
            "created"
        );
        self.recorder.normal(
            &requester.reference,
            nhc::EVENT_REMEDIATION_CREATED,
            &format!("Created remediation object for {}", patient.describe()),
        );
        Ok(Outcome::Created)
    }

    /// The template as it is now.
    async fn template(
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
            let found =
                read::list_metadata_dated(&api, &ListParams::default(), read::DEADLINE).await?;
            let list = found
                .items
                .iter()
                .map(|object| objects::remediation(kind, &object.metadata, &Value::Null))
                .collect();
            batch.listed.insert(key.clone(), list);
        }
        Ok(batch.listed.get(&key).map_or(&[], Vec::as_slice))
    }

    /// Takes in a remediation that only the direct read showed.
    async fn learn(&self, found: &Remediation) -> Result<(), Failure> {
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

    /// S2, over every kind that any health check uses.
    async fn control_plane_forbids(
        &self,
        node: &NodeFacts,
        batch: &mut Batch,
    ) -> Result<Option<Refusal>, Failure> {
        let mut other = None;
        let mut own = false;
        for (kind, listing, _) in self.world.remediation_kinds() {
            match listing {
                Listing::Missing => continue,
                Listing::Known => {}
                Listing::Pending | Listing::Failed(_) => {
                    return Ok(Some(Refusal::Quorum(format!(
                        "whether another control plane node is being remediated is not known: \
                         remediations of kind {kind} cannot be listed"
                    ))));
                }
            }
            for one in self.listed(&kind, None, batch).await? {
                let name = one.node().to_owned();
                if name == node.name {
                    own = true;
                } else if one.control_plane_label
                    || self
                        .world
                        .node(&name)
                        .is_some_and(|other| other.is_control_plane())
                {
                    other = Some(name);
                }
            }
        }
        // One that is being remediated already goes on.
        if own {
            return Ok(None);
        }
        if let Some(other) = other {
            return Ok(Some(Refusal::ControlPlaneBusy(other)));
        }
        if self.world.is_openshift() {
            return self.etcd_forbids(&node.name).await;
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

    /// S1. A lease that we hold from an incident that is over counts from now.
    async fn take_lease(
        &self,
        requester: &Requester,
        creation: &Creation,
        node: &NodeFacts,
        under_way: bool,
    ) -> Result<Option<Refusal>, Failure> {
        let owner = lease::Owner::node(&node.name, &node.uid);
        let incident = if under_way {
            Incident::Ongoing
        } else {
            Incident::New
        };
        let taken = self
            .leases
            .request(&owner, &requester.holder, creation.lease, incident)
            .await;
        match taken {
            Ok(lease) => {
                self.world
                    .put_lease(&requester.holder, &node.name, held(&lease));
                Ok(None)
            }
            Err(LeaseError::AlreadyHeld(other)) => {
                self.world.remove_lease(&requester.holder, &node.name);
                Ok(Some(Refusal::LeaseTaken {
                    holder: other.holder,
                }))
            }
            Err(error @ LeaseError::Api { .. }) => Err(error.into()),
        }
    }
}

/// Whether a remediation for the node was among those that were listed.
fn existing_for(batch: &Batch, node: &str) -> bool {
    let nodes: BTreeSet<&str> = batch
        .listed
        .values()
        .flatten()
        .map(Remediation::node)
        .collect();
    nodes.contains(node)
}

fn wait_after(why: &Refusal) -> Duration {
    match why {
        Refusal::LeaseTaken { .. } | Refusal::Quorum(_) => RETRY,
        Refusal::NodeChanged(_) | Refusal::TemplateChanged(_) | Refusal::AlreadyThere(_) => SOON,
        // Plans wait for the other node by themselves as soon as they know of it.
        Refusal::ControlPlaneBusy(_) | Refusal::Failed(_) => AFTER_FAILURE,
    }
}

/// The innermost cause of an error: what the API server said.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
