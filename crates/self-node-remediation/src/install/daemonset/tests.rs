use std::collections::BTreeSet;

use super::*;

fn config(change: impl FnOnce(&mut SelfNodeRemediationConfigSpec)) -> SelfNodeRemediationConfig {
    let mut config =
        SelfNodeRemediationConfig::new(snr::CONFIG_NAME, SelfNodeRemediationConfigSpec::default());
    config.metadata.uid = Some("u-1".to_owned());
    config.metadata.namespace = Some("snr".to_owned());
    change(&mut config.spec);
    config
}

fn rendered(change: impl FnOnce(&mut SelfNodeRemediationConfigSpec)) -> DaemonSet {
    daemon_set(
        &config(change),
        "snr",
        "example.com/snr:1",
        "self-node-remediation-certificates",
    )
    .unwrap()
}

fn pod_of(set: &DaemonSet) -> PodSpec {
    set.spec.clone().unwrap().template.spec.unwrap()
}

fn env_of(set: &DaemonSet) -> BTreeMap<String, String> {
    let pod = pod_of(set);
    pod.containers[0]
        .env
        .iter()
        .flatten()
        .filter_map(|var| Some((var.name.clone(), var.value.clone()?)))
        .collect()
}

#[test]
fn the_environment_is_the_contract_with_the_agent() {
    let env = env_of(&rendered(|spec| {
        spec.endpoint_health_check_url = Some("https://x/?a: b".into());
    }));
    for (name, expected) in [
        ("WATCHDOG_PATH", "/dev/watchdog"),
        ("PEER_API_SERVER_TIMEOUT", "5000000000"),
        ("API_CHECK_INTERVAL", "15000000000"),
        ("PEER_UPDATE_INTERVAL", "900000000000"),
        ("API_SERVER_TIMEOUT", "5000000000"),
        ("PEER_DIAL_TIMEOUT", "5000000000"),
        ("PEER_REQUEST_TIMEOUT", "7000000000"),
        ("MAX_API_ERROR_THRESHOLD", "3"),
        ("HOST_PORT", "30001"),
        ("MIN_PEERS_FOR_REMEDIATION", "1"),
        ("IS_SOFTWARE_REBOOT_ENABLED", "true"),
        ("END_POINT_HEALTH_CHECK_URL", "https://x/?a: b"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(expected), "{name}");
    }
    assert!(
        !env.contains_key("WATCHDOG_TIMEOUT"),
        "rendered only when it is set"
    );
    let env = env_of(&rendered(|spec| spec.watchdog_timeout = Some("20s".into())));
    assert_eq!(
        env.get("WATCHDOG_TIMEOUT").map(String::as_str),
        Some("20000000000")
    );
}

#[test]
fn an_empty_watchdog_path_is_the_default() {
    let env = env_of(&rendered(|spec| {
        spec.watchdog_file_path = Some(String::new());
    }));
    assert_eq!(
        env.get("WATCHDOG_PATH").map(String::as_str),
        Some("/dev/watchdog")
    );
}

#[test]
fn the_safe_time_restarts_no_agent() {
    let with = rendered(|spec| spec.safe_time_to_assume_node_rebooted_seconds = Some(400));
    assert_eq!(with, rendered(|_| {}));
}

#[test]
fn the_original_daemon_set_can_be_updated_in_place() {
    let set = rendered(|_| {});
    assert_eq!(
        set.metadata.name.as_deref(),
        Some("self-node-remediation-ds")
    );
    let spec = set.spec.clone().unwrap();
    let expected = BTreeMap::from([
        (
            "app.kubernetes.io/name".to_owned(),
            "self-node-remediation".to_owned(),
        ),
        ("app.kubernetes.io/component".to_owned(), "agent".to_owned()),
    ]);
    assert_eq!(spec.selector.match_labels, Some(expected.clone()));
    assert_eq!(spec.template.metadata.unwrap().labels, Some(expected));
    let owner = &set.metadata.owner_references.unwrap()[0];
    assert_eq!(
        (owner.controller, owner.block_owner_deletion),
        (Some(true), Some(true))
    );
}

#[test]
fn h07_a_roll_out_overlaps() {
    let strategy = rendered(|_| {})
        .spec
        .unwrap()
        .update_strategy
        .unwrap()
        .rolling_update
        .unwrap();
    assert_eq!(strategy.max_surge, Some(IntOrString::Int(1)));
    assert_eq!(strategy.max_unavailable, Some(IntOrString::Int(0)));
}

#[test]
fn built_in_scheduling_rules_come_first_and_once() {
    let excluded = NodeSelectorRequirement {
        key: "remediation.medik8s.io/exclude-from-remediation".to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(vec!["true".to_owned()]),
    };
    let custom = NodeSelectorRequirement {
        key: "disk".to_owned(),
        operator: "Exists".to_owned(),
        values: None,
    };
    let toleration = Toleration {
        key: Some("gpu".to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    let set = rendered(|spec| {
        spec.custom_ds_node_selector_requirements = Some(vec![excluded.clone(), custom.clone()]);
        spec.custom_ds_tolerations = Some(vec![toleration.clone()]);
    });
    let pod = pod_of(&set);
    let terms = pod
        .affinity
        .and_then(|affinity| affinity.node_affinity)
        .and_then(|node| node.required_during_scheduling_ignored_during_execution)
        .unwrap()
        .node_selector_terms;
    assert_eq!(terms[0].match_expressions, Some(vec![excluded, custom]));
    let tolerations = pod.tolerations.unwrap();
    assert_eq!(tolerations.len(), 4);
    assert_eq!(tolerations[3], toleration);
    let keys: BTreeSet<_> = tolerations
        .iter()
        .filter_map(|one| one.key.as_deref())
        .collect();
    assert!(
        keys.contains(snr::REMEDIATION_TAINT),
        "the agent stays on a node in remediation"
    );
}

#[test]
fn unusable_values_are_named() {
    let bad = |change: fn(&mut SelfNodeRemediationConfigSpec)| {
        let error = daemon_set(&config(change), "snr", "i", "s").unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error} {}", source.unwrap_or_default())
    };
    assert!(bad(|spec| spec.host_port = Some(0)).contains("hostPort"));
    assert!(bad(|spec| spec.min_peers_for_remediation = Some(-1)).contains("minPeers"));
    assert!(bad(|spec| spec.api_check_interval = Some("soon".into())).contains("apiCheckInterval"));
    assert!(bad(|spec| spec.max_api_error_threshold = Some(0)).contains("maxApiErrorThreshold"));
}

#[test]
fn peers_find_agents_that_are_not_ready() {
    let service = service(&config(|_| {}), "snr").unwrap().spec.unwrap();
    assert_eq!(service.cluster_ip.as_deref(), Some("None"));
    assert_eq!(service.publish_not_ready_addresses, Some(true));
    assert_eq!(service.selector, Some(agent_labels()));
}
