//! The program as it is built for the product.
#![cfg(test)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use self_node_remediation_peer::CertificateSet;
use self_node_remediation_peer::certificates::{CA_FIELD, CERT_FIELD, KEY_FIELD};

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

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The fencing machinery does not need the API: the process starts, serves its peers and its
/// probes, and ends on SIGTERM, with nothing behind the kubeconfig.
#[test]
fn the_process_starts_and_ends_without_an_api_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(path("host/proc/sys/kernel/random")).unwrap();
    std::fs::create_dir_all(path("host/run")).unwrap();
    std::fs::create_dir_all(path("certificates")).unwrap();
    std::fs::write(path("host/proc/sys/kernel/random/boot_id"), "b1\n").unwrap();
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap();
    let now = jiff::Timestamp::try_from(std::time::UNIX_EPOCH + since_epoch).unwrap();
    let set = CertificateSet::create(now).unwrap();
    for (field, text) in [
        (CA_FIELD, &set.ca_pem),
        (CERT_FIELD, &set.cert_pem),
        (KEY_FIELD, &set.key_pem),
    ] {
        std::fs::write(path("certificates").join(field), text).unwrap();
    }
    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: c,\
          contexts: [{{name: c, context: {{cluster: k, user: u}}}}],\
          clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{}'}}}}],\
          users: [{{name: u, user: {{token: t}}}}]}}",
        free_port()
    );
    std::fs::write(path("kubeconfig"), kubeconfig).unwrap();
    let (probes, peers) = (free_port(), free_port());
    let mut agent = Command::new(AGENT)
        .arg("--is-manager=false")
        .arg("--metrics-bind-address=0")
        .arg(format!("--health-probe-bind-address=127.0.0.1:{probes}"))
        .arg(format!("--peer-bind-address=127.0.0.1:{peers}"))
        .arg(format!("--host-root={}", path("host").display()))
        .arg(format!(
            "--certificates-dir={}",
            path("certificates").display()
        ))
        .arg(format!("--kubeconfig={}", path("kubeconfig").display()))
        .env_clear()
        .envs([
            ("MY_NODE_NAME", "n1"),
            ("DEPLOYMENT_NAMESPACE", "ns"),
            ("POD_NAME", "p1"),
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
            // Safe under any root; the host folder is not this machine.
            ("IS_SOFTWARE_REBOOT_ENABLED", "false"),
        ])
        .spawn()
        .unwrap();
    let ready = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        get(probes, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    let alive = get(probes, "/healthz");
    let listens = TcpStream::connect(("127.0.0.1", peers)).is_ok();
    let owned = path("host/run/self-node-remediation/lock").exists();
    let told = Command::new("kill")
        .arg("-TERM")
        .arg(agent.id().to_string())
        .status()
        .unwrap();
    let ended = (0..200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        agent.try_wait().unwrap()
    });
    agent.kill().unwrap_or_default();
    assert!(ready && listens && owned && told.success());
    assert!(alive.unwrap().starts_with("HTTP/1.1 200"));
    assert!(
        ended.unwrap().success(),
        "SIGTERM ends it well and in time: {ended:?}"
    );
}
