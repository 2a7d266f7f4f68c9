//! The node that runs the ledger is lost, in several ways, until the ledger runs elsewhere and the node
//! is back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use medik8s_api::{SelfNodeRemediation, names::snr};
use medik8s_harness::{network::Cut, story::Narrator};
use tokio::time::sleep;

use super::lab::{Lab, SLACK};

const PERIOD: Duration = Duration::from_millis(200);

pub(crate) async fn cut_off(lab: &Lab) -> anyhow::Result<()> {
    let mut loss = Loss::begin(lab).await?;
    loss.cut(Cut::Everything).await?;
    loss.until_ordered().await?;
    loss.until_elsewhere().await?;
    loss.take_back().await
}

/// The peers answer, so they tell the node of the order, and may carry its last words.
pub(crate) async fn without_api(lab: &Lab) -> anyhow::Result<()> {
    let mut loss = Loss::begin(lab).await?;
    loss.cut(Cut::Api).await?;
    loss.until_ordered().await?;
    loss.until_elsewhere().await?;
    loss.take_back().await
}

pub(crate) async fn managers_killed(lab: &Lab) -> anyhow::Result<()> {
    let mut loss = Loss::begin(lab).await?;
    loss.cut(Cut::Everything).await?;
    loss.until_ordered().await?;
    let mut killed = 0;
    for node in lab.nodes() {
        killed += node.kill(|program, _| program.ends_with("manager"))?;
    }
    ensure!(
        killed == 4,
        "{killed} managers were killed, not two of each operator"
    );
    loss.narrator.event("kill -9 of all managers");
    loss.until_elsewhere().await?;
    loss.take_back().await
}

/// One node that is lost, and what was seen of it.
pub(crate) struct Loss<'a> {
    lab: &'a Lab,
    pub(crate) narrator: Narrator,
    pub(crate) victim: String,
    /// UID of the ledger's pod on it.
    ledger: String,
    begin: Instant,
    ordered: Option<Instant>,
    reset: Option<Instant>,
    released: Option<Instant>,
    elsewhere: Option<Instant>,
}

impl<'a> Loss<'a> {
    pub(crate) async fn begin(lab: &'a Lab) -> anyhow::Result<Self> {
        let (victim, ledger) = lab.ledger().await?;
        let begin = Instant::now();
        Ok(Self {
            lab,
            narrator: lab.narrator.since(begin),
            victim,
            ledger,
            begin,
            ordered: None,
            reset: None,
            released: None,
            elsewhere: None,
        })
    }

    pub(crate) async fn cut(&self, cut: Cut) -> anyhow::Result<()> {
        self.lab.node(&self.victim)?.cut(cut).await?;
        self.narrator.event(&format!(
            "CUT ({cut:?}): {}, which runs the ledger",
            self.victim
        ));
        Ok(())
    }

    pub(crate) async fn until_ordered(&mut self) -> anyhow::Result<()> {
        let limit = self.lab.notice();
        self.until("the order", limit, |loss| loss.ordered.is_some())
            .await
    }

    /// A new leader after a kill and the garbage collection of an out-of-service node take their time.
    pub(crate) async fn until_released(&mut self) -> anyhow::Result<()> {
        let limit = self.lab.wait + SLACK;
        self.until("the release", limit, |loss| loss.released.is_some())
            .await?;
        let reset = self.reset.context("the node was never reset")?;
        let released = self.released.context("the release was never seen")?;
        ensure!(
            reset < released,
            "the workload was freed before the node was reset"
        );
        Ok(())
    }

    pub(crate) async fn until_elsewhere(&mut self) -> anyhow::Result<()> {
        let limit = 2 * SLACK;
        self.until_released().await?;
        self.until("the ledger elsewhere", limit, |loss| {
            loss.elsewhere.is_some()
        })
        .await?;
        let lives = self.lab.judge()?;
        if let [.., before, after] = lives.as_slice() {
            let gap = after.first.saturating_sub(before.last);
            self.narrator.say(&format!(
                "the store: {} on {}, nobody for {:.1} s, then {}",
                before.lines,
                before.node,
                gap.as_secs_f64(),
                after.node
            ));
        }
        Ok(())
    }

    /// The cable is back; returns when everything is as before.
    pub(crate) async fn take_back(self) -> anyhow::Result<()> {
        self.lab.accept_reset(&self.victim);
        self.lab.node(&self.victim)?.mend().await?;
        self.narrator.event("the cable is back");
        self.lab.ready().await?;
        self.narrator
            .event("all nodes are healthy and armed, nothing is left of it");
        Ok(())
    }

    /// Looks for `length`; nothing may be freed and nobody reset.
    pub(crate) async fn hold(&mut self, length: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.lab.guard(None)?;
            self.look().await?;
            ensure!(self.released.is_none(), "the workload was freed too early");
            sleep(PERIOD).await;
        }
        Ok(())
    }

    async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while !done(self) {
            if self.lab.guard(Some(&self.victim))? && self.reset.is_none() {
                self.reset = self.lab.node(&self.victim)?.resets().last().copied();
                self.narrator.event("its watchdog: RESET");
            }
            let looked = self.look().await;
            if self.released.is_some() {
                ensure!(
                    self.reset.is_some(),
                    "the workload was freed before the node was reset"
                );
            }
            if Instant::now() > end {
                looked?;
                anyhow::bail!("waited {} s for {what}", limit.as_secs());
            }
            sleep(PERIOD).await;
        }
        Ok(())
    }

    /// What the API says. Its errors count only when nothing comes.
    async fn look(&mut self) -> anyhow::Result<()> {
        for remediation in self.lab.remediations().await? {
            self.look_at(&remediation)?;
        }
        let pods: Api<Pod> = Api::namespaced(self.lab.cluster.admin(), "ledger");
        let pods = pods.list(&ListParams::default()).await?;
        if pods
            .iter()
            .all(|pod| pod.uid().as_ref() != Some(&self.ledger))
        {
            self.see_release("the pod of the ledger is gone");
        }
        for pod in pods {
            let uid = pod.uid().unwrap_or_default();
            let home = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
            let running = pod.status.and_then(|status| status.phase).as_deref() == Some("Running");
            if running && uid != self.ledger && self.elsewhere.is_none() && self.writes(&uid)? {
                self.elsewhere = Some(Instant::now());
                self.narrator.event(&format!("the ledger runs on {home}"));
            }
        }
        Ok(())
    }

    fn writes(&self, pod: &str) -> anyhow::Result<bool> {
        Ok(self.lab.judge()?.iter().any(|life| life.pod == pod))
    }

    fn look_at(&mut self, remediation: &SelfNodeRemediation) -> anyhow::Result<()> {
        let name = remediation.name_any();
        ensure!(
            name.contains(&self.victim),
            "{name} remediates another node"
        );
        let status = remediation.status.clone().unwrap_or_default();
        match status.phase.as_deref() {
            Some(snr::PHASE_PRE_REBOOT_COMPLETED) if self.ordered.is_none() => {
                self.ordered = Some(Instant::now());
                self.narrator.event("manager: order published");
            }
            Some(snr::PHASE_REBOOT_COMPLETED | snr::PHASE_FENCING_COMPLETED) => {
                self.see_release("manager: the node counts as rebooted");
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    fn see_release(&mut self, text: &str) {
        if self.released.is_none() {
            self.released = Some(Instant::now());
            let after = self.ordered.unwrap_or(self.begin).elapsed().as_secs();
            self.narrator
                .event(&format!("{text}, {after} s after the order"));
        }
    }
}
