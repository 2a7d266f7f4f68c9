//! A model of the cluster around one node: what the steps of the plan do to it, and the rules of
//! section 14 checked at every one of them.

use std::collections::{BTreeMap, BTreeSet};

use medik8s_core::time::elapsed;

use super::*;
use crate::{
    drain::{machine::Report, pod::Key},
    facts::{Counts, DrainOrders, LeaseView, Memory, NodeView},
};

/// Who holds the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    Nobody,
    Us,
    Other,
}

/// How the next steps end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// This many steps are done well, then one fails without effect.
    FailAfter(u8),
    /// This many steps are done well, then the process dies after doing one.
    DieAfter(u8),
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) maintenances: Vec<Maintenance>,
    pub(super) node: Option<NodeFacts>,
    pub(super) holder: Holder,
    pub(super) taken_at: Timestamp,
    pub(super) pods: BTreeSet<String>,
    pub(super) drain: Option<(String, Box<Options>)>,
    pub(super) memory: Memory,
    pub(super) is_openshift: Option<bool>,
    pub(super) quorum: bool,
    pub(super) trouble: Trouble,
    /// The node carried the exclusion label before any maintenance touched it.
    pub(super) had_label: bool,
    /// The lease was ours at some time for this incarnation of the node.
    pub(super) was_ours: bool,
    pub(super) steps: Vec<Step>,
    pub(super) events: Vec<(String, String)>,
    pub(super) wake: Option<Timestamp>,
    versions: u64,
    incarnations: u64,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: at(0),
            maintenances: Vec::new(),
            node: Some(bare_node("node-0")),
            holder: Holder::Nobody,
            taken_at: at(0),
            pods: BTreeSet::new(),
            drain: None,
            memory: Memory::default(),
            is_openshift: Some(false),
            quorum: true,
            trouble: Trouble::None,
            had_label: false,
            was_ours: false,
            steps: Vec::new(),
            events: Vec::new(),
            wake: None,
            versions: 0,
            incarnations: 0,
        }
    }

    pub(super) fn create(&mut self, name: &str) -> String {
        self.incarnations += 1;
        let uid = format!("{name}-{}", self.incarnations);
        // By the clock of the server, which nobody sets back.
        let latest = self.maintenances.iter().map(|one| one.created).max();
        let created = match latest {
            Some(latest) if latest > self.now => latest + jiff::SignedDuration::from_secs(1),
            Some(_) | None => self.now,
        };
        self.maintenances.push(Maintenance {
            name: name.to_owned(),
            uid: uid.clone(),
            resource_version: "0".to_owned(),
            created,
            generation: Some(1),
            is_deleting: false,
            has_finalizer: false,
            finalizers: Vec::new(),
            record: None,
            restores_cordon: false,
            leaves_load_balancers: false,
            drain: Ok(DrainOrders::default()),
            status: NodeMaintenanceStatus::default(),
        });
        self.maintenances
            .sort_by(|a, b| a.seniority().cmp(&b.seniority()));
        uid
    }

    pub(super) fn delete(&mut self, name: &str) {
        if let Some(one) = self.maintenances.iter_mut().find(|one| one.name == name) {
            one.is_deleting = true;
        }
        // Without finalizers an object is gone at once.
        self.maintenances
            .retain(|one| !one.is_deleting || one.has_finalizer);
    }

    pub(super) fn get(&self, name: &str) -> &Maintenance {
        self.maintenances
            .iter()
            .find(|one| one.name == name)
            .expect("no such maintenance")
    }

    pub(super) fn node(&mut self) -> &mut NodeFacts {
        self.node.as_mut().expect("no node")
    }

    pub(super) fn steal(&mut self) {
        self.holder = Holder::Other;
        self.taken_at = self.now;
    }

    pub(super) fn delete_node(&mut self) {
        self.node = None;
        // The garbage collector.
        self.holder = Holder::Nobody;
        self.pods.clear();
        self.had_label = false;
        self.was_ours = false;
    }

    pub(super) fn register_node(&mut self) {
        if self.node.is_none() {
            self.incarnations += 1;
            self.node = Some(bare_node(&format!("node-{}", self.incarnations)));
        }
    }

    pub(super) fn die(&mut self) {
        self.drain = None;
        self.memory = Memory::default();
    }

    pub(super) fn pass_time(&mut self, seconds: i64) {
        self.now += jiff::SignedDuration::from_secs(seconds);
    }

    /// What an eviction would do; checks that it may be sent now.
    pub(super) fn evict_one(&mut self) {
        let Some((owner, _)) = &self.drain else {
            return;
        };
        let of = self.maintenances.iter().find(|one| one.uid == *owner);
        assert!(
            of.is_some_and(|of| !of.is_deleting),
            "MUST NOT 2: a drain runs for an object that is deleted"
        );
        self.check_lease("evicted", 35);
        if let Some(pod) = self.pods.pop_first() {
            drop(pod);
        }
    }

    /// MUST NOT 1 and 2, as far as somebody who looks every so often can know.
    fn check_lease(&self, what: &str, limit: u64) {
        assert!(
            self.was_ours,
            "MUST NOT 1: {what} without ever holding the lease"
        );
        if self.holder != Holder::Us {
            let since = elapsed(self.taken_at, self.now);
            assert!(
                since <= Duration::from_secs(limit),
                "{what} {since:?} after losing it"
            );
        }
    }

    pub(super) fn seen(&self, failed: &BTreeSet<String>, counts: Option<Counts>) -> Seen {
        Seen {
            node_name: "n".to_owned(),
            maintenances: self.maintenances.clone(),
            node: self
                .node
                .clone()
                .map_or(NodeView::Missing, NodeView::Present),
            drain: self
                .drain
                .as_ref()
                .map_or(DrainView::None, |(owner, options)| DrainView::Running {
                    owner: owner.clone(),
                    options: options.clone(),
                    report: Box::new(Report {
                        is_listed: true,
                        is_complete: self.pods.is_empty(),
                        total: self.pods.len(),
                        pending: self.pending(),
                        ..Report::default()
                    }),
                }),
            is_openshift: self.is_openshift,
            counts,
            memory: self.memory.clone(),
            failed: failed.clone(),
            base: Options::default(),
        }
    }

    fn pending(&self) -> Vec<Key> {
        self.pods.iter().map(|name| Key::new("ns", name)).collect()
    }

    /// One pass of the controller: steps until the plan rests, the process dies or a step fails
    /// for every maintenance.
    pub(super) fn reconcile(&mut self) {
        let mut failed = BTreeSet::new();
        let mut counts = None;
        let mut retry = None;
        for _ in 0..60 {
            let mut seen = self.seen(&failed, counts.clone());
            let step = match next(&seen, self.now) {
                Next::Rest(wake) => {
                    if let Some(wake) = wake {
                        assert!(wake > self.now, "a wake that is due is a busy loop");
                    }
                    self.wake = earliest(wake, retry);
                    return;
                }
                Next::Do(step) => step,
            };
            match self.trouble {
                Trouble::FailAfter(0) => {
                    self.trouble = Trouble::None;
                    let of = concerned(&seen, &step).map(|of| of.uid.clone());
                    if let Some((uid, status)) = after_failure(&seen, &step, "no", self.now) {
                        self.write(&uid, |of| of.status = status);
                    }
                    retry = Some(self.now + jiff::SignedDuration::from_secs(1));
                    let Some(uid) = of else {
                        self.wake = retry;
                        return;
                    };
                    failed.insert(uid);
                    continue;
                }
                Trouble::DieAfter(0) => {
                    self.trouble = Trouble::None;
                    self.perform(&step, &seen);
                    self.die();
                    return;
                }
                Trouble::FailAfter(n) => self.trouble = Trouble::FailAfter(n - 1),
                Trouble::DieAfter(n) => self.trouble = Trouble::DieAfter(n - 1),
                Trouble::None => {}
            }
            let outcome = self.perform(&step, &seen);
            seen.absorb(&step, outcome, self.now);
            self.memory = seen.memory;
            counts = seen.counts;
        }
        panic!(
            "the plan does not come to rest: {:?}",
            self.steps.iter().rev().take(8).collect::<Vec<_>>()
        );
    }

    fn write(&mut self, uid: &str, change: impl FnOnce(&mut Maintenance)) {
        self.versions += 1;
        let version = self.versions.to_string();
        let one = self
            .maintenances
            .iter_mut()
            .find(|one| one.uid == uid)
            .expect("it is gone");
        change(one);
        one.resource_version = version;
    }

    fn tell(&mut self, uid: &str, reason: &str) {
        self.events.push((uid.to_owned(), reason.to_owned()));
    }

    fn perform(&mut self, step: &Step, seen: &Seen) -> Outcome {
        self.steps.push(step.clone());
        match step {
            Step::AddFinalizer { of } => {
                self.write(of, |one| {
                    assert!(!one.is_deleting && !one.has_finalizer);
                    one.has_finalizer = true;
                    one.finalizers.push(nmo::FINALIZER.to_owned());
                });
                self.tell(of, nmo::EVENT_BEGIN);
            }
            Step::CountPods => {
                let pending = self.pending();
                return Outcome::Counted(Counts {
                    total: pending.len(),
                    pending,
                });
            }
            Step::ReadNode => panic!("the node is always known here"),
            Step::RequestLease { node_uid } => return Outcome::Lease(self.request(node_uid)),
            Step::CheckQuorum => {
                return Outcome::Quorum {
                    is_allowed: self.quorum,
                };
            }
            Step::Record { of, state } => {
                self.check_lease("recorded", 5);
                self.write(of, |one| {
                    assert!(one.record.is_none(), "the record is never overwritten");
                    one.record = Some(state.clone());
                });
            }
            Step::EnterNode { node_uid, .. } => return self.enter(node_uid),
            Step::StartDrain { of, options } => {
                self.check_lease("started to drain", 5);
                assert!(self.drain.is_none(), "two drains at the same time");
                assert!(
                    self.node().is_unschedulable,
                    "drained before it was cordoned"
                );
                self.drain = Some((of.clone(), options.clone()));
            }
            Step::StopDrain | Step::FinishDrain { .. } => self.drain = None,
            Step::WriteStatus { of, status, event } => {
                self.write_status(of, status, event.as_ref());
            }
            Step::Tell { of, event } => self.tell(of, &format!("{event:?}")),
            Step::LeaveNode { keep } => self.leave(keep, seen),
            Step::ReleaseLease => {
                // MUST NOT 11 is kept by the rules of the lease.
                if self.holder == Holder::Us {
                    assert!(self.drain.is_none(), "gave the lease back while draining");
                    self.holder = Holder::Nobody;
                }
            }
            Step::HandOver { to, state } => {
                let mut begins = false;
                self.write(to, |one| {
                    assert!(one.record.is_none(), "the record is never overwritten");
                    one.record = Some(state.clone());
                    begins = !std::mem::replace(&mut one.has_finalizer, true);
                });
                if begins {
                    self.tell(to, nmo::EVENT_BEGIN);
                }
            }
            Step::DropRecord { of } => self.write(of, |one| one.record = None),
            Step::RemoveFinalizer { of } => self.release(of),
        }
        Outcome::Done
    }

    fn request(&mut self, node_uid: &str) -> LeaseView {
        let node = self
            .node
            .as_ref()
            .expect("asked for the lease of a node that is gone");
        assert_eq!(node.uid, node_uid);
        match self.holder {
            Holder::Other => LeaseView::Foreign {
                holder: "other".to_owned(),
                checked: self.now,
                is_told: false,
            },
            Holder::Nobody | Holder::Us => {
                self.holder = Holder::Us;
                self.was_ours = true;
                LeaseView::Ours {
                    checked: self.now,
                    renew_at: after(self.now, LEASE_DURATION / 2),
                    ends_at: after(self.now, LEASE_DURATION),
                    node_uid: node_uid.to_owned(),
                }
            }
        }
    }

    fn enter(&mut self, node_uid: &str) -> Outcome {
        self.check_lease("touched the node", 5);
        assert!(
            self.was_ours,
            "MUST NOT 1: touched the node before holding the lease"
        );
        let live: Vec<&Maintenance> = self
            .maintenances
            .iter()
            .filter(|one| !one.is_deleting)
            .collect();
        assert!(
            !live.is_empty(),
            "MUST NOT 8: cordoned for an object that is deleted"
        );
        assert!(
            live[0].record.is_some(),
            "nobody wrote down what the node was like"
        );
        let is_draining = self.drain.is_some();
        let node = self.node();
        assert_eq!(node.uid, node_uid);
        let was_open = node.is_open();
        assert!(
            !(was_open && is_draining),
            "MUST NOT 10: a drain could complete by a list from when the node was open"
        );
        node.is_unschedulable = true;
        node.has_drain_taint = true;
        node.has_unschedulable_taint = true;
        node.exclude_label = Some(excluded());
        Outcome::Entered { was_open }
    }

    fn leave(&mut self, keep: &Keep, seen: &Seen) {
        let is_lost = self
            .maintenances
            .iter()
            .any(|one| !one.is_deleting && one.lease_failures() > crate::facts::LEASE_FAILURES);
        let live = self
            .maintenances
            .iter()
            .filter(|one| !one.is_deleting)
            .count();
        // MUST NOT 6 and 7.
        assert!(
            live == 0 || (live == 1 && is_lost),
            "handed back a node that is in maintenance"
        );
        assert!(self.drain.is_none(), "handed back while draining");
        assert!(
            seen.maintenances.iter().any(|one| seen.is_entered(one)),
            "touched a foreign node"
        );
        let had_label = self.had_label;
        let node = self.node();
        node.has_drain_taint = false;
        if !keep.cordon {
            node.is_unschedulable = false;
            node.has_unschedulable_taint = false;
        }
        if node.is_excluded() {
            node.exclude_label.clone_from(&keep.label);
        }
        assert!(
            !had_label || node.is_excluded(),
            "MUST NOT 5: removed a label that was there before"
        );
        self.tell("node", nmo::EVENT_UNCORDON);
    }

    fn write_status(&mut self, of: &str, status: &NodeMaintenanceStatus, event: Option<&Event>) {
        let before = self
            .maintenances
            .iter()
            .find(|one| one.uid == of)
            .expect("it is gone");
        let phase = Phase::read(status.phase.as_deref());
        if phase == Phase::Succeeded && before.phase() != Phase::Succeeded {
            assert!(
                self.pods.is_empty(),
                "MUST NOT 10: success while a pod is there"
            );
        }
        assert!(
            status::differs(&before.status, status),
            "wrote what is there already"
        );
        if before.status.total_pods.is_some() {
            assert_eq!(before.status.total_pods, status.total_pods, "counted twice");
        }
        let count = status.error_on_lease_count.unwrap_or(0);
        assert!(
            count <= crate::facts::LEASE_FAILURES
                || self.holder == Holder::Other
                || count <= before.lease_failures(),
            "MUST NOT 7: counted something else than a foreign holder"
        );
        if count > before.lease_failures()
            && before.lease_failures() > 0
            && self.holder == Holder::Other
        {
            let last = before.status.last_update.as_ref().expect("a time").0;
            let is_set_back = last > self.now;
            assert!(
                is_set_back || elapsed(last, self.now) >= Duration::from_secs(9),
                "two failures within {:?}",
                elapsed(last, self.now)
            );
        }
        let status = status.clone();
        self.write(of, |one| one.status = status);
        if let Some(event) = event {
            self.tell(of, &format!("{event:?}"));
        }
    }

    /// MUST NOT 9.
    fn release(&mut self, of: &str) {
        let live = self.maintenances.iter().any(|one| !one.is_deleting);
        let one = self
            .maintenances
            .iter()
            .find(|one| one.uid == of)
            .expect("it is gone");
        assert!(one.is_deleting && one.has_finalizer);
        if !live {
            assert_ne!(
                self.holder,
                Holder::Us,
                "removed the finalizer before the lease"
            );
            if let Some(node) = &self.node {
                assert!(
                    !node.has_drain_taint,
                    "removed the finalizer before the taint"
                );
                assert!(
                    one.record.is_none() || one.restores_cordon || !node.is_unschedulable,
                    "removed the finalizer before the cordon"
                );
            }
        }
        self.write(of, |one| one.has_finalizer = false);
        self.maintenances.retain(|one| one.uid != of);
        self.tell(of, nmo::EVENT_REMOVED);
    }

    /// How often an event was told about an object.
    pub(super) fn told(&self, reason: &str) -> usize {
        self.events
            .iter()
            .filter(|(_, told)| told == reason)
            .count()
    }

    /// How often an event was told, by object.
    pub(super) fn told_by_object(&self, reason: &str) -> BTreeMap<&str, usize> {
        let mut by_object = BTreeMap::new();
        for (object, told) in &self.events {
            if told == reason {
                *by_object.entry(object.as_str()).or_insert(0) += 1;
            }
        }
        by_object
    }

    /// Lets time pass as the plan wants it, at most so many seconds.
    pub(super) fn run_for(&mut self, seconds: i64) {
        let end = self.now + jiff::SignedDuration::from_secs(seconds);
        loop {
            self.reconcile();
            match self.wake {
                Some(wake) if wake <= end => self.now = wake,
                Some(_) | None => break,
            }
        }
        self.now = end;
    }
}
