//! The peer of `tests/interop`: crypto/tls and grpc-go, which is what the original's agents speak with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::tools;

/// What goes into the program.
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// The built program.
#[derive(Debug, Clone)]
pub struct GoPeer(PathBuf);

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct GoServer {
    _process: Child,
    /// Where it listens.
    pub address: std::net::SocketAddr,
}

impl GoPeer {
    /// The program, built if there is none of this content yet.
    pub fn ready() -> anyhow::Result<Self> {
        // Tests of one process build it once.
        static BUILDING: Mutex<()> = Mutex::new(());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop");
        let go = tools::find("go").context("Go is missing: install it from https://go.dev/dl/")?;
        let mut hash = Sha256::new();
        for file in SOURCES {
            let content = fs::read(source.join(file)).with_context(|| format!("read {file}"))?;
            hash.update(format!("{file} {}\n", content.len()));
            hash.update(content);
        }
        let key = hash
            .finalize()
            .iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .concat();
        let folder = tools::cache_folder()?.join("interop");
        fs::create_dir_all(&folder)?;
        let _turn = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        let program = folder.join(format!("peer-{key}"));
        if !program.is_file() {
            let aside = folder.join(format!("peer-{key}.{}", std::process::id()));
            let status = std::process::Command::new(go)
                .args(["build", "-trimpath", "-buildvcs=false", "-o"])
                .arg(&aside)
                .arg(".")
                .current_dir(&source)
                .env("CGO_ENABLED", "0")
                .env("GOWORK", "off")
                .status()
                .context("run go build")?;
            ensure!(status.success(), "go build of the peer failed: {status}");
            fs::rename(&aside, &program)?;
        }
        Ok(Self(program))
    }

    /// Runs it to its end; what it printed.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.0)
            .args(args)
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts a server with the certificates of a folder; `mode` as its usage says.
    pub async fn serve(&self, certificates: &str, mode: &str) -> anyhow::Result<GoServer> {
        let mut process = Command::new(&self.0)
            .args(["serve", certificates, "127.0.0.1:0", mode])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().context("the server has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await?.context("the server ended")?;
        Ok(GoServer {
            _process: process,
            address: line.parse()?,
        })
    }
}
