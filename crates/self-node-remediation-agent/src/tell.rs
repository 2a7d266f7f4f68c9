//! What people are told: logs, Events, counters.
//!
//! Some phrases are looked for by existing end-to-end suites; they stand here as constants.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ObjectReference;
use medik8s_api::names::snr::EVENT_NODE_REBOOT;
use medik8s_runtime::events::{self, Recorder};
use self_node_remediation_core::agent::{Notice, Reason};
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_peer::certificates::CertificateProblem;

use crate::directory::Directory;
use crate::metrics::AgentMetrics;

const CHECK_FAILED: &str = "failed to check api server";
const PEER_SAYS_HEALTHY: &str = "There is at least one peer who thinks this node healthy";
const NO_PEER_HAS_API: &str = "nodes couldn't access the api-server";
const PEER_IS_UNHEALTHY: &str = "found matching SNR, node is unhealthy";

/// Tells people.
#[derive(Debug)]
pub struct Teller {
    /// Records Events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: AgentMetrics,
    /// The own node.
    pub node: NodeName,
    /// Knows the own Node's UID.
    pub directory: Directory,
}

impl Teller {
    fn own_node(&self) -> ObjectReference {
        let uid = self.directory.remembered().uid;
        events::reference_to("v1", "Node", None, self.node.as_str(), uid.as_deref())
    }

    /// Tells what the rules want told.
    pub fn tell(&self, notice: &Notice) {
        match notice {
            Notice::CheckFailed { errors } => {
                self.metrics.check_failed();
                tracing::warn!(errors, "{CHECK_FAILED}");
            }
            Notice::ContactRegained => tracing::info!("the API server answers again"),
            Notice::Asking { peers } => tracing::warn!(peers, "asking peers about this node"),
            Notice::PeerSaysHealthy => tracing::info!("{PEER_SAYS_HEALTHY}"),
            Notice::ControlPlaneOutage => {
                tracing::warn!(
                    "{NO_PEER_HAS_API}: most peers report API errors, this node stays up"
                );
            }
            Notice::RoundUndecided { api_errors, silent } => {
                tracing::warn!(api_errors, silent, "the peers' answers decide nothing");
            }
            Notice::PermitExpired => {
                tracing::error!("no proof of health in time: the watchdog is not fed any more");
            }
            Notice::Armed { timeout } => tracing::info!(timeout, "the watchdog is armed"),
            Notice::NoWatchdog => self.no_watchdog(),
            Notice::Fencing(reason) => self.fencing(reason),
            Notice::CannotReboot { watchdog_failed } => {
                let why = if *watchdog_failed {
                    "its watchdog has not reset it in time"
                } else {
                    "it has no usable watchdog"
                };
                let message = format!(
                    "this node must reboot but cannot: {why}, and isSoftwareRebootEnabled is false in the \
                     SelfNodeRemediationConfig"
                );
                tracing::error!("{message}");
                self.recorder
                    .warning(&self.own_node(), "CannotReboot", &message);
            }
            Notice::NoElectorate => {
                let message = "this node knows fewer worker peers than minPeersForRemediation \
                               wants, so it will not reboot itself when it is cut off; a node lost \
                               here is held until there is evidence";
                tracing::warn!("{message}");
                self.recorder
                    .warning(&self.own_node(), "TooFewPeers", message);
            }
        }
    }

    /// Another device than the first choice guards this node.
    pub fn watchdog_passed_over(&self, used: &Path, passed_over: &[(PathBuf, String)]) {
        let others: Vec<String> = passed_over
            .iter()
            .map(|(path, why)| format!("{} cannot be used ({why})", path.display()))
            .collect();
        let message = format!(
            "this node is guarded by the watchdog {}, because {}. Where another program such as systemd \
             (RuntimeWatchdogSec) or sbd holds a device, end that; what guards the node stays the same until it reboots",
            used.display(),
            others.join(", ")
        );
        tracing::warn!("{message}");
        self.recorder
            .warning(&self.own_node(), "WatchdogPassedOver", &message);
    }

    fn no_watchdog(&self) {
        let message = "this node has no usable watchdog: a hung or killed agent cannot be fenced. \
                       Check spec.watchdogFilePath of the SelfNodeRemediationConfig, whether \
                       another program such as systemd (RuntimeWatchdogSec) or sbd holds the \
                       device, and whether the kernel has the module softdog";
        tracing::warn!("{message}");
        self.recorder
            .warning(&self.own_node(), "NoUsableWatchdog", message);
    }

    fn fencing(&self, reason: &Reason) {
        let why = match reason {
            Reason::Ordered(uid) => {
                tracing::error!(%uid, "this node is ordered to reboot");
                format!("a SelfNodeRemediation orders it (uid {uid})")
            }
            Reason::PeerSaysUnhealthy => {
                tracing::error!("a peer knows of a remediation for this node");
                "a peer knows of a SelfNodeRemediation for it".to_owned()
            }
            Reason::Isolated => {
                tracing::error!("this node is cut off");
                "it is cut off from the API server and its peers".to_owned()
            }
        };
        let message = format!("the node reboots itself: {why}");
        self.recorder
            .normal(&self.own_node(), EVENT_NODE_REBOOT, &message);
    }

    /// Peers do not accept the certificates that the manager keeps for the agents.
    pub fn certificates_unusable(&self, why: &CertificateProblem) {
        let message = format!(
            "the certificates of the agents cannot be used ({why}); as long as no peer accepts them, this node resets \
             itself when it loses the API server. Mend or delete the Secret that the DaemonSet mounts, then restart the agents"
        );
        tracing::error!("{message}");
        self.recorder
            .warning(&self.own_node(), "CertificatesUnusable", &message);
    }

    /// A peer, or the manager, was told that a node is unhealthy.
    pub fn said_unhealthy(&self, node: &str) {
        tracing::info!(node, "{PEER_IS_UNHEALTHY}");
    }
}
