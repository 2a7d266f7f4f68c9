//! The network: who reaches whom, and connections over it.
//!
//! Every direction between two places can be cut and slowed down. A segment that meets a cut waits for
//! its end, as TCP sends it again; what was under way to or from a machine that is reset is lost.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use self_node_remediation_peer::net::{Connection, Dialer, Listener, Pending};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use crate::random::Rng;

/// How soon after a cut's end what waits goes on.
const RETRY: Duration = Duration::from_millis(250);
/// Pause after the first attempt to connect; it doubles.
const SYN: Duration = Duration::from_secs(1);

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A machine.
    Node(usize),
    /// The API server.
    Api,
    /// A replica of the manager.
    Manager(usize),
}

/// What the API server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiMode {
    /// It answers.
    Up,
    /// It refuses connections.
    Refuses,
    /// It takes requests and never answers.
    Hangs,
    /// It answers every request with an error of its own.
    Fails,
}

struct Wires {
    cuts: BTreeMap<(Place, Place), u32>,
    slow: BTreeMap<(Place, Place), Duration>,
    /// How often a place lost everything it had; and whether it is down.
    lives: BTreeMap<Place, (u64, bool)>,
    hosts: BTreeMap<IpAddr, Place>,
    ports: BTreeMap<SocketAddr, mpsc::UnboundedSender<(Connection, SocketAddr)>>,
    api: ApiMode,
    rng: Rng,
    connections: u64,
}

/// The network. Cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Wires>>);

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// A whole network.
    pub fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(Wires {
            cuts: BTreeMap::new(),
            slow: BTreeMap::new(),
            lives: BTreeMap::new(),
            hosts: BTreeMap::new(),
            ports: BTreeMap::new(),
            api: ApiMode::Up,
            rng,
            connections: 0,
        })))
    }

    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts one direction, or takes one cut away.
    pub fn cut(&self, from: Place, to: Place, cut: bool) {
        let mut wires = self.wires();
        let count = wires.cuts.entry((from, to)).or_default();
        *count = if cut {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
    }

    /// Slows one direction down by so much; zero: not any more.
    pub fn slow(&self, from: Place, to: Place, by: Duration) {
        self.wires().slow.insert((from, to), by);
    }

    /// By how much one direction is slower than usual.
    pub fn slowness(&self, from: Place, to: Place) -> Duration {
        let slow = self.wires().slow.get(&(from, to)).copied();
        slow.unwrap_or_default()
    }

    /// What a place had is lost, and it is down or up from now on.
    pub fn reset(&self, place: Place, down: bool) {
        let mut wires = self.wires();
        let life = wires.lives.entry(place).or_default();
        *life = (life.0 + 1, down);
    }

    /// Changes what the API server does.
    pub fn set_api(&self, mode: ApiMode) {
        self.wires().api = mode;
    }

    /// What the API server does.
    pub fn api(&self) -> ApiMode {
        self.wires().api
    }

    /// Whether this direction works now.
    pub fn passes(&self, from: Place, to: Place) -> bool {
        self.wires().passes(from, to)
    }

    /// Whether both directions work now.
    pub fn joined(&self, one: Place, other: Place) -> bool {
        let wires = self.wires();
        wires.passes(one, other) && wires.passes(other, one)
    }

    /// Whether a place reaches the API server and is answered.
    pub fn has_api(&self, place: Place) -> bool {
        self.api() == ApiMode::Up && self.joined(place, Place::Api)
    }

    /// Connections made so far between agents, and from managers to agents.
    pub fn connections(&self) -> u64 {
        self.wires().connections
    }

    fn delay(&self, from: Place, to: Place) -> Duration {
        let mut wires = self.wires();
        let usual = Duration::from_micros(wires.rng.between(200, 3_000));
        usual + wires.slow.get(&(from, to)).copied().unwrap_or_default()
    }

    fn life(&self, place: Place) -> u64 {
        self.wires().lives.get(&place).map_or(0, |life| life.0)
    }

    /// Sends something on its way; false: it was lost because one of the two places went down.
    pub async fn transit(&self, from: Place, to: Place) -> bool {
        let lives = (self.life(from), self.life(to));
        sleep(self.delay(from, to)).await;
        while lives == (self.life(from), self.life(to)) {
            if self.passes(from, to) {
                return true;
            }
            sleep(RETRY).await;
        }
        false
    }

    /// An address of a machine.
    pub fn add_host(&self, address: IpAddr, place: Place) {
        self.wires().hosts.insert(address, place);
    }

    /// Opens connections from a place.
    pub fn dialer(&self, from: Place) -> Dialer {
        let net = self.clone();
        Dialer::new(move |address| {
            let net = net.clone();
            Box::pin(async move { net.dial(from, address).await })
        })
    }

    async fn dial(&self, from: Place, address: SocketAddr) -> io::Result<Connection> {
        let to = self.wires().hosts.get(&address.ip()).copied();
        let Some(to) = to else {
            // Nobody has this address.
            return std::future::pending().await;
        };
        let mut pause = SYN;
        loop {
            sleep(self.delay(from, to) + self.delay(to, from)).await;
            if self.joined(from, to) {
                let port = self.wires().ports.get(&address).cloned();
                let (ours, theirs) = self.pair(from, to);
                let caller = SocketAddr::from(([192, 0, 2, 2], 40_000));
                let taken = port.is_some_and(|port| port.send((Box::new(theirs), caller)).is_ok());
                if !taken {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                self.wires().connections += 1;
                return Ok(Box::new(ours));
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    fn pair(&self, one: Place, other: Place) -> (Wire, Wire) {
        let (there, back) = (Arc::default(), Arc::default());
        let lives = (self.life(one), self.life(other));
        let end = |from, to, lives, read: &Arc<_>, write: &Arc<_>| Wire {
            net: self.clone(),
            from,
            to,
            lives,
            read: Arc::clone(read),
            write: Arc::clone(write),
            timer: None,
        };
        (
            end(one, other, lives, &back, &there),
            end(other, one, (lives.1, lives.0), &there, &back),
        )
    }

    /// Listens on an address.
    pub fn listen(&self, address: SocketAddr) -> Box<dyn Listener> {
        let (sender, queue) = mpsc::unbounded_channel();
        self.wires().ports.insert(address, sender);
        Box::new(Port(tokio::sync::Mutex::new(queue)))
    }
}

impl Wires {
    fn passes(&self, from: Place, to: Place) -> bool {
        let down = |place| self.lives.get(&place).is_some_and(|life| life.1);
        let cut = self.cuts.get(&(from, to)).is_some_and(|count| *count > 0);
        !cut && !down(from) && !down(to)
    }
}

/// A listening port. Once it is dropped, its address refuses connections.
struct Port(tokio::sync::Mutex<mpsc::UnboundedReceiver<(Connection, SocketAddr)>>);

impl Listener for Port {
    fn accept(&self) -> Pending<'_, io::Result<(Connection, SocketAddr)>> {
        Box::pin(async move {
            let next = self.0.lock().await.recv().await;
            next.ok_or_else(|| io::ErrorKind::NotConnected.into())
        })
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    segments: VecDeque<(Instant, Vec<u8>)>,
    /// When its end arrives.
    end: Option<Instant>,
    reader_gone: bool,
    reader: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// One end of a connection.
struct Wire {
    net: Network,
    from: Place,
    to: Place,
    lives: (u64, u64),
    read: Arc<Mutex<Pipe>>,
    write: Arc<Mutex<Pipe>>,
    timer: Option<Pin<Box<Sleep>>>,
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    fn is_lost(&self) -> bool {
        self.lives != (self.net.life(self.from), self.net.life(self.to))
    }

    /// Nothing overtakes what was sent before.
    fn arrival(&self, pipe: &Pipe) -> Instant {
        let at = Instant::now() + self.net.delay(self.from, self.to);
        pipe.segments.back().map_or(at, |last| at.max(last.0))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            let now = Instant::now();
            let lost = self.is_lost();
            let passes = self.net.passes(self.to, self.from);
            let mut pipe = lock(&self.read);
            let due = pipe.segments.front().map(|first| first.0).or(pipe.end);
            let Some(due) = due.filter(|_| !lost) else {
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let until = if due > now {
                due
            } else if passes {
                if let Some((_, mut bytes)) = pipe.segments.pop_front() {
                    let rest = bytes.split_off(bytes.len().min(buffer.remaining()));
                    buffer.put_slice(&bytes);
                    if !rest.is_empty() {
                        pipe.segments.push_front((due, rest));
                    }
                }
                return Poll::Ready(Ok(()));
            } else {
                now + RETRY
            };
            drop(pipe);
            self.timer = Some(Box::pin(tokio::time::sleep_until(until)));
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.write);
        if pipe.reader_gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let at = self.arrival(&pipe);
        pipe.segments.push_back((at, bytes.to_vec()));
        pipe.wake();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.write);
        let at = self.arrival(&pipe);
        pipe.end.get_or_insert(at);
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut pipe = lock(&self.write);
        let at = self.arrival(&pipe);
        pipe.end.get_or_insert(at);
        pipe.wake();
        drop(pipe);
        if self.net.joined(self.from, self.to) {
            lock(&self.read).reader_gone = true;
        }
    }
}
