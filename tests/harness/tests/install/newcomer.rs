//! A newcomer who types what `docs/getting-started.md` says, word for word, and is done in two minutes.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use medik8s_harness::{Cluster, installation, tools};

use crate::by_kubectl::{agents_go_first, delete_all, nothing_is_left};

/// From an empty cluster to a remediated node.
const GOAL: Duration = Duration::from_mins(2);

pub(crate) async fn test(cluster: &Cluster) -> anyhow::Result<()> {
    let begin = Instant::now();
    let page = fs::read_to_string(tools::repository().join("docs/getting-started.md"))?;
    let (until_broken, afterwards) = page
        .split_once("## 4.")
        .context("getting-started.md has no step 4")?;
    for block in blocks(until_broken) {
        shell(cluster, &block).await?;
    }
    let breaks = afterwards
        .split('`')
        .find(|word| word.starts_with("kubectl label node "))
        .context("getting-started.md does not say how to break a node")?;
    let boot = cluster.machine("worker-1")?.boot_id();
    shell(cluster, breaks).await?;
    let mut rest = blocks(afterwards).into_iter();
    let last = rest.next_back().context("there is no last step")?;
    for block in rest {
        // What a person watches until he has seen enough.
        shell(cluster, &block.replace(" -w", "")).await?;
    }
    installation::remediated(cluster, "worker-1", &boot).await?;
    let took = begin.elapsed();
    println!("newcomer: from an empty cluster to a remediated node in {took:.0?}");
    ensure!(took < GOAL, "that is longer than {GOAL:?}");
    shell(cluster, &last).await?;
    // Server-side apply, too, changes nothing when it is repeated.
    shell(cluster, "kubectl diff --server-side -f deploy/medik8s.yaml").await?;
    agents_go_first(cluster).await?;
    delete_all(cluster, &["deploy/medik8s.yaml"]).await?;
    nothing_is_left(cluster).await
}

/// The blocks of commands of a page: lines that begin with four blanks.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(command), Some(block)) => {
                block.push_str(command);
                block.push('\n');
            }
            (None, Some(block)) if !block.is_empty() => blocks.push(String::new()),
            _ => {}
        }
    }
    blocks.retain(|block| block.starts_with("kubectl "));
    blocks
}

/// Runs what a person types into a shell at the root of the repository.
pub(crate) async fn shell(cluster: &Cluster, script: &str) -> anyhow::Result<String> {
    let path = std::env::join_paths(std::iter::once(cluster.tools().folder().to_owned()).chain(
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()),
    ))?;
    let done = tokio::process::Command::new("bash")
        .args(["-euc", script])
        .current_dir(tools::repository())
        .env("PATH", path)
        .env("KUBECONFIG", cluster.kubeconfig()?)
        .env("HOME", cluster.folder())
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .context("run bash")?;
    ensure!(
        done.status.success(),
        "{script}: {}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
