//! Creating remediations: everything is looked at again, directly, and then done at once.
//!
//! # Guarantees
//! Under one lock for all health checks (S12): by what is known now the plan still asks for it (S3);
//! then, in this order, each by a consistent read: the template is there; the node still matches (S13); no remediation of the node and template
//! exists, not even one that is being deleted (S7); no other control-plane node is remediated by any
//! known kind, and etcd can spare the node (S2); the node's lease is ours (S1). Only then the
//! remediation is created, with a name that makes a second create a conflict.

use std::time::Duration;

use kube::Resource;
use kube::api::{Api, DynamicObject};
use medik8s_api::NodeHealthCheck;
use medik8s_api::foreign::MachineHealthCheck;
use medik8s_api::names::nhc;
use medik8s_api::names::openshift::PAUSED_ANNOTATION;
use medik8s_core::backoff::Backoff;
use medik8s_core::lease::{self, Incident};
use medik8s_runtime::error::{Class, Classify};
use medik8s_runtime::node_lease::LeaseError;
use medik8s_runtime::read;
use medik8s_runtime::write::Created;

use super::certain::Batch;
use super::patient::Patient;
use super::{Effects, Judge, Outcome, Requester, describe, held, note, retry_at};
use crate::check::{ResourceKind, TemplateRef};
use crate::error::Failure;
use crate::facts::{Refusal, Refused};
use crate::machine::{self, MACHINE_API, needs_node};
use crate::node::NodeFacts;
use crate::objects;
use crate::plan::{self, Creation, RETRY, Step};
use crate::remediation::{Blueprint, Ownership, build, derived_name, supports_multiple_templates};
use crate::world::Seen;

/// How soon to try again when the cache is about to learn what a direct read showed.
const SOON: Duration = Duration::from_secs(5);

/// How soon to try again when the plan itself knows what it waits for.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Pauses after failures to create the remediation of one node; the others are not held up.
const AFTER_FAILURE: Backoff = Backoff::new(Duration::from_secs(1), RETRY);

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
        let name = &requester.name;
        let asked = self.still_asked_for(requester).await;
        for creation in creations {
            let (subject, template) = (creation.subject(), &creation.template);
            let created = match &asked {
                Ok(None) if !self.is_still_planned(requester, creation) => {
                    Ok(Outcome::Refused(Refusal::Overtaken))
                }
                Ok(None) => self.try_create(requester, creation, &mut batch).await,
                Ok(Some(why)) => Ok(Outcome::Refused(Refusal::CheckChanged(why.clone()))),
                Err(error) => Err(Failure::Unsure(root(error))),
            };
            let (why, wait, failures) = match created {
                Ok(Outcome::Created) => {
                    self.world.clear_refusal(name, subject);
                    continue;
                }
                Ok(Outcome::Refused(why)) => {
                    tracing::info!(healthcheck = name, %why, "did not create {}", describe(creation));
                    let wait = wait_after(&why);
                    (why, wait, 0)
                }
                Err(error) => {
                    note(requester, "create remediation", &error);
                    let why = Refusal::Failed(format!(
                        "could not create {}: {}",
                        describe(creation),
                        root(&error)
                    ));
                    // Those that were not tried come before this one next time.
                    let turn = if matches!(error, Failure::Stuck(_)) {
                        Duration::ZERO
                    } else {
                        AT_ONCE
                    };
                    failed.push(("create remediation", error));
                    let failures = self
                        .world
                        .failures(name, subject, template)
                        .saturating_add(1);
                    let wait = AFTER_FAILURE.delay(failures, 0.0);
                    (why, wait.saturating_add(turn), failures)
                }
            };
            let refused = Refused {
                template: template.clone(),
                why,
                retry_at: retry_at(self.clock.now(), wait),
                failures,
            };
            self.world.refuse(name, subject, refused);
        }
        failed
    }

    /// S3, S12: whether the plan asks for a remediation also by what is known now. Since it was made
    /// there was the lock to wait for, and perhaps other nodes to remediate: more nodes may have
    /// failed, or somebody may have paused.
    fn is_still_planned(&self, requester: &Requester, creation: &Creation) -> bool {
        let now = self.clock.now();
        let (uid, steps) = match &requester.judge {
            Judge::Nodes(check) => match self.world.observe(&check.name, now) {
                Seen::Whole(seen) if seen.check.generation == check.generation => {
                    (seen.owner.uid.clone(), plan::plan(&seen, now).steps)
                }
                Seen::Whole(_) | Seen::Gone | Seen::TooEarly | Seen::Broken { .. } => return false,
            },
            Judge::Machines(check) => {
                let seen = self.world.observe_machines(&check.key(), now);
                let seen = seen.filter(|seen| seen.check.generation == check.generation);
                let Some(seen) = seen else { return false };
                let plan = machine::plan::plan(&seen, now);
                (
                    seen.owner.uid,
                    plan.map(|plan| plan.steps).unwrap_or_default(),
                )
            }
        };
        uid == requester.owner.uid && steps.contains(&Step::Create(creation.clone()))
    }

    /// S3: whether the health check, as it is now, is the one that the plan was made for. Returns
    /// what is different: it may be paused or gone, or it may say something else.
    async fn still_asked_for(&self, requester: &Requester) -> Result<Option<String>, Failure> {
        let uid = Some(requester.owner.uid.as_str());
        let gone = || Ok(Some("is gone".to_owned()));
        let same = match &requester.judge {
            Judge::Nodes(check) => {
                let api: Api<NodeHealthCheck> = Api::all(self.client.clone());
                let Some(now) = read::get_metadata_opt(&api, &check.name).await? else {
                    return gone();
                };
                let meta = now.metadata;
                meta.uid.as_deref() == uid
                    && meta.deletion_timestamp.is_none()
                    && meta.generation.unwrap_or_default() == check.generation
            }
            Judge::Machines(check) => {
                let api: Api<MachineHealthCheck> =
                    Api::namespaced(self.client.clone(), &check.namespace);
                let Some(now) = read::get_metadata_opt(&api, &check.name).await? else {
                    return gone();
                };
                let meta = now.metadata;
                let annotations = meta.annotations.unwrap_or_default();
                meta.uid.as_deref() == uid
                    && meta.deletion_timestamp.is_none()
                    && meta.generation.unwrap_or_default() == check.generation
                    && annotations.contains_key(PAUSED_ANNOTATION) == check.paused
            }
        };
        Ok((!same).then(|| "has changed".to_owned()))
    }

    /// Creates it, unless the kind is stuck.
    async fn try_create(
        &self,
        requester: &Requester,
        creation: &Creation,
        batch: &mut Batch,
    ) -> Result<Outcome, Failure> {
        let kind = creation.template.remediation_kind();
        if let Some(why) = batch.stuck.get(&kind) {
            return Err(Failure::Stuck(why.clone()));
        }
        let created = self.create(requester, creation, batch).await;
        if let Err(error) = &created
            && error.class() == Class::Retry
        {
            batch.stuck.insert(kind, root(error));
        }
        created
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
        let name = name_of(requester, &patient, template, &object);
        let existing = self
            .existing(&served, &patient, creation, &name, batch)
            .await?;
        if let Some(found) = existing {
            self.learn(&found).await?;
            return refused(Refusal::AlreadyThere(found.handle().to_string()));
        }
        let machine = self.owner_machine(&patient, template).await?;
        if template.needs_machine() && machine.is_none() {
            return refused(Refusal::NoMachine(format!(
                "its Machine does not exist, which {} needs",
                kind.kind
            )));
        }
        if patient.node.is_none() && needs_node(&kind) {
            return refused(Refusal::Unsuitable(format!(
                "it has no node, which {} needs",
                kind.kind
            )));
        }
        if patient.control_plane
            && let Some(why) = self.control_plane_forbids(patient.subject(), batch).await?
        {
            return refused(why);
        }
        if let Some(node) = &patient.node
            && let Some(why) = self.take_lease(requester, creation, node).await?
        {
            return refused(why);
        }
        let machine_kind = ResourceKind::new(MACHINE_API, "Machine");
        let blueprint = Blueprint {
            template,
            object: &object,
            node: &patient.node_name,
            name,
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

    /// S1. A lease that we hold from an incident that is over, or for attempts that failed, counts
    /// from now.
    async fn take_lease(
        &self,
        requester: &Requester,
        creation: &Creation,
        node: &NodeFacts,
    ) -> Result<Option<Refusal>, Failure> {
        let owner = lease::Owner::node(&node.name, &node.uid);
        let incident = if creation.first {
            Incident::New
        } else {
            Incident::Ongoing
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

/// Name of a new remediation.
fn name_of(
    requester: &Requester,
    patient: &Patient,
    template: &TemplateRef,
    object: &DynamicObject,
) -> String {
    match &patient.machine {
        Some((machine, _)) => machine.name.clone(),
        None if supports_multiple_templates(object) => {
            derived_name(&requester.owner.uid, template, &patient.node_name)
        }
        None => patient.node_name.clone(),
    }
}

fn wait_after(why: &Refusal) -> Duration {
    match why {
        Refusal::LeaseTaken { .. }
        | Refusal::Quorum(_)
        | Refusal::NoMachine(_)
        | Refusal::Unsuitable(_) => RETRY,
        Refusal::NodeChanged(_)
        | Refusal::TemplateChanged(_)
        | Refusal::AlreadyThere(_)
        | Refusal::NotListedYet(_) => SOON,
        // The change wakes the health check by itself; plans wait for the other node by themselves as
        // soon as they know of it.
        Refusal::CheckChanged(_)
        | Refusal::Overtaken
        | Refusal::ControlPlaneBusy(_)
        | Refusal::Failed(_) => AT_ONCE,
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
