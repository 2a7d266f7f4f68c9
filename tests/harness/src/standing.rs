//! The cluster of `make cluster`: started in the background, found again by a small file.
//!
//! # Guarantees
//! `down` ends the process only if it is still the one that `up` started: process id **and** start
//! time have to match.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Cluster, Options,
    images::Programs,
    leftovers::{PREFIX, start_time},
    machine::NodeSpec,
    relay::Door,
    tools,
};

/// What `down` has to know.
#[derive(Debug, Serialize, Deserialize)]
struct Standing {
    pid: i32,
    /// Field 22 of `/proc/PID/stat`: tells it from a later process with the same id.
    started: String,
    folder: PathBuf,
}

/// Starts a cluster in the background; returns what to tell the user.
pub fn up(workers: u8) -> anyhow::Result<String> {
    let record = record()?;
    if let Some(standing) = load(&record)? {
        bail!(
            "a cluster is up already ({}); end it with `make cluster-down`",
            standing.folder.display()
        );
    }
    let tools = tools::Tools::ready()?;
    // Kept: the cluster removes it when it ends.
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?.keep();
    let log = fs::File::create(folder.join("cluster.log"))?;
    let mut child = Command::new("/proc/self/exe")
        .args(["run", "--workers", &workers.to_string(), "--folder"])
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    let limit = Instant::now() + Duration::from_mins(2);
    while !folder.join("ready").exists() {
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(folder.join("cluster.log")).unwrap_or_default();
            bail!(
                "the cluster did not start ({status}); {}:\n{said}",
                folder.display()
            );
        }
        ensure!(
            Instant::now() < limit,
            "the cluster was not ready in 2 minutes; see {}",
            folder.display()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let pid = i32::try_from(child.id())?;
    let standing = Standing {
        pid,
        started: start_time(pid).context("the cluster is gone")?,
        folder,
    };
    let record_folder = record.parent().context("the record has no folder")?;
    fs::create_dir_all(record_folder)?;
    fs::write(&record, serde_json::to_vec(&standing)?)?;
    let folder = standing.folder.display();
    Ok(format!(
        "Kubernetes {version} is up with 3 control-plane nodes and {workers} workers, all simulated.\n\n\
         \texport KUBECONFIG={folder}/kubeconfig\n\
         \texport PATH={tools}:$PATH\n\
         \tkubectl get nodes\n\
         \tkubectl apply --server-side -f deploy/medik8s.yaml    # the operators then run as local processes\n\n\
         Logs: {folder}/logs. End it with `make cluster-down`.",
        version = tools.version(),
        tools = tools.folder().display(),
    ))
}

/// Ends the cluster that [`up`] started; returns what to tell the user.
pub fn down() -> anyhow::Result<String> {
    let record = record()?;
    let Some(standing) = load(&record)? else {
        return Ok("no cluster is up".to_owned());
    };
    let pid = Pid::from_raw(standing.pid);
    kill(pid, Signal::SIGTERM).context("end the cluster")?;
    let limit = Instant::now() + Duration::from_secs(30);
    while start_time(standing.pid).as_ref() == Some(&standing.started) {
        if Instant::now() > limit {
            kill(pid, Signal::SIGKILL).context("kill the cluster")?;
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    fs::remove_file(&record)?;
    if standing.folder.exists() {
        fs::remove_dir_all(&standing.folder)?;
    }
    Ok("the cluster is gone".to_owned())
}

/// Runs a cluster until SIGTERM or an interrupt.
pub fn stay(folder: &Path, workers: u8) -> ExitCode {
    let door = match Door::open(folder) {
        Ok(door) => door,
        Err(error) => return crate::finish(Err(error)),
    };
    crate::run(|| async {
        let programs = Some(Programs::find()?);
        let nodes = (1..=3)
            .map(|number| NodeSpec::control_plane(format!("control-plane-{number}")))
            .chain((1..=workers).map(|number| NodeSpec::worker(format!("worker-{number}"))))
            .collect();
        let options = Options {
            nodes,
            programs,
            folder: Some(folder.to_owned()),
            ..Options::default()
        };
        let cluster = Cluster::start(options).await?;
        cluster.kubeconfig_outside(door.address)?;
        fs::write(folder.join("ready"), "")?;
        tokio::select! {
            served = door.serve(cluster.api_address()) => served?,
            () = interrupted() => {}
        }
        cluster.stop().await;
        Ok(())
    })
}

/// Returns at SIGTERM or SIGINT.
pub async fn interrupted() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the signals end the process, which is as good.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// The record of a cluster that still runs.
fn load(record: &Path) -> anyhow::Result<Option<Standing>> {
    if !record.exists() {
        return Ok(None);
    }
    let standing: Standing = serde_json::from_slice(&fs::read(record)?)?;
    Ok((start_time(standing.pid).as_ref() == Some(&standing.started)).then_some(standing))
}

fn record() -> anyhow::Result<PathBuf> {
    Ok(tools::cache_folder()?.join("standing.json"))
}
