//! What happens to a machine.

use super::Pace;
use crate::view::View;

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// One step of time passes. `kill`: the process dies at its end, just before the watchdog is judged.
    Tick {
        /// Whether it dies.
        kill: bool,
    },
    /// A read is answered.
    Read {
        /// Which of those under way.
        index: u8,
        /// What it shows.
        view: Option<View>,
    },
    /// The node list is answered.
    Nodes {
        /// Which of them.
        list: u8,
    },
    /// The announcement's outcome is heard.
    Announced {
        /// Whether the API server said that it has taken it.
        accepted: bool,
    },
    /// The last words are on their way.
    WordsSent,
    /// A peer's answer is heard.
    Answer {
        /// Which peer.
        peer: u8,
        /// What it says.
        word: Word,
    },
    /// The process dies.
    Kill,
    /// A process starts.
    Start,
    /// The process hangs, freezes or goes on.
    Pace(Pace),
    /// The process is asked to end.
    Terminate {
        /// A successor waits; otherwise the pod is removed for good.
        successor: bool,
    },
    /// The machine comes back in another boot.
    Boot,
    /// A watch shows a remediation of node x.
    Watched(View),
    /// The kubelet starts the pods that are bound to the node.
    PodsStart,
}

/// What a peer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// A live list has nothing for us.
    Healthy,
    /// There is something for us.
    Unhealthy,
    /// It has no API.
    ApiError,
    /// It must not say anything.
    Silent,
}
