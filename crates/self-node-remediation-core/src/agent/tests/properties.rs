//! Random histories of one agent.

use proptest::prelude::*;

use super::super::*;
use super::world::*;
use crate::budget::Limits;
use crate::time::BootInstant;

#[derive(Debug, Clone)]
enum Event {
    Run(u64),
    Api(Api),
    Peer(usize, Peer),
    AllPeers(Peer),
    Restart(u64),
    Hang(u64),
    AddNode(usize),
    RemoveNode(usize),
    Interval(u64),
    Timeout(Option<u64>),
    Terminate { successor: bool, pod_deleted: bool },
    ReadOnlyRun(bool),
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn apis() -> impl Strategy<Value = Api> {
    prop_oneof![3 => Just(Api::Up), 2 => Just(Api::Down), 1 => Just(Api::Deaf)]
}

fn kinds() -> impl Strategy<Value = Peer> {
    prop_oneof![
        2 => Just(Peer::Healthy),
        4 => Just(Peer::ApiError),
        3 => Just(Peer::Silent),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (1u64..60).prop_map(Event::Run),
        3 => apis().prop_map(Event::Api),
        3 => ((0..NAMES.len()), kinds()).prop_map(|(at, kind)| Event::Peer(at, kind)),
        2 => kinds().prop_map(Event::AllPeers),
        2 => (0u64..8).prop_map(Event::Restart),
        1 => (1u64..40).prop_map(Event::Hang),
        1 => (0..NAMES.len()).prop_map(Event::AddNode),
        1 => (0..NAMES.len()).prop_map(Event::RemoveNode),
        1 => (5u64..30).prop_map(Event::Interval),
        1 => proptest::option::of(5u64..70).prop_map(Event::Timeout),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(successor, pod_deleted)| Event::Terminate { successor, pod_deleted }),
        1 => any::<bool>().prop_map(Event::ReadOnlyRun),
    ];
    proptest::collection::vec(event, 1..60)
}

/// The bound as the manager would know it from the Node, as long as nobody else ever writes there.
fn bound(world: &World) -> Option<(u64, u64)> {
    let said = world.announced.as_ref()?;
    if said.armed {
        said.bound.map(|bound| (bound, said.wd))
    } else {
        None
    }
}

fn play(world: &mut World, event: &Event) {
    match event {
        Event::Run(seconds) => world.run(secs(*seconds)),
        Event::Api(api) => world.api = *api,
        Event::Peer(index, kind) => {
            world.peers.insert(node(NAMES[*index]), *kind);
        }
        Event::AllPeers(kind) => world.all_peers(*kind),
        Event::Restart(pause) => {
            world.kill();
            world.run(secs(*pause));
            if world.reset_at.is_none() {
                world.start();
            }
        }
        Event::Hang(seconds) => {
            world.hang(secs(*seconds));
            world.resume();
        }
        Event::AddNode(index) => {
            let name = NAMES[*index];
            if !world.nodes.iter().any(|known| known.name == node(name)) {
                world.nodes.push(listed(name, WORKER));
                world.peers.entry(node(name)).or_insert(Peer::Silent);
            }
        }
        Event::RemoveNode(index) => {
            world
                .nodes
                .retain(|known| known.name != node(NAMES[*index]));
        }
        Event::Interval(seconds) => {
            let limits = Limits {
                api_check_interval: secs(*seconds),
                api_server_timeout: secs(5),
                max_api_error_threshold: 3,
                peer_dial_timeout: secs(5),
                peer_request_timeout: secs(7),
            };
            world.kill();
            world.settings.timing = Timing::new(limits).unwrap();
            world.start();
        }
        Event::Timeout(timeout) => {
            world.kill();
            world.settings.watchdog_timeout = *timeout;
            world.start();
        }
        Event::Terminate {
            successor,
            pod_deleted,
        } => {
            world.give(Evidence::Terminate {
                successor: *successor,
                pod_deleted: *pod_deleted,
            });
            world.run(secs(8));
            if world.reset_at.is_none() && world.exited {
                world.kill();
                world.start();
            }
        }
        Event::ReadOnlyRun(read_only) => world.run_is_writable = !*read_only,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The promise behind the manager's wait: whenever an order becomes visible and nobody vouches for X any more from
    /// then on, X is reset within the bound that its Node announced when the order was visible, plus one closing ping.
    #[test]
    fn the_announced_bound_holds(history in events(), kill_at in 0u64..200, ping in any::<bool>()) {
        let mut world = World::with_workers(&["a", "b", "c"]);
        world.start();
        for event in &history {
            play(&mut world, event);
            if world.reset_at.is_some() {
                return Ok(());
            }
        }
        // The order is visible; the agent cannot read it, and everybody it asks knows it and abstains.
        let ordered = world.now;
        let promised = bound(&world);
        world.orders.push(order("u1", Some("boot-1")));
        world.cut();
        if ping {
            world.run(secs(kill_at));
            if world.reset_at.is_none() {
                world.kill();
            }
        }
        world.run(secs(2000));
        if let Some((bound, wd)) = promised {
            let latest = ordered.plus(secs(bound + 2 * wd));
            // An agent that dies on a node without watchdog is not covered (section 1).
            if wd > 0 || !ping {
                let reset = world.reset_at;
                prop_assert!(reset.is_some_and(|at| at <= latest), "reset {reset:?}, promised by {latest}");
            }
        }
    }

    /// Nobody is reset while the API server answers, whatever happens to the peers.
    #[test]
    fn contact_keeps_a_node_up(history in events()) {
        let mut world = World::with_workers(&["a", "b", "c"]);
        world.start();
        for event in &history {
            match event {
                Event::Run(_) | Event::Peer(..) | Event::AllPeers(_) | Event::AddNode(_) | Event::RemoveNode(_) => {
                    play(&mut world, event);
                }
                Event::Restart(_) => play(&mut world, &Event::Restart(1)),
                Event::Api(_) | Event::Hang(_) | Event::Interval(_) | Event::Timeout(_) | Event::Terminate { .. } | Event::ReadOnlyRun(_) => {}
            }
        }
        prop_assert_eq!(world.reset_at, None);
    }

    /// With the API gone for all, a strict majority of peers that answer keeps a node up.
    #[test]
    fn an_outage_resets_nobody(silent in 0usize..2, offset in 0u64..40, restarts in proptest::collection::vec(1u64..200, 0..6)) {
        let mut world = World::with_workers(&["a", "b", "c"]);
        world.start();
        world.run(secs(30 + offset));
        world.api = Api::Down;
        world.all_peers(Peer::ApiError);
        for name in NAMES.iter().take(silent) {
            world.peers.insert(node(name), Peer::Silent);
        }
        for pause in restarts {
            world.run(secs(pause));
            world.kill();
            world.run(secs(2));
            if world.reset_at.is_none() {
                world.start();
            }
        }
        world.run(secs(1000));
        prop_assert_eq!(world.reset_at, None);
    }

    /// More evidence of health never leads to a fence: with one answer improved, the permit reaches at least as far.
    #[test]
    fn better_answers_never_shorten_the_permit(
        kinds in proptest::collection::vec(kinds(), 3..=3),
        better in 0usize..3,
        seconds in 60u64..400,
    ) {
        let play = |improve: bool| {
            let mut world = World::with_workers(&["a", "b", "c"]);
            world.start();
            world.run(secs(60));
            world.api = Api::Down;
            for (name, kind) in NAMES.iter().zip(&kinds) {
                world.peers.insert(node(name), *kind);
            }
            if improve {
                let name = node(NAMES[better]);
                let kind = match world.peers[&name] {
                    Peer::Silent => Peer::ApiError,
                    Peer::ApiError | Peer::Healthy => Peer::Healthy,
                    Peer::Unhealthy | Peer::UnhealthyLate => {
                        unreachable!("not in the strategy")
                    }
                };
                world.peers.insert(name, kind);
            }
            world.run(secs(seconds));
            world.reset_at.unwrap_or_else(|| BootInstant::at(Duration::MAX))
        };
        prop_assert!(play(true) >= play(false));
    }
}
