//! What one search explores: a cluster, and how often what may go wrong.

use std::time::Duration;

use jiff::Timestamp;
use self_node_remediation_core::agent::Settings;
use self_node_remediation_core::budget::{BudgetError, Limits, Timing};
use self_node_remediation_core::order::Own;
use self_node_remediation_core::release::Peer as ListedPeer;
use self_node_remediation_core::table::{ListedNode, Role};

use crate::host::{Machine, NodeList};
use crate::rules::Rule;
use crate::view::{TICK, WALL, boot_id, node, wall};

/// Names of the other nodes.
pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// A worker.
pub const WORKER: Role = Role {
    control_plane: false,
    worker: true,
};
/// A control-plane node without workload.
pub const CONTROL_PLANE: Role = Role {
    control_plane: true,
    worker: false,
};

/// All other workers from some moment on.
#[derive(Debug, Clone, Copy)]
pub struct Others {
    names: &'static [&'static str],
    /// So many seconds old is the list.
    age: i64,
}

/// So many seconds ago the nodes that are added were created.
const JOINED: i64 = 500;

impl Others {
    /// Before anybody was added.
    pub const fn before(names: &'static [&'static str]) -> Self {
        let age = JOINED + 500;
        Self { names, age }
    }

    /// When those that were added are too young to be counted.
    pub const fn at_first(names: &'static [&'static str]) -> Self {
        let age = JOINED - 10;
        Self { names, age }
    }

    /// When everybody is old enough.
    pub const fn now(names: &'static [&'static str]) -> Self {
        Self { names, age: 0 }
    }
}

/// Something that happens a limited number of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The agent of X dies.
    Kill,
    /// Its decision loop hangs.
    Hang,
    /// It stands still.
    Freeze,
    /// Its pod is removed for good.
    Remove,
    /// It is replaced while a successor waits.
    RollOut,
    /// X comes back after its reset.
    Return,
    /// A list that is slow to arrive at a peer.
    SlowList,
    /// A peer's machine reboots.
    PeerReboot,
    /// Another manager takes over.
    NewManager,
    /// The remediation is deleted.
    Delete,
    /// A remediation of the same name is created.
    CreateAgain,
    /// A step of time during which the order's write is under way.
    Late,
    /// A step of time that the clocks of X do not see.
    SlowClock,
    /// An announcement of X has no known outcome.
    LostAnnouncement,
    /// Nodes are added or removed: the next list is true from now on.
    NodesChange,
}

/// How often each fault may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Left(u64);

impl Left {
    /// Allows a fault so many times (15 at most).
    #[must_use]
    pub const fn with(self, fault: Fault, times: u64) -> Self {
        Self(self.0 | (times << (fault as u64 * 4)))
    }

    /// Whether a fault may happen.
    pub const fn has(self, fault: Fault) -> bool {
        (self.0 >> (fault as u64 * 4)) & 15 > 0
    }

    /// What is left after it has.
    #[must_use]
    pub const fn without(self, fault: Fault) -> Self {
        Self(self.0 - (1 << (fault as u64 * 4)))
    }
}

/// One search.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What it is called.
    pub name: &'static str,
    /// Node x.
    pub machine: Machine,
    /// All other nodes as the manager lists them, in the order in which the lists become true.
    pub listed: Vec<Vec<ListedPeer>>,
    /// How many of [`NAMES`] run agents.
    pub peers: u8,
    /// What may happen.
    pub left: Left,
    /// Whether the reserve of ten seconds is waited for. Without it the bound is exact to the step.
    pub reserve: bool,
    /// The peers remember an order that is gone.
    pub old_memory: bool,
}

impl Setup {
    /// A worker with so many worker peers, no reserve, and nothing that goes wrong but the network.
    pub fn workers(name: &'static str, peers: u8) -> Self {
        let names = NAMES.get(..usize::from(peers)).unwrap_or(&NAMES);
        let nodes: Vec<ListedNode> = names.iter().map(|name| listed(name, WORKER)).collect();
        Self {
            name,
            machine: machine("x", WORKER, names, nodes.clone()),
            listed: vec![all_ours(nodes)],
            peers,
            left: Left::default(),
            reserve: false,
            old_memory: false,
        }
    }

    /// A control-plane node with two control-plane peers and one worker.
    pub fn control_plane(name: &'static str) -> Self {
        let nodes = vec![
            listed("a", CONTROL_PLANE),
            listed("b", CONTROL_PLANE),
            listed("c", WORKER),
        ];
        Self {
            machine: machine("x", CONTROL_PLANE, &NAMES, nodes.clone()),
            listed: vec![all_ours(nodes)],
            ..Self::workers(name, 3)
        }
    }

    /// X knows a node that was removed since, and not the one that was added since.
    pub fn other_table(name: &'static str) -> Self {
        let mut young = listed("b", WORKER);
        young.created = Some(wall());
        Self {
            machine: machine("x", WORKER, &["a", "b"], vec![listed("a", WORKER)]),
            listed: vec![all_ours(vec![young])],
            ..Self::workers(name, 2)
        }
    }

    /// A worker whose peers are the first of these lists, and each time that nodes change the next one. Whoever is not in
    /// the first one was created after it.
    pub fn changing(name: &'static str, lists: &[Others]) -> Self {
        let mut setup = Self::workers(name, NAMES.len().try_into().unwrap_or(u8::MAX));
        setup.peers = (0u8..)
            .zip(NAMES)
            .filter(|(_, name)| lists.iter().any(|list| list.names.contains(name)))
            .fold(0, |most, (index, _)| most.max(index + 1));
        setup.machine.peers.truncate(usize::from(setup.peers));
        let first = lists.first().map_or(&[][..], |list| list.names);
        let worker = |name: &&'static str| {
            let mut node = listed(name, WORKER);
            if !first.contains(name) {
                node.created = Timestamp::from_second(WALL - JOINED).ok();
            }
            node
        };
        let of = |list: &Others| -> Vec<ListedNode> { list.names.iter().map(worker).collect() };
        setup.listed = lists.iter().map(|list| all_ours(of(list))).collect();
        setup.machine.lists = lists
            .iter()
            .map(|list| NodeList {
                nodes: of(list).into_iter().chain([listed("x", WORKER)]).collect(),
                stamp: Timestamp::from_second(WALL - list.age).unwrap_or(Timestamp::UNIX_EPOCH),
            })
            .collect();
        let changes = lists.len().saturating_sub(1).try_into().unwrap_or(u64::MAX);
        setup.fault(Fault::NodesChange, changes)
    }

    /// X knows no other worker.
    pub fn alone(name: &'static str) -> Self {
        Self::workers(name, 0)
    }

    /// With this fault so many times.
    #[must_use]
    pub fn fault(mut self, fault: Fault, times: u64) -> Self {
        self.left = self.left.with(fault, times);
        self
    }

    /// Without this rule.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.machine.broken = Some(rule);
        self
    }

    /// With the reserve of ten seconds.
    #[must_use]
    pub fn with_reserve(mut self) -> Self {
        self.reserve = true;
        self
    }

    /// With a watchdog of so many seconds.
    #[must_use]
    pub fn watchdog(mut self, seconds: u64) -> Self {
        self.machine.watchdog = seconds;
        self
    }

    /// The rule that does not hold.
    pub const fn broken(&self) -> Option<Rule> {
        self.machine.broken
    }

    /// Whether this rule does not hold.
    pub fn breaks(&self, rule: Rule) -> bool {
        self.machine.broken == Some(rule)
    }
}

/// A node that exists for long.
pub fn listed(name: &str, role: Role) -> ListedNode {
    ListedNode {
        name: node(name),
        role,
        created: Timestamp::from_second(WALL - 100_000_000).ok(),
    }
}

fn all_ours(nodes: Vec<ListedNode>) -> Vec<ListedPeer> {
    let ours = |listed| ListedPeer {
        listed,
        our_agent: true,
    };
    nodes.into_iter().map(ours).collect()
}

/// The limits of the model: a check period of two steps, one failed check, two steps for a peer round within the grace
/// of three; the span is five steps.
pub fn timing() -> Result<Timing, BudgetError> {
    Timing::new(Limits {
        api_check_interval: TICK,
        api_server_timeout: TICK,
        max_api_error_threshold: 1,
        peer_dial_timeout: Duration::from_secs(8),
        peer_request_timeout: Duration::from_secs(12),
    })
}

/// A machine whose agent knows these other nodes.
///
/// # Panics
/// Never: the limits are usable.
#[expect(clippy::expect_used, reason = "the limits of the model are constants")]
pub fn machine(
    name: &'static str,
    role: Role,
    peers: &[&'static str],
    mut nodes: Vec<ListedNode>,
) -> Machine {
    nodes.push(listed(name, role));
    Machine {
        role,
        settings: Settings {
            own: Own {
                node: node(name),
                boot: boot_id(1),
            },
            timing: timing().expect("usable limits"),
            min_peers: 1,
            software_reboot: false,
            watchdog_timeout: None,
            // No list but those at the start; where nodes change, a list comes at any moment.
            peer_update_interval: Duration::MAX,
        },
        peers: peers.to_vec(),
        lists: vec![NodeList {
            nodes,
            stamp: wall(),
        }],
        watchdog: 10,
        least: 10,
        can_disarm: true,
        software_works: false,
        broken: None,
    }
}
