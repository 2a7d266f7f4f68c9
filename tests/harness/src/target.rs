//! Where a suite runs: on a cluster of its own, or on the user's when he says so.
//!
//! # Purpose
//! `--use-current-context` (or `MEDIK8S_USE_CURRENT_CONTEXT=1`) runs a suite that needs nothing but an
//! API server against the current context of `KUBECONFIG` or `~/.kube/config`.
//!
//! # Guarantees
//! A context that is not marked for tests is refused, and nothing is written to it: either the name of
//! the context starts with `medik8s-test`, or the Namespace `kube-system` carries the annotation
//! `medik8s.io/test-cluster: "true"`.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config, ResourceExt as _,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::io::AsyncWriteExt as _;

use crate::{Cluster, Options, tools};

/// Contexts whose name starts like this are for tests; so is the one of our own clusters.
const CONTEXT_PREFIX: &str = "medik8s-test";
/// Annotation of the Namespace `kube-system` of a cluster that is for tests.
const MARK: &str = "medik8s.io/test-cluster";

/// An API server and a kubectl that speaks to it.
pub enum Target {
    /// A cluster that was started for the suite.
    Own(Box<Cluster>),
    /// The user's cluster.
    Foreign(Foreign),
}

/// The current context of the user.
pub struct Foreign {
    client: Client,
    context: String,
    kubectl: PathBuf,
}

impl Target {
    /// A client with the rights of an administrator (or what the user's context has).
    pub fn client(&self) -> Client {
        match self {
            Self::Own(cluster) => cluster.admin(),
            Self::Foreign(foreign) => foreign.client.clone(),
        }
    }

    /// Runs kubectl with `input` as its standard input.
    pub async fn kubectl(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = match self {
            Self::Own(cluster) => {
                let mut command = tokio::process::Command::new(cluster.tools().kubectl());
                command
                    .env("KUBECONFIG", cluster.kubeconfig()?)
                    .env("HOME", cluster.folder());
                command
            }
            Self::Foreign(foreign) => {
                let mut command = tokio::process::Command::new(&foreign.kubectl);
                command.args(["--context", &foreign.context]);
                command
            }
        };
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no input")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let done = child.wait_with_output().await?;
        if !done.status.success() {
            bail!(
                "kubectl {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

/// Runs a suite that needs nothing but an API server, where the command line says.
pub fn run(options: Options, suite: impl AsyncFnOnce(&Target) -> anyhow::Result<()>) -> ExitCode {
    if wants_current_context() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        return crate::finish(runtime.map_err(Into::into).and_then(|runtime| {
            runtime.block_on(async { suite(&Target::Foreign(current_context().await?)).await })
        }));
    }
    crate::run(async || {
        let cluster = Target::Own(Box::new(Cluster::start(options).await?));
        let done = suite(&cluster).await;
        if let Target::Own(cluster) = cluster {
            cluster.stop().await;
        }
        done
    })
}

/// Whether the user asked for his own cluster.
pub fn wants_current_context() -> bool {
    std::env::args().any(|word| word == "--use-current-context")
        || std::env::var("MEDIK8S_USE_CURRENT_CONTEXT").is_ok_and(|value| value == "1")
}

async fn current_context() -> anyhow::Result<Foreign> {
    let kubeconfig = Kubeconfig::read().context("read KUBECONFIG or ~/.kube/config")?;
    let context = kubeconfig
        .current_context
        .clone()
        .context("there is no current context")?;
    let options = KubeConfigOptions {
        context: Some(context.clone()),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let client = Client::try_from(config)?;
    let marked = context.starts_with(CONTEXT_PREFIX) || is_marked(&client).await?;
    if !marked {
        bail!(
            "the context {context} is not marked for tests, so nothing was done. Mark it with\n  \
             kubectl annotate namespace kube-system {MARK}=true\nor name it {CONTEXT_PREFIX}..."
        );
    }
    let kubectl = tools::find("kubectl").context("kubectl is not on the search path")?;
    Ok(Foreign {
        client,
        context,
        kubectl,
    })
}

async fn is_marked(client: &Client) -> anyhow::Result<bool> {
    let namespace = Api::<Namespace>::all(client.clone())
        .get("kube-system")
        .await?;
    Ok(namespace
        .annotations()
        .get(MARK)
        .is_some_and(|value| value == "true"))
}
