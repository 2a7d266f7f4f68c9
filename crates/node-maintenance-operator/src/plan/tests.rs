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

fn bare_node(uid: &str) -> NodeFacts {
    NodeFacts {
        uid: uid.to_owned(),
        is_unschedulable: false,
        has_drain_taint: false,
        has_unschedulable_taint: false,
        is_excluded: false,
        has_exclude_label: false,
        load_balancer_label: LoadBalancerLabel::Absent,
        ready: Status::True,
        is_control_plane: false,
    }
}
