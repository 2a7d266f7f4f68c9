//! Tries, from time to time, whether the manager can reach agents at all.
//!
//! Without that no acknowledgement ever comes, and every remediation holds. A NetworkPolicy that forbids it should be
//! known before the first node fails. So should what the number of nodes allows (`topology`).

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;
use medik8s_api::SelfNodeRemediationConfig;
use medik8s_api::names::snr;
use medik8s_api::self_node_remediation::defaults;
use medik8s_runtime::{
    clock::Clock,
    events::{self, Recorder},
    informer::Cache,
    shutdown::Shutdown,
};
use self_node_remediation_core::budget;
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::table;
use self_node_remediation_peer::HealthRequest;
use self_node_remediation_peer::net::Dialer;

use super::NodeMetadata;
use super::acknowledge::Agents;
use super::topology::{self, Member};

/// How many agents are tried.
const SAMPLE: usize = 3;
/// The first try, when the agents have had time to start, and the pause while there is nothing to try.
const FIRST: Duration = Duration::from_mins(2);
/// Pause while there is no configuration to tell anything about.
const CONFIG_PAUSE: Duration = Duration::from_secs(5);
/// Event reason.
const UNREACHABLE: &str = "AgentsUnreachable";
/// Event reason.
const TOPOLOGY: &str = "LossOfANode";

/// The periodic try.
pub struct Reach {
    /// API client.
    pub client: Client,
    /// The operator's namespace.
    pub namespace: String,
    /// Copy of the configurations in the own namespace.
    pub configs: Cache<SelfNodeRemediationConfig>,
    /// Metadata of all nodes.
    pub nodes: Cache<NodeMetadata>,
    /// Tells the user.
    pub recorder: Recorder,
    /// The way to the agents.
    pub dialer: Dialer,
    /// Time.
    pub clock: Clock,
}

impl Reach {
    /// Tries until `stop`.
    pub async fn run(self, stop: Shutdown) -> anyhow::Result<()> {
        if !self.nodes.synced(&stop).await || !self.configs.synced(&stop).await {
            return Ok(());
        }
        // The configuration of a fresh install is still to be created.
        while !self.tell_topology(true, None) {
            if stop
                .or_stop(tokio::time::sleep(CONFIG_PAUSE))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
        let mut pause = FIRST;
        while stop.or_stop(tokio::time::sleep(pause)).await.is_some() {
            let Some(config) = self.configs.get(Some(&self.namespace), snr::CONFIG_NAME) else {
                pause = FIRST;
                continue;
            };
            let interval = budget::duration(
                "peerUpdateInterval",
                config.spec.peer_update_interval.as_ref(),
                defaults::PEER_UPDATE_INTERVAL,
            );
            pause = interval.unwrap_or(FIRST).max(Duration::from_secs(10));
            let found = Agents::find(&self.client, &self.dialer, &self.namespace, &config.spec);
            let agents = match found.await {
                Ok(agents) => agents,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "could not try to reach agents");
                    let _said = self.tell_topology(false, None);
                    continue;
                }
            };
            let nodes = agents.nodes().cloned().collect();
            let _said = self.tell_topology(false, Some(&nodes));
            if let Some(tried) = self.try_some(&agents).await {
                self.recorder.warning(
                    &events::reference(&*config),
                    UNREACHABLE,
                    &format!(
                        "none of {tried} agents answers the manager; without their \
                         acknowledgement no node is freed by time (check NetworkPolicies and the \
                         agent pods)"
                    ),
                );
            }
        }
        Ok(())
    }

    /// Says what the loss of a node will mean; what is promised in full is said once only. False: there is no
    /// configuration to say it of.
    fn tell_topology(&self, all: bool, agents: Option<&BTreeSet<NodeName>>) -> bool {
        let Some(config) = self.configs.get(Some(&self.namespace), snr::CONFIG_NAME) else {
            return false;
        };
        let min_peers = config
            .spec
            .min_peers_for_remediation
            .unwrap_or(defaults::MIN_PEERS_FOR_REMEDIATION);
        let min_peers = usize::try_from(min_peers).unwrap_or(usize::MAX);
        let members: Vec<Member> = self
            .nodes
            .list()
            .iter()
            .map(|node| Member::of(node, agents))
            .collect();
        let regarding = events::reference(&*config);
        for told in topology::describe(&members, min_peers) {
            if told.warning {
                self.recorder.warning(&regarding, TOPOLOGY, &told.text);
            } else if all {
                self.recorder.normal(&regarding, TOPOLOGY, &told.text);
            }
        }
        true
    }

    /// Asks some agents about their own nodes; how many were tried if none of them answered.
    async fn try_some(&self, agents: &Agents) -> Option<usize> {
        let chance = u64::from(self.clock.now().subsec_nanosecond().unsigned_abs());
        let chosen: Vec<_> = table::shuffled(agents.nodes(), chance)
            .into_iter()
            .take(SAMPLE)
            .collect();
        for node in &chosen {
            let question = HealthRequest {
                node_name: node.to_string(),
                ..HealthRequest::default()
            };
            if agents
                .ask(node, &question)
                .await
                .is_some_and(|answer| answer.status.is_some())
            {
                return None;
            }
        }
        (!chosen.is_empty()).then_some(chosen.len())
    }
}
