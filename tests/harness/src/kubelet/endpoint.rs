//! Port 10250 of a simulated node: answers every request with 401 over TLS, as a kubelet does to
//! strangers. Agents of control-plane nodes look whether their kubelet is alive.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

/// The port of a kubelet.
const PORT: u16 = 10250;

/// Answers at `address` until it is dropped, as long as `alive` says so.
pub(crate) async fn serve(address: Ipv4Addr, alive: impl Fn() -> bool) -> anyhow::Result<()> {
    let tls = acceptor()?;
    let listener = TcpListener::bind((address, PORT))
        .await
        .context("listen as the kubelet")?;
    loop {
        let (stream, _) = listener.accept().await?;
        if alive() {
            let tls = tls.clone();
            // A broken connection is the client's problem.
            drop(tokio::spawn(async move { drop(answer(tls, stream).await) }));
        }
    }
}

async fn answer(tls: TlsAcceptor, stream: TcpStream) -> anyhow::Result<()> {
    let mut stream = tls.accept(stream).await?;
    let mut request = [0; 1024];
    let _some: usize = stream.read(&mut request).await?;
    stream
        .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await?;
    stream.shutdown().await?;
    Ok(())
}

fn acceptor() -> anyhow::Result<TlsAcceptor> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["kubelet".to_owned()])?.self_signed(&key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
