//! A manager that is killed at its first, second, third ... write to the real API server, before the
//! write arrives or after it was carried out: the next one sets everything right.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]
#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use kube::{Api, ResourceExt as _, api::DeleteParams};
use medik8s_api::NodeHealthCheck;
use medik8s_harness::{
    child,
    healthcheck::{
        Lab, Manager, REMEDIATIONS, Start, escalating, kinds, names,
        proxy::{Moment, Point, Proxy},
        single,
    },
    images::Programs,
    wait,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
const TIMED_OUT: &str = "remediation.medik8s.io/nhc-timed-out";

/// What is going on when the manager is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    /// A node breaks.
    Breaks,
    /// A step runs out of time.
    Escalates,
    /// A node with two remediations recovers.
    Recovers,
}

impl Story {
    /// Whether it was named on the command line, or none was.
    fn is_wanted(self) -> bool {
        let words = std::env::args().skip(1);
        let mut names = words.filter(|word| !word.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|name| name == format!("{self:?}"))
    }
}

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(async || {
        let program = Programs::find()?.managers.join("node-healthcheck-operator");
        let mut lab = Lab::start().await?;
        let mut bench = Crash::new(&lab, &program).await?;
        let (mut passed, mut failed) = (0, 0);
        let stories = [Story::Breaks, Story::Escalates, Story::Recovers];
        for story in stories.into_iter().filter(|story| story.is_wanted()) {
            for moment in [Moment::Before, Moment::After] {
                match bench.every_write(story, moment).await {
                    Ok(writes) => {
                        passed += 1;
                        println!("ok      {story:?}, killed {moment:?} each of {writes} writes");
                    }
                    Err(error) => {
                        failed += 1;
                        println!("FAILED  {story:?}, killed {moment:?}: {error:#}");
                    }
                }
            }
        }
        println!("healthcheck_crash: {passed} passed, {failed} failed");
        drop(bench);
        if failed > 0 {
            println!("logs: {}/logs", lab.cluster.keep_files().display());
        }
        lab.cluster.stop().await;
        ensure!(failed == 0, "{failed} stories failed");
        Ok(())
    })
}

struct Crash<'a> {
    lab: &'a Lab,
    program: &'a Path,
    proxy: Proxy,
    round: usize,
    managers: u16,
}

/// The pieces of one round.
struct Round {
    name: String,
    nodes: Vec<String>,
}

impl<'a> Crash<'a> {
    async fn new(lab: &'a Lab, program: &'a Path) -> anyhow::Result<Self> {
        let config = std::fs::read_to_string(lab.cluster.kubeconfig()?)?;
        let config: Value = serde_json::from_str(&config)?;
        let ca = &config["clusters"][0]["cluster"]["certificate-authority-data"];
        let ca: k8s_openapi::ByteString = serde_json::from_value(ca.clone())?;
        let ca = String::from_utf8(ca.0)?;
        let own = lab.cluster.fabric().own();
        let proxy = Proxy::start(own, lab.cluster.api_address(), &ca).await?;
        Ok(Self {
            lab,
            program,
            proxy,
            round: 0,
            managers: 0,
        })
    }

    /// Kills at the first write, the second, and so on, until a run has no more writes.
    async fn every_write(&mut self, story: Story, moment: Moment) -> anyhow::Result<usize> {
        for write in 1..40 {
            let point = Point { write, moment };
            let struck = self
                .round(story, point)
                .await
                .with_context(|| format!("at write {write}: {:?}", self.proxy.struck()))?;
            if !struck {
                ensure!(write > 3, "only {} writes", write - 1);
                return Ok(write - 1);
            }
        }
        anyhow::bail!("it does not come to rest")
    }

    /// One round on nodes of its own; whether the manager was killed in it.
    async fn round(&mut self, story: Story, point: Point) -> anyhow::Result<bool> {
        self.round += 1;
        let name = format!("round-{}", self.round);
        let round = Round {
            nodes: names(&name, 3),
            name,
        };
        self.lab
            .add_nodes(&round.name, &round.nodes, "worker")
            .await?;
        let manager = self.manager().await?;
        self.begin(story, &round).await?;
        self.proxy.arm(Some(point));
        self.act(story, &round).await?;
        let struck = {
            let done = self.done(story, &round);
            let done = std::pin::pin!(done);
            tokio::select! {
                () = self.proxy.strikes() => true,
                done = done => { done?; false }
            }
        };
        let struck = if struck {
            true
        } else {
            // Events come after what they tell of.
            let late = tokio::time::timeout(Duration::from_secs(2), self.proxy.strikes());
            late.await.is_ok()
        };
        manager.process.kill().await;
        self.proxy.arm(None);
        let manager = self.manager().await?;
        let done = self.done(story, &round).await;
        // Nothing more comes after that.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let still = self.done(story, &round).await;
        manager.process.kill().await;
        self.clear(&round).await?;
        done.and(still)?;
        Ok(struck)
    }

    async fn manager(&mut self) -> anyhow::Result<Manager> {
        self.managers += 1;
        // A killed leader's lease would be waited for.
        let args = ["--leader-elect=false", "--zap-log-level=debug"];
        let start = Start {
            args: &args,
            server: Some(format!("http://{}", self.proxy.address)),
            pod: None,
        };
        let manager = self
            .lab
            .manager(self.program, self.managers, &start)
            .await?;
        manager.leads(SOON).await?;
        Ok(manager)
    }

    fn spec(story: Story, pool: &str) -> Value {
        let (snr, far) = (
            kinds::self_node_remediation(),
            kinds::fence_agents_remediation(),
        );
        let reboot = kinds::reference(&snr, REMEDIATIONS, "reboot");
        let fence = kinds::reference(&far, REMEDIATIONS, "fence");
        match story {
            Story::Breaks => single(pool, json!(0), reboot),
            Story::Escalates | Story::Recovers => {
                escalating(pool, &[(reboot, "2s"), (fence, "5m")])
            }
        }
    }

    /// Until before the moment that the story is about.
    async fn begin(&self, story: Story, round: &Round) -> anyhow::Result<()> {
        self.lab
            .put_check(&round.name, Self::spec(story, &round.name))
            .await?;
        let healthy = |status: &medik8s_api::remediation::NodeHealthCheckStatus| {
            status.healthy_nodes == Some(3)
        };
        self.lab.reason(&round.name, SOON, healthy).await?;
        let sick = &round.nodes[..1];
        match story {
            Story::Breaks => {}
            Story::Escalates => {
                self.lab.break_nodes(sick, "Unknown", false).await?;
                let snr = kinds::self_node_remediation();
                self.lab.remediated(&snr, sick, 1, SOON).await?;
            }
            Story::Recovers => {
                self.lab.break_nodes(sick, "Unknown", false).await?;
                self.escalated(round).await?;
            }
        }
        // Events of the beginning are no writes of the story.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }

    async fn act(&self, story: Story, round: &Round) -> anyhow::Result<()> {
        let sick = &round.nodes[..1];
        match story {
            Story::Breaks => {
                self.lab.break_nodes(sick, "Unknown", false).await?;
            }
            Story::Escalates => {}
            Story::Recovers => {
                self.lab.heal_nodes(sick).await?;
            }
        }
        Ok(())
    }

    /// The end state, the same whatever happened on the way.
    async fn done(&self, story: Story, round: &Round) -> anyhow::Result<()> {
        match story {
            Story::Breaks => self.remediating(round).await,
            Story::Escalates => self.escalated(round).await,
            Story::Recovers => self.recovered(round).await,
        }
    }

    async fn remediating(&self, round: &Round) -> anyhow::Result<()> {
        let (name, sick) = (&round.name, &round.nodes[..1]);
        let snr = kinds::self_node_remediation();
        let found = self.lab.remediated(&snr, sick, 1, SOON).await?.remove(0);
        self.lab
            .says(name, "NHC is remediating 1 nodes", SOON)
            .await?;
        let entries = self.entries(round).await?;
        ensure!(
            entries.len() == 1 && entries[0].0 == found.uid(),
            "{entries:?}"
        );
        self.lease_is_held(round).await
    }

    async fn escalated(&self, round: &Round) -> anyhow::Result<()> {
        let sick = &round.nodes[..1];
        let (snr, far) = (
            kinds::self_node_remediation(),
            kinds::fence_agents_remediation(),
        );
        let second = self.lab.remediated(&far, sick, 1, SOON).await?.remove(0);
        let first = self.lab.remediated(&snr, sick, 1, SOON).await?.remove(0);
        ensure!(
            first.annotations().contains_key(TIMED_OUT),
            "the annotation is lost"
        );
        ensure!(!second.annotations().contains_key(TIMED_OUT));
        wait::until("both to be recorded", SOON, async || {
            let entries = self.entries(round).await?;
            let recorded = entries.iter().any(|(uid, out)| *uid == first.uid() && *out)
                && entries
                    .iter()
                    .any(|(uid, out)| *uid == second.uid() && !*out);
            Ok((recorded && entries.len() == 2).then_some(()))
        })
        .await?;
        self.lease_is_held(round).await
    }

    async fn recovered(&self, round: &Round) -> anyhow::Result<()> {
        let sick = &round.nodes[..1];
        for kind in [
            kinds::self_node_remediation(),
            kinds::fence_agents_remediation(),
        ] {
            self.lab.remediated(&kind, sick, 0, SOON).await?;
        }
        self.lab
            .reason(&round.name, SOON, |status| {
                status.healthy_nodes == Some(3) && status.unhealthy_nodes.is_none()
            })
            .await?;
        wait::until("the lease to be given back", SOON, async || {
            Ok((!self.lab.leases().await?.contains_key(&sick[0])).then_some(()))
        })
        .await
    }

    /// UID and whether it timed out, of each recorded remediation.
    async fn entries(&self, round: &Round) -> anyhow::Result<Vec<(Option<String>, bool)>> {
        let status = self.lab.status(&round.name).await?;
        let nodes = status.unhealthy_nodes.unwrap_or_default();
        let lists = nodes
            .into_iter()
            .flat_map(|node| node.remediations.unwrap_or_default());
        Ok(lists
            .map(|one| (one.resource.uid, one.timed_out.is_some()))
            .collect())
    }

    async fn lease_is_held(&self, round: &Round) -> anyhow::Result<()> {
        let holder = self.lab.leases().await?.get(&round.nodes[0]).cloned();
        let own = format!("NodeHealthCheck-{}", round.name);
        ensure!(
            holder.as_ref() == Some(&own),
            "the lease is held by {holder:?}"
        );
        Ok(())
    }

    async fn clear(&self, round: &Round) -> anyhow::Result<()> {
        let checks: Api<NodeHealthCheck> = Api::all(self.lab.cluster.admin());
        checks.delete(&round.name, &DeleteParams::default()).await?;
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.lab.cluster.admin());
        for node in &round.nodes {
            nodes.delete(node, &DeleteParams::default()).await?;
        }
        Ok(())
    }
}
