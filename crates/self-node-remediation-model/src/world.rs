//! The main model: node x, its peers, the API server and the manager, and everything that can happen to them.
//!
//! There are no links: every message may arrive or not, at every moment, so that every history of every link is covered.
//! A state consists of numbers of states of its parts; what becomes of a part is asked of the production functions once
//! and remembered.

use std::rc::Rc;

use crate::host::{Host, Input, Pace, Word};
use crate::manager::{Cluster, Freed, Stage};
use crate::peer::{Live, Peer, PeerInput, Reply};
use crate::rules::Rule;
use crate::search::{Interner, Memo, Model};
use crate::setup::{Fault, Left, Setup};
use crate::view::View;

mod actions;
mod start;

pub use actions::Action;
pub(crate) use start::steady;

/// A state: numbers of the states of its parts, and what may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// Machine x.
    pub x: u32,
    /// API server and manager.
    pub cluster: u32,
    /// The other nodes.
    pub peers: [u16; 3],
    /// What may still happen.
    pub left: Left,
}

/// What was said in a transition of a part.
pub type Told = Rc<[String]>;

/// The model.
pub struct World {
    setup: Rc<Setup>,
    hosts: Interner<Host>,
    clusters: Interner<Cluster>,
    peers: Interner<Peer>,
    host_moves: Memo<(u32, Input), (u32, Told)>,
    peer_moves: Memo<(u16, PeerInput), (u16, Reply)>,
    cluster_moves: Memo<(u32, Action), u32>,
    passes: Memo<(u32, bool, bool, bool), (u32, Told)>,
    initial: State,
}

impl World {
    /// A steady cluster in which a remediation of x was just created.
    pub fn new(setup: Setup) -> Self {
        let x = steady(&setup.machine);
        let mut peers = Interner::default();
        let peer = peers.number(if setup.old_memory {
            Peer::with_old_order()
        } else {
            Peer::calm()
        });
        let peer = u16::try_from(peer).unwrap_or(u16::MAX);
        let mut hosts = Interner::default();
        let mut clusters = Interner::default();
        let initial = State {
            cluster: clusters.number(Cluster::calm(x.1)),
            x: hosts.number(x.0),
            peers: [peer; 3],
            left: setup.left,
        };
        Self {
            setup: Rc::new(setup),
            hosts,
            clusters,
            peers,
            host_moves: Memo::default(),
            peer_moves: Memo::default(),
            cluster_moves: Memo::default(),
            passes: Memo::default(),
            initial,
        }
    }

    /// What is explored.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// How many states its parts have: x, API server and manager, a peer.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.hosts.len(), self.clusters.len(), self.peers.len())
    }

    /// Machine x in a state.
    pub fn host(&self, state: State) -> &Host {
        self.hosts.value(state.x)
    }

    /// API server and manager in a state.
    pub fn cluster(&self, state: State) -> &Cluster {
        self.clusters.value(state.cluster)
    }

    fn peer(&self, state: State, peer: u8) -> &Peer {
        self.peers.value(u32::from(state.peers[usize::from(peer)]))
    }

    fn x(&mut self, mut state: State, input: Input) -> (State, Told) {
        if let Some((number, told)) = self.host_moves.get(&(state.x, input)) {
            state.x = *number;
            return (state, Rc::clone(told));
        }
        let host = self.hosts.value(state.x).clone();
        let (host, told) = host.after(&self.setup.machine, input);
        let number = self.hosts.number(host);
        let told: Told = told.into();
        self.host_moves
            .insert((state.x, input), (number, Rc::clone(&told)));
        state.x = number;
        (state, told)
    }

    fn peer_input(&mut self, mut state: State, peer: u8, input: PeerInput) -> (State, Reply) {
        let place = usize::from(peer);
        let known = state.peers[place];
        let (number, reply) = if let Some(result) = self.peer_moves.get(&(known, input)) {
            *result
        } else {
            let value = self.peers.value(u32::from(known)).clone();
            let (value, reply) = value.after(input, self.setup.broken());
            let number = u16::try_from(self.peers.number(value)).unwrap_or(u16::MAX);
            self.peer_moves.insert((known, input), (number, reply));
            (number, reply)
        };
        state.peers[place] = number;
        (state, reply)
    }

    fn change(&mut self, mut state: State, change: impl FnOnce(&mut Cluster)) -> State {
        let mut cluster = self.cluster(state).clone();
        change(&mut cluster);
        state.cluster = self.clusters.number(cluster);
        state
    }

    /// A change that follows from the cluster and the action alone.
    fn change_by(
        &mut self,
        mut state: State,
        action: Action,
        change: impl FnOnce(&mut Cluster, &Setup),
    ) -> State {
        let key = (state.cluster, action);
        let number = if let Some(number) = self.cluster_moves.get(&key) {
            *number
        } else {
            let mut cluster = self.cluster(state).clone();
            change(&mut cluster, &self.setup);
            let number = self.clusters.number(cluster);
            self.cluster_moves.insert(key, number);
            number
        };
        state.cluster = number;
        state
    }

    fn pass(&mut self, mut state: State, ready: bool) -> (State, Told) {
        let host = self.hosts.value(state.x);
        let key = (state.cluster, host.up, host.pods, ready);
        if let Some((number, told)) = self.passes.get(&key) {
            state.cluster = *number;
            return (state, Rc::clone(told));
        }
        let mut cluster = self.clusters.value(state.cluster).clone();
        let told: Told = cluster.pass(&self.setup, host, ready).into();
        let number = self.clusters.number(cluster);
        self.passes.insert(key, (number, Rc::clone(&told)));
        state.cluster = number;
        (state, told)
    }

    fn tick(&mut self, state: State, x: Option<bool>) -> (State, Told) {
        let mut state = self.change_by(state, Action::Tick, Cluster::tick);
        for peer in 0..self.setup.peers {
            state = self.peer_input(state, peer, PeerInput::Tick).0;
        }
        if self.cluster(state).write.is_some() {
            state.left = state.left.without(Fault::Late);
        }
        match x {
            Some(kill) => self.x(state, Input::Tick { kill }),
            None => (state, Rc::new([])),
        }
    }

    /// What becomes of a state, and what is said about it. `None`: it cannot happen now.
    pub fn act(&mut self, state: State, action: Action) -> Option<(State, Told)> {
        let quiet = |state: State| Some((state, Rc::from([])));
        let state = match action.fault() {
            Some(fault) if !state.left.has(fault) => return None,
            Some(fault) => State {
                left: state.left.without(fault),
                ..state
            },
            None => state,
        };
        match action {
            Action::Tick => Some(self.tick(state, Some(false))),
            Action::KilledAtTick => Some(self.tick(state, Some(true))),
            Action::SlowTick => Some(self.tick(state, None)),
            Action::XReads(index) => {
                let view = self.cluster(state).view();
                Some(self.x(state, Input::Read { index, view }))
            }
            Action::XReadsItself(index) => Some(self.x(state, Input::Read { index, view: None })),
            Action::NodesChange => {
                quiet(self.change_by(state, action, |cluster, _| cluster.list += 1))
            }
            Action::XNodes => {
                let list = self.cluster(state).list;
                Some(self.x(state, Input::Nodes { list }))
            }
            Action::XAnnounces { lands, heard } => {
                let announcement = self.host(state).asked.announcement.clone();
                let state = self.change(state, |cluster| {
                    if lands {
                        cluster.announced = announcement;
                    } else {
                        cluster.late = announcement;
                    }
                });
                Some(self.x(state, Input::Announced { accepted: heard }))
            }
            Action::LateAnnouncement => quiet(self.change_by(state, action, |cluster, _| {
                cluster.announced = cluster.late.take();
            })),
            Action::XAsks(peer, has_api) => self.ask(state, peer, has_api),
            Action::Kill => Some(self.x(state, Input::Kill)),
            Action::Start => Some(self.x(state, Input::Start)),
            Action::Hang => Some(self.x(state, Input::Pace(Pace::LoopHangs))),
            Action::Freeze => Some(self.x(state, Input::Pace(Pace::Frozen))),
            Action::Resume => Some(self.x(state, Input::Pace(Pace::Runs))),
            Action::Remove => Some(self.x(state, Input::Terminate { successor: false })),
            Action::RollOut => {
                let (state, mut told) = self.x(state, Input::Terminate { successor: true });
                if self.host(state).pace().is_none() {
                    let (state, more) = self.x(state, Input::Start);
                    told = told.iter().chain(more.iter()).cloned().collect();
                    return Some((state, told));
                }
                Some((state, told))
            }
            Action::Boot => Some(self.x(state, Input::Boot)),
            Action::KubeletReports => {
                let boot = self.host(state).boot;
                let state = self.change(state, |cluster| cluster.kubelet_boot = boot);
                Some(self.x(state, Input::PodsStart))
            }
            Action::WordsArrive => {
                let words = self.host(state).asked.words.clone();
                let state = self.change(state, |cluster| cluster.words = words);
                Some(self.x(state, Input::WordsSent))
            }
            Action::PeerReads(peer) => {
                let view = self.peer_view(state);
                quiet(self.peer_input(state, peer, PeerInput::Read(view)).0)
            }
            Action::SlowList(peer) => {
                let view = self.peer_view(state);
                quiet(self.peer_input(state, peer, PeerInput::SlowStart(view)).0)
            }
            Action::SlowListArrives(peer) => {
                quiet(self.peer_input(state, peer, PeerInput::SlowEnd).0)
            }
            Action::PeerReboots(peer) => quiet(self.peer_input(state, peer, PeerInput::Reboot).0),
            Action::Delete => quiet(self.change_by(state, action, |cluster, _| {
                if let Some(order) = &mut cluster.order {
                    order.deleting = true;
                }
            })),
            Action::CreateAgain => {
                let next = self.change_by(state, action, Cluster::create);
                (next.cluster != state.cluster).then(|| (next, Rc::from([])))
            }
            Action::Order => {
                let next = self.change_by(state, action, Cluster::compute_order);
                (next.cluster != state.cluster).then(|| (next, Rc::from([])))
            }
            Action::OrderLands => quiet(self.change_by(state, action, |cluster, _| {
                cluster.order_lands();
            })),
            Action::Manager { ready } => Some(self.pass(state, ready)),
            Action::Acknowledge(peer, has_api) => self.acknowledge(state, peer, has_api),
            Action::NewManager => {
                quiet(self.change_by(state, action, |cluster, _| cluster.acknowledged = 0))
            }
        }
    }

    fn peer_view(&self, state: State) -> Option<View> {
        let view = self.cluster(state).view();
        if self.setup.breaks(Rule::DeletionEndsOrder) {
            view.filter(|view| !view.deleting)
        } else {
            view
        }
    }

    fn live(&self, state: State, has_api: bool) -> Live {
        if has_api {
            Live::Shows(self.peer_view(state))
        } else {
            Live::Failed
        }
    }

    fn ask(&mut self, state: State, peer: u8, has_api: bool) -> Option<(State, Told)> {
        let live = self.live(state, has_api);
        let (state, reply) = self.peer_input(state, peer, PeerInput::Ask { order: 0, live });
        let (word, text) = match reply {
            Reply::Healthy => (Word::Healthy, "\"healthy\""),
            Reply::Unhealthy(_) => (Word::Unhealthy, "\"unhealthy\""),
            Reply::ApiError => (Word::ApiError, "\"API error\""),
            // Silence changes nothing; it is the same as no answer.
            Reply::Unavailable | Reply::Nothing => return None,
        };
        let (state, told) = self.x(state, Input::Answer { peer, word });
        let told = std::iter::once(text.to_owned())
            .chain(told.iter().cloned())
            .collect();
        Some((state, told))
    }

    fn acknowledge(&mut self, state: State, peer: u8, has_api: bool) -> Option<(State, Told)> {
        let order = self.cluster(state).order.as_ref()?;
        let open = order.stage == Stage::Ordered
            && order
                .times
                .as_ref()
                .is_some_and(|times| times.quorum.is_none())
            && self.cluster(state).acknowledged & (1 << peer) == 0;
        if !open {
            return None;
        }
        let uid = order.uid;
        let live = self.live(state, has_api);
        let (state, reply) = self.peer_input(state, peer, PeerInput::Ask { order: uid, live });
        if reply != Reply::Unhealthy(uid) {
            return None;
        }
        let action = Action::Acknowledge(peer, true);
        let state = self.change_by(state, action, |cluster, _| {
            cluster.acknowledged |= 1 << peer;
        });
        Some((state, Rc::from([])))
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn initial(&mut self) -> State {
        self.initial
    }

    fn successors(&mut self, state: State, into: &mut Vec<(Action, State)>) {
        let mut actions = Vec::with_capacity(32);
        self.possible(state, &mut actions);
        for action in actions {
            if let Some((next, _)) = self.act(state, action)
                && next != state
            {
                into.push((action, next));
            }
        }
    }

    fn violation(&self, state: State) -> Option<String> {
        (self.cluster(state).freed == Some(Freed::WhileRunning)).then(|| {
            "the workload of x was freed while its containers could still run: two copies"
                .to_owned()
        })
    }
}
