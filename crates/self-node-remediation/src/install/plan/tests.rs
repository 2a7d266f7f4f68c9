use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use medik8s_api::{
    names::snr::{CONFIG_NAME, FINALIZER, PHASE_PRE_REBOOT_COMPLETED, PHASE_REBOOT_COMPLETED},
    self_node_remediation::{
        SelfNodeRemediationConfigSpec, SelfNodeRemediationSpec, SelfNodeRemediationStatus,
    },
};

use super::*;

const NO_SETS: Sets = Sets {
    main: None,
    first_expiry: None,
    both: None,
    next: None,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn config() -> SelfNodeRemediationConfig {
    SelfNodeRemediationConfig::new(CONFIG_NAME, SelfNodeRemediationConfigSpec::default())
}

fn ordered(phase: &str, assumed: &str) -> SelfNodeRemediation {
    let mut snr = SelfNodeRemediation::new("n", SelfNodeRemediationSpec::default());
    snr.metadata.uid = Some("uid-1".to_owned());
    snr.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    // Hours before it became an order.
    snr.metadata.creation_timestamp = Some(Time(at("2025-12-31T20:00:00Z")));
    snr.metadata.annotations = Some(BTreeMap::from([
        (snr::BOOT_ID_ANNOTATION.to_owned(), "boot-1".to_owned()),
        (
            snr::ORDER_TIMES_ANNOTATION.to_owned(),
            "uid=uid-1 boot=boot-1 seen=2026-01-01T00:00:00Z".to_owned(),
        ),
    ]));
    snr.status = Some(SelfNodeRemediationStatus {
        phase: Some(phase.to_owned()),
        time_assumed_rebooted: Some(Time(at(assumed))),
        ..SelfNodeRemediationStatus::default()
    });
    snr
}

fn observed(config: &SelfNodeRemediationConfig) -> Observed<'_> {
    Observed {
        config: Some(config),
        daemon_set: None,
        certificates: Certificates::Usable,
        sets: &NO_SETS,
        remediations: Vec::new(),
        namespace: "snr",
        image: "image",
    }
}

fn names(plan: &Plan) -> Vec<&'static str> {
    plan.steps
        .iter()
        .map(|step| match step {
            Step::CreateCertificates => "certificates",
            Step::Rotate(_) => "rotate",
            Step::ApplyService(_) => "service",
            Step::DeleteDaemonSet(_) => "delete",
            Step::ApplyDaemonSet(_) => "daemonset",
            Step::Warn(reason, _) | Step::WarnIfItLasts(reason, _) => reason,
            Step::Enable { .. } => "enable",
        })
        .collect()
}

#[test]
fn a_fresh_install_gets_everything_in_order() {
    let config = config();
    let seen = Observed {
        certificates: Certificates::Absent,
        ..observed(&config)
    };
    let plan = plan(&seen, Timestamp::UNIX_EPOCH);
    assert_eq!(names(&plan), ["certificates", "service", "daemonset"]);
    assert_eq!(plan.wake, None);
}

#[test]
fn a_request_timeout_that_is_not_used_is_told_of() {
    let mut config = config();
    config.spec.peer_request_timeout = Some("3s".into());
    let plan = plan(&observed(&config), Timestamp::UNIX_EPOCH);
    let [Step::Warn("PeerTimeoutAdjusted", text), ..] = plan.steps.as_slice() else {
        panic!("{plan:?}");
    };
    assert!(
        text.contains("(3s)") && text.contains("7s is used"),
        "{text}"
    );
}

#[test]
fn nothing_fights_an_uninstall() {
    let mut config = config();
    assert_eq!(
        plan(
            &Observed {
                config: None,
                ..observed(&config)
            },
            Timestamp::UNIX_EPOCH
        ),
        Plan::default()
    );
    config.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    assert_eq!(
        plan(&observed(&config), Timestamp::UNIX_EPOCH),
        Plan::default()
    );
}

#[test]
fn what_cannot_be_rendered_changes_nothing() {
    let mut config = config();
    config.spec.host_port = Some(0);
    assert_eq!(
        names(&plan(&observed(&config), Timestamp::UNIX_EPOCH)),
        [EVENT_UNUSABLE_CONFIG]
    );
}

#[test]
fn unusable_certificates_are_never_replaced_by_themselves() {
    let config = config();
    let seen = Observed {
        certificates: Certificates::Unusable("expired".to_owned()),
        ..observed(&config)
    };
    let plan = plan(&seen, Timestamp::UNIX_EPOCH);
    assert_eq!(names(&plan), [EVENT_UNUSABLE_CERTIFICATES]);
    assert!(plan.wake.is_some());
}

#[test]
fn agents_stay_as_they_are_while_an_order_is_in_flight() {
    let config = config();
    let mut set = daemonset::daemon_set(&config, "snr", "old", "s").unwrap();
    set.metadata.uid = Some("u".to_owned());
    let order = ordered(PHASE_PRE_REBOOT_COMPLETED, "2026-01-01T00:02:00Z");
    let seen = |remediation| Observed {
        daemon_set: Some(&set),
        remediations: vec![remediation],
        ..observed(&config)
    };
    let held = plan(&seen(&order), at("2026-01-01T00:59:59Z"));
    assert_eq!(names(&held), ["service"]);
    assert!(held.wake.is_some());
    assert_eq!(
        names(&plan(&seen(&order), at("2026-01-01T01:00:00Z"))),
        ["service", "daemonset"]
    );

    // Not recorded yet, or for another boot: the order's own time.
    let unseen = [
        None,
        Some("uid=uid-1 boot=boot-0 seen=2026-01-01T00:00:00Z"),
    ]
    .map(|times| {
        let mut unseen = order.clone();
        let annotations = unseen.metadata.annotations.as_mut().unwrap();
        annotations.remove(snr::ORDER_TIMES_ANNOTATION);
        annotations
            .extend(times.map(|text| (snr::ORDER_TIMES_ANNOTATION.to_owned(), text.to_owned())));
        unseen
    });
    for unseen in &unseen {
        assert_eq!(
            names(&plan(&seen(unseen), at("2026-01-01T00:01:59Z"))),
            ["service"]
        );
        assert_eq!(
            names(&plan(&seen(unseen), at("2026-01-01T00:02:00Z"))),
            ["service", "daemonset"]
        );
    }

    // Another manager's, without any time: never for ever.
    let mut timeless = order.clone();
    timeless.metadata.annotations = None;
    timeless.status.as_mut().unwrap().time_assumed_rebooted = None;
    assert_eq!(
        names(&plan(&seen(&timeless), at("2025-12-31T20:59:59Z"))),
        ["service"]
    );
    assert_eq!(
        names(&plan(&seen(&timeless), at("2025-12-31T21:00:00Z"))),
        ["service", "daemonset"]
    );

    let released = ordered(PHASE_REBOOT_COMPLETED, "2026-01-01T00:02:00Z");
    assert_eq!(
        names(&plan(&seen(&released), at("2026-01-01T00:00:01Z"))),
        ["service", "daemonset"]
    );

    let long = ordered(PHASE_PRE_REBOOT_COMPLETED, "2026-01-01T02:00:00Z");
    assert_eq!(
        names(&plan(&seen(&long), at("2026-01-01T01:00:00Z"))),
        ["service", "daemonset"]
    );

    let first = Observed {
        daemon_set: None,
        ..seen(&order)
    };
    assert_eq!(
        names(&plan(&first, at("2026-01-01T00:00:01Z"))),
        ["service", "daemonset"]
    );
}

#[test]
fn another_revision_is_deleted_first() {
    let config = config();
    let mut set = daemonset::daemon_set(&config, "snr", "old", "s").unwrap();
    set.metadata.annotations = None;
    set.metadata.uid = Some("u-7".to_owned());
    let plan = plan(
        &Observed {
            daemon_set: Some(&set),
            ..observed(&config)
        },
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(names(&plan), ["service", "delete", "daemonset"]);
    assert!(
        plan.steps
            .contains(&Step::DeleteDaemonSet("u-7".to_owned()))
    );
}

#[test]
fn remediations_that_were_disabled_go_on() {
    let config = config();
    let condition = |type_: &str| Condition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: "R".to_owned(),
        message: String::new(),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        observed_generation: None,
    };
    let mut snr = ordered("", "2026-01-01T00:02:00Z");
    snr.status.as_mut().unwrap().conditions =
        Some(vec![condition("Disabled"), condition("Processing")]);
    let plan = plan(
        &Observed {
            remediations: vec![&snr],
            ..observed(&config)
        },
        Timestamp::UNIX_EPOCH,
    );
    let Some(Step::Enable { conditions, .. }) = plan.steps.last() else {
        panic!("{plan:?}")
    };
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0].type_, "Processing");
}
