//! Priority and memory of the feeder thread. All of it is best effort: a node that refuses
//! these still has a watchdog, only a less punctual feeder, so the answers are logged, not acted
//! upon.

use nix::errno::Errno;
use nix::libc;

/// Above every normal task, far below the kernel's own real-time threads.
const PRIORITY: libc::c_int = 10;

/// Both, for the calling thread.
pub(crate) fn prepare() {
    if let Err(errno) = raise_priority() {
        tracing::warn!(%errno, "the watchdog feeder runs without real-time priority");
    }
    if let Err(errno) = lock_memory() {
        tracing::warn!(%errno, "the watchdog feeder's memory is not locked");
    }
}

/// Gives the calling thread a fixed real-time priority.
fn raise_priority() -> Result<(), Errno> {
    // SAFETY: sched_param is plain data for which all zeroes is valid.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = PRIORITY;
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: pid 0 names the calling thread and `param` is valid for the call.
    let answer = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    Errno::result(answer).map(drop)
}

/// Keeps every page that is mapped now in memory once it has been used.
///
/// `MCL_FUTURE` is left out on purpose: without `CAP_IPC_LOCK` it makes later allocations of
/// the process fail. The feeder maps nothing later.
fn lock_memory() -> Result<(), Errno> {
    // SAFETY: mlockall changes no memory contents.
    let answer = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) };
    Errno::result(answer).map(drop)
}
