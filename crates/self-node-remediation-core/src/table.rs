//! Who votes: the peer table of an agent, and who the manager may count as a member of it.
//!
//! # Guarantees
//! Manager and agent use one definition of a worker and of a control-plane node. A quorum of [`quorum_of`] members that
//! will never vote "API error" leaves no [`is_strict_majority`] of the others, for every size of the table.
//!
//! # Caveats
//! A worker label added long after a node's creation makes the node a member in the manager's eyes although the agent
//! may not have listed it as one yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use medik8s_core::roles::{self, Labels};
use medik8s_core::time;
use serde::{Deserialize, Serialize};

use crate::ids::NodeName;

#[cfg(test)]
mod tests;

/// A node younger than this at the table's stamp is no member for the manager: the list from which the table was made
/// may not have had it.
pub const MEMBER_AGE: Duration = Duration::from_mins(1);

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Role {
    /// It belongs to the control plane.
    pub control_plane: bool,
    /// It is a worker. On compact clusters a node is both.
    pub worker: bool,
}

impl Role {
    /// The role that the labels of a node tell.
    pub fn of(labels: Option<&Labels>) -> Self {
        Self {
            control_plane: roles::is_control_plane(labels),
            worker: roles::is_worker(labels),
        }
    }
}

/// A node of a node list; its metadata is enough.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListedNode {
    /// Its name.
    pub name: NodeName,
    /// What it is for.
    pub role: Role,
    /// When it was created; `None` if the object does not say, then it never counts as old.
    pub created: Option<Timestamp>,
}

impl ListedNode {
    fn is_older_than_member_age(&self, stamp: Timestamp) -> bool {
        self.created
            .is_some_and(|created| time::after(created, MEMBER_AGE) <= stamp)
    }
}

/// The electorates of one agent: names of all other nodes that may vote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Table {
    /// The other workers.
    pub workers: BTreeSet<NodeName>,
    /// The other control-plane nodes; empty on a node outside the control plane, which has no such electorate.
    pub control_plane: BTreeSet<NodeName>,
    /// The server's date of the list.
    pub stamp: Timestamp,
    /// Whether a member was too young at that date for the manager to count it.
    pub has_young: bool,
}

impl Table {
    /// The table of the node `own` with `role`, from a complete node list.
    pub fn of(nodes: &[ListedNode], own: &NodeName, role: Role, stamp: Timestamp) -> Self {
        let members = |wanted: fn(Role) -> bool| {
            nodes
                .iter()
                .filter(move |node| node.name != *own && wanted(node.role))
        };
        let names = |wanted| {
            members(wanted)
                .map(|node| node.name.clone())
                .collect::<BTreeSet<_>>()
        };
        let young = |wanted| members(wanted).any(|node| !node.is_older_than_member_age(stamp));
        Self {
            workers: names(|role| role.worker),
            control_plane: if role.control_plane {
                names(|role| role.control_plane)
            } else {
                BTreeSet::new()
            },
            stamp,
            has_young: young(|role| role.worker)
                || role.control_plane && young(|role| role.control_plane),
        }
    }

    /// Whether both tables have the same names, whatever their dates.
    pub fn has_same_names(&self, other: &Self) -> bool {
        self.workers == other.workers && self.control_plane == other.control_plane
    }
}

/// Which electorate of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Electorate {
    /// The other workers.
    Workers,
    /// The other control-plane nodes.
    ControlPlane,
}

/// Members of X's table as the manager may count them: nodes of the electorate that were old enough at the stamp.
pub fn members(
    nodes: &[ListedNode],
    sick: &NodeName,
    electorate: Electorate,
    stamp: Timestamp,
) -> BTreeSet<NodeName> {
    let votes = |role: Role| match electorate {
        Electorate::Workers => role.worker,
        Electorate::ControlPlane => role.control_plane,
    };
    nodes
        .iter()
        .filter(|node| node.name != *sick && votes(node.role))
        .filter(|node| node.is_older_than_member_age(stamp))
        .map(|node| node.name.clone())
        .collect()
}

/// Acknowledgements that are needed of a table of this size: half of it, rounded up.
pub const fn quorum_of(size: usize) -> usize {
    size.div_ceil(2)
}

/// Whether this many votes of members are more than half of a table of this size.
pub const fn is_strict_majority(votes: usize, size: usize) -> bool {
    votes > size / 2
}

/// Addresses of the agents by node. An address that two nodes claim is given to neither: it belongs to one agent, which
/// would vote twice (a stale endpoint whose address was given to another pod).
pub fn directory(
    endpoints: impl IntoIterator<Item = (NodeName, IpAddr)>,
) -> BTreeMap<NodeName, BTreeSet<IpAddr>> {
    let mut claims: BTreeMap<IpAddr, BTreeSet<NodeName>> = BTreeMap::new();
    for (node, address) in endpoints {
        claims.entry(address).or_default().insert(node);
    }
    let mut directory: BTreeMap<NodeName, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, nodes) in claims {
        if let (1, Some(node)) = (nodes.len(), nodes.into_iter().next()) {
            directory.entry(node).or_default().insert(address);
        }
    }
    directory
}

/// The names in an order that depends on `chance` only, so that not every agent asks the same peers first.
pub fn shuffled<'a>(names: impl IntoIterator<Item = &'a NodeName>, chance: u64) -> Vec<NodeName> {
    let mut keyed: Vec<(u64, &NodeName)> = names
        .into_iter()
        .zip(1u64..)
        .map(|(name, index)| (mix(chance ^ mix(index)), name))
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, name)| name.clone()).collect()
}

/// The finaliser of SplitMix64: spreads a number over all bits.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
