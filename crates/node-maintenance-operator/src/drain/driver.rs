//! Does what the [`Machine`] says.
//!
//! # Guarantees
//! From the moment a stop is ordered no further eviction leaves this process, also none that waits
//! for its connection. The same holds when the process stops, since a drain is a worker of it.
//!
//! # Caveats
//! [`Drain::stop`] waits a little for the answers to evictions that have left already. One whose
//! answer takes longer is given up; the API server may still carry it out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{AbortHandle, BoxStream, FuturesUnordered, SelectAll, abortable},
};
use k8s_openapi::api::{
    apps::v1::DaemonSet as DaemonSetObject, core::v1::Pod, policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client};
use medik8s_core::time::until;
use medik8s_runtime::{
    clock::Clock, error::Error, process::Spawner, read, shutdown::Shutdown, write::Writer,
};
use tokio::sync::watch;

use super::{
    answer::Answer,
    budgets,
    filter::DaemonSet,
    machine::{Command, Event, Eviction, Machine, Options, PAUSE, Report},
    pod::Key,
    pods::Pods,
    share::Active,
};
use crate::{error::chain, metrics::DrainMetrics};

/// How long a stop waits for answers to evictions that have left already.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// Progress is told at most this often.
const PACE: Duration = Duration::from_secs(2);

/// How many DaemonSets are looked for at the same time.
const READS: usize = 8;

/// What every drain of the process uses.
#[derive(Clone)]
pub struct Tools {
    /// Client without retry: a refused eviction is an answer.
    pub client: Client,
    /// Writes only while this process leads.
    pub writer: Writer,
    /// Time.
    pub clock: Clock,
    /// Runs the tasks.
    pub spawner: Spawner,
    /// Counts.
    pub metrics: DrainMetrics,
    /// Drains under way.
    pub active: Active,
}

/// A drain that knows the pods of its node and does nothing yet.
#[derive(Debug)]
pub struct Prepared {
    machine: Machine,
    options: Options,
    resource_version: String,
}

impl Prepared {
    /// What it knows.
    pub fn report(&self) -> Report {
        self.machine.report()
    }

    /// How it would drain.
    pub const fn options(&self) -> &Options {
        &self.options
    }
}

/// A drain under way, or one that has completed.
pub struct Drain {
    machine: Arc<Mutex<Machine>>,
    options: Options,
    stop: Shutdown,
    ended: watch::Receiver<bool>,
    started: Duration,
}

impl Tools {
    /// Lists the pods of a node and decides which have to go.
    pub async fn prepare(&self, node: &str, options: Options) -> Result<Prepared, Error> {
        let listing = Pods::of(self.client.clone(), node).list().await?;
        let mut machine = Machine::new(options.clone());
        let asked = machine.step(Event::Listed(listing.pods), self.clock.now());
        let reads = asked.into_iter().filter_map(|command| match command {
            Command::FindDaemonSet(key) => Some(find_daemon_set(self.client.clone(), key)),
            Command::Evict(_)
            | Command::WatchBudgets(_)
            | Command::ForgetBudgets(_)
            | Command::Relist => None,
        });
        let mut found = futures::stream::iter(reads).buffer_unordered(READS);
        while let Some(event) = found.next().await {
            machine.take(event, self.clock.now());
        }
        drop(found);
        Ok(Prepared {
            machine,
            options,
            resource_version: listing.resource_version,
        })
    }

    /// Starts to drain a node. `wake` is called when there is something to report.
    pub fn start(
        &self,
        node: &str,
        options: Options,
        prepared: Option<Prepared>,
        wake: impl Fn() + Send + 'static,
    ) -> Drain {
        let prepared = prepared.filter(|prepared| prepared.options == options);
        let (machine, from) = match prepared {
            Some(Prepared {
                machine,
                resource_version,
                ..
            }) => (machine, Some(resource_version)),
            None => (Machine::new(options.clone()), None),
        };
        let report = machine.report();
        tracing::info!(
            node,
            pods = report.total,
            to_evict = report.pending.len(),
            staying = report.total.saturating_sub(report.pending.len()),
            "draining; ignoring DaemonSet-managed Pods"
        );
        let machine = Arc::new(Mutex::new(machine));
        let has_ended = watch::Sender::new(false);
        let ended = has_ended.subscribe();
        let driver = Driver {
            tools: self.clone(),
            node: node.to_owned(),
            pods: Pods::of(self.client.clone(), node),
            machine: Arc::clone(&machine),
            work: FuturesUnordered::new(),
            budgets: SelectAll::new(),
            budget_watches: BTreeMap::new(),
            wake: Box::new(wake),
            told: Told::default(),
            is_untold: false,
        };
        let stop = self
            .spawner
            .worker(format!("drain of {node}"), move |stop| async move {
                driver.run(from, &stop).await;
                has_ended.send_replace(true);
                Ok(())
            });
        Drain {
            machine,
            options,
            stop,
            ended,
            started: self.clock.boottime(),
        }
    }
}

impl Drain {
    /// How far it is.
    pub fn report(&self) -> Report {
        lock(&self.machine).report()
    }

    /// How it drains.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// When it was started, by boot time.
    pub const fn started(&self) -> Duration {
        self.started
    }

    /// Stops it. When this returns no further eviction can be sent.
    pub async fn stop(self) {
        self.stop.trigger();
        let mut ended = self.ended;
        // An error says that the task is gone, or never began.
        let (Ok(_) | Err(_)) = ended.wait_for(|ended| *ended).await;
    }
}

fn lock(machine: &Mutex<Machine>) -> MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was told last.
#[derive(Debug, Default)]
struct Told {
    is_listed: bool,
    rounds: u32,
    blocked: usize,
    at: Duration,
}

struct Driver {
    tools: Tools,
    node: String,
    pods: Pods,
    machine: Arc<Mutex<Machine>>,
    work: FuturesUnordered<BoxFuture<'static, Event>>,
    budgets: SelectAll<BoxStream<'static, Event>>,
    budget_watches: BTreeMap<String, AbortHandle>,
    wake: Box<dyn Fn() + Send>,
    told: Told,
    /// Something happened that was not told yet.
    is_untold: bool,
}

impl Driver {
    async fn run(mut self, from: Option<String>, stop: &Shutdown) {
        let _turn = self.tools.active.begin();
        let mut pods = self.pods.clone().follow(from);
        self.take([Event::Begin]);
        loop {
            if self.settle(&mut pods, stop) {
                break;
            }
            let nap = nap(self.until_next_look());
            let events = tokio::select! {
                biased;
                () = stop.triggered() => break,
                event = next(&mut pods, &mut self.work, &mut self.budgets) => event,
                () = nap => vec![Event::Tick],
            };
            self.is_untold |= events.iter().any(|event| *event != Event::Tick);
            self.take(events);
        }
        lock(&self.machine).take(Event::Cancel, self.tools.clock.now());
        for watch in self.budget_watches.values() {
            watch.abort();
        }
        // Nothing is asked for any more, and what waits for its connection has ended by itself
        // (see `Writer::evict`). Evictions that have left are mostly answered soon.
        let answers = async { while self.work.next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, answers).await.is_err() {
            tracing::warn!(
                node = self.node,
                open = self.work.len(),
                "gave up evictions"
            );
        }
    }

    fn take(&self, events: impl IntoIterator<Item = Event>) {
        let now = self.tools.clock.now();
        let mut machine = lock(&self.machine);
        for event in events {
            machine.take(event, now);
        }
    }

    /// Carries out what is to be done; true when the drain is complete.
    fn settle(&mut self, pods: &mut BoxStream<'static, Event>, stop: &Shutdown) -> bool {
        let (commands, is_complete) = {
            let mut machine = lock(&self.machine);
            machine.set_share(self.tools.active.share());
            (
                machine.settle(self.tools.clock.now()),
                machine.is_complete(),
            )
        };
        for command in commands {
            match command {
                Command::Evict(eviction) => self.evict(eviction, stop.clone()),
                Command::FindDaemonSet(key) => {
                    self.work
                        .push(find_daemon_set(self.tools.client.clone(), key).boxed());
                }
                Command::WatchBudgets(namespace) => self.watch_budgets(namespace),
                Command::ForgetBudgets(namespace) => {
                    if let Some(watch) = self.budget_watches.remove(&namespace) {
                        watch.abort();
                    }
                }
                Command::Relist => *pods = self.pods.clone().follow(None),
            }
        }
        self.tell(is_complete);
        is_complete
    }

    /// Wakes the controller when there is news, but not at every pod.
    fn tell(&mut self, is_complete: bool) {
        let (is_listed, rounds, blocked) = lock(&self.machine).news();
        let now = self.tools.clock.boottime();
        if rounds != self.told.rounds {
            tracing::info!(
                node = self.node,
                duration_seconds = PAUSE.as_secs(),
                "Reconciling with fixed duration: the drain is not complete"
            );
        }
        let is_news = is_complete
            || is_listed != self.told.is_listed
            || rounds != self.told.rounds
            || blocked != self.told.blocked;
        if is_news || (self.is_untold && now.saturating_sub(self.told.at) >= PACE) {
            self.is_untold = false;
            self.told = Told {
                is_listed,
                rounds,
                blocked,
                at: now,
            };
            (self.wake)();
        }
    }

    /// How long nothing has to be done unless something happens.
    fn until_next_look(&self) -> Option<Duration> {
        let machine = lock(&self.machine).wake_at();
        let machine = machine.map(|at| until(at, self.tools.clock.now()));
        let due = self.told.at.saturating_add(PACE);
        let telling = self
            .is_untold
            .then(|| due.saturating_sub(self.tools.clock.boottime()));
        machine.into_iter().chain(telling).min()
    }

    fn evict(&self, eviction: Eviction, stop: Shutdown) {
        let Tools {
            client,
            writer,
            metrics,
            ..
        } = self.tools.clone();
        let node = self.node.clone();
        self.work.push(
            async move {
                let Eviction { key, uid, grace_seconds, notes } = eviction;
                let api: Api<Pod> = Api::namespaced(client, &key.namespace);
                let request =
                    medik8s_runtime::write::Eviction { uid: uid.0.clone(), grace_seconds };
                let answer = Answer::read(writer.evict(&api, &key.name, &request, &stop).await);
                metrics.evicted(&answer);
                let warnings = notes.warnings().join(", ");
                tracing::debug!(node, pod = %key, uid = uid.0, warnings, answer = answer.label(), "evicted");
                Event::Answered(key, uid, answer)
            }
            .boxed(),
        );
    }

    fn watch_budgets(&mut self, namespace: String) {
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.tools.client.clone(), &namespace);
        let (events, handle) = abortable(budgets::follow(api, namespace.clone()));
        self.budgets.push(events.boxed());
        self.budget_watches.insert(namespace, handle);
    }
}

async fn nap(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// The next events; all that are there already come together.
async fn next(
    pods: &mut BoxStream<'static, Event>,
    work: &mut FuturesUnordered<BoxFuture<'static, Event>>,
    budgets: &mut SelectAll<BoxStream<'static, Event>>,
) -> Vec<Event> {
    /// Enough to save work, few enough not to keep others waiting.
    const TOGETHER: usize = 64;
    let mut events = Vec::new();
    let first = tokio::select! {
        Some(event) = pods.next() => event,
        Some(event) = work.next(), if !work.is_empty() => event,
        Some(event) = budgets.next(), if !budgets.is_empty() => event,
        else => std::future::pending().await,
    };
    events.push(first);
    while events.len() < TOGETHER {
        let Some(Some(event)) = pods.next().now_or_never() else {
            break;
        };
        events.push(event);
    }
    while events.len() < 2 * TOGETHER {
        let Some(Some(event)) = work.next().now_or_never() else {
            break;
        };
        events.push(event);
    }
    events
}

async fn find_daemon_set(client: Client, key: Key) -> Event {
    let api: Api<DaemonSetObject> = Api::namespaced(client, &key.namespace);
    let found = match read::get_metadata_opt(&api, &key.name).await {
        Ok(Some(_)) => DaemonSet::Exists,
        Ok(None) => DaemonSet::Missing,
        Err(error) => DaemonSet::Unreadable(chain(&error)),
    };
    Event::FoundDaemonSet(key, found)
}
