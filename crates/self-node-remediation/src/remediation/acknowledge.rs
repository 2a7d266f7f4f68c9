//! Asks agents to acknowledge an order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client as ApiClient};
use medik8s_api::names::snr;
use medik8s_api::self_node_remediation::SelfNodeRemediationConfigSpec;
use medik8s_runtime::read;
use self_node_remediation_core::budget::Timing;
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::order::Remediation;
use self_node_remediation_core::release::Quorum;
use self_node_remediation_core::table;
use self_node_remediation_peer::net::Dialer;
use self_node_remediation_peer::pace::{IN_FLIGHT, Pace};
use self_node_remediation_peer::{Client, HealthRequest, Identity, Status};

use super::{RemediationError, Remediator};
use crate::install::daemonset::peer_port;
use crate::install::effects::{ManagerSetError, manager_set};

/// A round of asking ends here; who has not answered is asked again in the next one.
const ROUND_LIMIT: Duration = Duration::from_secs(20);
/// Label of an EndpointSlice: its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The way to the agents.
pub(super) struct Agents {
    client: Client,
    port: u16,
    addresses: BTreeMap<NodeName, BTreeSet<IpAddr>>,
}

impl Agents {
    /// Reads certificates and addresses.
    pub(super) async fn find(
        client: &ApiClient,
        dialer: &Dialer,
        namespace: &str,
        config: &SelfNodeRemediationConfigSpec,
    ) -> Result<Self, RemediationError> {
        let set = manager_set(client, namespace)
            .await
            .map_err(|error| match error {
                ManagerSetError::Api(error) => RemediationError::from(error),
                ManagerSetError::Unusable(why) => RemediationError::Certificates(why),
            })?;
        let unusable =
            |error: &dyn std::error::Error| RemediationError::Certificates(error.to_string());
        let identity = Identity::from_pem(
            set.ca_pem.as_bytes(),
            set.cert_pem.as_bytes(),
            set.key_pem.as_bytes(),
        )
        .map_err(|error| unusable(&error))?;
        let timing = Timing::of(config)?;
        let caller = Client::new(
            &identity,
            timing.peer_dial_timeout(),
            timing.peer_request_timeout(),
        )
        .map_err(|error| unusable(&error))?
        .through(dialer.clone());
        let port = peer_port(config)
            .ok()
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| RemediationError::Certificates("hostPort is out of range".to_owned()))?;
        let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
        let ours = ListParams::default().labels(&format!("{SERVICE_LABEL}={}", snr::AGENT_SERVICE));
        let slices = read::list_all(&slices, &ours).await?;
        Ok(Self {
            client: caller,
            port,
            addresses: table::directory(claims(&slices)),
        })
    }

    /// Nodes whose agents can be asked.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.addresses.keys()
    }

    /// Asks the agent of a node, over each of its addresses in turn.
    pub(super) async fn ask(&self, node: &NodeName, question: &HealthRequest) -> Option<Answer> {
        for address in self.addresses.get(node).into_iter().flatten() {
            let address = SocketAddr::new(*address, self.port);
            match self.client.ask(address, question.clone()).await {
                Ok(response) => {
                    return Some(Answer {
                        status: response.status_value(),
                        acknowledged: response.acknowledged_uid,
                    });
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(%node, %address, error, "agent did not answer");
                }
            }
        }
        None
    }
}

/// What an agent answered.
pub(super) struct Answer {
    pub(super) status: Option<Status>,
    pub(super) acknowledged: String,
}

fn claims(slices: &[EndpointSlice]) -> impl Iterator<Item = (NodeName, IpAddr)> {
    slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .flat_map(|endpoint| {
            let node = endpoint.node_name.as_deref().and_then(NodeName::new);
            endpoint
                .addresses
                .iter()
                .filter_map(move |address| Some((node.clone()?, address.parse().ok()?)))
        })
}

impl Remediator {
    /// Asks members, in random order, until the quorum is complete; returns who acknowledged.
    pub(super) async fn acknowledgements(
        &self,
        remediation: &Remediation,
        config: &SelfNodeRemediationConfigSpec,
        mut quorum: Quorum,
        chance: u64,
    ) -> Result<BTreeSet<NodeName>, RemediationError> {
        let agents = Agents::find(&self.client, &self.dialer, &self.namespace, config).await?;
        let open: BTreeSet<NodeName> = quorum
            .workers
            .open()
            .chain(quorum.control_plane.open())
            .cloned()
            .collect();
        let node = remediation
            .target
            .node()
            .map(ToString::to_string)
            .unwrap_or_default();
        let question = HealthRequest {
            node_name: node,
            machine_name: String::new(),
            order_uid: remediation.uid.to_string(),
        };
        let mut waiting = table::shuffled(&open, chance).into_iter();
        // Unlike an agent's, a round here is long, and who is not asked in it is asked in the next: no more places for more.
        let pace = Pace::default();
        let mut running = FuturesUnordered::new();
        let ask = |member: NodeName| {
            let (agents, question, pace) = (&agents, &question, &pace);
            async move {
                let answer = pace.ask(|| agents.ask(&member, question)).await;
                (member, answer)
            }
        };
        let mut got = BTreeSet::new();
        let asking = async {
            running.extend(waiting.by_ref().take(IN_FLIGHT).map(ask));
            while let Some((member, answer)) = running.next().await {
                // Only an equal UID counts; an old agent sets none.
                if answer.is_some_and(|answer| answer.acknowledged == remediation.uid.as_str()) {
                    quorum.acknowledge(&member);
                    got.insert(member);
                    if quorum.is_complete() {
                        break;
                    }
                }
                running.extend(waiting.next().map(ask));
            }
        };
        // What came in until then counts; the rest is asked for again.
        let _in_time = tokio::time::timeout(ROUND_LIMIT, asking).await.is_ok();
        Ok(got)
    }
}
