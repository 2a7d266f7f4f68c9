//! Draining a node: what `kubectl drain` does, as an engine that never stops half way.
//!
//! # Purpose
//! Evicts the pods of one node through the eviction API and watches them go. What is evicted and
//! in which words a blocked pod is reported follows `kubectl drain --force --ignore-daemonsets
//! --delete-emptydir-data`; how it is done does not: pods are watched instead of polled, blocked
//! pods wait for their PodDisruptionBudget to open instead of knocking every five seconds.
//!
//! ```text
//!  LIST + WATCH pods ---\                    /---> POST eviction (bounded, UID precondition)
//!  answers of evictions -+-> Machine::step --+---> GET DaemonSet
//!  LIST + WATCH budgets -/   (no I/O)        \---> WATCH budgets of a namespace
//!  timers --------------/                     \--> Report -> status of the NodeMaintenance
//! ```
//!
//! [`filter`] decides which pods go, [`answer`] what the API server's answers mean, [`retry`] when
//! to ask again, [`machine`] puts them together, [`driver`] does what the machine says.
//!
//! # Guarantees
//! * Only evictions, each with the UID that was listed and, unless the user orders another one, the
//!   pod's own grace period. Never a DELETE.
//! * Pods of an existing DaemonSet, mirror pods and pods that cannot be decided are never evicted.
//! * A drain is complete only when the API server shows none of the pods that had to go, in a list
//!   that was asked for after the node was cordoned. The list that the numbers at the beginning come
//!   from is older than that: it starts the drain and a second, short one completes it.
//! * After [`driver::Drain::stop`] has returned no further eviction leaves this process.
//! * Nodes that are drained at the same time share what may be under way; none waits for another.
//! * One LIST and one WATCH per node, and the LIST at the end; one eviction per pod unless it is
//!   refused; per pod behind a watched budget at most six requests per minute.
//!
//! # Caveats
//! A drain keeps nothing: after a crash it begins again from a new LIST. What a user must not lose
//! (the numbers at the beginning, the phase) is in the status of the NodeMaintenance.

pub mod answer;
pub mod budget;
mod budgets;
pub mod driver;
pub mod filter;
pub mod machine;
pub mod pod;
pub mod pods;
pub mod retry;
pub mod share;
