//! Carries out the steps of a plan.
//!
//! # Guarantees
//! * Every step is idempotent and has a deadline; a step that fails does not stop the others.
//! * S4: a delete or an annotation is for the UID that was seen; whose a remediation is is read
//!   again before it is deleted.
//! * S10: nothing is written when the leader lease is not provably ours (the writer is gated).
//! * What was written is known to the [`World`] before the next plan.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Api, DynamicObject};
use kube::{Client, Resource};
use medik8s_api::NodeHealthCheck;
use medik8s_api::names::contract::{
    HEALTHY_DELAY_ANNOTATION, MANUALLY_CONFIRMED_HEALTHY_ANNOTATION, NHC_TIMED_OUT_ANNOTATION,
    OLD_REMEDIATION_ANNOTATION, OLD_REMEDIATION_ANNOTATION_VALUE,
};
use medik8s_api::names::nhc;
use medik8s_core::lease::{self, Incident};
use medik8s_core::remediation::timed_out_value;
use medik8s_runtime::clock::Clock;
use medik8s_runtime::events::{Recorder, Type};
use medik8s_runtime::node_lease::{LeaseError, NodeLeases};
use medik8s_runtime::read;
use medik8s_runtime::write::{Class, Delete, Deleted, Writer, json_patch, merge_diff};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::check::{Check, ResourceKind};
use crate::error::{Failure, step_name};
use crate::facts::{HeldLease, Observed};
use crate::machine::MachineCheck;
use crate::machine::plan::MachinesObserved;
use crate::metrics::Series;
use crate::notice::{Announcement, Severity};
use crate::objects::{self, annotations_patch};
use crate::plan::{Creation, Removal, Step};
use crate::remediation::{Handle, Owner, Ownership};
use crate::world::World;

mod certain;
mod create;
mod patient;

/// Who carries out steps for whom.
#[derive(Debug, Clone)]
pub struct Requester {
    /// Name of the health check.
    pub name: String,
    /// The health check as an owner.
    pub owner: Owner,
    /// Holder of its node leases.
    pub holder: String,
    /// The health check as the object of events.
    pub reference: ObjectReference,
    /// Its rules, by which what was read directly is judged again.
    pub judge: Judge,
}

/// By which rules somebody is judged again.
#[derive(Debug, Clone)]
pub enum Judge {
    /// Those of a NodeHealthCheck.
    Nodes(Arc<Check>),
    /// Those of a MachineHealthCheck.
    Machines(Arc<MachineCheck>),
}

impl Requester {
    /// The health check that was observed.
    pub fn of(seen: &Observed) -> Self {
        Self {
            name: seen.check.name.clone(),
            owner: seen.owner.clone(),
            holder: seen.check.holder(),
            reference: reference(&seen.owner, None),
            judge: Judge::Nodes(Arc::clone(&seen.check)),
        }
    }

    /// The MachineHealthCheck that was observed.
    pub fn of_machines(seen: &MachinesObserved) -> Self {
        let check = &seen.check;
        Self {
            name: check.key(),
            owner: seen.owner.clone(),
            holder: check.holder(),
            reference: reference(&seen.owner, Some(&check.namespace)),
            judge: Judge::Machines(Arc::clone(check)),
        }
    }
}

/// A health check as the object of events.
pub fn reference(owner: &Owner, namespace: Option<&str>) -> ObjectReference {
    medik8s_runtime::events::reference_to(
        &owner.kind.api_version,
        &owner.kind.kind,
        namespace,
        &owner.name,
        Some(&owner.uid),
    )
}

/// Everything that effects need. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    /// Client for reads.
    pub client: Client,
    /// Writes while we lead.
    pub writer: Writer,
    /// Node leases.
    pub leases: NodeLeases,
    /// Events, with the common prefix.
    pub recorder: Recorder,
    /// What is known.
    pub world: World,
    /// Time.
    pub clock: Clock,
    /// Metrics.
    pub series: Series,
    /// S12: decisions to create, and the creations, happen one after the other, whoever makes them.
    pub creating: Arc<Mutex<()>>,
}

impl Effects {
    /// Carries out steps in their order. What fails does not stop the rest.
    pub async fn run(&self, requester: &Requester, steps: &[Step]) -> Result<(), Failure> {
        let mut failed: Vec<(&'static str, Failure)> = Vec::new();
        let mut creations = Vec::new();
        for step in steps {
            if let Step::Create(creation) = step {
                creations.push(creation.clone());
                continue;
            }
            if let Err(error) = self.one(requester, step).await {
                note(requester, step_name(step), &error);
                failed.push((step_name(step), error));
            }
        }
        failed.extend(self.create_all(requester, &creations).await);
        let (count, total) = (failed.len(), steps.len());
        match failed.into_iter().next() {
            None => Ok(()),
            Some((step, source)) => Err(Failure::Steps {
                count,
                total,
                step,
                source: Box::new(source),
            }),
        }
    }

    async fn one(&self, requester: &Requester, step: &Step) -> Result<(), Failure> {
        match step {
            Step::ReleaseLease { node } => self.release_lease(&requester.holder, node).await,
            Step::Delete {
                remediation,
                node,
                cause,
            } => self.delete(requester, remediation, node, *cause).await,
            Step::StartHealthyDelay { remediation } => {
                let now = timed_out_value(self.clock.now());
                self.annotate(remediation, None, HEALTHY_DELAY_ANNOTATION, Some(&now))
                    .await
            }
            Step::ClearHealthyDelay { remediation } => {
                self.annotate(remediation, None, HEALTHY_DELAY_ANNOTATION, None)
                    .await
            }
            Step::DropConfirmation { node } => self.drop_confirmation(node).await,
            Step::RenewLease {
                node,
                node_uid,
                duration,
            } => {
                self.renew_lease(&requester.holder, node, node_uid, *duration)
                    .await
            }
            Step::TimeOut {
                remediation,
                version,
            } => {
                let now = timed_out_value(self.clock.now());
                self.annotate(
                    remediation,
                    Some(version),
                    NHC_TIMED_OUT_ANNOTATION,
                    Some(&now),
                )
                .await?;
                tracing::info!(
                    healthcheck = requester.name, %remediation, "told the remediator to stop"
                );
                Ok(())
            }
            Step::ReportOld { remediation, node } => {
                let value = Some(OLD_REMEDIATION_ANNOTATION_VALUE);
                self.annotate(remediation, None, OLD_REMEDIATION_ANNOTATION, value)
                    .await?;
                self.series.reported_old(node);
                tracing::warn!(node, %remediation, "remediation is older than 48 hours");
                Ok(())
            }
            Step::Create(_) => Ok(()),
        }
    }

    /// Gives back the lease of a node. One that is somebody else's by now is left alone.
    pub async fn release_lease(&self, holder: &str, node: &str) -> Result<(), Failure> {
        match self.leases.release(node, holder).await {
            Ok(_) | Err(LeaseError::AlreadyHeld(_)) => {
                self.world.remove_lease(holder, node);
                Ok(())
            }
            Err(error @ LeaseError::Api { .. }) => Err(error.into()),
        }
    }

    /// Renews a lease that is ours; one that is not there or somebody else's is left alone.
    async fn renew_lease(
        &self,
        holder: &str,
        node: &str,
        node_uid: &str,
        duration: Duration,
    ) -> Result<(), Failure> {
        let current = self.leases.get(node).await?;
        let spec = current.as_ref().and_then(|lease| lease.spec.as_ref());
        // With an earlier node of the name its lease went, too: it is asked for again.
        let went_with_its_node = current.is_none()
            && self
                .world
                .lease(holder, node)
                .is_some_and(|known| known.node_uid.as_deref() != Some(node_uid));
        if spec.and_then(lease::holder) != Some(holder) && !went_with_its_node {
            tracing::info!(node, "the node lease is not ours any more");
            self.world.remove_lease(holder, node);
            return Ok(());
        }
        let owner = lease::Owner::node(node, node_uid);
        match self
            .leases
            .request(&owner, holder, duration, Incident::Ongoing)
            .await
        {
            Ok(lease) => {
                self.world.put_lease(holder, node, held(&lease));
                Ok(())
            }
            Err(LeaseError::AlreadyHeld(_)) => {
                self.world.remove_lease(holder, node);
                Ok(())
            }
            Err(error @ LeaseError::Api { .. }) => Err(error.into()),
        }
    }

    async fn delete(
        &self,
        requester: &Requester,
        handle: &Handle,
        node: &str,
        cause: Removal,
    ) -> Result<(), Failure> {
        let Some(api) = self.api(&handle.kind, &handle.namespace) else {
            // A kind that is not served has no objects.
            self.world.remove_remediation(handle);
            return Ok(());
        };
        let Some(found) = read::get_metadata_opt(&api, &handle.name).await? else {
            self.world.remove_remediation(handle);
            return Ok(());
        };
        let now = objects::remediation(&handle.kind, &found.metadata, &Value::Null);
        if now.uid != handle.uid {
            self.world.remove_remediation(handle);
            return Ok(());
        }
        if now.ownership(&requester.owner) != Ownership::Ours {
            tracing::warn!(remediation = %handle, "not deleted, it is not ours any more");
            return Ok(());
        }
        if let Some(since) = now.deleting_since {
            self.world.mark_deleting(handle, since);
            return Ok(());
        }
        match self
            .writer
            .delete(&api, &handle.name, &Delete::uid(&handle.uid))
            .await?
        {
            Deleted::Accepted => self.world.mark_deleting(handle, self.clock.now()),
            Deleted::Gone | Deleted::Replaced => {
                self.world.remove_remediation(handle);
            }
        }
        let why = match cause {
            Removal::Recovered => format!("node {node} is healthy"),
            Removal::NodeGone => format!("node {node} does not exist any more"),
            Removal::MachineGone => "its machine is not selected any more".to_owned(),
            Removal::LeftSelector => {
                format!("node {node} is not selected by this health check any more")
            }
        };
        tracing::info!(healthcheck = requester.name, remediation = %handle, why, "deleted");
        self.recorder.normal(
            &requester.reference,
            nhc::EVENT_REMEDIATION_REMOVED,
            &format!(
                "Deleted remediation CR of kind {} with name {}: {why}",
                handle.kind.kind, handle.name
            ),
        );
        Ok(())
    }

    /// Sets or removes one annotation of one incarnation of a remediation.
    async fn annotate(
        &self,
        handle: &Handle,
        version: Option<&str>,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), Failure> {
        let api = self
            .api(&handle.kind, &handle.namespace)
            .ok_or_else(|| Failure::KindGone(handle.kind.to_string()))?;
        let patch = annotations_patch(&handle.uid, version, &[(key, value)]);
        let patched = match self.writer.merge_patch(&api, &handle.name, &patch).await {
            // Older platforms grant their own remediators' kinds without `patch`.
            Err(error) if error.class() == Class::Denied => {
                self.replace_annotated(&api, handle, version, key, value)
                    .await
            }
            other => other,
        };
        match patched {
            Ok(object) => {
                let new = objects::remediation(&handle.kind, object.meta(), &object.data);
                self.world.put_written(new, self.clock.now());
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                self.world.remove_remediation(handle);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets or removes an annotation by writing the whole object back as it was read.
    async fn replace_annotated(
        &self,
        api: &Api<DynamicObject>,
        handle: &Handle,
        version: Option<&str>,
        key: &str,
        value: Option<&str>,
    ) -> Result<DynamicObject, read::Error> {
        let mut object = read::get(api, &handle.name).await?;
        let meta = &mut object.metadata;
        // What was judged is what is written: another incarnation or version is a conflict.
        meta.uid = Some(handle.uid.clone());
        if let Some(version) = version {
            meta.resource_version = Some(version.to_owned());
        }
        let annotations = meta.annotations.get_or_insert_default();
        match value {
            Some(value) => annotations.insert(key.to_owned(), value.to_owned()),
            None => annotations.remove(key),
        };
        self.writer.replace(api, &object).await
    }

    async fn drop_confirmation(&self, node: &str) -> Result<(), Failure> {
        let Some(known) = self.world.node(node) else {
            return Ok(());
        };
        let key = MANUALLY_CONFIRMED_HEALTHY_ANNOTATION
            .replace('~', "~0")
            .replace('/', "~1");
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": known.uid},
            {"op": "remove", "path": format!("/metadata/annotations/{key}")},
        ]);
        let api: Api<Node> = Api::all(self.client.clone());
        let Ok(patch) = serde_json::from_value::<json_patch::Patch>(patch) else {
            return Ok(());
        };
        match self.writer.json_patch(&api, node, &patch).await {
            Ok(_) => {
                tracing::info!(node, "confirmation of health has served its purpose");
                Ok(())
            }
            Err(error) => match error.class() {
                // The node or its annotation is gone, or it is another node of the same name.
                Class::NotFound | Class::Conflict | Class::Config => Ok(()),
                Class::Retry
                | Class::AlreadyExists
                | Class::Gone
                | Class::Denied
                | Class::NotLeader => Err(error.into()),
            },
        }
    }

    /// Whether a health check exists, as the API server says.
    pub async fn exists(&self, name: &str) -> Result<bool, Failure> {
        let api: Api<NodeHealthCheck> = Api::all(self.client.clone());
        Ok(read::get_metadata_opt(&api, name).await?.is_some())
    }

    /// Stores a status, if it differs. What was stored is known before the next plan.
    pub async fn store_status(
        &self,
        seen: &NodeHealthCheck,
        status: &medik8s_api::remediation::NodeHealthCheckStatus,
    ) -> Result<bool, Failure> {
        let name = seen.metadata.name.as_deref().unwrap_or_default();
        let encode = |status| serde_json::to_value(status).unwrap_or_else(|_| json!({}));
        let old = seen.status.clone().unwrap_or_default();
        let Some(diff) = merge_diff(&encode(&old), &encode(status)) else {
            return Ok(false);
        };
        let api: Api<NodeHealthCheck> = Api::all(self.client.clone());
        // Not into a health check that was deleted and created again under this name meanwhile.
        let version = seen.metadata.resource_version.as_deref();
        let stored: NodeHealthCheck = self
            .writer
            .merge_patch_status(&api, name, &diff, version)
            .await?;
        let now = self.clock.now();
        let exists = |node: &str| self.world.node(node).is_some();
        let new = stored.status.clone().unwrap_or_default();
        self.series.status_changed(name, &old, &new, exists, now);
        self.world.put_written_check(Arc::new(stored));
        Ok(true)
    }

    /// Writes events.
    pub fn announce(&self, reference: &ObjectReference, announcements: &[Announcement]) {
        for one in announcements {
            let kind = match one.severity {
                Severity::Normal => Type::Normal,
                Severity::Warning => Type::Warning,
            };
            tracing::info!(
                nodehealthcheck = reference.name.as_deref().unwrap_or_default(),
                reason = one.reason,
                "{}",
                one.message
            );
            self.recorder
                .record(reference, kind, one.reason, &one.message);
        }
    }

    /// The API of a kind that is followed, in one namespace or cluster-wide.
    fn api(&self, kind: &ResourceKind, namespace: &str) -> Option<Api<DynamicObject>> {
        let served = self.world.served(kind)?;
        Some(if served.namespaced && !namespace.is_empty() {
            Api::namespaced_with(self.client.clone(), namespace, &served.resource)
        } else {
            Api::all_with(self.client.clone(), &served.resource)
        })
    }
}

fn note(requester: &Requester, step: &'static str, error: &Failure) {
    let error = error as &dyn std::error::Error;
    tracing::debug!(healthcheck = requester.name, step, error, "step failed");
}

/// What is remembered of a lease.
pub fn held(lease: &Lease) -> HeldLease {
    let spec = lease.spec.clone().unwrap_or_default();
    let duration = lease::duration(&spec);
    HeldLease {
        node_uid: lease
            .metadata
            .owner_references
            .iter()
            .flatten()
            .next()
            .map(|owner| owner.uid.clone()),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        duration,
    }
}

/// A moment to try again.
fn retry_at(now: Timestamp, wait: Duration) -> Timestamp {
    medik8s_core::time::after(now, wait)
}

/// What a creation came to.
enum Outcome {
    Created,
    Refused(crate::facts::Refusal),
}

/// How a creation is named in logs.
fn describe(creation: &Creation) -> String {
    let what = if creation.machine.is_some() {
        "machine"
    } else {
        "node"
    };
    let kind = creation.template.remediation_kind().kind;
    format!("{kind} for {what} {}", creation.subject())
}
