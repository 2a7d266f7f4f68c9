//! Another worker: what its agent remembers, and what it answers.
//!
//! Its agent is not modelled as a whole: whether it has the API at a moment, and whether it answers, is open at every
//! moment, which covers every history of its links. What it says is decided by the production functions.

use std::time::Duration;

use self_node_remediation_core::ids::Uid;
use self_node_remediation_core::knowledge::Knowledge;
use self_node_remediation_core::peer_server::{self, Answer, LiveRead, Question, Standing};
use self_node_remediation_core::time::BootInstant;

use crate::rules::Rule;
use crate::view::{NOW, TICK, View, list, uid};

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    contact: bool,
    knowledge: Knowledge,
    slow: Option<Slow>,
}

/// A list that is under way: it shows what was there when it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Slow {
    started: BootInstant,
    shows: Option<View>,
}

/// What happens to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerInput {
    /// Time passes.
    Tick,
    /// It reads the API.
    Read(Option<View>),
    /// The API server answers a list, and the answer is slow.
    SlowStart(Option<View>),
    /// That answer arrives.
    SlowEnd,
    /// Its machine reboots.
    Reboot,
    /// It is asked; by the manager about the order with this number.
    Ask {
        /// 0: not about an order.
        order: u8,
        /// What its live read shows.
        live: Live,
    },
}

/// A live read for somebody who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Live {
    /// It shows this.
    Shows(Option<View>),
    /// There is no API.
    Failed,
}

/// What a peer answers, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// It was not asked.
    Nothing,
    /// Healthy.
    Healthy,
    /// Unhealthy; with the number of the acknowledged order.
    Unhealthy(u8),
    /// It has no API.
    ApiError,
    /// It must not say anything.
    Unavailable,
}

impl Peer {
    /// A peer that was in contact and knows of nothing.
    pub fn calm() -> Self {
        Self {
            contact: true,
            knowledge: Knowledge::default(),
            slow: None,
        }
    }

    /// A peer that still remembers an order which is gone.
    pub fn with_old_order() -> Self {
        let mut peer = Self::calm();
        let view = View {
            uid: 9,
            ordered: true,
            deleting: false,
            boot: 1,
        };
        peer.knowledge.see(&view.object(), BootInstant::ZERO);
        peer
    }

    /// Whether a slow answer is under way.
    pub const fn is_reading(&self) -> bool {
        self.slow.is_some()
    }

    /// What becomes of it.
    pub fn after(mut self, input: PeerInput, broken: Option<Rule>) -> (Self, Reply) {
        let mut reply = Reply::Nothing;
        match input {
            PeerInput::Tick => {
                self.knowledge = self.knowledge.earlier(TICK);
                if let Some(slow) = &mut self.slow {
                    slow.started = slow.started.minus(TICK);
                }
            }
            PeerInput::Read(view) => self.read(view, NOW),
            PeerInput::SlowStart(shows) => {
                self.slow = Some(Slow {
                    started: NOW,
                    shows,
                });
            }
            PeerInput::SlowEnd => {
                if let Some(slow) = self.slow.take() {
                    let started = if broken == Some(Rule::SlowReadClears) {
                        NOW
                    } else {
                        slow.started
                    };
                    self.read(slow.shows, started);
                }
            }
            PeerInput::Reboot => self = Self::rebooted(),
            PeerInput::Ask { order, live } => reply = self.answer(order, live, broken),
        }
        if self.slow.is_none() {
            // Every later read starts later than anything that was seen so far.
            self.knowledge = self.knowledge.earlier(Duration::MAX);
        }
        (self, reply)
    }

    fn rebooted() -> Self {
        Self {
            contact: false,
            knowledge: Knowledge::default(),
            slow: None,
        }
    }

    fn read(&mut self, view: Option<View>, started: BootInstant) {
        self.contact = true;
        self.knowledge.take_list(&list(view), started, NOW);
    }

    fn answer(&mut self, order: u8, live: Live, broken: Option<Rule>) -> Reply {
        let mut wanted = (order > 0).then(|| uid(order));
        if broken == Some(Rule::AcknowledgedByName)
            && wanted.is_some()
            && let Some((known, _)) = self.knowledge.orders().next()
        {
            wanted = Some(known.clone());
        }
        let reply = self.production_answer(wanted.as_ref(), live, broken);
        match reply {
            Answer::Healthy => Reply::Healthy,
            Answer::Unhealthy { acknowledged } => {
                Reply::Unhealthy(if acknowledged.is_some() { order } else { 0 })
            }
            Answer::ApiError => Reply::ApiError,
            Answer::Unavailable => Reply::Unavailable,
        }
    }

    fn production_answer(
        &mut self,
        order: Option<&Uid>,
        live: Live,
        broken: Option<Rule>,
    ) -> Answer {
        let question = Question {
            node: "x",
            machine: "",
            order,
        };
        let contact = self.contact || broken == Some(Rule::SpeaksBeforeFirstRead);
        let standing = Standing {
            standing_by: false,
            contact,
            own_probe_failed: live == Live::Failed,
        };
        if broken == Some(Rule::NoMemory) && live == Live::Failed && order.is_none() {
            self.knowledge = Knowledge::default();
        }
        let before = self.knowledge.clone();
        let answer = peer_server::at_once(&question, standing, &mut self.knowledge, NOW);
        if broken == Some(Rule::AcknowledgedByName) {
            self.knowledge = before;
        }
        if let Some(answer) = answer {
            return answer;
        }
        let Live::Shows(view) = live else {
            return Answer::Unavailable;
        };
        self.read(view, NOW);
        let standing = Standing {
            contact: true,
            ..standing
        };
        let shown = list(view);
        let read = LiveRead::List(&shown);
        peer_server::after_read(&question, standing, &mut self.knowledge, read, NOW)
    }
}
