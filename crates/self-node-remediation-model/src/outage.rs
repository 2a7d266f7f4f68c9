//! No needless reboot: the API server is gone for everybody, and every agent is modelled as a whole.
//!
//! Until the outage begins every read may have been answered or not, so that the agents are out of step. In the outage
//! peers answer whenever they are asked, some of them late, and one agent after the other may be killed and started
//! again. Nobody may be reset.

use std::cell::RefCell;

use self_node_remediation_core::peer_server::{self, Answer, LiveRead, Question};

use crate::host::{Host, Input, Machine, Word};
use crate::rules::Rule;
use crate::search::{Interner, Memo, Model};
use crate::setup::{Fault, Left, WORKER, listed, machine};
use crate::view::{NOW, TICK, View};
use crate::world::{Told, steady};

/// The most agents that are modelled.
pub const MOST: usize = 4;
static ALL: [&str; MOST] = ["x", "a", "b", "c"];

/// A state: the machines, who is dead for how long, whether the outage has begun, and what may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    hosts: [u32; MOST],
    dead_for_a_step: u8,
    down: bool,
    left: Left,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes.
    Tick,
    /// The API server answers an agent.
    Read(u8),
    /// It answers nobody any more.
    Down,
    /// The second agent answers the first.
    Answer(u8, u8),
    /// An agent dies.
    Kill(u8),
    /// It starts again.
    Start(u8),
}

/// The model.
pub struct Outage {
    machines: Vec<Machine>,
    hosts: Vec<Interner<Host>>,
    moves: Vec<Memo<(u32, Input), (u32, Told)>>,
    answers: RefCell<Memo<(u8, u8, u32), Option<Word>>>,
    broken: Option<Rule>,
    answers_late: bool,
    initial: State,
}

impl Outage {
    /// So many agents, of which so many die. `old_memory`: the second one has not read since an order for x that is gone.
    pub fn new(agents: usize, deaths: u64, old_memory: bool, broken: Option<Rule>) -> Self {
        let agents = agents.min(MOST);
        let names = ALL.get(..agents).unwrap_or(&ALL);
        let mut hosts = Vec::new();
        let mut machines = Vec::new();
        let mut numbers = [0; MOST];
        for (index, name) in names.iter().enumerate() {
            let peers: Vec<&'static str> =
                names.iter().filter(|peer| *peer != name).copied().collect();
            let nodes = peers.iter().map(|peer| listed(peer, WORKER)).collect();
            let mut machine = machine(name, WORKER, &peers, nodes);
            machine.settings.own.boot = crate::view::boot_id(1);
            machine.software_works = true;
            // An agent that is back after one step finds its watchdog running.
            machine.watchdog = 20;
            let mut host = steady(&machine).0;
            if old_memory && index == 1 {
                let order = View {
                    uid: 9,
                    ordered: true,
                    deleting: false,
                    // No boot of any machine here: all have the same ID.
                    boot: 9,
                };
                host = host.after(&machine, Input::Watched(order)).0;
            }
            let mut interner = Interner::default();
            if let Some(number) = numbers.get_mut(index) {
                *number = interner.number(host);
            }
            hosts.push(interner);
            machines.push(machine);
        }
        Self {
            moves: machines.iter().map(|_| Memo::default()).collect(),
            machines,
            hosts,
            answers: RefCell::default(),
            broken,
            // Each alone: a peer's restart is forgiven as long as it and a round fit into the grace.
            answers_late: deaths == 0,
            initial: State {
                hosts: numbers,
                dead_for_a_step: 0,
                down: false,
                left: Left::default().with(Fault::Kill, deaths),
            },
        }
    }

    fn agents(&self) -> u8 {
        u8::try_from(self.machines.len()).unwrap_or(0)
    }

    fn host(&self, state: State, agent: u8) -> &Host {
        let agent = usize::from(agent);
        self.hosts[agent].value(state.hosts[agent])
    }

    fn give(&mut self, mut state: State, agent: u8, input: Input) -> (State, Told) {
        let place = usize::from(agent);
        let key = (state.hosts[place], input);
        if let Some((number, told)) = self.moves[place].get(&key) {
            state.hosts[place] = *number;
            return (state, Told::clone(told));
        }
        let host = self.hosts[place].value(key.0).clone();
        let (host, told) = host.after(&self.machines[place], input);
        let number = self.hosts[place].number(host);
        let told: Told = told.into();
        self.moves[place].insert(key, (number, Told::clone(&told)));
        state.hosts[place] = number;
        (state, told)
    }

    /// What `peer` answers to `asker`.
    fn answer(&self, state: State, asker: u8, peer: u8) -> Option<Word> {
        let key = (asker, peer, state.hosts[usize::from(peer)]);
        if let Some(word) = self.answers.borrow().get(&key) {
            return *word;
        }
        let word = self.decided_answer(state, asker, peer);
        self.answers.borrow_mut().insert(key, word);
        word
    }

    fn decided_answer(&self, state: State, asker: u8, peer: u8) -> Option<Word> {
        let mut host = self.host(state, peer).clone();
        let settings = &self.machines[usize::from(peer)].settings;
        let agent = host.state_mut()?;
        let standing = agent.standing(settings, NOW);
        let question = Question {
            node: ALL[usize::from(asker)],
            machine: "",
            order: None,
        };
        let knowledge = agent.knowledge();
        let answer =
            peer_server::at_once(&question, standing, knowledge, NOW).unwrap_or_else(|| {
                peer_server::after_read(&question, standing, knowledge, LiveRead::Failed, NOW)
            });
        match answer {
            Answer::Healthy => Some(Word::Healthy),
            Answer::Unhealthy { .. } => Some(Word::Unhealthy),
            Answer::ApiError => Some(Word::ApiError),
            Answer::Unavailable => {
                let remembers = agent.knowledge().has_order_about(question.node, "");
                (self.broken == Some(Rule::MemorySpeaks) && remembers).then_some(Word::Unhealthy)
            }
        }
    }

    /// The place of `peer` among the peers of `asker`.
    fn place(asker: u8, peer: u8) -> u8 {
        if peer > asker { peer - 1 } else { peer }
    }

    fn owed(&self, state: State, asker: u8) -> impl Iterator<Item = u8> + '_ {
        let asked = self.host(state, asker).asked.peers;
        (0..self.agents()).filter(move |peer| {
            *peer != asker
                && asked & (1 << Self::place(asker, *peer)) != 0
                && self.answer(state, asker, *peer).is_some()
        })
    }

    /// Whether nobody would be later than is assumed of a network that works.
    fn may_tick(&self, state: State) -> bool {
        (0..self.agents()).all(|agent| {
            let host = self.host(state, agent);
            if host.pace().is_none() && state.dead_for_a_step & (1 << agent) != 0 {
                return false;
            }
            if !state.down && !host.asked.reads.is_empty() {
                return false;
            }
            // An answer takes less than one step, or no time.
            let late = self.answers_late && NOW.since(host.asked.since) < TICK;
            late || self.owed(state, agent).next().is_none()
        })
    }

    /// What becomes of a state, and what is said about it.
    pub fn act(&mut self, mut state: State, action: Action) -> Option<(State, Told)> {
        match action {
            Action::Tick => {
                state.dead_for_a_step = (0..self.agents())
                    .filter(|agent| self.host(state, *agent).pace().is_none())
                    .fold(0, |bits, agent| bits | 1 << agent);
                let mut told = Vec::new();
                for agent in 0..self.agents() {
                    let (next, more) = self.give(state, agent, Input::Tick { kill: false });
                    state = next;
                    let name = ALL[usize::from(agent)];
                    told.extend(more.iter().map(|text| format!("{name}: {text}")));
                }
                Some((state, told.into()))
            }
            Action::Read(agent) => {
                let input = Input::Read {
                    index: 0,
                    view: None,
                };
                Some(self.give(state, agent, input))
            }
            Action::Down => {
                state.down = true;
                Some((state, Told::from([])))
            }
            Action::Answer(asker, peer) => {
                let word = self.answer(state, asker, peer)?;
                let input = Input::Answer {
                    peer: Self::place(asker, peer),
                    word,
                };
                Some(self.give(state, asker, input))
            }
            Action::Kill(agent) => {
                state.left = state.left.without(Fault::Kill);
                Some(self.give(state, agent, Input::Kill))
            }
            Action::Start(agent) => Some(self.give(state, agent, Input::Start)),
        }
    }

    /// Who does what.
    pub fn tell(action: Action) -> (String, String) {
        let name = |agent: u8| {
            ALL.get(usize::from(agent))
                .copied()
                .unwrap_or("?")
                .to_owned()
        };
        match action {
            Action::Tick => (String::new(), String::new()),
            Action::Read(agent) => (name(agent), "reads the API".to_owned()),
            Action::Down => ("API".to_owned(), "answers nobody any more".to_owned()),
            Action::Answer(asker, peer) => (name(peer), format!("answers {}", name(asker))),
            Action::Kill(agent) => (name(agent), "its agent is killed".to_owned()),
            Action::Start(agent) => (name(agent), "its agent starts again".to_owned()),
        }
    }
}

impl Model for Outage {
    type State = State;
    type Action = Action;

    fn initial(&mut self) -> State {
        self.initial
    }

    fn successors(&mut self, state: State, into: &mut Vec<(Action, State)>) {
        let mut actions = Vec::new();
        for agent in 0..self.agents() {
            let host = self.host(state, agent);
            if !state.down {
                if !host.asked.reads.is_empty() {
                    actions.push(Action::Read(agent));
                }
                continue;
            }
            actions.extend(
                self.owed(state, agent)
                    .map(|peer| Action::Answer(agent, peer)),
            );
            if host.pace().is_none() {
                actions.push(Action::Start(agent));
            } else if state.left.has(Fault::Kill) && state.dead_for_a_step == 0 {
                actions.push(Action::Kill(agent));
            }
        }
        if !state.down {
            actions.push(Action::Down);
        } else if self.may_tick(state) {
            actions.push(Action::Tick);
        }
        for action in actions {
            if let Some((next, _)) = self.act(state, action)
                && next != state
            {
                into.push((action, next));
            }
        }
    }

    fn violation(&self, state: State) -> Option<String> {
        (0..self.agents())
            .find(|agent| !self.host(state, *agent).up)
            .map(|agent| {
                let name = ALL.get(usize::from(agent)).copied().unwrap_or("?");
                format!("{name} was reset although the API server was gone for everybody and most of its peers answered")
            })
    }
}
