//! Pods as real processes: own address, probes, restarts, credentials, cuts, orderly ends.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use medik8s_harness::{
    Cluster, Options, child,
    kubelet::Images,
    machine::{Cause, NodeSpec},
    network::Cut,
    wait,
};

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    if std::env::args().any(|word| word == "serve") {
        return medik8s_harness::finish(serve());
    }
    medik8s_harness::run(async || {
        let image = tempfile::tempdir()?;
        std::os::unix::fs::symlink(std::env::current_exe()?, image.path().join("manager"))?;
        let options = Options {
            nodes: ["n1", "n2"].map(NodeSpec::worker).to_vec(),
            images: Images::default().with("server", image.path()),
            ..Options::default()
        };
        let cluster = Cluster::start(options).await?;
        let done = pods(&cluster).await;
        cluster.stop().await;
        done
    })
}

/// The program of the pods: `/healthz`, and `/reach/ADDRESS` says whether a connection can be made.
fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:8081")?;
    for stream in listener.incoming() {
        // A client that gives up does not end the server.
        std::thread::spawn(|| stream.map(answer));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default();
    let well = match path.strip_prefix("/reach/") {
        Some(address) => {
            TcpStream::connect_timeout(&address.parse()?, Duration::from_millis(700)).is_ok()
        }
        None => true,
    };
    let code = if well { "200 OK" } else { "502 Bad Gateway" };
    write!(stream, "HTTP/1.1 {code}\r\nConnection: close\r\n\r\n")?;
    Ok(())
}

async fn pods(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .apply_text(&format!("{}---\n{}", server("a", "n1"), server("b", "n2")))
        .await?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.admin());
    let ready = async |name: &str| {
        wait::until(
            &format!("{name} to be ready"),
            Duration::from_secs(20),
            async || {
                let pod = pods.get(name).await?;
                Ok(is_ready(&pod).then_some(pod))
            },
        )
        .await
    };
    let (a, b) = (ready("a").await?, ready("b").await?);
    let (api, to_a, to_b) = (cluster.api_address(), address(&a)?, address(&b)?);
    ensure!(to_a.ip() != to_b.ip(), "two pods have one address");
    ensure!(
        reaches(to_a, to_b).await? && reaches(to_b, to_a).await? && reaches(to_a, api).await?,
        "no network"
    );

    let n1 = cluster.machine("n1")?;
    n1.cut(Cut::Api).await?;
    ensure!(
        !reaches(to_a, api).await?,
        "the API server is reached in spite of the cut"
    );
    ensure!(
        reaches(to_a, to_b).await? && reaches(to_b, to_a).await?,
        "the peers are cut off as well"
    );
    n1.mend().await?;
    n1.cut(Cut::Everything).await?;
    ensure!(
        !reaches(to_b, to_a).await?,
        "a node that is cut off can be reached"
    );
    ensure!(
        reaches(to_b, api).await?,
        "the other node is cut off as well"
    );
    n1.mend().await?;
    ensure!(
        reaches(to_a, to_b).await? && reaches(to_a, api).await?,
        "the cut was not taken back"
    );

    ensure!(
        cluster.containers().kill(|pod| pod == "default/a") == 1,
        "nothing was killed"
    );
    wait::until("the restart", Duration::from_secs(10), async || {
        let pod = pods.get("a").await?;
        Ok((restarts(&pod) == 1 && is_ready(&pod)).then_some(()))
    })
    .await?;
    n1.reset(Cause::Scenario).await?;
    ready("a").await?;

    cluster
        .kubectl(&["delete", "pod", "a", "b", "--timeout=10s"])
        .await?;
    ensure!(pods.get_opt("a").await?.is_none(), "the pod is still there");
    Ok(())
}

fn server(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 2\n  containers:\n  - name: server\n    image: example.org/server:1\n    \
         command: [/manager, serve]\n    ports: [{{name: probe, containerPort: 8081}}]\n    \
         readinessProbe: {{httpGet: {{path: /healthz, port: probe}}}}\n"
    )
}

/// Asks the pod at `from` (over its own kubelet's way, which is never cut) whether it reaches `to`.
async fn reaches(from: SocketAddr, to: SocketAddr) -> anyhow::Result<bool> {
    let answer =
        medik8s_harness::kubelet::get(from, &format!("/reach/{to}"), Duration::from_secs(3))
            .await?;
    Ok(answer == 200)
}

fn address(pod: &Pod) -> anyhow::Result<SocketAddr> {
    let address = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_deref());
    let address = address.with_context(|| format!("{} has no address", pod.name_any()))?;
    Ok(SocketAddr::new(address.parse()?, 8081))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}
