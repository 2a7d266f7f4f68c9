//! Where work runs that has a thread of its own.
//!
//! The feeder must not depend on the agent's loop, so it has its own thread. Its work is a function that
//! is called again and again: a simulation calls the same function on its own time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::realtime;

/// Work of a thread: called again after the returned time, or sooner when woken; `None` ends it.
pub type Work = Box<dyn FnMut() -> Option<Duration> + Send>;

/// Lets the work come round before its time.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// What a thread needs.
#[derive(Debug, Clone, Copy)]
pub struct ThreadNeeds {
    /// Its name.
    pub name: &'static str,
    /// Size of its stack in bytes.
    pub stack: usize,
    /// Whether it asks for a real-time priority and locked memory.
    pub realtime: bool,
}

/// Starts threads.
pub trait Threads: Send + Sync {
    /// Starts a thread for this work.
    fn start(&self, needs: ThreadNeeds, work: Work) -> io::Result<Wake>;
}

/// Threads of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsThreads;

impl Threads for OsThreads {
    fn start(&self, needs: ThreadNeeds, mut work: Work) -> io::Result<Wake> {
        let run = move || {
            if needs.realtime {
                realtime::prepare();
            }
            while let Some(rest) = work() {
                if !rest.is_zero() {
                    std::thread::park_timeout(rest);
                }
            }
        };
        let join = std::thread::Builder::new()
            .name(needs.name.to_owned())
            .stack_size(needs.stack)
            .spawn(run)?;
        let thread = join.thread().clone();
        Ok(Arc::new(move || thread.unpark()))
    }
}
