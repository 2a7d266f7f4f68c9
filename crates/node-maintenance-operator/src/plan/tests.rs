//! The plan against a small model of the cluster ([`world`]): single stories, and any story.

use jiff::Timestamp;
use medik8s_api::names::nmo;

use super::*;
use crate::facts::{LoadBalancerLabel, NodeFacts, Phase};

mod properties;
mod stories;
mod world;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// The label that excludes a node from remediation.
fn excluded() -> String {
    "true".to_owned()
}

fn bare_node(uid: &str) -> NodeFacts {
    NodeFacts {
        uid: uid.to_owned(),
        is_unschedulable: false,
        has_drain_taint: false,
        has_unschedulable_taint: false,
        exclude_label: None,
        load_balancer_label: LoadBalancerLabel::Absent,
        ready: Status::True,
        is_control_plane: false,
    }
}
