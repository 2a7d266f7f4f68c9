//! Carries out one [`Step`].
//!
//! # Guarantees
//! Every write carries the version that the plan has seen and has a deadline; each step can be
//! repeated. Nothing is decided here: an object that changed meanwhile is read again, and the plan
//! is asked anew.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::{Api, Client};
use medik8s_api::{
    NodeMaintenance,
    names::{
        contract::{EXCLUDE_FROM_REMEDIATION_LABEL, TRUE},
        kubernetes::EXCLUDE_FROM_LOAD_BALANCERS_LABEL,
        lease::NODE_MAINTENANCE_HOLDER,
        nmo,
    },
    node_maintenance::NodeMaintenanceStatus,
};
use medik8s_core::{
    lease::{Incident, Owner},
    node_edit::NodeEdit,
    taints,
    time::after,
};
use medik8s_runtime::{
    clock::Clock,
    error::Error as ApiError,
    events::{Recorder, reference},
    node_lease::{LeaseError, NodeLeases},
    read,
    write::{Writer, merge_diff},
};
use serde_json::{Value, json};

use crate::{
    drain::driver::{Prepared, Tools},
    drains::Drains,
    error::StepError,
    facts::{
        Counts, DrainView, LOAD_BALANCER_MARK, LeaseView, LoadBalancerLabel, Maintenance,
        NodeFacts, NodeView, Phase, PreviousState, Seen, is_node_name,
    },
    index::Index,
    metrics::OperatorMetrics,
    nodes::Nodes,
    plan::{Event, Keep, LEASE_DURATION, Outcome, Step},
    quorum::{self, Turn},
};

/// How long to wait for the first word about a node.
const NODE_LIMIT: Duration = Duration::from_secs(10);

/// How long before its end the lease counts as lost: while requests fail, passes can be more than a
/// minute apart.
const LEASE_MARGIN: Duration = Duration::from_mins(2);

/// How often a node may change before it is patched.
pub const ATTEMPTS: u32 = 5;

/// What steps are carried out with.
#[derive(Clone)]
pub struct Effects {
    /// Client of the API server, without retry.
    pub client: Client,
    /// Writes only while this process leads.
    pub writer: Writer,
    /// Node leases.
    pub leases: NodeLeases,
    /// Events.
    pub recorder: Recorder,
    /// Time.
    pub clock: Clock,
    /// NodeMaintenances.
    pub index: Index,
    /// Nodes.
    pub nodes: Nodes,
    /// Drains.
    pub drains: Drains,
    /// What drains need.
    pub tools: Tools,
    /// Which control-plane node may go into maintenance.
    pub turn: Turn,
    /// Own series.
    pub metrics: OperatorMetrics,
    /// Wakes a node.
    pub wake: Arc<dyn Fn(&str) + Send + Sync>,
}

/// What one pass keeps from step to step.
#[derive(Debug, Default)]
pub struct Pass {
    prepared: Option<Prepared>,
    conflicts: u32,
}

impl Effects {
    /// Does one step.
    pub async fn perform(
        &self,
        step: &Step,
        seen: &Seen,
        pass: &mut Pass,
    ) -> Result<Outcome, StepError> {
        let node = seen.node_name.as_str();
        match step {
            Step::AddFinalizer { of } => {
                self.begin(find(seen, of)?, None).await?;
                Ok(Outcome::Done)
            }
            Step::CountPods => self.count(seen, pass).await,
            Step::ReadNode => {
                if self.nodes.known(node, NODE_LIMIT).await {
                    Ok(Outcome::Done)
                } else {
                    Err(StepError::NodeUnknown {
                        node: node.to_owned(),
                        limit: NODE_LIMIT,
                    })
                }
            }
            Step::RequestLease { node_uid } => self.request_lease(seen, node_uid).await,
            Step::CheckQuorum => self.check_quorum(node).await,
            Step::Record { of, state } => {
                self.annotate(find(seen, of)?, Some(state)).await?;
                Ok(Outcome::Done)
            }
            Step::HandOver { to, state } => {
                let to = find(seen, to)?;
                if to.has_finalizer {
                    self.annotate(to, Some(state)).await?;
                } else {
                    self.begin(to, Some(state)).await?;
                }
                Ok(Outcome::Done)
            }
            Step::DropRecord { of } => {
                self.annotate(find(seen, of)?, None).await?;
                Ok(Outcome::Done)
            }
            Step::EnterNode {
                leaves_load_balancers,
                ..
            } => self.enter(node, *leaves_load_balancers, pass).await,
            Step::LeaveNode { keep } => self.leave(node, keep, pass).await,
            Step::StartDrain { of, options } => {
                let (wake, name) = (Arc::clone(&self.wake), node.to_owned());
                let prepared = pass.prepared.take();
                let drain = self
                    .tools
                    .start(node, (**options).clone(), prepared, move || wake(&name));
                self.drains.keep(node, of.clone(), drain);
                Ok(Outcome::Done)
            }
            Step::StopDrain => {
                self.drains.stop(node).await;
                tracing::info!(node, "drain stopped");
                Ok(Outcome::Done)
            }
            Step::FinishDrain { .. } => {
                // After a restart every drained node is looked at again; that is no drain.
                let has_evicted = match &seen.drain {
                    DrainView::Running { report, .. } => report.has_evicted,
                    DrainView::None => false,
                };
                if let Some(started) = self.drains.stop(node).await
                    && has_evicted
                {
                    self.metrics
                        .drained(self.clock.boottime().saturating_sub(started));
                }
                tracing::info!(node, "drain completed");
                Ok(Outcome::Done)
            }
            Step::WriteStatus { of, status, event } => {
                let object = self.write_status(find(seen, of)?, status).await?;
                if let Some(event) = event {
                    self.tell(&reference(&object), event);
                }
                Ok(Outcome::Done)
            }
            Step::Tell { of, event } => {
                if let Some(object) = self.index.get(of) {
                    self.tell(&reference(&*object), event);
                }
                Ok(Outcome::Done)
            }
            Step::ReleaseLease => self.release_lease(node).await,
            Step::RemoveFinalizer { of } => {
                let of = find(seen, of)?;
                let rest: Vec<&String> = of
                    .finalizers
                    .iter()
                    .filter(|one| *one != nmo::FINALIZER)
                    .collect();
                let object = match self.patch(of, json!({ "finalizers": rest })).await {
                    Ok(object) => object,
                    // Somebody else removed it.
                    Err(StepError::Vanished { .. }) => return Ok(Outcome::Done),
                    Err(error) => return Err(error),
                };
                let about = reference(&object);
                self.recorder
                    .normal(&about, nmo::EVENT_REMOVED, "Removed a node maintenance");
                tracing::info!(node, maintenance = of.name, "maintenance removed");
                Ok(Outcome::Done)
            }
        }
    }

    /// Writes a status if the stored one differs.
    pub async fn write_status(
        &self,
        of: &Maintenance,
        status: &NodeMaintenanceStatus,
    ) -> Result<NodeMaintenance, StepError> {
        let old = encode("the stored status", &of.status)?;
        let new = encode("the new status", status)?;
        let difference = merge_diff(&old, &new).unwrap_or_else(|| json!({}));
        let api: Api<NodeMaintenance> = Api::all(self.client.clone());
        let version = Some(of.resource_version.as_str());
        let written = self
            .writer
            .merge_patch_status(&api, &of.name, &difference, version)
            .await;
        self.keep(of, written).await
    }

    /// Patches the metadata of a maintenance that is still as it was seen.
    async fn patch(
        &self,
        of: &Maintenance,
        mut metadata: Value,
    ) -> Result<NodeMaintenance, StepError> {
        if let Some(fields) = metadata.as_object_mut() {
            fields.insert("resourceVersion".to_owned(), json!(of.resource_version));
        }
        let api: Api<NodeMaintenance> = Api::all(self.client.clone());
        let body = json!({ "metadata": metadata });
        let written = self.writer.merge_patch(&api, &of.name, &body).await;
        self.keep(of, written).await
    }

    /// Takes in what came of a write.
    async fn keep(
        &self,
        of: &Maintenance,
        written: Result<NodeMaintenance, ApiError>,
    ) -> Result<NodeMaintenance, StepError> {
        match written {
            Ok(object) => {
                self.index.answered(&of.resource_version, object.clone());
                Ok(object)
            }
            Err(error) if error.is_not_found() => Err(self.vanished(of)),
            Err(error) if error.is_conflict() => {
                // Whoever changed it may have deleted it, and the watch may be slow or broken.
                let api: Api<NodeMaintenance> = Api::all(self.client.clone());
                match read::get_opt(&api, &of.name).await? {
                    Some(object) if object.metadata.uid.as_ref() == Some(&of.uid) => {
                        self.index.answered(&of.resource_version, object);
                        Err(error.into())
                    }
                    Some(_) | None => Err(self.vanished(of)),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn vanished(&self, of: &Maintenance) -> StepError {
        self.index.vanished(&of.uid);
        StepError::Vanished {
            uid: of.uid.clone(),
        }
    }

    /// Adds the finalizer, together with a record if there is one, and tells about it.
    async fn begin(
        &self,
        of: &Maintenance,
        state: Option<&PreviousState>,
    ) -> Result<(), StepError> {
        let mut finalizers = of.finalizers.clone();
        finalizers.push(nmo::FINALIZER.to_owned());
        let mut metadata = json!({ "finalizers": finalizers });
        if let Some(fields) = metadata.as_object_mut()
            && state.is_some()
        {
            fields.insert("annotations".to_owned(), record(state)?);
        }
        let object = self.patch(of, metadata).await?;
        let about = reference(&object);
        self.recorder
            .normal(&about, nmo::EVENT_BEGIN, "Begin a node maintenance");
        tracing::info!(
            node = object.spec.node_name,
            maintenance = of.name,
            "maintenance begins"
        );
        Ok(())
    }

    async fn annotate(
        &self,
        of: &Maintenance,
        state: Option<&PreviousState>,
    ) -> Result<(), StepError> {
        let metadata = json!({ "annotations": record(state)? });
        self.patch(of, metadata).await.map(drop)
    }

    async fn count(&self, seen: &Seen, pass: &mut Pass) -> Result<Outcome, StepError> {
        let node = seen.node_name.as_str();
        if !is_node_name(node) {
            return Ok(Outcome::Counted(Counts {
                total: 0,
                pending: Vec::new(),
            }));
        }
        // Orders that cannot be carried out are dealt with later; the numbers need some.
        let options = match seen.primary().map(|primary| &primary.drain) {
            Some(Ok(orders)) => orders.options(&seen.base),
            Some(Err(_)) | None => seen.base.clone(),
        };
        let prepared = self.tools.prepare(node, options).await?;
        let report = prepared.report();
        if !report.undecided.is_empty() {
            let why = report.undecided.join("; ");
            return Err(StepError::Undecided {
                node: node.to_owned(),
                why,
            });
        }
        pass.prepared = Some(prepared);
        Ok(Outcome::Counted(Counts {
            total: report.total,
            pending: report.pending,
        }))
    }

    async fn request_lease(&self, seen: &Seen, node_uid: &str) -> Result<Outcome, StepError> {
        let node = seen.node_name.as_str();
        let (owner, holder) = (Owner::node(node, node_uid), NODE_MAINTENANCE_HOLDER);
        let is_first = match seen.memory.lease {
            LeaseView::Unchecked | LeaseView::Released => {
                seen.primary().is_some_and(|one| one.record.is_none())
            }
            LeaseView::Ours { .. } | LeaseView::Foreign { .. } => false,
        };
        let asked = if is_first {
            self.leases.claim(&owner, holder, LEASE_DURATION).await
        } else {
            let ongoing = Incident::Ongoing;
            self.leases
                .request(&owner, holder, LEASE_DURATION, ongoing)
                .await
        };
        let checked = self.clock.now();
        match asked {
            Ok(lease) => {
                let renewed = lease
                    .spec
                    .and_then(|spec| spec.renew_time)
                    .map_or(checked, |renewed| renewed.0.min(checked));
                Ok(Outcome::Lease(LeaseView::Ours {
                    checked,
                    renew_at: after(renewed, LEASE_DURATION / 2),
                    ends_at: after(renewed, LEASE_DURATION.saturating_sub(LEASE_MARGIN)),
                    node_uid: node_uid.to_owned(),
                }))
            }
            Err(LeaseError::AlreadyHeld(held)) => {
                tracing::info!(node, holder = held.holder, "somebody else holds the lease");
                let holder = held.holder;
                Ok(Outcome::Lease(LeaseView::Foreign {
                    holder,
                    checked,
                    is_told: false,
                }))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn release_lease(&self, node: &str) -> Result<Outcome, StepError> {
        if !is_node_name(node) {
            return Ok(Outcome::Done);
        }
        match self.leases.release(node, NODE_MAINTENANCE_HOLDER).await {
            Ok(_) => Ok(Outcome::Done),
            Err(LeaseError::AlreadyHeld(held)) => {
                tracing::info!(
                    node,
                    holder = held.holder,
                    "left the lease of somebody else alone"
                );
                Ok(Outcome::Done)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn check_quorum(&self, node: &str) -> Result<Outcome, StepError> {
        let is_allowed = !self.is_another_on_its_way(node)
            && quorum::allows(&self.client, node).await?
            && self.turn.take(node, self.clock.boottime());
        if !is_allowed {
            tracing::info!(node, "etcd cannot do without this node now");
        }
        Ok(Outcome::Quorum { is_allowed })
    }

    /// Whether some other control-plane node is on its way into maintenance or out of it: the budget
    /// tells about it only when its pods are gone. What is not known yet counts.
    fn is_another_on_its_way(&self, node: &str) -> bool {
        let others = self.index.of_other_nodes(node);
        others.iter().any(|(other, maintenance)| {
            let is_control_plane = match self.nodes.view(other) {
                NodeView::Present(facts) => facts.is_control_plane,
                NodeView::Unknown => true,
                NodeView::Missing => false,
            };
            let is_on_its_way = maintenance.is_deleting || maintenance.phase() != Phase::Succeeded;
            is_control_plane
                && maintenance.has_finalizer
                && maintenance.record.is_some()
                && is_on_its_way
        })
    }

    async fn enter(
        &self,
        name: &str,
        leaves_load_balancers: bool,
        pass: &mut Pass,
    ) -> Result<Outcome, StepError> {
        let Some(node) = self.nodes.get(name) else {
            return Ok(Outcome::Done);
        };
        let facts = NodeFacts::read(&node);
        let mut edit = NodeEdit::of(&node)
            .add_taints(&[taints::DRAIN.taint(), taints::UNSCHEDULABLE.taint()])
            .cordon()
            .set_label(EXCLUDE_FROM_REMEDIATION_LABEL, TRUE);
        edit = match (facts.load_balancer_label, leaves_load_balancers) {
            (LoadBalancerLabel::Absent, true) => {
                edit.set_label(EXCLUDE_FROM_LOAD_BALANCERS_LABEL, LOAD_BALANCER_MARK)
            }
            (LoadBalancerLabel::Ours, false) => {
                edit.remove_label(EXCLUDE_FROM_LOAD_BALANCERS_LABEL)
            }
            (LoadBalancerLabel::Absent, false)
            | (LoadBalancerLabel::Ours, true)
            | (LoadBalancerLabel::Foreign, _) => edit,
        };
        if self.edit_node(name, &node, edit, pass).await?.is_none() {
            return Ok(Outcome::Done);
        }
        tracing::info!(node = name, "node cordoned and tainted");
        Ok(Outcome::Entered {
            was_open: facts.is_open(),
        })
    }

    async fn leave(&self, name: &str, keep: &Keep, pass: &mut Pass) -> Result<Outcome, StepError> {
        let Some(node) = self.nodes.get(name) else {
            return Ok(Outcome::Done);
        };
        let facts = NodeFacts::read(&node);
        let mut edit = NodeEdit::of(&node);
        edit = if keep.cordon {
            edit.remove_taints(&[taints::DRAIN])
        } else {
            edit.remove_taints(&[taints::DRAIN, taints::UNSCHEDULABLE])
                .uncordon()
        };
        if facts.is_excluded() {
            edit = match &keep.label {
                Some(value) => edit.set_label(EXCLUDE_FROM_REMEDIATION_LABEL, value),
                None => edit.remove_label(EXCLUDE_FROM_REMEDIATION_LABEL),
            };
        }
        if facts.load_balancer_label == LoadBalancerLabel::Ours {
            edit = edit.remove_label(EXCLUDE_FROM_LOAD_BALANCERS_LABEL);
        }
        if let Some(node) = self.edit_node(name, &node, edit, pass).await? {
            self.recorder
                .normal(&reference(&node), nmo::EVENT_UNCORDON, "Uncordon a node");
            tracing::info!(node = name, "node handed back");
        }
        Ok(Outcome::Done)
    }

    /// Patches a node; `None` if there was nothing to change, or if it changed meanwhile and the
    /// plan has to look at it again.
    async fn edit_node(
        &self,
        name: &str,
        base: &Node,
        edit: NodeEdit<'_>,
        pass: &mut Pass,
    ) -> Result<Option<Node>, StepError> {
        let patch = edit.patch().map_err(|_| StepError::NoResourceVersion {
            node: name.to_owned(),
        })?;
        let Some(patch) = patch else { return Ok(None) };
        let api: Api<Node> = Api::all(self.client.clone());
        match self.writer.json_patch(&api, name, &patch).await {
            Ok(node) => {
                self.nodes.answered(name, base, Some(node.clone()));
                Ok(Some(node))
            }
            Err(error) if error.is_not_found() => {
                self.nodes.answered(name, base, None);
                Ok(None)
            }
            Err(error) if error.is_conflict() => {
                pass.conflicts += 1;
                if pass.conflicts >= ATTEMPTS {
                    let attempts = pass.conflicts;
                    return Err(StepError::NodeContended {
                        node: name.to_owned(),
                        attempts,
                    });
                }
                let now = read::get_opt(&api, name).await?;
                self.nodes.answered(name, base, now);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn tell(&self, about: &ObjectReference, event: &Event) {
        match event {
            Event::Failed => {
                self.recorder
                    .warning(about, nmo::EVENT_FAILED, "Failed a node maintenance");
            }
            Event::Succeeded => {
                self.recorder.normal(
                    about,
                    nmo::EVENT_SUCCEEDED,
                    "Node maintenance was succeeded",
                );
            }
            Event::Blocked(why) => {
                self.recorder.warning(about, nmo::EVENT_DRAIN_BLOCKED, why);
            }
        }
    }
}

fn find<'a>(seen: &'a Seen, uid: &str) -> Result<&'a Maintenance, StepError> {
    seen.maintenances
        .iter()
        .find(|one| one.uid == uid)
        .ok_or_else(|| StepError::Vanished {
            uid: uid.to_owned(),
        })
}

/// The annotation that holds the state of a node; `None` removes it.
fn record(state: Option<&PreviousState>) -> Result<Value, StepError> {
    let encode = |state| serde_json::to_string(state);
    let value = state
        .map(encode)
        .transpose()
        .map_err(|source| StepError::Encode {
            what: "the state of the node",
            source,
        })?;
    Ok(json!({ nmo::PREVIOUS_NODE_STATE_ANNOTATION: value }))
}

fn encode(what: &'static str, status: &NodeMaintenanceStatus) -> Result<Value, StepError> {
    serde_json::to_value(status).map_err(|source| StepError::Encode { what, source })
}
