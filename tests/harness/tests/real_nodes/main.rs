//! Real kubelets, real containers, our images and manifests: who may run where is judged by what a
//! StatefulSet's containers write into a store on the host.
//!
//! Arguments choose scenarios by a part of their names.

#![expect(
    clippy::disallowed_methods,
    reason = "the test plays the user: its clock and its writes are not the product's"
)]
#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]

mod failover;
mod install;
mod lab;
mod majority;
mod quiet;

use std::{path::Path, process::ExitCode, time::Instant};

use medik8s_harness::{audit, child, go_tools, tools};
use nix::unistd::Uid;

use lab::Lab;

/// In this order: each begins with all nodes healthy and all agents armed, and ends so.
const SCENARIOS: [&str; 8] = [
    "a node is cut off from everything",
    "a node is cut off from the API server only",
    "the nodes do not reach each other",
    "all agents are killed at once",
    "the API server is down",
    "the managers are killed during a remediation",
    "the workers lose the API server after they have seen an order",
    "the workers lose the API server before they have seen an order",
];

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let chosen: Vec<&str> = SCENARIOS
        .into_iter()
        .filter(|name| words.is_empty() || words.iter().any(|word| name.contains(word.as_str())))
        .collect();
    if let Some(reason) = cannot_run() {
        println!("SKIPPED, nothing of this suite was run: {reason}");
        println!("real nodes: 0 passed, 0 failed, {} skipped", chosen.len());
        return ExitCode::SUCCESS;
    }
    medik8s_harness::run_with(&[go_tools::CONTAINERD], async || tell(&chosen).await)
}

/// What this machine lacks.
fn cannot_run() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("containers need root".to_owned());
    }
    let missing: Vec<&str> = ["runc", "buildah", "nft", "setpriv", "strip"]
        .into_iter()
        .filter(|program| tools::find(program).is_none())
        .collect();
    if !missing.is_empty() {
        return Some(format!("missing: {}", missing.join(", ")));
    }
    let groups = Path::new("/sys/fs/cgroup");
    let writable = std::fs::metadata(groups).is_ok_and(|folder| !folder.permissions().readonly());
    (!writable).then(|| "the control groups cannot be written".to_owned())
}

async fn tell(chosen: &[&str]) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut lab = Lab::start().await?;
    let mut passed = 0;
    let mut done = lab.install().await;
    if done.is_ok() {
        println!("everything is up and armed: {:.0?}", begin.elapsed());
        for name in chosen {
            let began = Instant::now();
            lab.narrator.chapter(name);
            done = run(&mut lab, name).await;
            if done.is_err() {
                println!("FAILED {name}");
                break;
            }
            println!("ok     {name} ({:.0} s)", began.elapsed().as_secs_f64());
            passed += 1;
        }
    }
    let done =
        done.and_then(|()| audit::nothing_was_forbidden(&lab.cluster.audit_log(), &lab::OPERATORS));
    if done.is_err() {
        println!("logs: {}", lab.cluster.keep_files().display());
    }
    lab.stop().await;
    println!(
        "real nodes: {passed} passed, {} failed ({:.0} s)",
        usize::from(done.is_err()),
        begin.elapsed().as_secs_f64()
    );
    done
}

async fn run(lab: &mut Lab, name: &str) -> anyhow::Result<()> {
    lab.ready().await?;
    let which = SCENARIOS.iter().position(|scenario| *scenario == name);
    match which {
        Some(0) => failover::cut_off(lab).await,
        Some(1) => failover::without_api(lab).await,
        Some(2) => quiet::without_peers(lab).await,
        Some(3) => quiet::agents_killed(lab).await,
        Some(4) => quiet::api_server_down(lab).await,
        Some(5) => failover::managers_killed(lab).await,
        Some(6) => majority::after_the_order(lab).await,
        Some(_) | None => majority::before_the_order(lab).await,
    }
}
