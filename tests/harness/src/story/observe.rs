//! What happens while a node is cut off, step by step as it comes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt as _, api::ListParams};
use medik8s_api::{
    SelfNodeRemediation,
    names::{kubernetes, snr},
};
use tokio::{sync::broadcast, time::sleep};

use super::Narrator;
use crate::{
    Cluster,
    cluster::{is_ready, ready_status},
    machine::{Cause, Happening, What},
    watchdog::Signal,
    writers::{self, Life},
};

/// The steps of a failover; each is seen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    ContactLost,
    PeersAsked,
    ReadyUnknown,
    RemediationCreated,
    Ordered,
    Starved,
    Reset,
    SafeTimePassed,
    PodsDeleted,
    RunningElsewhere,
    NodeBack,
    RemediationRemoved,
    TaintGone,
}

impl Step {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::ContactLost => "its agent: the API server does not answer any more",
            Self::PeersAsked => "its agent: asks the peers, and nobody answers",
            Self::ReadyUnknown => "control plane: Ready=Unknown",
            Self::RemediationCreated => "node health check: SelfNodeRemediation created",
            Self::Ordered => "manager: order published, the safe time runs",
            Self::Starved => "its watchdog: not fed any more",
            Self::Reset => "its watchdog: RESET, every process of the node is dead",
            Self::SafeTimePassed => "manager: safe time passed, the node counts as rebooted",
            Self::PodsDeleted => "the pod of the ledger is deleted",
            Self::RunningElsewhere => "the ledger runs elsewhere",
            Self::NodeBack => "the node is back: Ready, with a new boot ID",
            Self::RemediationRemoved => "node health check: SelfNodeRemediation removed",
            Self::TaintGone => "the node carries no taint any more",
        }
    }
}

/// Watches one node and the ledger.
pub(super) struct Observer<'a> {
    cluster: &'a Cluster,
    narrator: Narrator,
    victim: String,
    boot_id: String,
    ledger: String,
    happenings: broadcast::Receiver<Happening>,
    log: Tail,
    seen: BTreeMap<Step, Instant>,
    /// When the order said that the node counts as rebooted.
    due: Option<Timestamp>,
    /// What must never be seen and was: it ends the story, also when a later look shows nothing of it.
    violation: Option<String>,
}

impl<'a> Observer<'a> {
    /// `ledger` is the UID of the pod that runs on the victim now.
    pub(super) fn new(
        cluster: &'a Cluster,
        narrator: Narrator,
        victim: &str,
        ledger: String,
        agent_log: &Path,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            cluster,
            narrator,
            victim: victim.to_owned(),
            boot_id: cluster.machine(victim)?.boot_id(),
            ledger,
            happenings: cluster.happenings(),
            log: Tail::at_end(agent_log),
            seen: BTreeMap::new(),
            due: None,
            violation: None,
        })
    }

    /// When a step was seen.
    pub(super) fn at(&self, step: Step) -> Option<Instant> {
        self.seen.get(&step).copied()
    }

    /// Looks until all these steps were seen.
    pub(super) async fn until(&mut self, steps: &[Step], limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        loop {
            self.hear()?;
            // The API server may be hard to reach for a moment; what matters is what comes.
            let looked = self.look().await;
            if let Some(violation) = &self.violation {
                bail!("{violation}");
            }
            let missing: Vec<&str> = steps
                .iter()
                .filter(|step| !self.seen.contains_key(step))
                .map(|step| step.text())
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                looked?;
                bail!(
                    "not seen within {} s: {}",
                    limit.as_secs(),
                    missing.join("; ")
                );
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn see(&mut self, step: Step, detail: &str) {
        self.see_at(step, Instant::now(), detail);
    }

    fn see_at(&mut self, step: Step, at: Instant, detail: &str) {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.seen.entry(step) {
            entry.insert(at);
            self.narrator
                .event_at(at, &format!("{}{detail}", step.text()));
        }
    }

    /// What the machines and the ledger say.
    fn hear(&mut self) -> anyhow::Result<()> {
        while let Ok(Happening { node, at, what }) = self.happenings.try_recv() {
            match what {
                What::Watchdog(Signal::Starving) if node == self.victim => {
                    self.see_at(Step::Starved, at, "");
                }
                What::Reset { cause } => {
                    ensure!(
                        node == self.victim,
                        "{node} was reset ({cause:?}): a needless reboot"
                    );
                    ensure!(cause == Cause::Watchdog, "{node} was reset by {cause:?}");
                    ensure!(self.at(Step::Reset).is_none(), "{node} was reset twice");
                    self.see_at(Step::Reset, at, "");
                }
                What::Watchdog(_) | What::Booted | What::Started { .. } | What::Ended { .. } => {}
            }
        }
        judge(self.cluster)?;
        for line in self.log.lines() {
            if line.contains("failed to check api server") {
                self.see(Step::ContactLost, "");
            }
            if line.contains("asking peers") {
                self.see(Step::PeersAsked, "");
            }
        }
        Ok(())
    }

    /// What the API says.
    async fn look(&mut self) -> anyhow::Result<()> {
        let admin = self.cluster.admin();
        let node = Api::<Node>::all(admin.clone()).get(&self.victim).await?;
        self.look_at_node(&node);
        let remediations = Api::<SelfNodeRemediation>::all(admin.clone());
        let remediations = remediations.list(&ListParams::default()).await?;
        self.look_at_remediations(&remediations.items);
        let pods = Api::<Pod>::namespaced(admin, "ledger")
            .list(&ListParams::default())
            .await?;
        self.look_at_ledger(&pods.items);
        Ok(())
    }

    /// Keeps the first violation.
    fn must(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(violation());
        }
    }

    fn look_at_node(&mut self, node: &Node) {
        if ready_status(node) == Some("Unknown") {
            self.see(Step::ReadyUnknown, "");
        }
        let info = node
            .status
            .as_ref()
            .and_then(|status| status.node_info.as_ref());
        let rebooted = info.is_some_and(|info| info.boot_id != self.boot_id);
        if rebooted && is_ready(node) {
            self.see(Step::NodeBack, "");
        }
        let ours = [snr::REMEDIATION_TAINT, kubernetes::OUT_OF_SERVICE_TAINT];
        let mut taints = node
            .spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten());
        if rebooted && taints.all(|taint| !ours.contains(&taint.key.as_str())) {
            self.see(Step::TaintGone, "");
        }
    }

    fn look_at_remediations(&mut self, all: &[SelfNodeRemediation]) {
        for remediation in all {
            let name = remediation.name_any();
            self.must(name.contains(&self.victim), || {
                format!("{name} remediates another node")
            });
            self.see(Step::RemediationCreated, &format!(" ({name})"));
            let status = remediation.status.clone().unwrap_or_default();
            let due = status.time_assumed_rebooted.map(|time| time.0);
            if let (Some(told), Some(due)) = (self.due, due) {
                self.must(due >= told, || {
                    format!("{name}: the safe time was {told} and is {due} now")
                });
            }
            match status.phase.as_deref() {
                Some(snr::PHASE_PRE_REBOOT_COMPLETED) => {
                    if let Some(due) = due {
                        self.due = Some(due);
                        let wait = due.duration_since(Timestamp::now()).as_secs();
                        self.see(Step::Ordered, &format!(" ({wait} s)"));
                    }
                }
                Some(snr::PHASE_REBOOT_COMPLETED | snr::PHASE_FENCING_COMPLETED) => {
                    self.not_before_due(&format!("{name} counts as rebooted"));
                    self.see(Step::SafeTimePassed, "");
                }
                Some(_) | None => {}
            }
        }
        if all.is_empty() && self.at(Step::RemediationCreated).is_some() {
            self.see(Step::RemediationRemoved, "");
        }
    }

    /// The cut node gives no evidence, so only the time that the order told can free it.
    fn not_before_due(&mut self, what: &str) {
        let due = self.due;
        self.must(due.is_some_and(|due| Timestamp::now() >= due), || {
            format!("{what} before its safe time has passed")
        });
    }

    fn look_at_ledger(&mut self, pods: &[Pod]) {
        if pods
            .iter()
            .all(|pod| pod.uid().as_ref() != Some(&self.ledger))
        {
            self.not_before_due("the pod of the ledger is deleted");
            self.see(Step::PodsDeleted, "");
        }
        for pod in pods {
            let home = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            if let Some(home) = home
                && home != self.victim
                && phase == Some("Running")
            {
                self.see(Step::RunningElsewhere, &format!(" (on {home})"));
            }
        }
    }
}

/// The lives of the ledger from what its processes wrote, not from what the API says; an error when two
/// of them ran at once.
pub(super) fn judge(cluster: &Cluster) -> anyhow::Result<Vec<Life>> {
    let lines = writers::read(&cluster.writers_log())?;
    if let Some(overlap) = writers::overlaps(&lines).first() {
        bail!(
            "two copies of the ledger ran at once: on {} and on {}",
            overlap.earlier.node,
            overlap.later.node
        );
    }
    Ok(writers::lives(&lines))
}

/// New lines of a growing file.
#[derive(Debug)]
pub(super) struct Tail {
    file: PathBuf,
    position: u64,
}

impl Tail {
    /// From its present end on.
    pub(super) fn at_end(file: &Path) -> Self {
        let position = std::fs::metadata(file).map_or(0, |file| file.len());
        Self {
            file: file.to_owned(),
            position,
        }
    }

    /// What was added since the last call; nothing when the file cannot be read.
    pub(super) fn lines(&mut self) -> Vec<String> {
        let mut text = String::new();
        let read = File::open(&self.file).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.position))?;
            file.read_to_string(&mut text)
        });
        if read.is_err() {
            return Vec::new();
        }
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        self.position += u64::try_from(complete).unwrap_or(0);
        text.get(..complete)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}
