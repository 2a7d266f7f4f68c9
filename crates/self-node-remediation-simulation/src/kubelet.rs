//! The kubelets: they report, run the workload, and run the agents.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use medik8s_testing::fake::FakeApi;
use self_node_remediation_peer::CertificateSet;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::control::{WORKLOAD, is_ending};
use crate::judge::Rule;
use crate::machine::{AgentPod, Container, Machine, Power};
use crate::network::Network;
use crate::process::{Agent, AgentStart, NAMESPACE};

/// From power to a running kubelet.
const STARTS: Duration = Duration::from_secs(8);
/// How long a container of the workload takes to end.
const ENDS: Duration = Duration::from_secs(2);
/// Grace period of the agents' pods.
const AGENT_GRACE: Duration = Duration::from_secs(10);
/// First pause before a container that ended is started again; it doubles.
const BACKOFF: Duration = Duration::from_secs(2);
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
/// Whatever ran for so long starts without pause.
const SETTLED: Duration = Duration::from_mins(1);
/// When the liveness probe kills an agent whose loop hangs.
const LIVENESS: Duration = Duration::from_secs(100);

impl Cluster {
    /// All kubelets, once.
    pub(crate) async fn kubelets(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        for index in 0..self.machines.len() {
            let Some(machine) = self.machines.get(index) else {
                continue;
            };
            let Power::On(since) = machine.power else {
                continue;
            };
            if machine.kubelet_stopped || now < since + STARTS {
                continue;
            }
            let connected = self.net.has_api(machine.place());
            if connected {
                let boot = (!machine.reported).then(|| machine.boot_id());
                self.heard(index, boot.as_deref());
                if let Some(machine) = self.machines.get_mut(index) {
                    // Pods are started only after the boot was reported.
                    machine.reported = true;
                }
                self.sync_workload(index, now);
            }
            self.end_containers(index, now, connected);
            self.sync_agents(index, now, connected).await?;
        }
        Ok(())
    }

    /// Starts and ends containers as the API says.
    fn sync_workload(&mut self, index: usize, now: Instant) {
        let Some(machine) = self.machines.get_mut(index) else {
            return;
        };
        for app in &self.control.apps {
            let bound = app.pod.as_ref().filter(|pod| pod.node == machine.name);
            if let Some(container) = machine.containers.get_mut(&app.index) {
                let wanted = bound.is_some_and(|pod| pod.uid == container.uid && !pod.ends);
                if !wanted {
                    container.ends.get_or_insert(now + ENDS);
                }
            } else {
                let Some(pod) = bound else {
                    continue;
                };
                if pod.ends {
                    // Nothing of it runs here: the kubelet confirms.
                    self.api.remove::<Pod>(Some(WORKLOAD), &app.name);
                    self.trace
                        .say(format!("{} has ended on {}", app.name, machine.name));
                    continue;
                }
                let container = Container {
                    uid: pod.uid.clone(),
                    ends: None,
                };
                machine.containers.insert(app.index, container);
                self.trace
                    .say(format!("{} runs on {}", app.name, machine.name));
            }
        }
    }

    /// Containers whose time is over end; while the API is away, none is let go.
    fn end_containers(&mut self, index: usize, now: Instant, connected: bool) {
        let Some(machine) = self.machines.get_mut(index) else {
            return;
        };
        if connected {
            let over = |container: &Container| container.ends.is_some_and(|ends| now >= ends);
            machine.containers.retain(|_, container| !over(container));
        }
    }

    async fn sync_agents(
        &mut self,
        index: usize,
        now: Instant,
        connected: bool,
    ) -> anyhow::Result<()> {
        let Some(machine) = self.machines.get_mut(index) else {
            return Ok(());
        };
        let mut pods = std::mem::take(&mut machine.agents);
        let mut kept = Vec::new();
        for mut pod in pods.drain(..) {
            if connected {
                let stored = self.api.get_value("v1", "Pod", Some(NAMESPACE), &pod.name);
                if stored.as_ref().is_none_or(is_ending) && pod.ends.is_none() {
                    pod.ends = Some(now + AGENT_GRACE);
                    if let Some(process) = &pod.process {
                        process.terminate();
                    }
                }
            }
            if pod.hangs.is_some_and(|since| now >= since + LIVENESS) {
                self.trace
                    .say(format!("{} is killed by its liveness probe", pod.name));
                pod.kill();
                pod.failed(now);
            }
            if pod.hangs.is_none()
                && let Some(process) = &mut pod.process
                && let Some(ended) = process.ended().await
            {
                if let Err(why) = ended {
                    self.trace.say(format!("{} ended: {why}", pod.name));
                    if why.contains("panic") {
                        self.judge.accuse(&mut self.trace, Rule::NoPanic, why);
                    }
                }
                pod.kill();
                pod.failed(now);
            }
            if let Some(ends) = pod.ends {
                if now >= ends {
                    pod.kill();
                }
                if pod.process.is_none() {
                    if connected {
                        self.api.remove::<Pod>(Some(NAMESPACE), &pod.name);
                        self.trace.say(format!("{} is gone", pod.name));
                        continue;
                    }
                    kept.push(pod);
                    continue;
                }
            }
            let may_start = machine.reported && (connected || pod.certificates.is_some());
            if pod.process.is_none() && now >= pod.starts && may_start {
                pod.start(machine, &self.api, &self.net, now)?;
            }
            kept.push(pod);
        }
        machine.agents = kept;
        Ok(())
    }
}

impl AgentPod {
    /// Its process has ended: it is started again after a while.
    pub fn failed(&mut self, now: Instant) {
        if now >= self.since + SETTLED {
            self.failures = 0;
        }
        let pause = BACKOFF.saturating_mul(1 << self.failures.min(4));
        self.failures += 1;
        self.starts = now + pause.min(LONGEST_BACKOFF);
    }

    fn start(
        &mut self,
        machine: &Machine,
        api: &FakeApi,
        net: &Network,
        now: Instant,
    ) -> anyhow::Result<()> {
        if self.certificates.is_none() {
            // Not there yet: the kubelet tries again.
            self.certificates = mounted(api, &self.secret);
        }
        let Some(certificates) = &self.certificates else {
            return Ok(());
        };
        self.process = Some(Agent::start(&AgentStart {
            node: machine.index,
            api,
            net,
            clock: &machine.clock,
            root: machine.root(),
            dog: &machine.dog,
            env: &self.env,
            certificates,
            address: self.address,
        })?);
        self.since = now;
        Ok(())
    }
}

/// The certificates in a Secret.
fn mounted(api: &FakeApi, name: &str) -> Option<CertificateSet> {
    let secret: Secret = api.get(Some(NAMESPACE), name)?;
    let data = secret.data?;
    let text = |field| String::from_utf8(data.get(field)?.0.clone()).ok();
    Some(CertificateSet {
        ca_pem: text("caPem")?,
        cert_pem: text("certPem")?,
        key_pem: text("keyPem")?,
    })
}
