//! One operator on one cluster, and what is done with it.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
    runtime::wait::{await_condition, conditions},
};
use medik8s_api::{NodeMaintenance, names::nmo};
use medik8s_harness::{
    Cluster,
    audit::{self, Filter, Request},
    manifests, wait,
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{
    load,
    measure::{self, Memory},
    report::Together,
};

const OPERATOR: &str = "node-maintenance-operator";
const NAMESPACE: &str = "node-maintenance-operator-system";
const USER: &str = "system:serviceaccount:node-maintenance-operator-system:\
                    node-maintenance-operator-controller-manager";
/// Who runs kubectl, so that the audit log tells its requests apart.
const DRAINER: &str = "drainer";
const LIMIT: Duration = Duration::from_mins(2);
/// After a drain: the last events and the end of its watch.
const AFTERMATH: Duration = Duration::from_secs(1);

/// One drain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) pods: usize,
    pub(crate) took: Duration,
    /// Until the last eviction was accepted, if that is known.
    pub(crate) evicted: Option<Duration>,
    /// Until the last pod was ended by its simulated node, if that is known.
    pub(crate) ended: Option<Duration>,
    pub(crate) requests: usize,
    pub(crate) evictions: usize,
    /// Of the operator; nobody measures kubectl's.
    pub(crate) cpu: Option<Duration>,
}

/// A time in which nothing was to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) memory: Memory,
    pub(crate) cpu: Duration,
    pub(crate) requests: usize,
    pub(crate) lasted: Duration,
}

pub(crate) struct Bench<'a> {
    cluster: &'a Cluster,
    /// kubectl's credentials.
    drainer: PathBuf,
}

impl<'a> Bench<'a> {
    /// Installs the operator as a user would and waits until it is at work.
    pub(crate) async fn install(cluster: &'a Cluster) -> anyhow::Result<Self> {
        cluster
            .apply_text(&manifests::operator(OPERATOR)?)
            .await
            .context("apply the operator")?;
        // The harness' kubelet asks twice per second, which would be most of what an idle operator
        // does; a real one asks every ten seconds.
        let remove =
            "[{\"op\":\"remove\",\"path\":\"/spec/template/spec/containers/0/readinessProbe\"}]";
        let deployment = format!("{OPERATOR}-controller-manager");
        cluster
            .kubectl(&[
                "-n",
                NAMESPACE,
                "patch",
                "deployment",
                &deployment,
                "--type=json",
                "-p",
                remove,
            ])
            .await?;
        let bench = Self {
            cluster,
            drainer: drainer(cluster).await?,
        };
        bench.at_work().await?;
        Ok(bench)
    }

    /// A new process, which has never drained anything.
    pub(crate) async fn restart(&self) -> anyhow::Result<()> {
        self.cluster
            .kubectl(&["-n", NAMESPACE, "delete", "pod", "--all", "--timeout=60s"])
            .await?;
        self.at_work().await
    }

    async fn at_work(&self) -> anyhow::Result<()> {
        let deployment = format!("deployment/{OPERATOR}-controller-manager");
        self.cluster
            .kubectl(&[
                "-n",
                NAMESPACE,
                "rollout",
                "status",
                &deployment,
                "--timeout=60s",
            ])
            .await?;
        // Its webhook answers, and nothing of this probe is stored.
        let api = self.api();
        let probe = maintenance("probe", "control-plane-1")?;
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        wait::until("the webhook", LIMIT, async || {
            Ok(Some(api.create(&params, &probe).await.map(drop)?))
        })
        .await
    }

    fn api(&self) -> Api<NodeMaintenance> {
        Api::all(self.cluster.admin())
    }

    fn pid(&self) -> anyhow::Result<i32> {
        let containers = self.cluster.containers();
        let found = containers.process_ids(|pod| pod.starts_with(NAMESPACE));
        match &found[..] {
            [pid] => Ok(*pid),
            _ => anyhow::bail!("{} processes of the operator", found.len()),
        }
    }

    /// What the operator uses while nothing happens.
    pub(crate) async fn idle(&self, window: Duration) -> anyhow::Result<Idle> {
        let pid = self.pid()?;
        let (from, before, begin) = (Timestamp::now(), measure::cpu(pid)?, Instant::now());
        sleep(window).await;
        let requests = self.requests(USER, from, Timestamp::now())?;
        Ok(Idle {
            memory: measure::memory(pid)?,
            cpu: measure::cpu(pid)?.saturating_sub(before),
            requests: requests.len(),
            lasted: begin.elapsed(),
        })
    }

    /// One maintenance from begin to end.
    pub(crate) async fn maintain(&self, pods: usize) -> anyhow::Result<Sample> {
        let sample = self.begin(pods).await?;
        self.end().await?;
        Ok(sample)
    }

    /// One maintenance of the first node, which stays.
    pub(crate) async fn begin(&self, pods: usize) -> anyhow::Result<Sample> {
        let node = load::node(0);
        load::fill(self.cluster, &node, pods).await?;
        let pid = self.pid()?;
        let (from, before) = (Timestamp::now(), measure::cpu(pid)?);
        self.start(&node).await?;
        self.succeeded(&node).await?;
        ensure!(
            load::left(self.cluster, &node).await? == 0,
            "success with pods on the node"
        );
        sleep(AFTERMATH).await;
        let cpu = measure::cpu(pid)?.saturating_sub(before);
        let until = Timestamp::now();
        let requests = self.requests(USER, from, until)?;
        let created = self.created(&node, from)?.answered;
        let last = |user: &str, resource: &str| -> anyhow::Result<Option<Duration>> {
            let mut all = self.requests(user, from, until)?;
            all.retain(|one| one.resource == resource && one.code < 300);
            let last = all.iter().map(|one| one.answered).max();
            Ok(last.and_then(|at| Duration::try_from(at.duration_since(created)).ok()))
        };
        Ok(Sample {
            pods,
            took: self.took(&node, from)?,
            evicted: last(USER, "pods/eviction")?,
            ended: last("kwok", "pods")?,
            requests: requests.len(),
            evictions: evictions(&requests),
            cpu: Some(cpu),
        })
    }

    /// Ends what [`Bench::begin`] began.
    pub(crate) async fn end(&self) -> anyhow::Result<()> {
        let node = load::node(0);
        load::clear(self.cluster, &node).await?;
        self.finish(&node).await
    }

    /// The same with `kubectl drain`.
    pub(crate) async fn kubectl_drain(&self, pods: usize) -> anyhow::Result<Sample> {
        let node = load::node(0);
        load::fill(self.cluster, &node, pods).await?;
        let (from, begin) = (Timestamp::now(), Instant::now());
        let done = tokio::process::Command::new(self.cluster.tools().kubectl())
            .args([
                "drain",
                &node,
                "--force",
                "--delete-emptydir-data",
                "--ignore-daemonsets",
            ])
            .env("KUBECONFIG", &self.drainer)
            .env("HOME", self.cluster.folder())
            .stdin(Stdio::null())
            .output()
            .await
            .context("run kubectl drain")?;
        let took = begin.elapsed();
        ensure!(
            done.status.success(),
            "kubectl drain: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        sleep(AFTERMATH).await;
        let user = format!("system:serviceaccount:default:{DRAINER}");
        let requests = self.requests(&user, from, Timestamp::now())?;
        load::clear(self.cluster, &node).await?;
        self.cluster.kubectl(&["uncordon", &node]).await?;
        Ok(Sample {
            pods,
            took,
            evicted: None,
            ended: None,
            requests: requests.len(),
            evictions: evictions(&requests),
            cpu: None,
        })
    }

    /// Several nodes at once.
    pub(crate) async fn together(&self, count: usize, pods: usize) -> anyhow::Result<Together> {
        let names: Vec<String> = (0..count).map(load::node).collect();
        for name in &names {
            load::fill(self.cluster, name, pods).await?;
        }
        let pid = self.pid()?;
        let (from, before) = (Timestamp::now(), measure::cpu(pid)?);
        try_join_all(names.iter().map(|node| self.start(node))).await?;
        try_join_all(names.iter().map(|node| self.succeeded(node))).await?;
        sleep(AFTERMATH).await;
        let cpu = measure::cpu(pid)?.saturating_sub(before);
        let requests = self.requests(USER, from, Timestamp::now())?;
        let took = names
            .iter()
            .map(|node| self.took(node, from))
            .collect::<anyhow::Result<Vec<Duration>>>()?;
        let memory = measure::memory(pid)?;
        for name in &names {
            load::clear(self.cluster, name).await?;
            self.finish(name).await?;
        }
        Ok(Together {
            pods,
            took,
            requests: requests.len(),
            evictions: evictions(&requests),
            cpu,
            memory,
        })
    }

    async fn start(&self, node: &str) -> anyhow::Result<()> {
        let object = maintenance(node, node)?;
        self.api().create(&PostParams::default(), &object).await?;
        Ok(())
    }

    async fn succeeded(&self, node: &str) -> anyhow::Result<()> {
        let done = await_condition(self.api(), node, |object: Option<&NodeMaintenance>| {
            let phase = object
                .and_then(|object| object.status.as_ref())
                .and_then(|status| status.phase.as_deref());
            phase == Some(nmo::PHASE_SUCCEEDED)
        });
        timeout(LIMIT, done)
            .await
            .with_context(|| format!("the maintenance of {node} did not succeed"))??;
        Ok(())
    }

    async fn finish(&self, node: &str) -> anyhow::Result<()> {
        let api = self.api();
        let deleted = api.delete(node, &DeleteParams::default()).await?;
        let uid = deleted
            .left()
            .and_then(|object| object.metadata.uid)
            .unwrap_or_default();
        let done = await_condition(api, node, conditions::is_deleted(&uid));
        timeout(LIMIT, done)
            .await
            .context("the maintenance stays")??;
        Ok(())
    }

    /// The creation of a maintenance.
    fn created(&self, name: &str, from: Timestamp) -> anyhow::Result<Request> {
        let log = audit::read(&self.cluster.audit_log())?;
        log.into_iter()
            .filter(|one| one.at >= from && one.name == name && one.code < 300)
            .find(|one| one.verb == "create" && one.resource == "nodemaintenances")
            .context("no maintenance was created")
    }

    /// From the answer to the creation to the answer to the last write of the status.
    fn took(&self, name: &str, from: Timestamp) -> anyhow::Result<Duration> {
        let created = self.created(name, from)?;
        let told = self
            .requests(USER, from, Timestamp::now())?
            .into_iter()
            .rfind(|one| {
                one.name == name
                    && one.verb == "patch"
                    && one.resource == "nodemaintenances/status"
                    && one.code < 300
            })
            .context("no status was written")?;
        Ok(Duration::try_from(
            told.answered.duration_since(created.answered),
        )?)
    }

    /// Requests of somebody, without the leader lease.
    fn requests(
        &self,
        user: &str,
        from: Timestamp,
        until: Timestamp,
    ) -> anyhow::Result<Vec<Request>> {
        let filter = Filter {
            user: Some(user),
            verb: None,
            resource: None,
            from,
            until,
        };
        let mut all = audit::read(&self.cluster.audit_log())?;
        all.retain(|one| filter.matches(one) && one.name != nmo::LEADER_ELECTION_ID);
        Ok(all)
    }
}

fn evictions(requests: &[Request]) -> usize {
    requests
        .iter()
        .filter(|one| one.resource == "pods/eviction")
        .count()
}

fn maintenance(name: &str, node: &str) -> anyhow::Result<NodeMaintenance> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "nodemaintenance.medik8s.io/v1beta1", "kind": "NodeMaintenance",
        "metadata": {"name": name},
        "spec": {"nodeName": node, "reason": "bench"},
    }))?)
}

/// Somebody with all rights and a name of his own.
async fn drainer(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    cluster
        .kubectl(&["create", "serviceaccount", DRAINER])
        .await?;
    let account = format!("--serviceaccount=default:{DRAINER}");
    cluster
        .kubectl(&[
            "create",
            "clusterrolebinding",
            DRAINER,
            "--clusterrole=cluster-admin",
            &account,
        ])
        .await?;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(cluster.admin());
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(7200),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(DRAINER, &PostParams::default(), &request)
        .await?;
    let token = answer.status.context("no token in the answer")?.token;
    let server = format!("https://{}", cluster.api_address());
    let file = cluster.folder().join("drainer.kubeconfig");
    let config = cluster.kubeconfig_for(&server, DRAINER, &token);
    std::fs::write(&file, serde_json::to_vec(&config)?)?;
    Ok(file)
}
