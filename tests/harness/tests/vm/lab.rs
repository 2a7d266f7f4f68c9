//! The cluster, its guests, and waiting for their resets.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _};
use medik8s_api::names::snr;
use medik8s_harness::{
    Cluster, Options,
    images::Programs,
    machine::{NodeSpec, What as MachineWhat},
    story,
    vm::{Driver, Guest, Happening, Hardware, Parts, What},
    wait,
};
use self_node_remediation_core::announcement::Announcement;
use tokio::{
    sync::broadcast::{Receiver, error::TryRecvError},
    time::{sleep, timeout},
};

/// Simulated workers: with them most peers of every guest are there, also when all guests are away.
const WORKERS: u8 = 5;
/// Numbers of guests in the fabric begin here, behind those of machines.
const FIRST: u8 = 40;
/// The fast profile. What resets a machine here is its watchdog alone.
const CONFIG: &str = "{apiCheckInterval: 3s, apiServerTimeout: 2s, maxApiErrorThreshold: 3, \
                      peerDialTimeout: 1s, peerRequestTimeout: 4s, peerUpdateInterval: 10s, \
                      watchdogTimeout: 10s, isSoftwareRebootEnabled: false}";
/// So old is the beginning of the latest check that has ended, at most: it took 2 s, then came the pause of
/// 3 s, and the next one may take 2 s (of the fast profile).
pub(crate) const CHECK: Duration = Duration::from_secs(7);
/// The smallest timeout that an agent sets which has given up its node.
pub(crate) const SHORTEST: Duration = Duration::from_secs(5);
/// An emulated guest on a busy machine boots in a minute.
const BOOT: Duration = Duration::from_mins(3);
/// From an order by the serial port until it is carried out, and from the end of a timer to its report.
const REACTION: Duration = Duration::from_millis(500);
/// A second of the i6300esb is 1024 steps of its clock, which are 1.017 s.
const ALLOWANCE: Duration = Duration::from_millis(700);

/// The cluster and its guests.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) machines: Vec<Machine>,
    simulated: tokio::sync::Mutex<Receiver<medik8s_harness::machine::Happening>>,
}

/// A guest, and how often a scenario has seen it reset.
pub(crate) struct Machine {
    pub(crate) guest: Arc<Guest>,
    expected: Cell<usize>,
    all: tokio::sync::Mutex<Receiver<Happening>>,
}

/// What an agent has announced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Length of a permit.
    pub(crate) span: Duration,
    /// Timeout of the watchdog.
    pub(crate) wd: Duration,
}

/// When a reset has to come: not before, not after.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// How the end was computed.
    pub(crate) text: String,
}

impl Lab {
    pub(crate) async fn start(parts: &Parts, hardware: Vec<Hardware>) -> anyhow::Result<Self> {
        let cluster = Cluster::start(Options {
            nodes: (1..=WORKERS)
                .map(|number| NodeSpec::worker(format!("worker-{number}")))
                .collect(),
            programs: Some(Programs::find()?),
            ..Options::default()
        })
        .await?;
        let simulated = tokio::sync::Mutex::new(cluster.happenings());
        // Before there are guests: their nodes are for agents only.
        story::install_manager(&cluster, Some(CONFIG)).await?;
        let mut machines = Vec::new();
        for (number, hardware) in (FIRST..).zip(hardware) {
            let guest = Guest::start(&cluster, parts, hardware, number).await?;
            machines.push(Machine {
                expected: Cell::new(0),
                all: tokio::sync::Mutex::new(guest.happenings()),
                guest,
            });
        }
        let lab = Self {
            cluster,
            machines,
            simulated,
        };
        for machine in &lab.machines {
            machine.armed(&lab).await?;
        }
        Ok(lab)
    }

    pub(crate) async fn stop(self) {
        for machine in &self.machines {
            machine.guest.stop().await;
        }
        self.cluster.stop().await;
    }

    /// No simulated machine was reset at all, and no guest more often than a scenario has waited for.
    pub(crate) fn nothing_else_was_reset(&self, table: &crate::Table) {
        if let Ok(mut simulated) = self.simulated.try_lock() {
            while let Ok(happening) = simulated.try_recv() {
                if let MachineWhat::Reset { cause } = happening.what {
                    table.failed(&format!("{} was reset ({cause:?})", happening.node));
                }
            }
        }
        for machine in &self.machines {
            let Ok(mut all) = machine.all.try_lock() else {
                continue;
            };
            // Of boots: the firmware resets once more by itself. The first boot is no reset.
            let mut boots = 0_usize;
            while let Ok(happening) = all.try_recv() {
                boots += usize::from(happening.what == What::Booted);
            }
            let resets = boots.saturating_sub(1);
            let (name, expected) = (machine.guest.name(), machine.expected.get());
            if resets != expected {
                table.failed(&format!(
                    "{name}: {resets} resets, {expected} were waited for"
                ));
            }
            let console = machine.guest.said_since(0).unwrap_or_default();
            if console.contains("Kernel panic") {
                table.failed(&format!("{name}: its kernel panicked"));
            }
        }
    }
}

impl Machine {
    pub(crate) fn name(&self) -> &str {
        self.guest.name()
    }

    /// What the agent has announced in this boot, if it is armed.
    async fn announced(&self, lab: &Lab) -> anyhow::Result<Announcement> {
        let nodes: Api<Node> = Api::all(lab.cluster.admin());
        let node = nodes.get(self.name()).await?;
        let said = node.annotations().get(snr::ANNOUNCED_ANNOTATION);
        let said: Announcement = said.context("nothing is announced")?.parse()?;
        let boot = self.guest.boot().context("it is not up")?;
        ensure!(
            said.boot.as_str() == boot,
            "nothing is announced in this boot"
        );
        Ok(said)
    }

    /// Waits until the agent has announced itself armed in this boot, with a full table; its bounds.
    pub(crate) async fn armed(&self, lab: &Lab) -> anyhow::Result<Bounds> {
        let others = u32::from(WORKERS) + u32::try_from(lab.machines.len())? - 1;
        let what = format!("{} to be armed", self.name());
        wait::until(&what, BOOT, async || {
            let said = self.announced(lab).await?;
            ensure!(said.armed, "not armed: {said}");
            ensure!(said.workers >= others, "a small table: {said}");
            let span = Duration::from_secs(said.bound.context("no bound")?);
            let wd = Duration::from_secs(said.wd);
            Ok(Some(Bounds { span, wd }))
        })
        .await
    }

    /// Waits until the agent has announced that nothing resets the machine any more.
    pub(crate) async fn disarmed(&self, lab: &Lab) -> anyhow::Result<()> {
        let what = format!("{} to be disarmed", self.name());
        wait::until(&what, Duration::from_secs(30), async || {
            let said = self.announced(lab).await?;
            ensure!(!said.armed, "armed: {said}");
            Ok(self.guest.agents().is_empty().then_some(()))
        })
        .await
    }

    /// Waits for the reset, counted from `since`. `from` is when the happenings were asked for.
    pub(crate) async fn reset(
        &self,
        mut happenings: Receiver<Happening>,
        since: Instant,
        window: &Window,
    ) -> anyhow::Result<Instant> {
        let limit =
            (since + window.to + Duration::from_secs(20)).saturating_duration_since(Instant::now());
        let mut by_device = false;
        let waiting = async {
            loop {
                match happenings.recv().await? {
                    Happening {
                        what: What::Reset,
                        at,
                    } => return anyhow::Ok(at),
                    Happening {
                        what: What::Watchdog,
                        ..
                    } => by_device = true,
                    Happening {
                        what: What::Booted | What::Ended { .. },
                        ..
                    } => {}
                }
            }
        };
        let at = timeout(limit, waiting)
            .await
            .with_context(|| format!("no reset, promised: {}", window.text))??;
        self.expected.set(self.expected.get() + 1);
        let took = at.duration_since(since);
        ensure!(
            took <= window.to + ALLOWANCE,
            "reset after {:.1} s, promised: {}",
            took.as_secs_f64(),
            window.text
        );
        ensure!(
            took + REACTION >= window.from,
            "reset after {:.1} s, which something else must have done: not before {:.1} s",
            took.as_secs_f64(),
            window.from.as_secs_f64()
        );
        let device = self.guest.hardware().driver == Driver::I6300esb && !self.guest.is_held();
        ensure!(
            by_device == device,
            "the emulated watchdog has {}run out",
            if by_device { "" } else { "not " }
        );
        Ok(at)
    }

    /// Watches it stay up for so long.
    pub(crate) async fn stays_up(
        &self,
        mut happenings: Receiver<Happening>,
        time: Duration,
    ) -> anyhow::Result<()> {
        sleep(time).await;
        loop {
            match happenings.try_recv() {
                Ok(Happening {
                    what: What::Reset | What::Watchdog,
                    ..
                }) => {
                    bail!("{} was reset", self.name())
                }
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Resets it as an administrator does, and waits until it is armed again.
    pub(crate) async fn restart(&self, lab: &Lab) -> anyhow::Result<Bounds> {
        // A boot that is cut short would not be counted.
        wait::until("the guest to be up", BOOT, async || {
            Ok(self.guest.boot().map(drop))
        })
        .await?;
        let mut happenings = self.guest.happenings();
        self.guest.reset().await?;
        let reset = async {
            while happenings.recv().await?.what != What::Reset {}
            anyhow::Ok(())
        };
        timeout(Duration::from_secs(20), reset).await??;
        self.expected.set(self.expected.get() + 1);
        self.armed(lab).await
    }

    /// After a scenario that failed: cable in, nothing ordered, a fresh boot.
    pub(crate) async fn recover(&self, lab: &Lab) -> anyhow::Result<()> {
        self.guest.set_link(true).await?;
        self.guest.set_held(false);
        self.withdraw(lab).await?;
        self.excluded(lab, false).await?;
        self.restart(lab).await.map(drop)
    }

    /// Deletes the remediation of the node, if there is one.
    pub(crate) async fn withdraw(&self, lab: &Lab) -> anyhow::Result<()> {
        lab.cluster
            .kubectl(&[
                "delete",
                "selfnoderemediation",
                self.name(),
                "--namespace=self-node-remediation",
                "--ignore-not-found",
                "--timeout=120s",
            ])
            .await?;
        Ok(())
    }

    /// Whether the node is to have no agent.
    pub(crate) async fn excluded(&self, lab: &Lab, excluded: bool) -> anyhow::Result<()> {
        let label = if excluded {
            "remediation.medik8s.io/exclude-from-remediation=true"
        } else {
            "remediation.medik8s.io/exclude-from-remediation-"
        };
        lab.cluster
            .kubectl(&["label", "node", self.name(), label])
            .await?;
        Ok(())
    }
}
