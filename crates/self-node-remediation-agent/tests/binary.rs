//! The program as it is built for the product.
#![cfg(test)]

use std::process::Command;

const AGENT: &str = env!("CARGO_BIN_EXE_self-node-remediation-agent");

/// The test watchdog is a separate build (`--cfg medik8s_test_watchdog`), so that no feature that
/// cargo unifies can bring it into a product.
#[test]
fn the_product_has_no_trace_of_the_test_watchdog() {
    let program = std::fs::read(AGENT).unwrap();
    for trace in ["medik8s-test-watchdog", "watchdog.sock"] {
        assert!(!contains(&program, trace.as_bytes()), "{trace}");
    }
    assert!(
        contains(&program, b"sysrq-trigger"),
        "the search finds what is there"
    );
}

fn contains(program: &[u8], trace: &[u8]) -> bool {
    let positions = program
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == trace[0]);
    positions
        .into_iter()
        .any(|(at, _)| program[at..].starts_with(trace))
}

#[test]
fn it_tells_its_version_and_refuses_to_be_the_manager() {
    let version = Command::new(AGENT).arg("--version").output().unwrap();
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    let manager = Command::new(AGENT)
        .arg("--is-manager")
        .env_clear()
        .output()
        .unwrap();
    assert!(!manager.status.success());
    assert!(String::from_utf8_lossy(&manager.stderr).contains("--is-manager=false"));
}
