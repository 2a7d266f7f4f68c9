//! Manager, agent and peers together, each by its own production rules, on one virtual clock.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use medik8s_core::conditions::Status;
use proptest::prelude::*;

use super::super::*;
use super::world::*;
use crate::ids::{BootId, NodeName, Uid};
use crate::knowledge::Knowledge;
use crate::peer_server::{self, Answer, LiveRead, Question, Standing};
use crate::release::{self, AgentPods, By, Decision, OrderTimes, Seen};
use crate::time::BootInstant;

/// An agent on another node, as far as others see it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one link of the test world"
)]
struct PeerAgent {
    api: bool,
    /// Reached by X.
    by_x: bool,
    /// Reached by the manager.
    by_manager: bool,
    contact: bool,
    knowledge: Knowledge,
    /// A read that was started then, and what it will show.
    slow_read: Option<(BootInstant, Vec<Remediation>)>,
}

impl PeerAgent {
    fn new() -> Self {
        Self {
            api: true,
            by_x: true,
            by_manager: true,
            contact: true,
            knowledge: Knowledge::default(),
            slow_read: None,
        }
    }

    fn ask(&mut self, uid: Option<&Uid>, list: &[Remediation], now: BootInstant) -> Answer {
        let question = Question {
            node: "x",
            machine: "",
            order: uid,
        };
        let standing = Standing {
            standing_by: false,
            contact: self.contact,
            own_probe_failed: !self.api,
        };
        if let Some(answer) = peer_server::at_once(&question, standing, &mut self.knowledge, now) {
            return answer;
        }
        if !self.api {
            let read = LiveRead::Failed;
            return peer_server::after_read(&question, standing, &mut self.knowledge, read, now);
        }
        self.contact = true;
        self.knowledge.take_list(list, now, now);
        let standing = Standing {
            contact: true,
            ..standing
        };
        let read = LiveRead::List(list);
        peer_server::after_read(&question, standing, &mut self.knowledge, read, now)
    }

    fn reboot(&mut self) {
        self.contact = false;
        self.knowledge = Knowledge::default();
        self.slow_read = None;
    }
}

struct Manager {
    times: Option<OrderTimes>,
    assumed: Timestamp,
    acknowledged: BTreeSet<NodeName>,
    down: bool,
}

struct Cluster {
    x: World,
    peers: BTreeMap<NodeName, PeerAgent>,
    order: Option<(BootInstant, Remediation)>,
    manager: Option<Manager>,
    freed: Option<(BootInstant, By)>,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

impl Cluster {
    fn new(peers: usize) -> Self {
        let names = &NAMES[..peers];
        let mut x = World::with_workers(names);
        x.start();
        x.run(secs(200));
        let peers = names
            .iter()
            .map(|name| (node(name), PeerAgent::new()))
            .collect();
        Self {
            x,
            peers,
            order: None,
            manager: None,
            freed: None,
        }
    }

    fn visible(&self) -> Vec<Remediation> {
        let visible = self.order.iter().filter(|(at, _)| *at <= self.x.now);
        visible.map(|(_, order)| order.clone()).collect()
    }

    /// What X would hear if it asked now, after watches and slow reads.
    fn refresh(&mut self) {
        let list = self.visible();
        let now = self.x.now;
        self.x.orders = list.clone();
        for (name, peer) in &mut self.peers {
            if peer.api {
                for order in &list {
                    peer.knowledge.see(order, now);
                }
                peer.contact = true;
            }
            if let Some((started, shown)) = peer.slow_read.take() {
                if now.since(started) >= secs(4) {
                    peer.knowledge.take_list(&shown, started, now);
                } else {
                    peer.slow_read = Some((started, shown));
                }
            }
            let said = if peer.by_x {
                match peer.ask(None, &list, now) {
                    Answer::Healthy => Peer::Healthy,
                    Answer::Unhealthy { .. } => Peer::Unhealthy,
                    Answer::ApiError => Peer::ApiError,
                    Answer::Unavailable => Peer::Silent,
                }
            } else {
                Peer::Silent
            };
            self.x.peers.insert(name.clone(), said);
        }
    }

    /// One second, and every fifth the manager.
    fn second(&mut self) {
        self.refresh();
        self.x.run(secs(1));
        if self.x.now.since_boot().as_secs().is_multiple_of(5) {
            self.manage();
        }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            if self.x.reset_at.is_some() || self.freed.is_some() {
                return;
            }
            self.second();
        }
    }

    /// The health checker created a remediation and the manager orders; the write takes effect `delay` later.
    fn order(&mut self, uid: &str, delay: u64) {
        let announced = self.x.announced.clone().unwrap();
        let wait = crate::budget::announced_wait(announced.bound.unwrap_or(90), announced.wd, None);
        let assumed = crate::budget::assumed_rebooted(wall(self.x.now), wait.unwrap()).unwrap();
        let visible = self.x.now.plus(secs(delay));
        self.order = Some((visible, order(uid, Some("boot-1"))));
        self.manager = Some(Manager {
            times: None,
            assumed,
            acknowledged: BTreeSet::new(),
            down: false,
        });
    }

    fn manage(&mut self) {
        let list = self.visible();
        let now = self.x.now;
        let (Some(order), Some(manager)) = (list.first(), &mut self.manager) else {
            return;
        };
        if manager.down {
            return;
        }
        let mut asked = false;
        loop {
            let node = release::Node {
                name: node("x"),
                ready: Status::Unknown,
                kubelet_boot: BootId::new("boot-1"),
                announced: self.x.announced.clone(),
                reboot_capable: true,
                published_watchdog: None,
                last_words: self.x.last_words.clone(),
                control_plane: false,
                agent: AgentPods::Ours,
            };
            let peers: Vec<release::Peer> = self
                .x
                .nodes
                .iter()
                .map(|listed| release::Peer {
                    listed: listed.clone(),
                    our_agent: true,
                })
                .collect();
            let seen = Seen {
                remediation: order,
                assumed_rebooted: Some(manager.assumed),
                times: manager.times.as_ref(),
                node: &node,
                peers: &peers,
                acknowledged: &manager.acknowledged,
                asked,
                storm: false,
                calm_since: wall(now),
                watched_since: wall(now),
                guard_wait: secs(1000),
                kubelet_seen: None,
            };
            match release::decide(&seen, wall(now)).unwrap() {
                Decision::Record(times) => manager.times = Some(times),
                Decision::Ask(quorum) => {
                    asked = true;
                    for member in quorum.workers.open() {
                        let Some(peer) = self.peers.get_mut(member) else {
                            continue;
                        };
                        if !peer.by_manager {
                            continue;
                        }
                        let wanted = Answer::Unhealthy {
                            acknowledged: Some(order.uid.clone()),
                        };
                        if peer.ask(Some(&order.uid), &list, now) == wanted {
                            manager.acknowledged.insert(member.clone());
                        }
                    }
                }
                Decision::Release(by) => {
                    self.freed = Some((now, by));
                    return;
                }
                Decision::Wait { .. } | Decision::Hold(_) => return,
                Decision::Adopt(_) | Decision::Cancel => unreachable!("not in this world"),
            }
        }
    }

    /// The promise: freed, so X had been reset before.
    fn check(&self) -> Result<(), TestCaseError> {
        if let Some((freed, by)) = self.freed {
            let reset = self.x.reset_at;
            prop_assert!(
                reset.is_some_and(|reset| reset <= freed),
                "freed by {by} at {freed}, reset {reset:?}"
            );
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Event {
    Run(u64),
    XApi(bool),
    PeerApi(usize, bool),
    AllApis(bool),
    ByX(usize, bool),
    AllByX(bool),
    ByManager(usize, bool),
    SlowRead(usize),
    RebootPeer(usize),
    RestartX(u64),
    Hang(u64),
    ManagerDown(bool),
    ForgetAcks,
    AddNode(usize),
    RemoveNode(usize),
    Order(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let peer = 0..NAMES.len();
    let event = prop_oneof![
        10 => (1u64..40).prop_map(Event::Run),
        3 => any::<bool>().prop_map(Event::XApi),
        3 => (peer.clone(), any::<bool>()).prop_map(|(at, on)| Event::PeerApi(at, on)),
        3 => any::<bool>().prop_map(Event::AllApis),
        2 => (peer.clone(), any::<bool>()).prop_map(|(at, on)| Event::ByX(at, on)),
        1 => any::<bool>().prop_map(Event::AllByX),
        2 => (peer.clone(), any::<bool>()).prop_map(|(at, on)| Event::ByManager(at, on)),
        1 => peer.clone().prop_map(Event::SlowRead),
        1 => peer.clone().prop_map(Event::RebootPeer),
        2 => (0u64..8).prop_map(Event::RestartX),
        1 => (1u64..60).prop_map(Event::Hang),
        1 => any::<bool>().prop_map(Event::ManagerDown),
        1 => Just(Event::ForgetAcks),
        1 => peer.clone().prop_map(Event::AddNode),
        1 => peer.prop_map(Event::RemoveNode),
        2 => (0u64..9).prop_map(Event::Order),
    ];
    proptest::collection::vec(event, 1..40)
}

fn play(cluster: &mut Cluster, event: &Event) {
    let at = |index: &usize| node(NAMES[*index]);
    match event {
        Event::Run(seconds) => cluster.run(*seconds),
        Event::XApi(up) => cluster.x.api = if *up { Api::Up } else { Api::Down },
        Event::PeerApi(index, up) => {
            if let Some(peer) = cluster.peers.get_mut(&at(index)) {
                peer.api = *up;
            }
        }
        Event::AllApis(up) => {
            cluster.x.api = if *up { Api::Up } else { Api::Down };
            for peer in cluster.peers.values_mut() {
                peer.api = *up;
            }
        }
        Event::ByX(index, on) => {
            if let Some(peer) = cluster.peers.get_mut(&at(index)) {
                peer.by_x = *on;
            }
        }
        Event::AllByX(on) => {
            for peer in cluster.peers.values_mut() {
                peer.by_x = *on;
            }
        }
        Event::ByManager(index, on) => {
            if let Some(peer) = cluster.peers.get_mut(&at(index)) {
                peer.by_manager = *on;
            }
        }
        Event::SlowRead(index) => {
            let (list, now) = (cluster.visible(), cluster.x.now);
            if let Some(peer) = cluster.peers.get_mut(&at(index))
                && peer.api
            {
                peer.slow_read = Some((now, list));
            }
        }
        Event::RebootPeer(index) => {
            if let Some(peer) = cluster.peers.get_mut(&at(index)) {
                peer.reboot();
            }
        }
        Event::RestartX(pause) => {
            cluster.x.kill();
            cluster.run(*pause);
            if cluster.x.reset_at.is_none() && cluster.x.state.is_none() {
                cluster.x.start();
            }
        }
        Event::Hang(seconds) => {
            for _ in 0..*seconds {
                if cluster.x.reset_at.is_none() && cluster.freed.is_none() {
                    cluster.x.hang(secs(1));
                    if cluster.x.now.since_boot().as_secs().is_multiple_of(5) {
                        cluster.manage();
                    }
                }
            }
            cluster.refresh();
            cluster.x.resume();
        }
        Event::ManagerDown(down) => {
            if let Some(manager) = &mut cluster.manager {
                manager.down = *down;
            }
        }
        Event::ForgetAcks => {
            if let Some(manager) = &mut cluster.manager {
                manager.acknowledged.clear();
            }
        }
        Event::AddNode(index) => {
            let name = NAMES[*index];
            if !cluster.x.nodes.iter().any(|known| known.name == node(name)) {
                let mut new = listed(name, WORKER);
                new.created = Some(wall(cluster.x.now));
                cluster.x.nodes.push(new);
                cluster
                    .peers
                    .entry(node(name))
                    .or_insert_with(PeerAgent::new);
            }
        }
        Event::RemoveNode(index) => {
            // The Node object goes, its machine and agent stay.
            cluster.x.nodes.retain(|known| known.name != at(index));
        }
        Event::Order(delay) => {
            if cluster.order.is_none()
                && cluster.x.announced.as_ref().is_some_and(|said| said.armed)
            {
                cluster.order("u1", *delay);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// At most one: whatever happens, when the manager frees, X has been reset.
    #[test]
    fn nothing_is_freed_before_the_node_is_reset(peers in 1usize..=4, history in events()) {
        let mut cluster = Cluster::new(peers);
        for event in &history {
            play(&mut cluster, event);
            cluster.check()?;
        }
        cluster.run(700);
        cluster.check()?;
    }
}

#[test]
fn a_cut_off_node_is_freed_at_its_time() {
    let mut cluster = Cluster::new(3);
    cluster.x.api = Api::Down;
    for peer in cluster.peers.values_mut() {
        peer.by_x = false;
    }
    cluster.run(30);
    let ordered = cluster.x.now;
    cluster.order("u1", 1);
    cluster.run(1000);
    assert!(cluster.x.reset_at.is_some());
    // Its machine is gone; the manager looks every five seconds.
    while cluster.freed.is_none() {
        cluster.x.now = cluster.x.now.plus(secs(5));
        cluster.manage();
        assert!(cluster.x.now < ordered.plus(secs(400)), "never freed");
    }
    let (freed, by) = cluster.freed.unwrap();
    assert_eq!(by, By::Time);
    let after = freed.since(ordered).as_secs();
    assert!((130..=140).contains(&after), "freed after {after} s");
}

#[test]
fn h05_a_majority_that_loses_the_api_after_the_order_holds_the_release() {
    // The order is visible, but two of three workers lost the API before they saw it: they keep X up.
    let mut cluster = Cluster::new(3);
    cluster.x.api = Api::Down;
    for name in ["a", "b"] {
        cluster.peers.get_mut(&node(name)).unwrap().api = false;
    }
    cluster.peers.get_mut(&node("c")).unwrap().by_x = false;
    cluster.order("u1", 0);
    cluster.run(3600);
    assert_eq!(
        cluster.x.reset_at, None,
        "most of its peers have no API either"
    );
    assert_eq!(cluster.freed, None, "so it must not be freed");
    // One of them comes back: it tells X, and X is freed.
    cluster.peers.get_mut(&node("a")).unwrap().api = true;
    cluster.run(200);
    assert!(cluster.x.reset_at.is_some());
}

#[test]
fn h05_acknowledgers_that_lose_the_api_do_not_keep_the_node_up() {
    let mut cluster = Cluster::new(3);
    cluster.order("u1", 0);
    cluster.x.api = Api::Down;
    for peer in cluster.peers.values_mut() {
        peer.by_x = false;
    }
    cluster.run(20);
    // All have acknowledged; now nobody has the API, and X reaches them again.
    for peer in cluster.peers.values_mut() {
        peer.by_x = true;
        peer.api = false;
    }
    cluster.run(300);
    assert!(cluster.x.reset_at.is_some());
}
