//! Asking peers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::stream::{self, FuturesUnordered, StreamExt};
use medik8s_runtime::clock::Clock;
use self_node_remediation_core::agent::Evidence;
use self_node_remediation_core::announcement::StoppedFeeding;
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::table;
use self_node_remediation_core::time::BootInstant;
use self_node_remediation_core::verdict::Said;
use self_node_remediation_peer::pace::{IN_FLIGHT, Pace};
use self_node_remediation_peer::{Client, HealthRequest, RelayRequest, Status};

use crate::directory::Directory;
use crate::inbox::Sender;
use crate::metrics::AgentMetrics;

/// Peers that are asked to pass last words on.
const RELAYS: usize = 5;

/// Asks peers about the own node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Certificates and limits.
    pub client: Client,
    /// The own node.
    pub node: NodeName,
    /// Where peers are.
    pub directory: Directory,
    /// The port of every peer service.
    pub port: u16,
    /// The clock by which answers are dated.
    pub clock: Clock,
    /// Whom to tell.
    pub inbox: Sender,
    /// Counts answers.
    pub metrics: AgentMetrics,
}

impl Asker {
    /// Asks `nodes` in this order and reports each of them once; none that has not been asked when it is `enough`.
    pub async fn round(self, round: u64, nodes: Vec<NodeName>, enough: Arc<AtomicBool>) {
        let machine_name = self.directory.machine();
        let question = HealthRequest {
            node_name: self.node.to_string(),
            machine_name,
            order_uid: String::new(),
        };
        let pace = Pace::of(nodes.len());
        let answered = AtomicUsize::new(0);
        self.metrics.peers_answered(0);
        stream::iter(nodes)
            .map(|node| {
                let (asker, question, pace, answered) = (&self, &question, &pace, &answered);
                let enough = &enough;
                async move {
                    let ask = || async {
                        if enough.load(Ordering::Relaxed) {
                            None
                        } else {
                            Some(asker.ask(&node, question).await)
                        }
                    };
                    let Some(said) = pace.ask(ask).await else {
                        return;
                    };
                    if said != Said::Silent {
                        let count = answered.fetch_add(1, Ordering::Relaxed);
                        asker.metrics.peers_answered(count.saturating_add(1));
                    }
                    asker
                        .inbox
                        .evidence(Evidence::PeerAnswer { round, node, said });
                }
            })
            .buffer_unordered(IN_FLIGHT)
            .collect::<()>()
            .await;
    }

    /// Asks some peers to pass our last words on; whether they can is not known, so several are asked.
    pub async fn relay(self, words: &StoppedFeeding, chance: u64) {
        let request = RelayRequest {
            node_name: self.node.to_string(),
            words: words.to_string(),
        };
        let known = self.directory.remembered().addresses;
        let others = known.keys().filter(|name| **name != self.node);
        let mut chosen = table::shuffled(others, chance);
        chosen.truncate(RELAYS);
        let mut calls: FuturesUnordered<_> = chosen
            .iter()
            .flat_map(|node| known.get(node).into_iter().flatten())
            .map(|address| {
                let address = SocketAddr::new(*address, self.port);
                self.client.relay(address, request.clone())
            })
            .collect();
        let mut understood = 0_u32;
        while let Some(answer) = calls.next().await {
            understood = understood.saturating_add(u32::from(answer.is_ok()));
        }
        tracing::warn!(%words, understood, "asked peers to tell that feeding has stopped");
    }

    /// One vote per node, whatever number of addresses it has: the first answer counts.
    async fn ask(&self, node: &NodeName, question: &HealthRequest) -> Said {
        let addresses = self.directory.addresses(node);
        let mut answers: FuturesUnordered<_> = addresses
            .into_iter()
            .map(|address| self.ask_at(node, address, question))
            .collect();
        while let Some(said) = answers.next().await {
            if said != Said::Silent {
                return said;
            }
        }
        Said::Silent
    }

    async fn ask_at(&self, node: &NodeName, address: IpAddr, question: &HealthRequest) -> Said {
        // Taken before the connection: what the peer reads, it reads after this.
        let sent = BootInstant::at(self.clock.boottime());
        let answer = self
            .client
            .ask(SocketAddr::new(address, self.port), question.clone())
            .await;
        let status = match &answer {
            Ok(response) => response.status_value(),
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::debug!(peer = %node, %address, error, "no answer");
                None
            }
        };
        match status {
            Some(Status::Healthy) => Said::Healthy { sent },
            Some(Status::Unhealthy) => Said::Unhealthy,
            Some(Status::ApiError) => Said::ApiError,
            None => Said::Silent,
        }
    }
}
