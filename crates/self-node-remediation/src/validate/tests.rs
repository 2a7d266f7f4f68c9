use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Toleration};
use medik8s_api::self_node_remediation::SelfNodeRemediationTemplateSpec;
use proptest::prelude::*;

use super::*;

const OLD: ServerVersion = ServerVersion {
    major: 1,
    minor: 25,
};
const NEW: ServerVersion = ServerVersion {
    major: 1,
    minor: 26,
};

fn spec(change: impl FnOnce(&mut SelfNodeRemediationConfigSpec)) -> SelfNodeRemediationConfigSpec {
    let mut spec = SelfNodeRemediationConfigSpec::default();
    change(&mut spec);
    spec
}

fn errors(change: impl FnOnce(&mut SelfNodeRemediationConfigSpec)) -> String {
    config(&spec(change)).denial().unwrap_or_default()
}

#[test]
fn the_taint_needs_a_cluster_that_knows_it() {
    let taint = Some(&RemediationStrategy::OutOfServiceTaint);
    assert_eq!(strategy(taint, Some(NEW)), Review::default());
    assert!(
        strategy(taint, Some(OLD))
            .denial()
            .unwrap()
            .contains("1.25")
    );
    let unknown = strategy(taint, None);
    assert!(unknown.denial().is_none() && unknown.warnings.len() == 1);
    for other in [None, Some(&RemediationStrategy::Automatic)] {
        assert_eq!(strategy(other, Some(OLD)), Review::default());
    }
}

#[test]
fn any_value_of_the_mark_is_kept() {
    let mut template =
        SelfNodeRemediationTemplate::new("t", SelfNodeRemediationTemplateSpec::default());
    assert!(needs_multiple_templates_mark(&template));
    template.metadata.annotations =
        Some([(MULTIPLE_TEMPLATES_ANNOTATION.into(), "no".into())].into());
    assert!(!needs_multiple_templates_mark(&template));
}

#[test]
fn the_defaults_are_admitted_without_a_word() {
    assert_eq!(
        config(&SelfNodeRemediationConfigSpec::default()),
        Review::default()
    );
}

#[test]
fn every_duration_below_its_minimum_is_named() {
    let text = errors(|spec| {
        spec.peer_api_server_timeout = Some("9ms".into());
        spec.api_server_timeout = Some("0s".into());
        spec.peer_dial_timeout = Some("1us".into());
        spec.peer_request_timeout = Some("9999us".into());
        spec.api_check_interval = Some("999ms".into());
        spec.peer_update_interval = Some("9.999s".into());
    });
    for (name, minimum) in [
        ("PeerApiServerTimeout", "10ms"),
        ("ApiServerTimeout", "10ms"),
        ("PeerDialTimeout", "10ms"),
        ("PeerRequestTimeout", "10ms"),
        ("ApiCheckInterval", "1s"),
        ("PeerUpdateInterval", "10s"),
    ] {
        assert!(
            text.contains(&format!("{name} cannot be less than {minimum}")),
            "{text}"
        );
    }
    let least = config(&spec(|spec| {
        spec.peer_update_interval = Some("10s".into());
        spec.api_check_interval = Some("1s".into());
        spec.api_server_timeout = Some("10ms".into());
    }));
    assert_eq!(least.denial(), None);
}

#[test]
fn values_that_overflow_are_refused() {
    assert!(
        errors(|spec| spec.api_check_interval = Some("9999999999h".into())).contains("ApiCheck")
    );
    assert!(errors(|spec| spec.max_api_error_threshold = Some(i64::MAX)).contains("maxApiError"));
    assert!(errors(|spec| spec.max_api_error_threshold = Some(4_000_000_000)).contains("year"));
}

#[test]
fn the_first_bad_toleration_and_requirement_are_named() {
    let text = errors(|spec| {
        spec.custom_ds_tolerations = Some(vec![Toleration {
            operator: Some("Maybe".into()),
            ..Toleration::default()
        }]);
        spec.custom_ds_node_selector_requirements = Some(vec![NodeSelectorRequirement {
            key: "disk".into(),
            operator: "In".into(),
            values: None,
        }]);
        spec.host_port = Some(65536);
    });
    assert!(
        text.contains("Maybe") && text.contains("disk") && text.contains("65536"),
        "{text}"
    );
}

#[test]
fn the_watchdog_timeout_is_whole_seconds_within_bounds() {
    for (value, good) in [
        ("5s", true),
        ("10m", true),
        ("1m30s", true),
        ("4s", false),
        ("601s", false),
        ("5500ms", false),
        ("", false),
    ] {
        let text = errors(|spec| spec.watchdog_timeout = Some(value.into()));
        assert_eq!(text.is_empty(), good, "{value}: {text}");
    }
}

#[test]
fn only_the_one_configuration_can_be_created() {
    let mut object =
        SelfNodeRemediationConfig::new("other", SelfNodeRemediationConfigSpec::default());
    object.metadata.namespace = Some("elsewhere".into());
    let text = create_config(&object, "snr").denial().unwrap();
    assert!(
        text.contains("other") && text.contains("elsewhere"),
        "{text}"
    );
    let mut object =
        SelfNodeRemediationConfig::new(CONFIG_NAME, SelfNodeRemediationConfigSpec::default());
    object.metadata.namespace = Some("snr".into());
    assert_eq!(create_config(&object, "snr"), Review::default());
}

#[test]
fn warnings_do_not_refuse() {
    let review = config(&spec(|spec| {
        spec.peer_request_timeout = Some("3s".into());
        spec.safe_time_to_assume_node_rebooted_seconds = Some(60);
        spec.watchdog_timeout = Some("20s".into());
    }));
    assert_eq!(review.denial(), None);
    let [peers, safe] = review.warnings.as_slice() else {
        panic!("{:?}", review.warnings)
    };
    assert!(
        peers.contains("3s") && peers.contains("5s") && peers.contains("7s"),
        "{peers}"
    );
    assert!(safe.contains("140"), "{safe}");
    let exact = spec(|spec| {
        spec.safe_time_to_assume_node_rebooted_seconds = Some(140);
        spec.watchdog_timeout = Some("20s".into());
    });
    assert!(config(&exact).warnings.is_empty());
    assert_eq!(delete_config(CONFIG_NAME, "snr", "snr").warnings.len(), 1);
    assert_eq!(delete_config("other", "snr", "snr"), Review::default());
}

proptest! {
    /// What is admitted has a time budget and can be rendered.
    #[test]
    fn what_is_admitted_can_be_used(
        interval in "[0-9]{1,4}(ms|s|m|h)",
        timeout in "[0-9]{1,4}(ms|s|m|h)",
        threshold in 1_i64..1_000,
        port in -1_i64..70_000,
    ) {
        let spec = spec(|spec| {
            spec.api_check_interval = Some(interval.as_str().into());
            spec.api_server_timeout = Some(timeout.as_str().into());
            spec.max_api_error_threshold = Some(threshold);
            spec.host_port = Some(port);
        });
        if config(&spec).denial().is_none() {
            prop_assert!(Timing::of(&spec).is_ok());
            let object = SelfNodeRemediationConfig::new(CONFIG_NAME, spec);
            prop_assert!(crate::install::daemonset::daemon_set(&object, "snr", "image", "s").is_ok());
        }
    }
}
