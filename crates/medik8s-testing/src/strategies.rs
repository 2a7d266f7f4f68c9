//! Proptest strategies for what the operators decide about.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use medik8s_api::{GoDuration, IntOrString};
use medik8s_core::conditions::Status;
use medik8s_core::taints::{DRAIN, OUT_OF_SERVICE, SELF_NODE_REMEDIATION, TaintId, UNSCHEDULABLE};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::build::{NodeExt, at, node};

/// Moments within a day, in whole seconds.
pub fn times() -> impl Strategy<Value = Timestamp> {
    (0i64..86_400).prop_map(at)
}

/// Durations up to a number of seconds, to the millisecond.
pub fn durations(max_seconds: u64) -> impl Strategy<Value = Duration> {
    (0..=max_seconds.saturating_mul(1000)).prop_map(Duration::from_millis)
}

/// Durations as users write them: everything that the schema accepts and that does not overflow.
pub fn go_durations() -> impl Strategy<Value = GoDuration> {
    let unit = select(vec!["ns", "us", "µs", "ms", "s", "m", "h"]);
    let part =
        (0u32..10_000, prop::option::of(0u32..1000), unit).prop_map(|(whole, fraction, unit)| {
            match fraction {
                Some(fraction) => format!("{whole}.{fraction}{unit}"),
                None => format!("{whole}{unit}"),
            }
        });
    prop::collection::vec(part, 1..4).prop_map(|parts| GoDuration::new(parts.concat()))
}

/// Thresholds as users write them: everything that the schema accepts.
pub fn thresholds() -> impl Strategy<Value = IntOrString> {
    prop_oneof![
        (0i64..50).prop_map(IntOrString::Int),
        (0u8..=100).prop_map(|percent| IntOrString::String(format!("{percent}%"))),
        (0i64..50).prop_map(|number| IntOrString::String(number.to_string())),
    ]
}

/// Statuses of conditions.
pub fn statuses() -> impl Strategy<Value = Status> {
    select(vec![Status::True, Status::False, Status::Unknown])
}

/// Lists of taints of ours and others, each identity at most once.
pub fn taints() -> impl Strategy<Value = Vec<Taint>> {
    let foreign = |key: &str, effect: &str| Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        value: None,
        time_added: None,
    };
    let ours = [DRAIN, UNSCHEDULABLE, SELF_NODE_REMEDIATION, OUT_OF_SERVICE];
    let mut all: Vec<Taint> = ours.into_iter().map(TaintId::taint).collect();
    all.push(foreign("node.kubernetes.io/not-ready", "NoExecute"));
    all.push(foreign("node.kubernetes.io/unreachable", "NoExecute"));
    all.push(foreign("example.com/dedicated", "NoSchedule"));
    let most = all.len();
    subsequence(all, 0..=most).prop_shuffle()
}

/// Roles of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    None,
    Worker,
    ControlPlane,
    Both,
}

/// A node of a given name: any role, any readiness since any time, perhaps excluded, cordoned or
/// tainted.
pub fn node_named(name: String) -> impl Strategy<Value = Node> {
    let role = select(vec![
        Role::None,
        Role::Worker,
        Role::ControlPlane,
        Role::Both,
    ]);
    let condition = prop::option::weighted(0.95, (statuses(), times()));
    let rarely = prop::bool::weighted(0.1);
    (role, condition, rarely, rarely, taints(), 0u32..3).prop_map(
        move |(role, condition, excluded, cordoned, taints, boot)| {
            let mut built = node(&name).boot_id(&format!("boot-{boot}"));
            if matches!(role, Role::Worker | Role::Both) {
                built = built.worker();
            }
            if matches!(role, Role::ControlPlane | Role::Both) {
                built = built.control_plane();
            }
            if let Some((status, since)) = condition {
                built = built.condition("Ready", status, since);
            }
            if excluded {
                built = built.excluded();
            }
            if cordoned {
                built = built.cordoned();
            }
            built.with_spec(|spec| spec.taints = Some(taints).filter(|list| !list.is_empty()))
        },
    )
}

/// Any node.
pub fn nodes() -> impl Strategy<Value = Node> {
    "n[0-9]".prop_flat_map(node_named)
}

/// Nodes with distinct names, sorted by name.
pub fn fleets(size: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<Node>> {
    size.prop_flat_map(|size| {
        let nodes: Vec<_> = (0..size)
            .map(|index| node_named(format!("n{index:02}")))
            .collect();
        nodes
    })
}

#[cfg(test)]
mod tests {
    use medik8s_core::go_duration;
    use medik8s_core::int_or_percent::{Field, IntOrPercent};

    use super::*;

    proptest! {
        #[test]
        fn values_are_those_that_operators_accept(
            duration in go_durations(), threshold in thresholds(), list in taints(),
        ) {
            prop_assert!(go_duration::parse_unsigned(duration.as_str()).is_ok());
            prop_assert!(IntOrPercent::parse(Field::MinHealthy, &threshold).is_ok());
            let mut ids: Vec<_> = list.iter().map(|taint| (&taint.key, &taint.effect)).collect();
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), list.len());
        }

        #[test]
        fn fleets_have_distinct_names(fleet in fleets(0..=6)) {
            let names: Vec<_> = fleet.iter().map(|node| node.metadata.name.clone()).collect();
            prop_assert!(names.is_sorted());
            prop_assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
