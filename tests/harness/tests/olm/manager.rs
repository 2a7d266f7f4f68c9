//! OLM itself: its CRDs, its two operators, and a server for the catalog.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use medik8s_harness::{
    Cluster, go_tools,
    process::{Launch, Process},
    wait,
};

use crate::bundles::Made;

/// Runs until it is dropped.
pub(crate) struct Olm {
    _processes: Vec<Process>,
}

impl Olm {
    /// Starts OLM with the first catalog.
    pub(crate) async fn start(cluster: &Cluster, made: &Made) -> anyhow::Result<Self> {
        let module = go_tools::module_folder(&go_tools::OLM, "github.com/operator-framework/api")?;
        for entry in fs::read_dir(module.join("crds"))? {
            let file = entry?.path();
            if file
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                let file = file.display().to_string();
                cluster.kubectl(&["create", "-f", &file]).await?;
            }
        }
        for namespace in ["olm", "operators"] {
            cluster.kubectl(&["create", "namespace", namespace]).await?;
        }
        cluster
            .kubectl(&[
                "wait",
                "--for=condition=Established",
                "--timeout=30s",
                "crd",
                "--all",
            ])
            .await?;
        let kubeconfig = cluster.kubeconfig()?.display().to_string();
        let logs = cluster.folder().join("logs");
        let launch = |name: &str| {
            Launch::new(
                name,
                made.tools.join(name),
                logs.join(format!("{name}.log")),
            )
            .env("KUBECONFIG", &kubeconfig)
            .env("HOME", cluster.folder().display().to_string())
        };
        let mut processes = vec![
            // It looks again at what waits for an operator's permission only this often.
            Process::start(launch("olm").args(["--namespace", "olm", "--interval", "15s"])).await?,
            Process::start(launch("catalog").args([
                "--kubeconfig",
                &kubeconfig,
                "--namespace",
                "olm",
            ]))
            .await?,
        ];
        for (number, catalog) in (1_u16..).zip(&made.catalogs) {
            let cache = cluster.folder().join(format!("catalog-cache-{number}"));
            processes.push(
                Process::start(launch("opm").args([
                    "serve".to_owned(),
                    catalog.display().to_string(),
                    format!("--port={}", port(number)),
                    "--pprof-addr=".to_owned(),
                    format!("--termination-log={}", logs.join("opm-end.log").display()),
                    format!("--cache-dir={}", cache.display()),
                    "--cache-enforce-integrity=false".to_owned(),
                ]))
                .await?,
            );
        }
        catalog(cluster, 1).await?;
        Ok(Self {
            _processes: processes,
        })
    }
}

const fn port(number: u16) -> u16 {
    50050 + number
}

/// Has OLM look into one of the catalogs.
pub(crate) async fn catalog(cluster: &Cluster, number: u16) -> anyhow::Result<()> {
    cluster
        .apply_text(&format!(
            "apiVersion: operators.coreos.com/v1alpha1\n\
             kind: CatalogSource\n\
             metadata: {{name: medik8s, namespace: olm}}\n\
             spec: {{sourceType: grpc, displayName: medik8s, address: '127.0.0.1:{}'}}\n",
            port(number)
        ))
        .await?;
    wait::until("the catalog to be READY", Duration::from_mins(1), async || {
        let state = cluster
            .kubectl(&[
                "get",
                "catalogsource",
                "medik8s",
                "-n",
                "olm",
                "-o",
                "jsonpath={.status.connectionState.lastObservedState} {.status.connectionState.address}",
            ])
            .await?;
        Ok((state.starts_with("READY") && state.ends_with(&port(number).to_string())).then_some(()))
    })
    .await
    .with_context(|| format!("see {}", Path::new("logs/catalog.log").display()))
}
