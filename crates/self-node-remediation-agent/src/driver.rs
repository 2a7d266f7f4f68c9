//! The loop: hands evidence to the rules and carries out their commands.
//!
//! # Guarantees
//! * Nothing is decided here. Every decision is [`step`]'s or `peer_server`'s; this module keeps
//!   the order of commands, and the rule that what could not be recorded is not published and not
//!   acknowledged.
//! * The loop never waits for anything outside: reads, writes, peers and the device report back
//!   through the inbox. Only the state folder is written in place; it is a tmpfs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use medik8s_runtime::clock::Clock;
use medik8s_watchdog::Notice as FeederNotice;
use self_node_remediation_core::agent::{
    Command, Evidence, Listed, Notice, Recorded, Settings as Rules, State, next_wake, step,
};
use self_node_remediation_core::announcement::{Announcement, Relayed, StoppedFeeding};
use self_node_remediation_core::ids::{NodeName, Uid};
use self_node_remediation_core::peer_server::{self, Answer, LiveRead, Question};
use self_node_remediation_core::time::BootInstant;
use self_node_remediation_peer::RelayRequest;
use tokio::task::{AbortHandle, JoinSet};

use crate::ask::Asker;
use crate::device::{Device, whole_seconds};
use crate::diagnostics::Diagnostics;
use crate::directory::{Directory, Remembered};
use crate::inbox::{Input, Receiver, Sender};
use crate::metrics::Reading;
use crate::publish::Publisher;
use crate::questions::{Questions, Waiting};
use crate::sense::Senses;
use crate::store::{DEVICE, PEERS, STATE, Store};
use crate::tell::Teller;

/// A record that could not be written is tried again after this time.
const RECORD_RETRY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the feeder to let go of the device.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);
/// Limit for the read of the own pod on SIGTERM; the kubelet kills after 10 s.
const POD_READ: Duration = Duration::from_secs(2);

/// Everything the loop works with.
pub struct Parts {
    /// What the rules need to know.
    pub rules: Rules,
    /// The own pod's name.
    pub pod: Option<String>,
    /// Time.
    pub clock: Clock,
    /// The owned state folder.
    pub store: Store,
    /// Reads.
    pub senses: Senses,
    /// Asks peers.
    pub asker: Asker,
    /// Where peers are.
    pub directory: Directory,
    /// Control-plane diagnostics.
    pub diagnostics: Diagnostics,
    /// Writes.
    pub publisher: Publisher,
    /// The watchdog.
    pub device: Device,
    /// Tells people.
    pub teller: Teller,
    /// The way back to the loop.
    pub inbox: Sender,
    /// When the loop last came round, in nanoseconds since boot; for the liveness probe.
    pub heartbeat: Arc<AtomicU64>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// Why the loop ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The inbox closed, which it does not while the loop holds a sender.
    #[error("the loop's inbox closed")]
    Inbox,
    /// A step panicked earlier and left no state.
    #[error("the agent's state is lost")]
    State,
}

/// Runs the loop until the rules say that the process ends.
pub async fn run(parts: Parts, inbox: Receiver) -> Result<(), DriverError> {
    let now = BootInstant::at(parts.clock.boottime());
    let boot = &parts.rules.own.boot;
    let record = parts.store.read::<Recorded>(STATE, boot);
    if let Some(remembered) = parts.store.read::<Remembered>(PEERS, boot) {
        parts.directory.recall(remembered);
    }
    if let Some(device) = parts.store.read::<PathBuf>(DEVICE, boot) {
        parts.device.recall(device);
    }
    let state = State::restore(&parts.rules, record, now);
    let mut driver = Driver {
        parts,
        state: Some(state),
        questions: Questions::default(),
        tasks: JoinSet::new(),
        asking: None,
        recorded: true,
        stepped: BootInstant::ZERO,
        watchdog_lost: false,
        relayed: Relayed::default(),
        ends: false,
    };
    driver.run(inbox).await
}

/// A round of questions to peers.
struct Asking {
    round: u64,
    enough: Arc<AtomicBool>,
    task: AbortHandle,
}

struct Driver {
    parts: Parts,
    /// Only [`Driver::step`] takes it out, and puts it back.
    state: Option<State>,
    questions: Questions,
    tasks: JoinSet<()>,
    asking: Option<Asking>,
    /// Whether the state folder has what the state has.
    recorded: bool,
    /// When the rules were asked last.
    stepped: BootInstant,
    /// The watchdog refuses to be fed and does not reset the machine either.
    watchdog_lost: bool,
    /// Last words of other nodes.
    relayed: Relayed,
    ends: bool,
}

impl Driver {
    fn now(&self) -> BootInstant {
        BootInstant::at(self.parts.clock.boottime())
    }

    async fn run(&mut self, mut inbox: Receiver) -> Result<(), DriverError> {
        self.step(Evidence::Tick)?;
        while !self.ends {
            self.show();
            // Counted from the latest step: what has fallen due since then wakes at once.
            let wake = self.wake()?.since(self.now());
            tokio::select! {
                input = inbox.recv() => self.take(input.ok_or(DriverError::Inbox)?)?,
                Some(_ended) = self.tasks.join_next() => {}
                () = tokio::time::sleep(wake) => self.step(Evidence::Tick)?,
            }
            // What has arrived meanwhile is taken in before the next wake-up is computed.
            while !self.ends
                && let Ok(input) = inbox.try_recv()
            {
                self.take(input)?;
            }
            self.serve_questions()?;
        }
        self.let_go(inbox).await;
        Ok(())
    }

    fn wake(&self) -> Result<BootInstant, DriverError> {
        let state = self.state.as_ref().ok_or(DriverError::State)?;
        let rules = next_wake(&self.parts.rules, state, self.stepped);
        let limit = self.parts.rules.timing.api_server_timeout();
        Ok(self
            .questions
            .wake(limit)
            .map_or(rules, |questions| questions.min(rules)))
    }

    fn show(&mut self) {
        let now = u64::try_from(self.parts.clock.boottime().as_nanos()).unwrap_or(u64::MAX);
        self.parts.heartbeat.store(now, Ordering::SeqCst);
        if let Some(state) = &mut self.state {
            self.parts.teller.metrics.show(Reading {
                last_proof: state.last_direct_proof(),
                peers_known: self.parts.directory.len(),
                armed_timeout: state.armed_timeout(),
                fencing: state.fencing().is_some(),
                orders_known: state.knowledge().orders().count(),
            });
        }
    }

    fn take(&mut self, input: Input) -> Result<(), DriverError> {
        match input {
            Input::Evidence(evidence) => self.evidence(evidence),
            Input::Feeder(notice) => self.feeder(notice),
            Input::Question(question, reply) => {
                let arrived = self.now();
                self.ask_at_once(Waiting {
                    question,
                    arrived,
                    reply,
                })
            }
            Input::ListedForPeers { started, list } => {
                self.questions.list_ended();
                if let Some(list) = &list {
                    self.step(Evidence::Listed {
                        started,
                        list: list.clone(),
                    })?;
                }
                self.answer_served(started, list.as_ref())
            }
            Input::Relay(request, caller) => {
                self.relay(&request, caller);
                Ok(())
            }
            Input::PeersChanged => {
                self.remember_peers();
                Ok(())
            }
            Input::Signal => {
                self.signal();
                Ok(())
            }
        }
    }

    fn evidence(&mut self, evidence: Evidence) -> Result<(), DriverError> {
        if matches!(evidence, Evidence::Opened { .. }) {
            self.remember_device();
        }
        let Evidence::ApiRead { started, list, .. } = &evidence else {
            return self.step(evidence);
        };
        let (started, list) = (*started, list.clone());
        self.step(evidence)?;
        if list.is_some() {
            return self.answer_served(started, list.as_ref());
        }
        // Our own check has failed: whoever waits can be told at once.
        for waiting in self.questions.take_all() {
            self.ask_at_once(waiting)?;
        }
        Ok(())
    }

    fn feeder(&mut self, notice: FeederNotice) -> Result<(), DriverError> {
        match notice {
            FeederNotice::Starving => tracing::warn!("the watchdog starves: the permit has ended"),
            FeederNotice::Resumed => tracing::info!("the watchdog is fed again"),
            FeederNotice::FeedFailed(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the watchdog could not be fed");
                if !self.watchdog_lost && self.parts.device.is_lost() {
                    self.watchdog_lost = true;
                    return self.step(Evidence::NoWatchdog);
                }
            }
            FeederNotice::TimeoutSet { timeout } => {
                return self.step(Evidence::TimeoutSet {
                    timeout: whole_seconds(timeout),
                });
            }
            FeederNotice::Triggered {
                timeout,
                reliable,
                last_feed,
            } => {
                let timeout = if reliable { timeout } else { Duration::ZERO };
                return self.step(Evidence::Starved {
                    timeout: whole_seconds(timeout),
                    last_feed: BootInstant::at(last_feed),
                });
            }
            FeederNotice::Disarmed => return self.step(Evidence::Disarmed),
            FeederNotice::CloseFailed(error) => {
                // Announced as disarmed, it still runs: the machine may be reset, never too late.
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the watchdog could not be stopped");
                return self.step(Evidence::Disarmed);
            }
            FeederNotice::Released => {}
        }
        Ok(())
    }

    fn step(&mut self, evidence: Evidence) -> Result<(), DriverError> {
        let now = self.now();
        self.stepped = now;
        let state = self.state.take().ok_or(DriverError::State)?;
        let (state, commands) = step(&self.parts.rules, state, evidence, now, rand::random());
        self.state = Some(state);
        self.perform(commands);
        Ok(())
    }

    fn perform(&mut self, commands: Vec<Command>) {
        // Not either while an earlier batch could not be recorded and its failure is still to be reported.
        let mut may_publish = self.recorded;
        for command in commands {
            match command {
                Command::Record(record) => may_publish = self.record(&record),
                Command::FeedUntil(until) => self.parts.device.permit(until),
                Command::OpenWatchdog { set_timeout } => self.open(set_timeout),
                Command::SetWatchdogTimeout(timeout) => {
                    self.parts.device.set_timeout(Duration::from_secs(timeout));
                }
                Command::Starve { shorten } => self.parts.device.starve(shorten),
                Command::SoftwareReboot => self.parts.device.reboot(),
                Command::Disarm => self.parts.device.disarm(),
                Command::StartApiRead { check } => self.start_read(check),
                Command::ListNodes => self.list_nodes(),
                Command::AskPeers {
                    round,
                    nodes,
                    deadline: _,
                } => {
                    self.stop_asking(None);
                    let enough = Arc::new(AtomicBool::new(false));
                    let asker = self.parts.asker.clone();
                    let asking = asker.round(round, nodes, Arc::clone(&enough));
                    let task = self.tasks.spawn(asking);
                    self.asking = Some(Asking {
                        round,
                        enough,
                        task,
                    });
                }
                Command::AskNoMore { round } => {
                    if let Some(asking) =
                        self.asking.as_ref().filter(|asking| asking.round == round)
                    {
                        asking.enough.store(true, Ordering::Relaxed);
                    }
                }
                Command::StopAsking { round } => self.stop_asking(Some(round)),
                Command::RunDiagnostics { round, deadline: _ } => {
                    let (diagnostics, inbox) =
                        (self.parts.diagnostics.clone(), self.parts.inbox.clone());
                    self.tasks.spawn(async move {
                        let passed = diagnostics.run().await;
                        inbox.evidence(Evidence::Diagnostics { round, passed });
                    });
                }
                Command::PublishAnnouncement {
                    sequence,
                    announcement,
                } => {
                    if may_publish {
                        self.announce(sequence, announcement);
                    }
                }
                Command::PublishStoppedFeeding(words) => {
                    if may_publish {
                        let asker = self.parts.asker.clone();
                        let last = last_words(self.parts.publisher.clone(), asker, words);
                        self.tasks.spawn(last);
                    }
                }
                Command::Tell(notice) => self.tell(&notice),
                Command::Exit => self.ends = true,
            }
        }
    }

    fn tell(&self, notice: &Notice) {
        let Parts { teller, device, .. } = &self.parts;
        teller.tell(notice);
        if let (Notice::Armed { .. }, Some(used), [_, ..]) =
            (notice, device.used(), device.passed_over())
        {
            teller.watchdog_passed_over(used, device.passed_over());
        }
    }

    fn record(&mut self, record: &Recorded) -> bool {
        match self
            .parts
            .store
            .write(STATE, &self.parts.rules.own.boot, record)
        {
            Ok(()) => self.recorded = true,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the state could not be recorded");
                self.recorded = false;
                let inbox = self.parts.inbox.clone();
                self.tasks.spawn(async move {
                    tokio::time::sleep(RECORD_RETRY).await;
                    inbox.evidence(Evidence::RecordFailed);
                });
            }
        }
        self.recorded
    }

    fn open(&self, set_timeout: Option<u64>) {
        // A device that turns out to be useless may be stopped only if nobody counts on it.
        let counted_on = self.state.as_ref().is_none_or(|state| {
            let announcing = state.announcing();
            announcing
                .in_force()
                .into_iter()
                .chain(announcing.pending())
                .any(|value| value.armed)
        });
        let timeout = set_timeout.map(Duration::from_secs);
        if let Err(error) = self.parts.device.open(timeout, !counted_on) {
            tracing::error!(%error, "no thread to open the watchdog");
            self.parts.inbox.evidence(Evidence::NoWatchdog);
        }
    }

    fn start_read(&mut self, check: u64) {
        self.questions.other_list_begins(self.now());
        let (senses, inbox) = (self.parts.senses.clone(), self.parts.inbox.clone());
        self.tasks.spawn(async move {
            let (started, list) = senses.remediations().await;
            inbox.evidence(Evidence::ApiRead {
                check,
                started,
                list,
            });
        });
    }

    fn list_nodes(&mut self) {
        let (senses, directory) = (self.parts.senses.clone(), self.parts.directory.clone());
        let inbox = self.parts.inbox.clone();
        self.tasks.spawn(async move {
            let evidence = senses.nodes(&directory).await;
            inbox.send(Input::PeersChanged);
            inbox.evidence(evidence);
        });
    }

    /// Ends a round; `None`: whichever runs.
    fn stop_asking(&mut self, round: Option<u64>) {
        if let Some(asking) = &self.asking
            && round.is_none_or(|round| round == asking.round)
        {
            asking.task.abort();
            self.asking = None;
        }
    }

    fn announce(&mut self, sequence: u64, announcement: Announcement) {
        let (publisher, inbox) = (self.parts.publisher.clone(), self.parts.inbox.clone());
        self.tasks.spawn(async move {
            let accepted = match publisher.announce(&announcement).await {
                Ok(()) => {
                    tracing::info!(%announcement, "announced");
                    true
                }
                Err(error) => {
                    let class = error.class();
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%class, error, %announcement, "could not announce");
                    false
                }
            };
            inbox.evidence(Evidence::Published { sequence, accepted });
        });
    }

    fn remember_peers(&self) {
        let remembered = self.parts.directory.remembered();
        let boot = &self.parts.rules.own.boot;
        if let Err(error) = self.parts.store.write(PEERS, boot, &remembered) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the peers' addresses could not be recorded");
        }
    }

    /// Passes the last words of another node on.
    /// Passes last words on. All agents share one certificate, which is in the hands of whoever broke into one node, and
    /// the words free a workload: only the agent of the node itself may say them, by its address.
    fn relay(&mut self, request: &RelayRequest, caller: IpAddr) {
        let node = NodeName::new(request.node_name.as_str());
        let (Some(node), Ok(words)) = (node, request.words.parse::<StoppedFeeding>()) else {
            tracing::warn!(?request, "these last words cannot be understood");
            return;
        };
        if !self.parts.directory.addresses(&node).contains(&caller) {
            tracing::warn!(%node, %words, %caller, "these last words are not from the node's agent");
            return;
        }
        tracing::warn!(%node, %words, "a peer asks to tell that its feeding has stopped");
        if !self.relayed.add(node, words) {
            return;
        }
        let (publisher, relayed) = (self.parts.publisher.clone(), self.relayed.clone());
        self.tasks.spawn(async move {
            if let Err(error) = publisher.relayed(&relayed).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "could not pass last words on");
            }
        });
    }

    fn remember_device(&self) {
        let Some(device) = self.parts.device.used() else {
            return;
        };
        let boot = &self.parts.rules.own.boot;
        if let Err(error) = self.parts.store.write(DEVICE, boot, device) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the watchdog device could not be recorded");
        }
    }

    /// SIGTERM: the rules need to know whether somebody takes over and whether this pod goes.
    fn signal(&mut self) {
        let successor = self.parts.store.is_awaited().unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "it is unknown whether a successor stands by");
            // Then the device stays armed.
            true
        });
        let (senses, inbox) = (self.parts.senses.clone(), self.parts.inbox.clone());
        let pod = self.parts.pod.clone();
        self.tasks.spawn(async move {
            let pod_deleted =
                !successor && senses.own_pod_is_deleted(pod.as_deref(), POD_READ).await;
            tracing::info!(successor, pod_deleted, "asked to end");
            inbox.evidence(Evidence::Terminate {
                successor,
                pod_deleted,
            });
        });
    }

    /// Answers if that takes no live list, else lets the question wait for one.
    fn ask_at_once(&mut self, waiting: Waiting) -> Result<(), DriverError> {
        let now = self.now();
        let state = self.state.as_mut().ok_or(DriverError::State)?;
        let order = Uid::new(waiting.question.order_uid.as_str());
        let question = asked(&waiting, order.as_ref());
        let standing = state.standing(&self.parts.rules, now);
        match peer_server::at_once(&question, standing, state.knowledge(), now) {
            Some(answer) => self.reply(waiting, answer),
            None => self.questions.push(waiting),
        }
        Ok(())
    }

    fn answer_served(
        &mut self,
        started: BootInstant,
        list: Option<&Listed>,
    ) -> Result<(), DriverError> {
        let served = self.questions.take_served(started);
        self.answer(served, list)
    }

    fn answer(&mut self, waiting: Vec<Waiting>, list: Option<&Listed>) -> Result<(), DriverError> {
        let now = self.now();
        for waiting in waiting {
            let state = self.state.as_mut().ok_or(DriverError::State)?;
            let order = Uid::new(waiting.question.order_uid.as_str());
            let question = asked(&waiting, order.as_ref());
            let standing = state.standing(&self.parts.rules, now);
            let read = list.map_or(LiveRead::Failed, |list| LiveRead::List(&list.remediations));
            let answer = peer_server::after_read(&question, standing, state.knowledge(), read, now);
            self.reply(waiting, answer);
        }
        Ok(())
    }

    fn reply(&self, waiting: Waiting, answer: Answer) {
        // What is only in memory would be forgotten by a restart: it is not spoken of yet.
        let answer = if self.recorded || answer == Answer::Healthy {
            answer
        } else {
            Answer::Unavailable
        };
        if matches!(answer, Answer::Unhealthy { .. }) {
            self.parts
                .teller
                .said_unhealthy(&waiting.question.node_name);
        }
        if waiting.reply.send(answer).is_err() {
            tracing::debug!("whoever asked is gone");
        }
    }

    /// Begins a list for those who wait, and answers those whose time is over.
    fn serve_questions(&mut self) -> Result<(), DriverError> {
        let now = self.now();
        let limit = self.parts.rules.timing.api_server_timeout();
        let expired = self.questions.take_expired(now, limit);
        self.answer(expired, None)?;
        if self.questions.list_due().is_some_and(|due| now >= due) {
            self.questions.list_begins(now);
            let (senses, inbox) = (self.parts.senses.clone(), self.parts.inbox.clone());
            self.tasks.spawn(async move {
                let (started, list) = senses.remediations().await;
                inbox.send(Input::ListedForPeers { started, list });
            });
        }
        Ok(())
    }

    /// Closes an armed device before the lock is given up, so that a successor does not find it
    /// busy. A device that starves for good stays open for as long as the process lives.
    async fn let_go(&self, mut inbox: Receiver) {
        if !self.parts.device.release() {
            return;
        }
        let released = async {
            while let Some(input) = inbox.recv().await {
                if matches!(input, Input::Feeder(FeederNotice::Released)) {
                    return;
                }
            }
        };
        if tokio::time::timeout(RELEASE_LIMIT, released).await.is_err() {
            tracing::warn!("the watchdog feeder did not let go of the device in time");
        }
    }
}

/// Tells the API server, or peers if it does not take it.
async fn last_words(publisher: Publisher, asker: Asker, words: StoppedFeeding) {
    let told = publisher.stopped_feeding(&words).await.map_err(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "could not tell that feeding has stopped");
    });
    match told {
        Ok(()) => tracing::warn!(%words, "told that feeding has stopped"),
        Err(()) => asker.relay(&words, rand::random()).await,
    }
}

fn asked<'a>(waiting: &'a Waiting, order: Option<&'a Uid>) -> Question<'a> {
    Question {
        node: &waiting.question.node_name,
        machine: &waiting.question.machine_name,
        order,
    }
}
