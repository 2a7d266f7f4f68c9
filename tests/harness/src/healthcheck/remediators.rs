//! Remediators, played as the originals behave towards a health checker.
//!
//! # Purpose
//! For months a cluster may run our health checker with the original remediators. What they share with
//! it is the contract: conditions, annotations, finalizers, and when they stop. That is played here;
//! fencing itself is not.
//!
//! # Guarantees
//! A played remediator notes what it did ([`Remediator::deeds`]). It never acts twice for one object.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{kinds, node_of};

const TIMED_OUT: &str = "remediation.medik8s.io/nhc-timed-out";

/// How a remediation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It never ends by itself.
    Hangs,
    /// It succeeds after some time.
    Succeeds(Duration),
    /// It fails after some time.
    Fails(Duration),
}

/// Whose manners a remediator has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Self node remediation: finalizer, taint, conditions, obeys the time-out.
    SelfNode,
    /// Fence agents remediation: the same, with a condition of its own.
    FenceAgents,
    /// Machine deletion remediation: no finalizer; the node vanishes, for good if so declared.
    MachineDeletion {
        /// Whether the node comes back under another name.
        for_good: bool,
    },
    /// Metal3: no conditions, ignores the time-out, deletes the node, keeps working while its object
    /// is being deleted. Its work ends when [`Remediator::release`] is called.
    Metal3,
}

impl Manners {
    const fn finalizer(self) -> Option<&'static str> {
        match self {
            Self::SelfNode => Some("self-node-remediation.medik8s.io/snr-finalizer"),
            Self::FenceAgents => Some("fence-agents-remediation.medik8s.io/far-finalizer"),
            Self::MachineDeletion { .. } => None,
            Self::Metal3 => Some("metal3remediation.infrastructure.cluster.x-k8s.io"),
        }
    }

    const fn taint(self) -> Option<&'static str> {
        match self {
            Self::SelfNode => Some("remediation.medik8s.io/self-node-remediation"),
            Self::FenceAgents => Some("remediation.medik8s.io/fence-agents-remediation"),
            Self::MachineDeletion { .. } | Self::Metal3 => None,
        }
    }

    const fn stopped(self) -> &'static str {
        match self {
            Self::SelfNode => "RemediationTimeoutByNHC",
            Self::FenceAgents => "RemediationInterruptedByNHC",
            Self::MachineDeletion { .. } | Self::Metal3 => "RemediationStoppedByNHC",
        }
    }
}

/// Something that a remediator did: what, and for which node.
pub type Deed = (String, String);

#[derive(Default)]
struct State {
    deeds: Vec<Deed>,
    /// By UID: since when it works on it.
    started: BTreeMap<String, Instant>,
    /// By UID: it works no more.
    ended: BTreeSet<String>,
    released: bool,
}

/// A remediator that plays until it is dropped.
pub struct Remediator {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Remediator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Remediator {
    /// Starts to play for the nodes that `nodes` names.
    pub fn start(
        client: Client,
        kind: ApiResource,
        nodes: &[String],
        manners: Manners,
        course: Course,
    ) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let player = Player {
            client,
            kind,
            nodes: nodes.to_vec(),
            manners,
            course,
            state: Arc::clone(&state),
        };
        let task = tokio::spawn(async move {
            loop {
                // A look that failed is repeated: objects change under its hands. So is one whose request gets no answer,
                // because the API server aborted it.
                drop(timeout(LOOK, player.look()).await);
                sleep(Duration::from_millis(100)).await;
            }
        });
        Self { state, task }
    }

    /// What it did.
    pub fn deeds(&self) -> Vec<Deed> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .deeds
            .clone()
    }

    /// How often it did something.
    pub fn did(&self, what: &str) -> usize {
        self.deeds().iter().filter(|(one, _)| one == what).count()
    }

    /// Lets Metal3 come to its end.
    pub fn release(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.released = true;
    }
}

/// How long one look may take; it is a few requests.
const LOOK: Duration = Duration::from_secs(5);

struct Player {
    client: Client,
    kind: ApiResource,
    nodes: Vec<String>,
    manners: Manners,
    course: Course,
    state: Arc<Mutex<State>>,
}

impl Player {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, what: &str, node: &str) {
        self.with(|state| state.deeds.push((what.to_owned(), node.to_owned())));
    }

    async fn look(&self) -> anyhow::Result<()> {
        let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &self.kind);
        for one in all.list(&ListParams::default()).await? {
            if self.nodes.contains(&node_of(&one)) {
                // One that is in trouble does not hold up the others.
                drop(self.work(&one).await);
            }
        }
        Ok(())
    }

    async fn work(&self, one: &DynamicObject) -> anyhow::Result<()> {
        let (uid, node) = (one.uid().context("no UID")?, node_of(one));
        if one.meta().deletion_timestamp.is_some() {
            return self.clean_up(one, &node).await;
        }
        if self.with(|state| state.ended.contains(&uid)) {
            return Ok(());
        }
        if one.annotations().contains_key(TIMED_OUT) && self.manners != Manners::Metal3 {
            self.report(one, "False", "False", self.manners.stopped())
                .await?;
            self.with(|state| state.ended.insert(uid));
            self.note("stopped", &node);
            return Ok(());
        }
        let Some(since) = self.with(|state| state.started.get(&uid).copied()) else {
            return self.begin(one, &uid, &node).await;
        };
        let ends = match self.course {
            Course::Hangs => None,
            Course::Succeeds(after) => (since.elapsed() >= after).then_some(true),
            Course::Fails(after) => (since.elapsed() >= after).then_some(false),
        };
        if self.manners == Manners::Metal3 {
            return Ok(());
        }
        if let Some(succeeded) = ends {
            let (status, reason) = if succeeded {
                ("True", "RemediationFinishedSuccessfully")
            } else {
                ("False", "RemediationFailed")
            };
            self.report(one, "False", status, reason).await?;
            self.with(|state| state.ended.insert(uid));
            self.note(if succeeded { "succeeded" } else { "failed" }, &node);
        }
        Ok(())
    }

    /// Finalizer, marks, conditions, and what the node suffers.
    async fn begin(&self, one: &DynamicObject, uid: &str, node: &str) -> anyhow::Result<()> {
        if self.manners == Manners::Metal3 && !is_owned_by_machine(one) {
            self.note("refused without a Machine", node);
            return Ok(());
        }
        if let Some(finalizer) = self.manners.finalizer() {
            let patch = json!({"metadata": {"finalizers": [finalizer]}});
            self.patch(one, &patch).await?;
        }
        if let Some(taint) = self.manners.taint() {
            self.taint(node, Some(taint)).await?;
        }
        match self.manners {
            Manners::SelfNode | Manners::FenceAgents => {
                self.report(one, "True", "Unknown", "RemediationStarted")
                    .await?;
            }
            Manners::MachineDeletion { for_good } => {
                let expected = if for_good { "True" } else { "False" };
                self.conditions(
                    one,
                    &[
                        ("PermanentNodeDeletionExpected", expected, "MachineDeletion"),
                        ("Processing", "True", "RemediationStarted"),
                        ("Succeeded", "Unknown", "RemediationStarted"),
                    ],
                )
                .await?;
                self.delete_node(node).await?;
            }
            Manners::Metal3 => self.delete_node(node).await?,
        }
        self.with(|state| state.started.insert(uid.to_owned(), Instant::now()));
        self.note("started", node);
        Ok(())
    }

    /// Its own marks, then the finalizer.
    async fn clean_up(&self, one: &DynamicObject, node: &str) -> anyhow::Result<()> {
        let Some(finalizer) = self.manners.finalizer() else {
            return Ok(());
        };
        let holds = one.finalizers().iter().any(|held| held == finalizer);
        if !holds || (self.manners == Manners::Metal3 && !self.with(|state| state.released)) {
            return Ok(());
        }
        if self.manners.taint().is_some() {
            self.taint(node, None).await?;
        }
        self.patch(one, &json!({"metadata": {"finalizers": null}}))
            .await?;
        self.note("cleaned up", node);
        Ok(())
    }

    async fn report(
        &self,
        one: &DynamicObject,
        processing: &str,
        succeeded: &str,
        reason: &str,
    ) -> anyhow::Result<()> {
        let mut list = vec![
            ("Processing", processing, reason),
            ("Succeeded", succeeded, reason),
        ];
        if self.manners == Manners::FenceAgents {
            list.push(("FenceAgentActionSucceeded", succeeded, reason));
        }
        if let Manners::MachineDeletion { for_good } = self.manners {
            let expected = if for_good { "True" } else { "False" };
            list.push(("PermanentNodeDeletionExpected", expected, "MachineDeletion"));
        }
        self.conditions(one, &list).await
    }

    async fn conditions(
        &self,
        one: &DynamicObject,
        list: &[(&str, &str, &str)],
    ) -> anyhow::Result<()> {
        let now = jiff::Timestamp::now();
        let list: Vec<Value> = list
            .iter()
            .map(|(type_, status, reason)| {
                json!({"type": type_, "status": status, "reason": reason, "message": "played",
                    "lastTransitionTime": format!("{now:.0}")})
            })
            .collect();
        let patch = json!({"status": {"conditions": list}});
        self.api(one)
            .patch_status(
                &one.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await?;
        Ok(())
    }

    async fn patch(&self, one: &DynamicObject, patch: &Value) -> anyhow::Result<()> {
        self.api(one)
            .patch(
                &one.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?;
        Ok(())
    }

    async fn taint(&self, node: &str, key: Option<&str>) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let own = self.manners.taint();
        let Some(found) = nodes.get_opt(node).await? else {
            return Ok(());
        };
        let mut taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
        taints.retain(|taint| Some(taint.key.as_str()) != own);
        let mut taints: Vec<Value> = taints.iter().map(|taint| json!(taint)).collect();
        taints.extend(key.map(|key| json!({"key": key, "effect": "NoSchedule"})));
        let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version},
            "spec": {"taints": taints}});
        nodes
            .patch(node, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    async fn delete_node(&self, node: &str) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.delete(node, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn api(&self, one: &DynamicObject) -> Api<DynamicObject> {
        let namespace = one.namespace().unwrap_or_default();
        Api::namespaced_with(self.client.clone(), &namespace, &self.kind)
    }
}

fn is_owned_by_machine(one: &DynamicObject) -> bool {
    let machine = kinds::machine();
    one.owner_references()
        .iter()
        .any(|owner| owner.kind == machine.kind && owner.api_version == machine.api_version)
}
