//! The release binaries: static, small, without a trace of the test watchdog, at home in a scratch
//! image, and quick to start.
//!
//! `make test-release` runs all of it. `make test` builds the agent alone and runs what can be said
//! about its file (`-- --agent`).

#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use medik8s_harness::{
    Cluster, Options, child, elf,
    images::{Programs, has_test_watchdog},
    manifests,
    scratch::{self, Shipped},
    tools,
};

const AGENT: &str = "self-node-remediation-agent";

const SHIPPED: [Shipped; 4] = [
    Shipped {
        binary: "node-healthcheck-operator",
        namespace: "node-healthcheck-operator-system",
        account: "node-healthcheck-controller-manager",
        proof: ("create", "leases"),
    },
    Shipped {
        binary: "node-maintenance-operator",
        namespace: "node-maintenance-operator-system",
        account: "node-maintenance-operator-controller-manager",
        proof: ("create", "leases"),
    },
    Shipped {
        binary: "self-node-remediation",
        namespace: "self-node-remediation",
        account: "self-node-remediation-controller-manager",
        proof: ("create", "leases"),
    },
    Shipped {
        binary: AGENT,
        namespace: "self-node-remediation",
        account: "self-node-remediation-agent",
        proof: ("list", "selfnoderemediations"),
    },
];

/// The main controller of each manager, by binary.
const CONTROLLERS: [(&str, &str); 3] = [
    ("node-healthcheck-operator", "nodehealthcheck"),
    ("node-maintenance-operator", "nodemaintenance"),
    ("self-node-remediation", "selfnoderemediation"),
];

const LARGEST: u64 = 15 * 1024 * 1024;
const SLOWEST_START: Duration = Duration::from_millis(300);
const NODES: usize = 50;

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let folder = match folder() {
        Ok(folder) => folder,
        Err(error) => return medik8s_harness::finish(Err(error)),
    };
    let agent_only = std::env::args().any(|arg| arg == "--agent");
    medik8s_harness::run(async || {
        let mut tally = Tally::default();
        let shipped = SHIPPED
            .iter()
            .filter(|shipped| !agent_only || shipped.binary == AGENT);
        for shipped in shipped {
            let binary = folder.join(shipped.binary);
            ensure!(
                binary.is_file(),
                "{} is not built (`make release`)",
                binary.display()
            );
            tally.add(
                &format!("{} is static and small", shipped.binary),
                small_and_static(&binary),
            );
            tally.add(
                &format!("{} has no trace of the test watchdog", shipped.binary),
                has_test_watchdog(&binary).and_then(|found| {
                    ensure!(!found, "the marker of the test watchdog is in it");
                    Ok(String::new())
                }),
            );
        }
        tally.add(
            "the test agent has it, so that the check can fail",
            test_agent_is_marked(),
        );
        if agent_only {
            return tally.verdict();
        }
        let mut cluster = Cluster::start(Options::default()).await?;
        prepare(&cluster).await?;
        for (number, shipped) in (1..).zip(&SHIPPED) {
            let binary = folder.join(shipped.binary);
            let reached = scratch::reaches_api(&cluster, shipped, &binary, number).await;
            let name = format!(
                "{} resolves a name and speaks TLS from a scratch image",
                shipped.binary
            );
            tally.add(&name, reached.map(|()| String::new()));
        }
        for (binary, controller) in CONTROLLERS {
            let shipped = SHIPPED
                .iter()
                .find(|shipped| shipped.binary == binary)
                .context("unknown")?;
            let started = quick(&cluster, shipped, &folder.join(binary), controller).await;
            tally.add(
                &format!("{binary} is at work quickly at {NODES} nodes"),
                started,
            );
        }
        if tally.failed > 0 {
            println!("logs: {}/logs", cluster.keep_files().display());
        }
        cluster.stop().await;
        tally.verdict()
    })
}

fn small_and_static(binary: &Path) -> anyhow::Result<String> {
    let program = std::fs::read(binary)?;
    elf::ensure_static(&program)?;
    let size = u64::try_from(program.len())?;
    ensure!(
        size < LARGEST,
        "it has {size} bytes, the limit is {LARGEST}"
    );
    if let Some(ldd) = tools::find("ldd") {
        let said = Command::new(ldd).arg(binary).output()?;
        let said =
            [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        let said = said.concat();
        let is_static = ["statically linked", "not a dynamic executable"];
        ensure!(
            is_static.iter().any(|words| said.contains(words)),
            "ldd says: {said}"
        );
    }
    Ok(format!("({} KiB)", size / 1024))
}

fn test_agent_is_marked() -> anyhow::Result<String> {
    let agent = Programs::find()?.agent;
    ensure!(
        has_test_watchdog(&agent)?,
        "{} has no test watchdog",
        agent.display()
    );
    Ok(String::new())
}

async fn quick(
    cluster: &Cluster,
    shipped: &Shipped,
    binary: &Path,
    controller: &str,
) -> anyhow::Result<String> {
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(scratch::time_to_controllers(cluster, shipped, binary, controller).await?);
    }
    let best = times.iter().min().context("nothing was measured")?;
    ensure!(
        *best < SLOWEST_START,
        "the best of {times:.3?} is above {SLOWEST_START:?}"
    );
    Ok(format!("best of {times:.3?}"))
}

/// Nodes, and the manifests without what would start or call other programs.
async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply_text(&manifests::definitions()?).await?;
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd",
            "--all",
        ])
        .await?;
    let kinds = [
        "Deployment",
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
    ];
    cluster.apply_text(&manifests::without(&kinds)?).await?;
    let nodes: Vec<String> = (0..NODES)
        .map(|number| {
            format!(
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: node-{number}\n  \
                 labels: {{sim: alive, kubernetes.io/hostname: node-{number}, node-role.kubernetes.io/worker: ''}}\n"
            )
        })
        .collect();
    cluster.apply_text(&nodes.concat()).await?;
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            "node",
            "--all",
        ])
        .await?;
    Ok(())
}

/// `target/x86_64-unknown-linux-gnu/release`, beside the folder of the debug build.
fn folder() -> anyhow::Result<PathBuf> {
    let managers = Programs::find()?.managers;
    let target = managers.parent().context("no target folder")?;
    Ok(target.join("x86_64-unknown-linux-gnu/release"))
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn add(&mut self, name: &str, outcome: anyhow::Result<String>) {
        match outcome {
            Ok(detail) => {
                self.passed += 1;
                println!("ok      {name} {detail}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {name}: {error:#}");
            }
        }
    }

    fn verdict(&self) -> anyhow::Result<()> {
        println!("release: {} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            bail!("{} checks of the release binaries failed", self.failed);
        }
        Ok(())
    }
}
