//! Carries out plans, one step at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint};
use kube::Api;
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::{contract, snr};
use medik8s_api::self_node_remediation::SelfNodeRemediationStatus;
use medik8s_core::node_edit::NodeEdit;
use medik8s_core::workload::PodDeletion;
use medik8s_core::{taints, time};
use medik8s_runtime::controller::{Class, Classify as _, ObjectKey};
use medik8s_runtime::error::{ApiError, Cause};
use medik8s_runtime::events;
use medik8s_runtime::write::{Delete, merge_diff};
use self_node_remediation_core::order::Phase;
use self_node_remediation_core::release::By;
use serde_json::json;

use super::observe::{Found, NodeSeen, Observed};
use super::plan::{Next, Plan, Step};
use super::tell::{Event, Tale};
use super::{RemediationError, Remediator};

/// An order must not be visible much later than its time was computed (section 7).
const ORDER_DEADLINE: Duration = Duration::from_secs(5);
/// Deletions under way at once.
const DELETIONS: usize = 32;

/// The remediation as the steps leave it.
struct Current {
    object: SelfNodeRemediation,
    /// The finalizer was removed; the object may be gone.
    released: bool,
    /// Held from the look at the other remediations of the node until the own finalizer is gone: of two that end at the
    /// same time one sees the other's finalizer, not each.
    turn: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Remediator {
    pub(super) async fn carry_out(
        &self,
        api: &Api<SelfNodeRemediation>,
        key: &ObjectKey,
        seen: &Observed,
        plan: Plan,
    ) -> Result<(Next, Option<RemediationError>), RemediationError> {
        let mut current = Current {
            object: seen.object.clone(),
            released: false,
            turn: None,
        };
        let holding = plan.steps.iter().find_map(|step| match step {
            Step::Tell(Tale::Hold { key, .. }) => Some(*key),
            Step::Tell(_)
            | Step::Mark { .. }
            | Step::AddTaint
            | Step::AddOutOfService
            | Step::RemoveOutOfService
            | Step::RemoveTaints
            | Step::RemoveFinalizer
            | Step::Ask { .. }
            | Step::DeletePods { .. }
            | Step::Released(_) => None,
        });
        for step in plan.steps {
            self.perform(api, key, seen, &mut current, step).await?;
        }
        self.write_status(api, &mut current, &plan.status, plan.is_order)
            .await?;
        for step in plan.after {
            self.perform(api, key, seen, &mut current, step).await?;
        }
        let phase = Phase::parse(plan.status.phase.as_deref());
        self.metrics.shows(key, &phase, holding);
        Ok((plan.next, plan.error))
    }

    async fn perform(
        &self,
        api: &Api<SelfNodeRemediation>,
        key: &ObjectKey,
        seen: &Observed,
        current: &mut Current,
        step: Step,
    ) -> Result<(), RemediationError> {
        match step {
            Step::Tell(tale) => self.tell(key, seen, &tale),
            Step::Mark {
                finalizer,
                annotations,
            } => {
                self.mark(api, key, seen, current, finalizer, &annotations)
                    .await?;
            }
            Step::AddTaint => {
                let taint = taints::SELF_NODE_REMEDIATION.taint_added(self.clock.now());
                self.add_taint(seen, taint).await?;
                let text = "the taint that keeps new pods off the node was added";
                self.on_node(seen, snr::EVENT_ADD_NO_SCHEDULE_TAINT, text);
            }
            Step::AddOutOfService => {
                self.add_taint(seen, taints::out_of_service(self.clock.now()))
                    .await?;
                let text = "the out-of-service taint was added: Kubernetes ends the pods of the \
                            node and detaches their volumes";
                self.on_node(seen, snr::EVENT_ADD_OUT_OF_SERVICE, text);
            }
            Step::RemoveOutOfService => {
                if self
                    .edit(seen, |edit| edit.remove_taints(&[taints::OUT_OF_SERVICE]))
                    .await?
                {
                    let text = "the out-of-service taint was removed";
                    self.on_node(seen, snr::EVENT_REMOVE_OUT_OF_SERVICE, text);
                }
            }
            Step::RemoveTaints => {
                current.turn = Some(Arc::clone(&self.cleaning).lock_owned().await);
                if !self.is_shared(key, seen).await? {
                    self.remove_taints(seen).await?;
                }
            }
            Step::RemoveFinalizer => self.remove_finalizer(api, key, seen, current).await?,
            Step::Ask { times, quorum } => {
                let Some(config) = &seen.config else {
                    return Ok(());
                };
                self.memory.set_asked(key, true);
                let chance = u64::from(self.clock.now().subsec_nanosecond().unsigned_abs());
                let got = self
                    .acknowledgements(&seen.remediation, config, *quorum, chance)
                    .await?;
                self.memory.add_acknowledged(key, &times, got);
            }
            Step::DeletePods { pods, force } => self.delete_pods(&pods, force).await?,
            Step::Released(by) => self.count_release(seen, by),
        }
        Ok(())
    }

    fn count_release(&self, seen: &Observed, by: By) {
        let now = self.clock.now();
        let since = seen
            .times
            .as_ref()
            .map(|times| time::elapsed(times.seen, now).as_secs_f64());
        self.metrics.released(by, since);
    }

    async fn mark(
        &self,
        api: &Api<SelfNodeRemediation>,
        key: &ObjectKey,
        seen: &Observed,
        current: &mut Current,
        finalizer: bool,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), RemediationError> {
        let metadata = &current.object.metadata;
        let mut body = json!({
            "metadata": {
                "resourceVersion": metadata.resource_version,
                "annotations": annotations,
            }
        });
        if finalizer
            && let Some(metadata) = body
                .pointer_mut("/metadata")
                .and_then(|at| at.as_object_mut())
        {
            let mut finalizers = current
                .object
                .metadata
                .finalizers
                .clone()
                .unwrap_or_default();
            finalizers.push(snr::FINALIZER.to_owned());
            metadata.insert("finalizers".to_owned(), json!(finalizers));
        }
        current.object = self.writer.merge_patch(api, &key.name, &body).await?;
        if finalizer {
            let event = Event::plain(snr::EVENT_ADD_FINALIZER, "the finalizer was added");
            self.record(key, seen, &event);
        }
        Ok(())
    }

    async fn remove_finalizer(
        &self,
        api: &Api<SelfNodeRemediation>,
        key: &ObjectKey,
        seen: &Observed,
        current: &mut Current,
    ) -> Result<(), RemediationError> {
        let metadata = &current.object.metadata;
        let left: Vec<&String> = metadata
            .finalizers
            .iter()
            .flatten()
            .filter(|name| *name != snr::FINALIZER)
            .collect();
        let body = json!({
            "metadata": { "resourceVersion": metadata.resource_version, "finalizers": left }
        });
        current.released = true;
        match self.writer.merge_patch(api, &key.name, &body).await {
            Ok(object) => current.object = object,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for (reason, text) in [
            (snr::EVENT_REMOVE_FINALIZER, "the finalizer was removed"),
            (contract::REMEDIATION_FINISHED, "Remediation finished"),
        ] {
            self.record(key, seen, &Event::plain(reason, text));
        }
        Ok(())
    }

    /// Writes what differs, at the version that was read.
    async fn write_status(
        &self,
        api: &Api<SelfNodeRemediation>,
        current: &mut Current,
        status: &SelfNodeRemediationStatus,
        is_order: bool,
    ) -> Result<(), RemediationError> {
        if current.released {
            return Ok(());
        }
        let metadata = &current.object.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let text = |error: serde_json::Error| {
            ApiError::new(
                "write status of",
                name.as_str(),
                Cause::Request(error.to_string()),
            )
        };
        let old = serde_json::to_value(current.object.status.clone().unwrap_or_default())
            .map_err(text)?;
        let new = serde_json::to_value(status).map_err(text)?;
        let Some(change) = merge_diff(&old, &new) else {
            return Ok(());
        };
        let writer = if is_order {
            self.writer.clone().with_deadline(ORDER_DEADLINE)
        } else {
            self.writer.clone()
        };
        let version = metadata.resource_version.clone();
        current.object = writer
            .merge_patch_status(api, &name, &change, version.as_deref())
            .await?;
        Ok(())
    }

    /// Reports a failed pass in the status, as far as that is possible.
    pub(super) async fn report(
        &self,
        api: &Api<SelfNodeRemediation>,
        object: &SelfNodeRemediation,
        error: &RemediationError,
    ) {
        if matches!(error.class(), Class::Conflict | Class::NotLeader) {
            return;
        }
        let text = error.full_text();
        let known = object
            .status
            .as_ref()
            .and_then(|status| status.last_error.as_deref());
        if known == Some(text.as_str()) {
            return;
        }
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let status = json!({ "lastError": text });
        // Another remediation of this name, or a newer state of this one, does not get it.
        let version = object.metadata.resource_version.as_deref();
        if let Err(error) = self
            .writer
            .merge_patch_status(api, name, &status, version)
            .await
        {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(name, error, "could not report the error in the status");
        }
    }

    async fn add_taint(&self, seen: &Observed, taint: Taint) -> Result<(), RemediationError> {
        let added = std::slice::from_ref(&taint);
        self.edit(seen, |edit| edit.add_taints(added))
            .await
            .map(|_changed| ())
    }

    async fn remove_taints(&self, seen: &Observed) -> Result<(), RemediationError> {
        let Found::Node(node) = &seen.found else {
            return Ok(());
        };
        let (tainted, out_of_service) = (node.tainted, node.out_of_service.is_some());
        let ours = [
            taints::SELF_NODE_REMEDIATION,
            taints::OUT_OF_SERVICE,
            taints::SELF_NODE_REMEDIATION_LEGACY,
        ];
        if !self.edit(seen, |edit| edit.remove_taints(&ours)).await? {
            return Ok(());
        }
        if tainted {
            let text = "the taint that keeps new pods off the node was removed";
            self.on_node(seen, snr::EVENT_REMOVE_NO_SCHEDULE_TAINT, text);
        }
        if out_of_service {
            let text = "the out-of-service taint was removed";
            self.on_node(seen, snr::EVENT_REMOVE_OUT_OF_SERVICE, text);
        }
        Ok(())
    }

    /// Changes exactly the node that was judged, or nothing.
    async fn edit<'a>(
        &self,
        seen: &'a Observed,
        change: impl FnOnce(NodeEdit<'a>) -> NodeEdit<'a>,
    ) -> Result<bool, RemediationError> {
        let Found::Node(node) = &seen.found else {
            return Ok(false);
        };
        let patch = change(NodeEdit::of(&node.object)).patch();
        let Some(patch) = patch.map_err(|_unversioned| RemediationError::NodeNotStored)? else {
            return Ok(false);
        };
        let api = Api::<Node>::all(self.client.clone());
        self.writer
            .json_patch(&api, node.facts.name.as_str(), &patch)
            .await?;
        Ok(true)
    }

    /// Deletes pods by UID, by force only in the version that was judged: a node that comes back meanwhile may run the
    /// same pod again. One that is gone or replaced is as good as deleted; other errors, among them a pod that changed,
    /// end the pass after all have been tried, and the next one looks at the node anew.
    async fn delete_pods(&self, pods: &[PodDeletion], force: bool) -> Result<(), RemediationError> {
        let delete = |pod: &PodDeletion| {
            let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
            let which = Delete::uid(&pod.uid).background();
            let which = match (force, &pod.resource_version) {
                (false, _) => which,
                (true, None) => which.grace(0),
                (true, Some(version)) => which.grace(0).resource_version(version),
            };
            let (writer, name) = (self.writer.clone(), pod.name.clone());
            async move { writer.delete(&api, &name, &which).await }
        };
        let results: Vec<_> = stream::iter(pods.iter().map(delete))
            .buffer_unordered(DELETIONS)
            .collect()
            .await;
        stream::iter(results)
            .try_for_each(|_deleted| async { Ok(()) })
            .await?;
        Ok(())
    }

    fn tell(&self, key: &ObjectKey, seen: &Observed, tale: &Tale) {
        match tale {
            Tale::Waiting { .. } => self.memory.untell(key, "hold:"),
            Tale::Hold { .. } => self.memory.untell(key, "wait:"),
            Tale::Started
            | Tale::Skipped
            | Tale::Stopped
            | Tale::NodeNotFound
            | Tale::CannotStart(_)
            | Tale::TimeAssumed { .. }
            | Tale::Cancelled
            | Tale::Renewed
            | Tale::Released(_)
            | Tale::OutOfServiceExpired
            | Tale::WorkloadFreed => {}
        }
        self.record(key, seen, &tale.event());
    }

    fn record(&self, key: &ObjectKey, seen: &Observed, event: &Event) {
        if event
            .once
            .as_ref()
            .is_some_and(|once| !self.memory.tell(key, once))
        {
            return;
        }
        let node = match &seen.found {
            Found::Node(node) if event.on_node => Some(reference(node)),
            Found::Node(_) | Found::Absent | Found::Unresolved(_) => None,
        };
        let remediation = event
            .on_remediation
            .then(|| events::reference(&seen.object));
        for object in remediation.iter().chain(&node) {
            if event.warning {
                self.recorder.warning(object, event.reason, &event.message);
            } else {
                self.recorder.normal(object, event.reason, &event.message);
            }
        }
    }

    fn on_node(&self, seen: &Observed, reason: &str, message: &str) {
        if let Found::Node(node) = &seen.found {
            self.recorder.normal(&reference(node), reason, message);
        }
    }
}

fn reference(node: &NodeSeen) -> ObjectReference {
    events::reference(&node.object)
}
