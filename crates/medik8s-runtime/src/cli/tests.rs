use std::net::SocketAddr;

use super::*;

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    common: CommonArgs,
    /// As self-node-remediation has it
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set)]
    is_manager: bool,
}

const PRODUCT: Product = Product::new("test-operator", "1.2.3");

fn parsed(args: &[&str]) -> Result<Flags, clap::Error> {
    parse(
        &PRODUCT,
        std::iter::once("manager").chain(args.iter().copied()),
        |command| command,
    )
}

#[test]
fn accepts_the_shipped_command_lines() {
    let flags = parsed(&[
        "--health-probe-bind-address=:8081",
        "--metrics-bind-address=:8443",
        "--leader-elect",
        "--enable-http2=false",
    ])
    .unwrap();
    assert!(flags.common.leader_elect);
    assert!(!flags.common.enable_http2);
    assert_eq!(flags.common.metrics_bind_address, BindAddress::Any(8443));
    assert_eq!(flags.common.webhook_bind_address, BindAddress::Any(9443));
}

#[test]
fn one_dash_equals_two() {
    let flags = parsed(&["-is-manager", "-leader-elect=true", "-kubeconfig", "/k"]).unwrap();
    assert!(flags.is_manager);
    assert!(flags.common.leader_elect);
    assert_eq!(flags.common.kubeconfig.unwrap().to_str(), Some("/k"));
}

#[test]
fn bools_take_gos_spellings() {
    for (text, expected) in [("T", true), ("1", true), ("False", false), ("0", false)] {
        assert_eq!(
            parsed(&[&format!("--is-manager={text}")])
                .unwrap()
                .is_manager,
            expected
        );
    }
    assert!(parsed(&["--is-manager=yes"]).is_err());
}

#[test]
fn a_value_may_start_with_a_dash() {
    let flags = parsed(&["--kubeconfig", "-odd", "--leader-elect"]).unwrap();
    assert_eq!(flags.common.kubeconfig.unwrap().to_str(), Some("-odd"));
    assert!(flags.common.leader_elect);
}

#[test]
fn defaults_can_differ_per_operator() {
    let flags: Flags = parse(&PRODUCT, ["manager"], leader_elect_by_default).unwrap();
    assert!(flags.common.leader_elect);
    let flags: Flags = parse(
        &PRODUCT,
        ["manager", "--leader-elect=false"],
        leader_elect_by_default,
    )
    .unwrap();
    assert!(!flags.common.leader_elect);
    assert!(!parsed(&[]).unwrap().common.leader_elect);
}

#[test]
fn zap_flags_are_accepted() {
    let flags = parsed(&[
        "--zap-devel=false",
        "--zap-encoder=console",
        "-zap-log-level",
        "2",
        "--zap-stacktrace-level=panic",
        "--zap-time-encoding=rfc3339nano",
    ])
    .unwrap();
    assert_eq!(flags.common.log.zap_encoder, LogEncoder::Console);
    assert_eq!(
        flags.common.log.zap_log_level,
        LogLevel(tracing::Level::TRACE)
    );
    assert!(parsed(&["--zap-log-level=0"]).is_err());
}

#[test]
fn version_and_help_tell_what_one_needs() {
    let version = parsed(&["--version"]).unwrap_err();
    assert_eq!(version.kind(), clap::error::ErrorKind::DisplayVersion);
    let text = version.to_string();
    assert!(text.starts_with("test-operator 1.2.3 (commit "), "{text}");
    assert!(text.contains("rustc 1."), "{text}");
    let help = parsed(&["-h"]).unwrap_err();
    assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp);
    for flag in [
        "--metrics-bind-address",
        "--webhook-cert-mode",
        "--zap-log-level",
    ] {
        assert!(help.to_string().contains(flag), "{flag}");
    }
}

#[test]
fn unknown_flags_are_refused() {
    assert_eq!(
        parsed(&["--no-such"]).unwrap_err().kind(),
        clap::error::ErrorKind::UnknownArgument
    );
}

#[test]
fn addresses_in_all_spellings() {
    let address = |text: &str| text.parse::<BindAddress>();
    assert_eq!(address("0"), Ok(BindAddress::Disabled));
    assert_eq!(address(":0"), Ok(BindAddress::Any(0)));
    let v4: SocketAddr = "10.1.2.3:8443".parse().unwrap();
    assert_eq!(address("10.1.2.3:8443"), Ok(BindAddress::Address(v4)));
    let v6: SocketAddr = "[fd00::1]:8443".parse().unwrap();
    assert_eq!(address("[fd00::1]:8443"), Ok(BindAddress::Address(v6)));
    assert_eq!(
        address("localhost:80"),
        Ok(BindAddress::Name("localhost".into(), 80))
    );
    for bad in ["8443", ":", ":99999", "fd00::1:8443:", "a b:1", "[::1:1"] {
        assert!(address(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn binds_where_told() {
    assert!(BindAddress::Disabled.bind().await.unwrap().is_none());
    let address: BindAddress = "127.0.0.1:0".parse().unwrap();
    let listener = address.bind().await.unwrap().unwrap();
    assert!(listener.local_addr().unwrap().ip().is_loopback());
    assert!(BindAddress::Any(0).bind().await.unwrap().is_some());
}
