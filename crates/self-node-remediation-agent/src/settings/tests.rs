use medik8s_runtime::cli::{self, Product};

use super::*;

const PRODUCT: Product = Product::new("self-node-remediation-agent", "1.0.0");

const RENDERED: [(&str, &str); 15] = [
    ("MY_NODE_NAME", "n1"),
    ("DEPLOYMENT_NAMESPACE", "ns"),
    ("POD_NAME", "self-node-remediation-ds-abcde"),
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
    ("END_POINT_HEALTH_CHECK_URL", ""),
];

fn args(more: &[&str]) -> Args {
    let given = ["manager", "--is-manager=false"].iter().chain(more);
    cli::parse(&PRODUCT, given.copied(), |command| command).unwrap()
}

fn read(change: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let mut pairs: std::collections::BTreeMap<&str, &str> = RENDERED.into();
    pairs.extend(change.iter().copied());
    Settings::read(&args(&[]), &Env::from_pairs(pairs))
}

#[test]
fn the_rendered_environment_is_understood() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings.timing.span(), Duration::from_secs(90));
    assert_eq!(
        settings.timing.api_check_interval(),
        Duration::from_secs(15)
    );
    assert_eq!((settings.min_peers, settings.peer_port), (1, 30001));
    assert_eq!((settings.endpoint, settings.watchdog_timeout), (None, None));
    assert_eq!(settings.peer_update_interval, Duration::from_mins(15));
    assert!(settings.software_reboot);
    let settings = read(&[
        ("WATCHDOG_TIMEOUT", "20000000000"),
        ("MIN_PEERS_FOR_REMEDIATION", "0"),
    ]);
    let settings = settings.unwrap();
    assert_eq!(settings.watchdog_timeout, Some(Duration::from_secs(20)));
    assert_eq!(settings.min_peers, 0);
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    for (name, value) in [
        ("MY_NODE_NAME", ""),
        ("WATCHDOG_PATH", ""),
        ("API_CHECK_INTERVAL", "15s"),
        ("API_CHECK_INTERVAL", "0"),
        ("API_SERVER_TIMEOUT", "-1"),
        ("WATCHDOG_TIMEOUT", "0"),
        ("MAX_API_ERROR_THRESHOLD", "0"),
        ("HOST_PORT", "0"),
        ("HOST_PORT", "70000"),
        ("MIN_PEERS_FOR_REMEDIATION", "-1"),
        ("IS_SOFTWARE_REBOOT_ENABLED", "maybe"),
    ] {
        let error = read(&[(name, value)]).unwrap_err();
        assert!(error.to_string().contains(name), "{name}={value}: {error}");
    }
    let longest = i64::MAX.to_string();
    assert!(matches!(
        read(&[("API_CHECK_INTERVAL", &longest)]),
        Err(SettingsError::Timing(budget::BudgetError::TooLong))
    ));
}

#[test]
fn the_originals_flags_are_accepted_in_gos_spelling() {
    let args = args(&[
        "-leader-elect=false",
        "--metrics-bind-address=:9443",
        "--zap-log-level",
        "debug",
        "--peer-bind-address=10.1.2.3:30001",
        "--host-root=/tmp/n1",
    ]);
    assert_eq!(args.metrics_bind_address, BindAddress::Any(9443));
    assert_eq!(args.host_root, Path::new("/tmp/n1"));
    assert!(matches!(
        args.peer_bind_address,
        Some(BindAddress::Address(_))
    ));
    assert_eq!(self::args(&[]).host_root, Path::new(Host::REAL_ROOT));
    let manager =
        cli::parse::<Args>(&PRODUCT, ["manager", "--is-manager"], |command| command).unwrap();
    let error = Settings::read(&manager, &Env::from_pairs(RENDERED)).unwrap_err();
    assert!(matches!(error, SettingsError::Manager));
}
