//! A machine in its steady state.

use self_node_remediation_core::announcement::Announcement;

use crate::host::{Host, Input, Machine};

/// Lets an agent start on an API server that answers, until it is armed and nothing is under way but its checks.
pub(crate) fn steady(machine: &Machine) -> (Host, Option<Announcement>) {
    let mut host = Host::booted(machine, 1).after(machine, Input::Start).0;
    let mut announced = None;
    for _ in 0..40 {
        loop {
            let input = if !host.asked.reads.is_empty() {
                Input::Read {
                    index: 0,
                    view: None,
                }
            } else if host.asked.nodes {
                Input::Nodes { list: 0 }
            } else if let Some(announcement) = &host.asked.announcement {
                announced = Some(announcement.clone());
                Input::Announced { accepted: true }
            } else {
                break;
            };
            host = host.after(machine, input).0;
        }
        host = host.after(machine, Input::Tick { kill: false }).0;
    }
    host.pods = true;
    (host, announced)
}
