//! What reaches the loop.

use std::net::IpAddr;

use medik8s_watchdog::Notice as FeederNotice;
use self_node_remediation_core::agent::{Evidence, Listed};
use self_node_remediation_core::time::BootInstant;
use self_node_remediation_peer::{HealthRequest, RelayRequest};
use tokio::sync::{mpsc, oneshot};

/// One message for the loop.
#[derive(Debug)]
pub enum Input {
    /// Something for the rules.
    Evidence(Evidence),
    /// The watchdog feeder says something.
    Feeder(FeederNotice),
    /// A peer, or the manager, asks.
    Question(HealthRequest, oneshot::Sender<PeerAnswer>),
    /// A peer that cannot reach the API server asks to pass its last words on.
    Relay(RelayRequest, IpAddr),
    /// A list that was made for questions ended.
    ListedForPeers {
        /// When the first request was sent.
        started: BootInstant,
        /// The list; `None` on any failure.
        list: Option<Listed>,
    },
    /// Addresses of peers, or what is known of the own Node, changed.
    PeersChanged,
    /// SIGTERM or SIGINT.
    Signal,
}

/// What goes back to a peer.
pub use self_node_remediation_core::peer_server::Answer as PeerAnswer;

/// The loop's end of the channel.
pub type Receiver = mpsc::UnboundedReceiver<Input>;

/// Everybody else's end. The senders are bounded by what the loop has started and by the peer
/// service's limits, so the channel needs no limit of its own, and nobody waits for the loop.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::UnboundedSender<Input>);

impl Sender {
    /// Leaves a message. After the loop has ended nobody reads it, which is as it should be.
    pub fn send(&self, input: Input) {
        if self.0.send(input).is_err() {
            tracing::debug!("the loop has ended");
        }
    }

    /// Leaves evidence.
    pub fn evidence(&self, evidence: Evidence) {
        self.send(Input::Evidence(evidence));
    }
}

/// A new channel.
pub fn channel() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Sender(sender), receiver)
}
