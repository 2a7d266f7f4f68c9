//! Peer rounds: when to ask, whom, and what the answers lead to.
//!
//! A full round is due after maxApiErrorThreshold failed checks, or N(I + A) after the latest proof, whatever the
//! checks do. While nothing is proved it is repeated every apiCheckInterval (jittered), the last time at V - (C + Rq), so
//! that a peer's restart which is over by then costs nothing. A control-plane node asks its control-plane peers after
//! every failed check as well.

use std::collections::BTreeSet;

use super::{Command, Notice, Reason, Round, Settings, Step};
use crate::ids::NodeName;
use crate::permit::{Base, Proof};
use crate::table::{Role, Table, shuffled};
use crate::time::BootInstant;
use crate::verdict::{self, Answers, Electorates, Said, Verdict};

impl Step<'_> {
    pub(super) fn peer_answered(&mut self, number: u64, node: NodeName, said: Said) {
        let now = self.now;
        let Some(round) = self.state.rounds.open(number) else {
            return;
        };
        // After the deadline the round says nothing any more: all votes must be of one round (W6).
        if now > round.deadline || !round.asked.contains(&node) {
            return;
        }
        round.answers.insert(node, said);
        round.api_errors = round
            .api_errors
            .saturating_add(usize::from(said == Said::ApiError));
        // One of a thousand answers decides nothing; judging each would cost a thousand times a thousand look-ups.
        let complete = round.answers.len() >= round.asked.len();
        let decisive = match said {
            Said::Healthy { .. } | Said::Unhealthy => true,
            Said::ApiError => !round.told_outage && round.api_errors >= round.least_majority,
            Said::Silent => false,
        };
        if complete || decisive {
            self.evaluate_round();
        }
    }

    pub(super) fn diagnosed(&mut self, number: u64, passed: bool) {
        let now = self.now;
        let Some(round) = self.state.rounds.open(number) else {
            return;
        };
        if now <= round.deadline {
            round.diagnostics = Some(passed);
            self.evaluate_round();
        }
    }

    fn evaluate_round(&mut self) {
        if self.state.fencing.is_some() {
            return;
        }
        let (Some(round), Some(electorates), Some(role)) = (
            &self.state.rounds.current,
            self.state.announcing.electorates(),
            self.state.role,
        ) else {
            return;
        };
        let complete = round.answers.len() >= round.asked.len()
            && (!round.needs_diagnostics || round.diagnostics.is_some());
        let ended = complete || self.now >= round.deadline;
        let seen = verdict::Round {
            started: round.started,
            full: round.full,
            ended,
            answers: &round.answers,
            diagnostics: round.diagnostics,
            since_proof: self.state.permit.base().map_or_else(
                || self.now.since_boot(),
                |base| self.now.since(base.moment()),
            ),
        };
        let min_peers = usize::try_from(self.settings.min_peers).unwrap_or(usize::MAX);
        match verdict::verdict(&seen, electorates, min_peers, role) {
            Verdict::Unhealthy => self.fence(Reason::PeerSaysUnhealthy),
            Verdict::Proved(proof @ (Proof::PeerHealthy(_) | Proof::ApiRead(_))) => {
                self.state.permit.extend(proof);
                self.state.errors = 0;
                self.rest.push(Command::Tell(Notice::PeerSaysHealthy));
                self.end_round(!complete);
            }
            Verdict::Proved(proof @ Proof::Outage(_)) => {
                // Nobody else needs to be asked, which in an outage of the whole cluster, where all ask all, is half of
                // it. But who was asked may know more: "API error" is said at once, "Unhealthy" only after a list.
                self.state.permit.extend(proof);
                if let Some(round) = &mut self.state.rounds.current
                    && !round.told_outage
                {
                    round.told_outage = true;
                    self.rest.push(Command::Tell(Notice::ControlPlaneOutage));
                    let round = self.state.rounds.number;
                    self.rest.push(Command::AskNoMore { round });
                }
                if ended {
                    self.end_round(!complete);
                }
            }
            Verdict::Open if ended => {
                let count = |wanted: Said| {
                    round
                        .answers
                        .values()
                        .filter(|said| **said == wanted)
                        .count()
                };
                let api_errors = count(Said::ApiError);
                let silent = count(Said::Silent)
                    .saturating_add(round.asked.len().saturating_sub(round.answers.len()));
                if round.full {
                    let notice = Notice::RoundUndecided { api_errors, silent };
                    self.rest.push(Command::Tell(notice));
                }
                self.end_round(!complete);
            }
            Verdict::Open => {}
        }
    }

    /// Ends the round; `stop`: answers may still be under way.
    pub(super) fn end_round(&mut self, stop: bool) {
        let Some(round) = self.state.rounds.current.take() else {
            return;
        };
        self.state.rounds.at_once = false;
        if round.full {
            let pause = self.jittered(self.settings.timing.api_check_interval());
            self.state.rounds.next = round.started.plus(pause);
        }
        if stop {
            self.rest.push(Command::StopAsking {
                round: self.state.rounds.number,
            });
        }
    }

    pub(super) fn drive_rounds(&mut self) {
        if self
            .state
            .rounds
            .current
            .as_ref()
            .is_some_and(|round| self.now >= round.deadline)
        {
            self.evaluate_round();
            self.end_round(true);
        }
        let control_plane_due = std::mem::take(&mut self.state.rounds.control_plane_due);
        if self.state.fencing.is_some() || !self.state.contact {
            return;
        }
        let current = self.state.rounds.current.as_ref();
        let full_runs = current.is_some_and(|round| round.full);
        if self.full_round_is_due() {
            let last_chance = self
                .state
                .last_chance(self.settings, self.now)
                .filter(|at| self.now >= *at);
            let started_before = |at: BootInstant| {
                self.state
                    .rounds
                    .last_full
                    .is_none_or(|started| started < at)
            };
            if last_chance.is_some_and(started_before)
                || !full_runs && self.now >= self.state.rounds.next
            {
                self.begin_round(true);
            }
        } else if control_plane_due && current.is_none() {
            self.begin_round(false);
        }
    }

    /// Whether proof is sought from the workers.
    fn full_round_is_due(&self) -> bool {
        let timing = &self.settings.timing;
        match self.state.permit.base() {
            None => false,
            Some(Base::Outage(at)) => self.now >= at.plus(timing.patience()),
            Some(Base::Direct(at)) => {
                self.state.rounds.at_once
                    || self.state.errors >= timing.max_api_error_threshold()
                    || self.now >= at.plus(timing.patience())
            }
        }
    }

    fn begin_round(&mut self, full: bool) {
        let Some(role) = self.state.role else { return };
        let asked = self.asked(full, role);
        if asked.is_empty() {
            return;
        }
        self.end_round(true);
        let least_majority = self
            .state
            .announcing
            .electorates()
            .map_or(0, least_majority);
        let timing = &self.settings.timing;
        let deadline = self.now.plus(timing.one_peer());
        let rounds = &mut self.state.rounds;
        rounds.number = rounds.number.wrapping_add(1);
        if full {
            rounds.last_full = Some(self.now);
        }
        let needs_diagnostics = full && role.control_plane;
        let nodes = shuffled(&asked, self.chance);
        if full {
            self.rest
                .push(Command::Tell(Notice::Asking { peers: nodes.len() }));
        }
        let round = rounds.number;
        self.rest.push(Command::AskPeers {
            round,
            nodes,
            deadline,
        });
        if needs_diagnostics {
            self.rest.push(Command::RunDiagnostics { round, deadline });
        }
        rounds.current = Some(Round {
            api_errors: 0,
            least_majority,
            started: self.now,
            deadline,
            full,
            asked,
            answers: Answers::new(),
            diagnostics: None,
            needs_diagnostics,
            told_outage: false,
        });
    }

    /// Whom to ask: the members of both tables. Workers only if there are enough to decide by (W2), so that a node below
    /// minPeersForRemediation never fences itself by their answers.
    fn asked(&self, full: bool, role: Role) -> BTreeSet<NodeName> {
        let Some(electorates) = self.state.announcing.electorates() else {
            return BTreeSet::new();
        };
        let min_peers = usize::try_from(self.settings.min_peers).unwrap_or(usize::MAX);
        let ask_workers = full && electorates.announced.workers.len() >= min_peers;
        let of = |table: &Table| {
            let workers = table.workers.iter().filter(move |_| ask_workers);
            let control_plane = table
                .control_plane
                .iter()
                .filter(move |_| role.control_plane);
            workers
                .chain(control_plane)
                .cloned()
                .collect::<BTreeSet<_>>()
        };
        let mut asked = of(electorates.announced);
        asked.extend(electorates.pending.map(of).unwrap_or_default());
        asked
    }
}

impl super::State {
    /// The last moment at which a round can still be decided before V.
    pub(super) fn last_chance(&self, settings: &Settings, now: BootInstant) -> Option<BootInstant> {
        Some(
            self.proved_until(settings, now)?
                .minus(settings.timing.one_peer()),
        )
    }
}

impl super::Rounds {
    fn open(&mut self, number: u64) -> Option<&mut Round> {
        if number == self.number {
            self.current.as_mut()
        } else {
            None
        }
    }
}

/// Fewer votes than this are a strict majority of no electorate.
fn least_majority(electorates: Electorates<'_>) -> usize {
    let table = electorates.announced;
    [table.workers.len(), table.control_plane.len()]
        .into_iter()
        .filter(|size| *size > 0)
        .map(|size| size / 2 + 1)
        .min()
        .unwrap_or(0)
}
