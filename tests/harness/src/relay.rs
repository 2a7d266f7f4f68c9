//! A door from the machine's own network to the API server of a cluster in ours.
//!
//! A process that stayed outside listens on 127.0.0.1 and carries each connection to a Unix socket;
//! the harness carries it from there to the API server. TLS passes through untouched.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::copy_bidirectional,
    net::{TcpStream, UnixListener},
    time::sleep,
};

/// The half that is left outside; started before [`crate::network::enter`].
#[derive(Debug)]
pub struct Door {
    /// Where a client on this machine connects to.
    pub address: SocketAddr,
    socket: PathBuf,
    /// Dies with the harness; kept so that it is reaped.
    _outside: std::process::Child,
}

impl Door {
    /// Starts the outer half. Must be called while this process is still in the machine's network.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let (socket, announce) = (folder.join("door.sock"), folder.join("door.address"));
        let spec = crate::child::Spec {
            parent: nix::unistd::Pid::this().as_raw(),
            network: None,
            root: None,
            role: crate::child::Role::Relay {
                listen: "127.0.0.1:0".to_owned(),
                announce: announce.clone(),
                socket: socket.clone(),
            },
        };
        let outside = std::os::unix::process::CommandExt::process_group(
            std::process::Command::new("/proc/self/exe")
                .arg(crate::child::MARK)
                .arg(serde_json::to_string(&spec)?),
            0,
        )
        .stdin(std::process::Stdio::null())
        .spawn()
        .context("start the relay")?;
        for _ in 0..100 {
            if let Ok(text) = fs::read_to_string(&announce) {
                return Ok(Self {
                    address: text.trim().parse()?,
                    socket,
                    _outside: outside,
                });
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the relay did not start in 5 s")
    }

    /// The inner half: runs until it is dropped.
    #[expect(
        clippy::infinite_loop,
        reason = "a server; its task is dropped with the cluster"
    )]
    pub async fn serve(&self, target: SocketAddr) -> anyhow::Result<()> {
        let listener = UnixListener::bind(&self.socket)?;
        loop {
            match listener.accept().await {
                Ok((mut outer, _)) => drop(tokio::spawn(async move {
                    if let Ok(mut inner) = TcpStream::connect(target).await {
                        // The end of either side ends both; there is nobody to tell.
                        drop(copy_bidirectional(&mut outer, &mut inner).await);
                    }
                })),
                // Out of descriptors: wait for some to close.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// The outer half (a process of its own, one thread per direction: no runtime is needed).
pub(crate) fn serve_outside(listen: &str, announce: &Path, socket: &Path) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    let aside = announce.with_extension("new");
    fs::write(&aside, listener.local_addr()?.to_string())?;
    fs::rename(&aside, announce)?;
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let Ok(server) = UnixStream::connect(socket) else {
            continue;
        };
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
            continue;
        };
        let up = thread::spawn(move || {
            pump(&client_too, &server_too);
            drop(server_too.shutdown(Shutdown::Write));
        });
        let down = thread::spawn(move || {
            pump(&server, &client);
            drop(client.shutdown(Shutdown::Write));
        });
        drop((up, down));
    }
    Ok(())
}

fn pump(mut from: impl Read, mut to: impl Write) {
    // A broken connection ends the copy; both clients see the closed stream.
    drop(io::copy(&mut from, &mut to));
}
