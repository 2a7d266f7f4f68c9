//! The network, behind a seam: TCP, or what a simulation puts in its place.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of whatever kind.
pub type Connection = Box<dyn Stream>;

/// Something that comes later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

type Dial = dyn Fn(SocketAddr) -> Pending<'static, io::Result<Connection>> + Send + Sync;

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Dialer(Arc<Dial>);

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl Dialer {
    /// By TCP.
    pub fn tcp() -> Self {
        Self::new(|address| {
            Box::pin(async move {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok(Box::new(tcp) as Connection)
            })
        })
    }

    /// By TCP, from this address of the host instead of the one that the routes choose.
    pub fn tcp_from(from: IpAddr) -> Self {
        Self::new(move |address| {
            Box::pin(async move {
                let socket = if from.is_ipv6() {
                    TcpSocket::new_v6()?
                } else {
                    TcpSocket::new_v4()?
                };
                socket.bind(SocketAddr::new(from, 0))?;
                let tcp = socket.connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok(Box::new(tcp) as Connection)
            })
        })
    }

    /// By other means.
    pub fn new(
        dial: impl Fn(SocketAddr) -> Pending<'static, io::Result<Connection>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(dial))
    }

    /// Opens a connection; never gives up by itself.
    pub async fn dial(&self, address: SocketAddr) -> io::Result<Connection> {
        (self.0)(address).await
    }
}

/// Takes connections in.
pub trait Listener: Send + Sync {
    /// The next connection, and who opened it.
    fn accept(&self) -> Pending<'_, io::Result<(Connection, SocketAddr)>>;
}

impl Listener for TcpListener {
    fn accept(&self) -> Pending<'_, io::Result<(Connection, SocketAddr)>> {
        Box::pin(async move {
            let (tcp, peer) = Self::accept(self).await?;
            tcp.set_nodelay(true)?;
            Ok((Box::new(tcp) as Connection, peer))
        })
    }
}

impl Listener for Box<dyn Listener> {
    fn accept(&self) -> Pending<'_, io::Result<(Connection, SocketAddr)>> {
        self.as_ref().accept()
    }
}
