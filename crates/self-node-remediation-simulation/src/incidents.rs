//! Makes things go wrong, and mends them.

use std::time::Duration;

use medik8s_api::SelfNodeRemediation;
use medik8s_testing::fake::FakeApi;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::machine::Power;
use crate::network::ApiMode;
use crate::process::NAMESPACE;
use crate::scenario::{CALM, Fault, Sabotage};

impl Cluster {
    /// Begins and ends what is due.
    pub(crate) fn incidents(&mut self) {
        let now = self.trace.now();
        let mut all = std::mem::take(&mut self.scenario.incidents);
        all.retain(|incident| {
            let (begins, lasts) = (now >= incident.from, incident.fault.lasts());
            let ends = now >= incident.until;
            let under_way = self.control.under_way.contains(&incident.fault);
            if begins && !under_way && !(lasts && ends) {
                self.trace
                    .say(format!("FAULT {}", describe(&incident.fault)));
                self.trace.count(incident.fault.kind(), 1);
                self.begin(&incident.fault);
                if lasts {
                    self.control.under_way.push(incident.fault.clone());
                }
                return lasts;
            }
            if ends && under_way {
                self.trace
                    .say(format!("MENDED {}", describe(&incident.fault)));
                self.end(&incident.fault);
                self.control
                    .under_way
                    .retain(|fault| *fault != incident.fault);
                return false;
            }
            !ends
        });
        self.scenario.incidents = all;
        if self.scenario.sabotage == Sabotage::WatchdogIgnoresFeeds
            && now >= CALM
            && let Some(machine) = self.machines.first()
        {
            machine.dog.ignore_feeds();
        }
    }

    fn begin(&mut self, fault: &Fault) {
        let now = Instant::now();
        match fault {
            Fault::Cut(_, ways) => {
                for (from, to) in ways {
                    self.net.cut(*from, *to, true);
                }
            }
            Fault::Slow(ways, by) => {
                for (from, to) in ways {
                    self.net.slow(*from, *to, *by);
                }
            }
            Fault::Api(mode) => self.net.set_api(*mode),
            Fault::KillAgent(node) => {
                for pod in self.agents_of(*node) {
                    pod.kill();
                    pod.failed(now);
                }
            }
            Fault::HangAgent(node) => {
                for pod in self.agents_of(*node) {
                    if let Some(process) = &pod.process {
                        process.hang();
                        pod.hangs = Some(now);
                    }
                }
            }
            Fault::Reboot(node) => {
                let boots = now + Duration::from_secs(self.rng.between(15, 90));
                if let Some(machine) = self.machines.get_mut(*node)
                    && machine.is_on()
                {
                    self.judge.stopped(machine);
                    machine.stop(&self.net, Some(boots));
                }
            }
            Fault::PowerOff(node) => {
                if let Some(machine) = self.machines.get_mut(*node) {
                    self.judge.stopped(machine);
                    machine.stop(&self.net, None);
                }
            }
            Fault::StopKubelet(node) => {
                if let Some(machine) = self.machines.get_mut(*node) {
                    machine.set_kubelet(&self.net, false);
                }
            }
            Fault::KillManager(replica) => {
                if let Some(process) = self.managers.get(*replica).and_then(|r| r.process.as_ref())
                {
                    process.kill();
                }
            }
            Fault::DeleteRemediation => self.delete_remediation(),
            Fault::RollAgents => {
                if let Some(mut config) = self.config() {
                    let seconds = self.rng.between(60, 900);
                    config.spec.peer_update_interval = Some(format!("{seconds}s").as_str().into());
                    self.api.put(&config);
                }
            }
            Fault::DropWatches => FakeApi::drop_watches(&self.api),
        }
    }

    fn end(&mut self, fault: &Fault) {
        match fault {
            Fault::Cut(_, ways) => {
                for (from, to) in ways {
                    self.net.cut(*from, *to, false);
                }
            }
            Fault::Slow(ways, _) => {
                for (from, to) in ways {
                    self.net.slow(*from, *to, Duration::ZERO);
                }
            }
            Fault::Api(_) => self.net.set_api(ApiMode::Up),
            Fault::PowerOff(node) => {
                if let Some(machine) = self.machines.get_mut(*node)
                    && machine.power == Power::Off(None)
                {
                    machine.power = Power::Off(Some(Instant::now()));
                }
            }
            Fault::StopKubelet(node) => {
                if let Some(machine) = self.machines.get_mut(*node) {
                    machine.set_kubelet(&self.net, machine.is_on());
                }
            }
            Fault::KillAgent(_)
            | Fault::HangAgent(_)
            | Fault::Reboot(_)
            | Fault::KillManager(_)
            | Fault::DeleteRemediation
            | Fault::RollAgents
            | Fault::DropWatches => {}
        }
    }

    fn agents_of(&mut self, node: usize) -> impl Iterator<Item = &mut crate::machine::AgentPod> {
        let machine = self.machines.get_mut(node);
        let pods = machine.into_iter().flat_map(|machine| &mut machine.agents);
        pods.filter(|pod| pod.process.is_some())
    }

    fn delete_remediation(&mut self) {
        let known = self.api.list::<SelfNodeRemediation>();
        if let Some(name) = known
            .first()
            .and_then(|object| object.metadata.name.as_deref())
        {
            self.api
                .delete::<SelfNodeRemediation>(Some(NAMESPACE), name);
            self.trace
                .say(format!("the remediation for {name} is deleted by hand"));
        }
    }

    /// Looks at everything that must never be.
    pub(crate) fn look(&mut self) {
        let api_up = self.net.api() == ApiMode::Up;
        let view = crate::judge::View {
            api: &self.api,
            net: &self.net,
            machines: &self.machines,
            managers: self.managers.len(),
            apps: &self.control.apps,
            api_up,
            wall: self.clock.now(),
        };
        self.judge.look(&view, &mut self.trace);
        let stops = self.scenario.sabotage == Sabotage::ManagerStops && self.judge.has_order();
        if stops {
            for replica in &mut self.managers {
                if let Some(process) = replica.process.take() {
                    process.kill();
                }
                replica.starts = Instant::now() + Duration::from_hours(24);
            }
        }
    }
}

fn describe(fault: &Fault) -> String {
    match fault {
        Fault::Cut(kind, ways) => format!("{kind}: {} ways, {:?}", ways.len(), ways.first()),
        Fault::Slow(ways, by) => format!("slow links: {} ways by {by:?}", ways.len()),
        Fault::Api(_)
        | Fault::KillAgent(_)
        | Fault::HangAgent(_)
        | Fault::Reboot(_)
        | Fault::PowerOff(_)
        | Fault::StopKubelet(_)
        | Fault::KillManager(_)
        | Fault::DeleteRemediation
        | Fault::RollAgents
        | Fault::DropWatches => format!("{fault:?}"),
    }
}
