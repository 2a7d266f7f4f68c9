//! Reads what the rules of [`crate::validate`] need: one object, or a narrow list, at a time.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams},
    core::admission::AdmissionRequest,
};
use medik8s_api::{
    NodeMaintenance,
    names::kubernetes::{CONTROL_PLANE_ROLE_LABEL, MASTER_ROLE_LABEL},
};
use medik8s_runtime::{
    capabilities::Capability,
    read,
    webhook::{Decoded, FailurePolicy, Hook, HookKind, Operation, Verdict, decode},
};

use crate::{
    error::chain,
    facts::{NodeFacts, is_node_name},
    quorum, validate,
};

/// The webhook.
pub const HOOK: Hook = Hook {
    kind: HookKind::Validating,
    name: "vnodemaintenance.kb.io",
    path: "/validate-nodemaintenance-medik8s-io-v1beta1-nodemaintenance",
    api_group: "nodemaintenance.medik8s.io",
    api_version: "v1beta1",
    resource: "nodemaintenances",
    operations: &[Operation::Create, Operation::Update],
    failure_policy: FailurePolicy::Fail,
    timeout_seconds: Some(15),
};

/// Answers the webhook. Has no effect on anything, so a dry run is judged like the real thing.
#[derive(Clone)]
pub struct Admission {
    /// Client without retry: the API server waits for the verdict.
    pub client: Client,
    /// Whether the cluster is OpenShift.
    pub capability: Capability,
}

impl Admission {
    /// The verdict about a request.
    pub async fn judge(self, request: AdmissionRequest<DynamicObject>) -> Verdict {
        match decode::<NodeMaintenance>(&request) {
            Ok(Decoded::Create(new)) => self.create(&new).await.unwrap_or_else(|denied| denied),
            Ok(Decoded::Update { old, new }) => validate::update(old.as_deref(), &new),
            Ok(Decoded::Delete(_)) => Verdict::allow(),
            Err(denied) => denied,
        }
    }

    async fn create(&self, new: &NodeMaintenance) -> Result<Verdict, Verdict> {
        let name = new.spec.node_name.as_str();
        let node = self.node(name).await?;
        let all: Api<NodeMaintenance> = Api::all(self.client.clone());
        let existing = read::list_all(&all, &ListParams::default())
            .await
            .map_err(|error| {
                Verdict::deny(format!(
                    "could not list NodeMaintenances for validating spec.NodeName, please try \
                     again: {}",
                    chain(&error)
                ))
            })?;
        validate::no_duplicate(name, &existing)?;
        validate::drain_orders(new)?;
        let mut warning = None;
        if NodeFacts::read(&node).is_control_plane {
            if self.is_openshift()? {
                self.quorum(name).await?;
            } else {
                warning = self.control_plane_warning(name, &existing).await;
            }
        }
        Ok(validate::create(new, warning))
    }

    async fn node(&self, name: &str) -> Result<Node, Verdict> {
        let missing = || Verdict::deny(validate::missing_node_text(name));
        if !is_node_name(name) {
            return Err(missing());
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        match read::get_opt(&nodes, name).await {
            Ok(node) => node.ok_or_else(missing),
            Err(error) => {
                let why = chain(&error);
                Err(Verdict::deny(format!(
                    "{}: {why}",
                    validate::UNREADABLE_NODE
                )))
            }
        }
    }

    /// Unknown is not no: without an answer a control-plane node cannot be judged.
    fn is_openshift(&self) -> Result<bool, Verdict> {
        self.capability
            .current()
            .map(|cluster| cluster.is_openshift())
            .ok_or_else(|| {
                Verdict::deny(
                    "could not find out yet whether the cluster is OpenShift, which decides about \
                 control-plane nodes; please try again",
                )
            })
    }

    async fn quorum(&self, name: &str) -> Result<(), Verdict> {
        match quorum::allows(&self.client, name).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Verdict::deny(validate::quorum_text(name))),
            Err(error) => Err(Verdict::deny(chain(&error))),
        }
    }

    /// A hint only: what cannot be read gives none.
    async fn control_plane_warning(
        &self,
        name: &str,
        existing: &[NodeMaintenance],
    ) -> Option<String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut others = Vec::new();
        for role in [CONTROL_PLANE_ROLE_LABEL, MASTER_ROLE_LABEL] {
            let found = read::list_all(&nodes, &ListParams::default().labels(role))
                .await
                .ok()?;
            others.extend(
                found
                    .iter()
                    .map(|node| (node.name_any(), NodeFacts::read(node))),
            );
        }
        others.sort_by(|one, other| one.0.cmp(&other.0));
        others.dedup_by(|one, other| one.0 == other.0);
        let busy: BTreeSet<&str> = existing
            .iter()
            .map(|one| one.spec.node_name.as_str())
            .collect();
        let others = others.iter().map(|(name, facts)| (name.as_str(), facts));
        validate::control_plane_warning(name, others, &busy)
    }
}
