//! Asking peers.

use std::net::{IpAddr, SocketAddr};

use futures::stream::{self, FuturesUnordered, StreamExt};
use medik8s_runtime::clock::Clock;
use self_node_remediation_core::agent::Evidence;
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::time::BootInstant;
use self_node_remediation_core::verdict::Said;
use self_node_remediation_peer::{Client, HealthRequest, Status};

use crate::directory::Directory;
use crate::inbox::Sender;

/// Peers asked at once (fencing-safety section 7).
const IN_FLIGHT: usize = 256;

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
}

impl Asker {
    /// Asks `nodes` in this order and reports each of them once.
    pub async fn round(self, round: u64, nodes: Vec<NodeName>) {
        let machine_name = self.directory.machine();
        let question = HealthRequest {
            node_name: self.node.to_string(),
            machine_name,
            order_uid: String::new(),
        };
        stream::iter(nodes)
            .map(|node| {
                let (asker, question) = (&self, &question);
                async move {
                    let said = asker.ask(&node, question).await;
                    asker
                        .inbox
                        .evidence(Evidence::PeerAnswer { round, node, said });
                }
            })
            .buffer_unordered(IN_FLIGHT)
            .collect::<()>()
            .await;
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
