//! Addresses to listen on, as the originals write them.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::net::{TcpListener, lookup_host};

/// `:port`, `ip:port`, `[ipv6]:port`, `name:port`, or `0` for "do not listen".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindAddress {
    /// Do not listen.
    Disabled,
    /// All addresses of the machine, IPv6 and IPv4.
    Any(u16),
    /// One address.
    Address(SocketAddr),
    /// A host name that is resolved when the server starts.
    Name(String, u16),
}

/// An address that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("use :port, ip:port, [ipv6]:port, or 0 to turn it off")]
pub struct InvalidBindAddress;

impl FromStr for BindAddress {
    type Err = InvalidBindAddress;

    fn from_str(text: &str) -> Result<Self, InvalidBindAddress> {
        if text.is_empty() || text == "0" {
            return Ok(Self::Disabled);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidBindAddress)?;
        let port = port.parse().map_err(|_| InvalidBindAddress)?;
        if host.is_empty() {
            return Ok(Self::Any(port));
        }
        let is_name = host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_');
        if is_name {
            Ok(Self::Name(host.to_owned(), port))
        } else {
            Err(InvalidBindAddress)
        }
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("0"),
            Self::Any(port) => write!(f, ":{port}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl BindAddress {
    /// Starts listening; `None` when disabled.
    pub async fn bind(&self) -> io::Result<Option<TcpListener>> {
        match self {
            Self::Disabled => Ok(None),
            Self::Any(port) => bind_any(*port).await.map(Some),
            Self::Address(address) => TcpListener::bind(address).await.map(Some),
            Self::Name(host, port) => {
                let addresses: Vec<SocketAddr> =
                    lookup_host((host.as_str(), *port)).await?.collect();
                TcpListener::bind(addresses.as_slice()).await.map(Some)
            }
        }
    }
}

/// Listens on IPv6 and IPv4 where the kernel has both (the socket is dual-stack unless the
/// machine sets `net.ipv6.bindv6only`), on IPv4 where it has no IPv6.
async fn bind_any(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await,
    }
}
