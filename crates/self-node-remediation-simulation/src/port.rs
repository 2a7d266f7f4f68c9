//! The HTTPS port of a kubelet: control-plane agents look whether it answers.

use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use self_node_remediation_peer::CertificateSet;
use self_node_remediation_peer::net::{Connection, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// The port.
pub const PORT: u16 = 10_250;

/// A certificate for all kubelets; nobody checks it.
pub fn certificate(wall: Timestamp) -> anyhow::Result<Arc<ServerConfig>> {
    let set = CertificateSet::create(wall)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(set.cert_pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("no certificate for the kubelets")?;
    let key =
        PrivateKeyDer::from_pem_slice(set.key_pem.as_bytes()).context("no key for the kubelets")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// Answers whoever asks.
pub fn serve(listener: Box<dyn Listener>, tls: Arc<ServerConfig>) -> AbortHandle {
    let tls = TlsAcceptor::from(tls);
    let serving = tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                if let Err(error) = answer(connection, tls).await {
                    tracing::debug!(%error, "a caller of a kubelet is gone");
                }
            });
        }
    });
    serving.abort_handle()
}

async fn answer(connection: Connection, tls: TlsAcceptor) -> std::io::Result<()> {
    let mut stream = tls.accept(connection).await?;
    let mut request = [0_u8; 256];
    let read = stream.read(&mut request).await?;
    if read > 0 {
        stream
            .write_all(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
            .await?;
    }
    stream.shutdown().await
}
