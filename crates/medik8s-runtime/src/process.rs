//! The tasks of a process, none of them unwatched.
//!
//! # Guarantees
//! The first task that ends, panics or fails stops the process with an error that names it.
//! On SIGTERM *workers* (controllers, watches) are stopped first; *services* (the leader lease,
//! Events, servers) run until all workers have ended, so that a lease is given back only after the
//! last write. A worker that does not end in time stops the process with an error and without
//! giving the lease back.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use crate::shutdown::Shutdown;

/// How long workers may take to stop. Deployments allow 10 s for all of it.
pub const WORKER_GRACE: Duration = Duration::from_secs(6);

/// How long services may take to stop, after the workers.
pub const SERVICE_GRACE: Duration = Duration::from_secs(3);

type Task = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// When a task is stopped, and what it means when it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Worker,
    /// Started at run time; may end well at any time.
    Dynamic,
    Service,
}

/// The tasks of this process.
#[derive(Debug)]
pub struct Process {
    stop_workers: Shutdown,
    stop_services: Shutdown,
    tasks: JoinSet<anyhow::Result<()>>,
    names: BTreeMap<Id, (String, Role)>,
    new_tasks: mpsc::UnboundedReceiver<(String, Task)>,
    spawner: Spawner,
}

/// Starts workers while the process runs.
#[derive(Clone)]
pub struct Spawner {
    tasks: mpsc::UnboundedSender<(String, Task)>,
    stop: Shutdown,
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl Spawner {
    /// Starts a worker. Ending well is fine at any time; an error stops the process. The token is
    /// a child of the process's: trigger it to stop this worker alone.
    pub fn worker<F>(&self, name: impl Into<String>, start: impl FnOnce(Shutdown) -> F) -> Shutdown
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = self.stop.child();
        let task: Task = Box::pin(start(stop.clone()));
        if self.tasks.send((name.into(), task)).is_err() {
            // The process is ending; nobody will run it.
            stop.trigger();
        }
        stop
    }
}

impl Process {
    /// A process that stops when `shutdown` says so.
    pub fn new(shutdown: Shutdown) -> Self {
        let (tasks, new_tasks) = mpsc::unbounded_channel();
        Self {
            stop_services: Shutdown::manual(),
            tasks: JoinSet::new(),
            names: BTreeMap::new(),
            new_tasks,
            spawner: Spawner {
                tasks,
                stop: shutdown.clone(),
            },
            stop_workers: shutdown,
        }
    }

    /// Starts a task that is stopped first: controllers, watches, everything that writes.
    pub fn worker<F>(&mut self, name: &str, start: impl FnOnce(Shutdown) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let task = Box::pin(start(self.stop_workers.clone()));
        self.add(name.to_owned(), Role::Worker, task);
    }

    /// Starts a task that is stopped last: leader lease, Events, servers.
    pub fn service<F>(&mut self, name: &str, start: impl FnOnce(Shutdown) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let task = Box::pin(start(self.stop_services.clone()));
        self.add(name.to_owned(), Role::Service, task);
    }

    /// A handle that starts workers while the process runs.
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// The token that stops the workers.
    pub const fn shutdown(&self) -> &Shutdown {
        &self.stop_workers
    }

    fn add(&mut self, name: String, role: Role, task: Task) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), (name, role));
    }

    /// Runs until stopped, or until a task ends that should not. Tasks that still run when this
    /// returns are dropped.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let stop = self.stop_workers.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.triggered() => break,
                Some((name, task)) = self.new_tasks.recv() => self.add(name, Role::Dynamic, task),
                ended = self.tasks.join_next_with_id() => {
                    let Some((name, role, result)) = ended.map(|ended| self.named(ended)) else {
                        bail!("there is nothing to run");
                    };
                    result.with_context(|| format!("task {name:?} failed"))?;
                    if role != Role::Dynamic && !stop.is_triggered() {
                        bail!("task {name:?} ended unexpectedly");
                    }
                }
            }
        }
        self.new_tasks.close();
        // What was asked for in the very last moment never runs; a worker may wait for it.
        while self.new_tasks.try_recv().is_ok() {}
        let mut failed = None;
        self.drain(&[Role::Worker, Role::Dynamic], WORKER_GRACE, &mut failed)
            .await?;
        self.stop_services.trigger();
        self.drain(&[Role::Service], SERVICE_GRACE, &mut failed)
            .await?;
        failed.map_or(Ok(()), Err)
    }

    /// Waits until no task with one of these roles is left.
    async fn drain(
        &mut self,
        roles: &[Role],
        grace: Duration,
        failed: &mut Option<anyhow::Error>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + grace;
        loop {
            let left: Vec<&str> = self
                .names
                .values()
                .filter(|(_, role)| roles.contains(role))
                .map(|(name, _)| name.as_str())
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            let late = format!(
                "still running {grace:?} after the stop: {}",
                left.join(", ")
            );
            tokio::select! {
                ended = self.tasks.join_next_with_id() => {
                    let Some((name, role, result)) = ended.map(|ended| self.named(ended)) else {
                        return Ok(());
                    };
                    if let Err(error) = result {
                        let error = error.context(format!("task {name:?} failed while stopping"));
                        if role == Role::Service && !roles.contains(&Role::Service) {
                            // Losing the lease while workers still write is as bad as ever.
                            return Err(error);
                        }
                        failed.get_or_insert(error);
                    }
                }
                () = sleep_until(deadline) => bail!(late),
            }
        }
    }

    fn named(
        &mut self,
        ended: Result<(Id, anyhow::Result<()>), JoinError>,
    ) -> (String, Role, anyhow::Result<()>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(anyhow!(error))),
        };
        let (name, role) = self
            .names
            .remove(&id)
            .unwrap_or_else(|| ("unknown".to_owned(), Role::Worker));
        (name, role, result)
    }
}

/// Runs a program on one thread: these processes wait, they do not compute, and each further
/// thread costs memory. The error it ends with is logged, too, for those who read logs only.
pub fn block_on<T>(program: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?
        .block_on(program);
    if let Err(error) = &ended {
        tracing::error!(error = format!("{error:#}"), "ending");
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(stop: Shutdown) -> anyhow::Result<()> {
        stop.triggered().await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn each_task_that_ends_stops_the_process() {
        for victim in 0..4 {
            let mut process = Process::new(Shutdown::manual());
            for index in 0..4 {
                let name = format!("task {index}");
                let start = move |stop: Shutdown| async move {
                    if index == victim {
                        return Ok(());
                    }
                    until(stop).await
                };
                if index % 2 == 0 {
                    process.worker(&name, start);
                } else {
                    process.service(&name, start);
                }
            }
            let error = process.run().await.unwrap_err();
            assert!(
                error.to_string().contains(&format!("task {victim}")),
                "{error}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_the_process_and_is_named() {
        let mut process = Process::new(Shutdown::manual());
        process.worker("good", until);
        process.worker("bad", |_| async { panic!("on purpose") });
        let error = process.run().await.unwrap_err();
        assert!(error.to_string().contains("\"bad\""), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn services_outlive_workers() {
        let stop = Shutdown::manual();
        let mut process = Process::new(stop.clone());
        let (told, mut heard) = mpsc::unbounded_channel();
        let say = told.clone();
        process.worker("worker", move |stop| async move {
            stop.triggered().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            say.send("worker")?;
            Ok(())
        });
        process.service("service", move |stop| async move {
            stop.triggered().await;
            told.send("service")?;
            Ok(())
        });
        stop.trigger();
        process.run().await.unwrap();
        assert_eq!(heard.recv().await, Some("worker"));
        assert_eq!(heard.recv().await, Some("service"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_hangs_is_named_and_services_are_not_stopped_cleanly() {
        let stop = Shutdown::manual();
        let mut process = Process::new(stop.clone());
        let (told, mut heard) = mpsc::unbounded_channel::<()>();
        process.worker("stuck", |_| std::future::pending());
        process.service("lease", move |stop| async move {
            stop.triggered().await;
            told.send(())?;
            Ok(())
        });
        stop.trigger();
        let error = process.run().await.unwrap_err();
        assert!(error.to_string().contains("stuck"), "{error}");
        assert_eq!(heard.recv().await, None, "the lease was not given back");
    }

    #[tokio::test(start_paused = true)]
    async fn workers_can_be_started_and_stopped_at_run_time() {
        let stop = Shutdown::manual();
        let mut process = Process::new(stop.clone());
        process.worker("main", until);
        let spawner = process.spawner();
        let (told, mut heard) = mpsc::unbounded_channel();
        let own = spawner.worker("late", move |stop| async move {
            stop.triggered().await;
            told.send(())?;
            Ok(())
        });
        own.trigger();
        let running = tokio::spawn(process.run());
        assert_eq!(heard.recv().await, Some(()));
        assert!(!stop.is_triggered());
        stop.trigger();
        running.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_what_was_started_in_the_last_moment() {
        let stop = Shutdown::manual();
        let mut process = Process::new(stop.clone());
        let spawner = process.spawner();
        process.worker("main", move |stop| async move {
            stop.triggered().await;
            Ok(())
        });
        let (told, heard) = tokio::sync::oneshot::channel::<()>();
        process.worker("waits", move |_| async move {
            // Gone or done, but not silent.
            let _ended = heard.await;
            Ok(())
        });
        spawner.worker("late", move |_| async move {
            let _told = told.send(());
            Ok(())
        });
        stop.trigger();
        process.run().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_dynamic_worker_that_fails_stops_the_process() {
        let mut process = Process::new(Shutdown::manual());
        process.worker("main", until);
        process.spawner().worker("late", |_| async { bail!("no") });
        let error = process.run().await.unwrap_err();
        assert!(error.to_string().contains("late"), "{error}");
    }
}
