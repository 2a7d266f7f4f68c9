//! Carries out remediations.
//!
//! # Purpose
//! One pass looks at everything (`observe`), decides (`plan`, with the rules of
//! `self_node_remediation_core::release`), and acts (`effects`). Passes follow each other until one
//! has nothing more to do at once.
//!
//! # Guarantees
//! * The remediation and its node are read consistently in every pass; nothing is decided from a
//!   watch's copy.
//! * Every write that depends on what was read carries the resource version of it, and every write
//!   checks the leader lease first.

use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client, ResourceExt as _};
use medik8s_api::{SelfNodeRemediation, SelfNodeRemediationConfig};
use medik8s_runtime::{
    capabilities::Capability,
    clock::Clock,
    controller::{Action, Class, Classify as _, ObjectKey, Queue},
    events::Recorder,
    informer::{Cache, Informer},
    read,
    write::Writer,
};

use self_node_remediation_core::order::{Match, Remediation};
use self_node_remediation_peer::net::Dialer;

mod acknowledge;
mod effects;
mod error;
mod memory;
mod metrics;
mod observe;
mod plan;
mod reach;
mod tell;
mod topology;

pub use error::RemediationError;
pub use memory::Memory;
pub use metrics::RemediationMetrics;
pub use observe::{NodeMetadata, keep_roles};
pub use reach::Reach;

use observe::relayed_by;
use plan::Next;

/// Pause after somebody else wrote first; everything is read and decided anew (section 7).
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);
/// A remediation needs about ten passes from its creation to the order; more at once is an error of
/// ours, which must not turn for ever.
const MOST_PASSES: usize = 32;

/// What the controller of the remediations works with.
pub struct Remediator {
    /// API client.
    pub client: Client,
    /// Writes only while this process leads.
    pub writer: Writer,
    /// Tells the user.
    pub recorder: Recorder,
    /// The way to the agents.
    pub dialer: Dialer,
    /// Time.
    pub clock: Clock,
    /// The operator's namespace.
    pub namespace: String,
    /// What the cluster offers.
    pub capability: Capability,
    /// Copy of the configurations in the own namespace.
    pub configs: Cache<SelfNodeRemediationConfig>,
    /// Copy of all remediations.
    pub remediations: Cache<SelfNodeRemediation>,
    /// Metadata of all nodes: who may acknowledge.
    pub nodes: Cache<NodeMetadata>,
    /// What this process remembers.
    pub memory: Memory,
    /// Remediations take their marks off one after the other.
    pub cleaning: Arc<tokio::sync::Mutex<()>>,
    /// Own series.
    pub metrics: RemediationMetrics,
}

impl Remediator {
    /// Works on one remediation until there is nothing more to do at once.
    pub async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Action, RemediationError> {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let api = Api::<SelfNodeRemediation>::namespaced(self.client.clone(), namespace);
        for _ in 0..MOST_PASSES {
            let Some(object) = read::get_opt(&api, &key.name).await? else {
                self.memory.forget(&key);
                self.metrics.forget(&key);
                return Ok(Action::done());
            };
            let pass = self.pass(&api, &key, &object).await;
            match pass {
                // The status has the error already.
                Ok((_, Some(error))) => return Err(error),
                Ok((Next::Again, None)) => {}
                Ok((Next::After(wait), None)) => return Ok(Action::after(wait)),
                Ok((Next::Idle, None)) => return Ok(Action::done()),
                Err(error) if is_race(&error) => return Ok(Action::after(CONFLICT_PAUSE)),
                Err(error) => {
                    self.report(&api, &object, &error).await;
                    return Err(error);
                }
            }
        }
        Ok(Action::after(Duration::from_secs(1)))
    }

    async fn pass(
        &self,
        api: &Api<SelfNodeRemediation>,
        key: &ObjectKey,
        object: &SelfNodeRemediation,
    ) -> Result<(Next, Option<RemediationError>), RemediationError> {
        let seen = self.observe(key, object).await?;
        let plan = plan::plan(&seen, self.clock.now());
        self.carry_out(api, key, &seen, plan).await
    }
}

fn is_race(error: &RemediationError) -> bool {
    error.class() == Class::Conflict
}

/// Wakes the remediations that a change may concern. A node's every change is looked at: a new boot, an announcement,
/// last words, also those that it passes on for another node.
pub fn wake_on_changes(
    remediations: &mut Informer<SelfNodeRemediation>,
    nodes: &mut Informer<NodeMetadata>,
    queue: &Arc<Queue<ObjectKey>>,
) {
    let wake = Arc::clone(queue);
    remediations.on_change(move |change| {
        if let Some(remediation) = change.object() {
            wake.add(ObjectKey::of(&**remediation));
        }
    });
    let (wake, known) = (Arc::clone(queue), remediations.cache());
    nodes.on_change(move |change| {
        if let Some(node) = change.object() {
            let relayed = relayed_by(node).unwrap_or_default();
            let spoken_of = relayed.nodes().map(ToString::to_string);
            for name in std::iter::once(node.name_any()).chain(spoken_of) {
                for key in about(&known.list(), &name) {
                    wake.add(key);
                }
            }
        }
    });
}

/// The remediations that are for a node, whose every change may be what they wait for.
fn about(remediations: &[Arc<SelfNodeRemediation>], node: &str) -> Vec<ObjectKey> {
    remediations
        .iter()
        .filter(|object| {
            Remediation::parse(object)
                .is_some_and(|remediation| remediation.target.matches(node, "") != Match::No)
        })
        .map(|object| ObjectKey::of(&**object))
        .collect()
}
