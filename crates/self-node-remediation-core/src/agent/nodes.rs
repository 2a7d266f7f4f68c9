//! The peer table: a node list at start, every peerUpdateInterval, and once two minutes after a change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Command, Step};
use crate::ids::NodeName;
use crate::table::{Electorate, ListedNode, Role, Table, members, quorum_of};

/// Pause after a failed list once there is a table.
const RETRY: Duration = Duration::from_mins(2);
/// Pause after a failed list as long as there is none: nothing can be announced without.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// A list whose outcome was not reported by then has failed.
pub(super) const DEADLINE: Duration = Duration::from_mins(2);
/// After a change the table is read again, once, so that members which were too young for the manager become countable.
const AFTER_CHANGE: Duration = Duration::from_mins(2);

impl Step<'_> {
    pub(super) fn nodes_listed(
        &mut self,
        nodes: &[ListedNode],
        stamp: jiff::Timestamp,
        announced: Option<&str>,
    ) {
        let Some(own) = nodes
            .iter()
            .find(|node| node.name == self.settings.own.node)
        else {
            // Not a list that could have had all nodes: we are one.
            return self.nodes_failed();
        };
        if !self.state.nodes.role_read {
            // The role is that at the start of the process (section 17); a change needs a new table anyway.
            self.state.role = Some(own.role);
            self.state.nodes.role_read = true;
        }
        let role = self.state.role.unwrap_or(Role {
            control_plane: false,
            worker: true,
        });
        let table = Table::of(nodes, &self.settings.own.node, role, stamp);
        let in_force = self.state.announcing.in_force().map(|value| &value.table);
        let changed = in_force.is_none_or(|known| !known.has_same_names(&table)) || table.has_young;
        let mut pause = self.jittered(self.settings.peer_update_interval);
        // Once: where nodes come and go all the time, each list shows a change. But a table of which too few can be counted
        // would keep a node that is lost now from being freed.
        let enough = |electorate, table: &BTreeSet<NodeName>| {
            members(nodes, &self.settings.own.node, electorate, stamp).len()
                >= quorum_of(table.len())
        };
        let can_be_counted = enough(Electorate::Workers, &table.workers)
            && enough(Electorate::ControlPlane, &table.control_plane);
        let follow = changed && !self.state.nodes.follows_change || !can_be_counted;
        if follow {
            pause = pause.min(AFTER_CHANGE);
        }
        let state = &mut self.state;
        state.nodes.running = None;
        state.nodes.follows_change = follow;
        state.nodes.next = self.now.plus(pause);
        state.nodes.latest = Some(Arc::new(table));
        self.announcement_seen(announced);
    }

    pub(super) fn nodes_failed(&mut self) {
        let nodes = &mut self.state.nodes;
        nodes.running = None;
        nodes.follows_change = false;
        let pause = if nodes.latest.is_some() {
            RETRY
        } else {
            FIRST_RETRY
        };
        nodes.next = self.now.plus(pause);
    }

    pub(super) fn drive_nodes(&mut self) {
        if self
            .state
            .nodes
            .running
            .is_some_and(|since| self.now >= since.plus(DEADLINE))
        {
            self.nodes_failed();
        }
        let nodes = &mut self.state.nodes;
        if nodes.running.is_none() && self.now >= nodes.next {
            nodes.running = Some(self.now);
            self.rest.push(Command::ListNodes);
        }
    }
}
