//! What the loss of a node will mean in this cluster, told before the first node fails.
//!
//! # Purpose
//! Small clusters cannot promise everything: whom nobody can vouch for may not reset itself, and whom nobody can
//! acknowledge is not freed by time. An administrator should know that from `kubectl describe snrc`, not from the first
//! night. The README has the same as a table.

use std::collections::BTreeSet;

use medik8s_api::names::contract::{EXCLUDE_FROM_REMEDIATION_LABEL, TRUE};
use medik8s_api::names::snr::AGENT_VERSION_ANNOTATION;
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::table::{Role, is_strict_majority, quorum_of};

use super::NodeMetadata;

#[cfg(test)]
mod tests;

/// A node as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) role: Role,
    /// No agent runs on it, so it never answers.
    pub(super) without_agent: bool,
    /// No agent of ours has run on it since it was registered.
    pub(super) never_had_one: bool,
}

impl Member {
    /// `agents`: the nodes with agents, if that is known.
    pub(super) fn of(node: &NodeMetadata, agents: Option<&BTreeSet<NodeName>>) -> Self {
        let labels = node.metadata.labels.as_ref();
        let excluded = labels
            .and_then(|labels| labels.get(EXCLUDE_FROM_REMEDIATION_LABEL))
            .is_some_and(|value| value == TRUE);
        let name = node.metadata.name.as_deref().and_then(NodeName::new);
        let has_agent = agents
            .zip(name)
            .is_none_or(|(agents, name)| agents.contains(&name));
        let annotations = node.metadata.annotations.as_ref();
        let version = annotations.and_then(|all| all.get(AGENT_VERSION_ANNOTATION));
        Self {
            role: Role::of(labels),
            without_agent: excluded || !has_agent,
            never_had_one: version.is_none_or(String::is_empty),
        }
    }
}

/// Something to tell about the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// Something is not promised.
    pub(super) warning: bool,
    pub(super) text: String,
}

/// What follows from the nodes for each kind of node that there is, the gravest first.
pub(super) fn describe(nodes: &[Member], min_peers: usize) -> Vec<Told> {
    let count = |wanted: fn(&Member) -> bool| nodes.iter().filter(|node| wanted(node)).count();
    let workers = count(|node| node.role.worker);
    let control_plane = count(|node| node.role.control_plane);
    let mut told = Vec::new();
    for (role, what) in [
        (
            Role {
                control_plane: false,
                worker: true,
            },
            "a worker",
        ),
        (
            Role {
                control_plane: true,
                worker: false,
            },
            "a control-plane node",
        ),
        (
            Role {
                control_plane: true,
                worker: true,
            },
            "a control-plane node that is also a worker",
        ),
    ] {
        if nodes
            .iter()
            .any(|node| node.role == role && !node.without_agent)
        {
            let others = workers.saturating_sub(usize::from(role.worker));
            let peers = if role.control_plane {
                control_plane.saturating_sub(1)
            } else {
                0
            };
            told.push(fate(what, others, peers, min_peers));
        }
    }
    let without_agent = count(|node| node.role.worker && node.without_agent);
    let never = count(|node| node.role.worker && node.without_agent && node.never_had_one);
    told.extend(mute(workers, without_agent, never));
    told.sort_by_key(|told| !told.warning);
    told
}

/// What happens to a lost node that knows so many other workers and control-plane nodes.
fn fate(what: &str, workers: usize, control_plane: usize, min_peers: usize) -> Told {
    if workers < min_peers && control_plane == 0 {
        return Told {
            warning: true,
            text: format!(
                "{what} lost here is held until there is evidence, because it knows {workers} other \
                 workers and minPeersForRemediation is {min_peers}: it must not reset itself, so \
                 time proves nothing; it is freed when it reboots, or by a fence agent"
            ),
        };
    }
    let needed = |size| (size > 0).then(|| (quorum_of(size), size));
    let parts: Vec<String> = [
        (needed(workers), "other workers"),
        (needed(control_plane), "other control-plane nodes"),
    ]
    .into_iter()
    .filter_map(|(needed, what)| {
        needed.map(|(votes, size)| format!("{votes} of the {size} {what}"))
    })
    .collect();
    if parts.is_empty() {
        return Told {
            warning: false,
            text: format!("{what} lost here is freed after its bound; nobody has to be asked"),
        };
    }
    // With one more node lost, those that are left may be too few.
    let fragile = [workers, control_plane].into_iter().any(|size| size == 1);
    let more = if fragile {
        "; if that node is lost as well, both are held until there is evidence"
    } else {
        "; if more are lost at once, they are held until there is evidence"
    };
    Told {
        warning: fragile,
        text: format!(
            "{what} lost here is freed after its bound, if {} acknowledge the order{more}",
            parts.join(" and ")
        ),
    }
}

/// Nodes without agent are members of every table, and never answer. `never`: so many of them never had one, so that they
/// count as in mixed operation.
fn mute(workers: usize, without_agent: usize, never: usize) -> Option<Told> {
    let others = workers.checked_sub(1)?;
    let answering = others.saturating_sub(without_agent);
    if without_agent == 0 || answering == others {
        return None;
    }
    let too_few = answering < quorum_of(others);
    // The release counts as in mixed operation where most members never had an agent.
    let guarded = is_strict_majority(never, others);
    let resets = !is_strict_majority(answering, others);
    (too_few || resets).then(|| Told {
        warning: true,
        text: format!(
            "{without_agent} of {workers} workers run no agent (they are excluded from remediation, or \
             a taint or a lack of room keeps it away), so they never answer: an outage of the API server resets the others once, because \
             they find no majority{}",
            match (too_few, guarded) {
                (true, false) => "; and no node is freed by time, because too few can acknowledge",
                (true, true) =>
                    "; and because too few can acknowledge, a lost node is freed after its bound only \
                     while most other workers are Ready, which is weaker: a short outage goes unseen",
                (false, _) => "",
            }
        ),
    })
}
