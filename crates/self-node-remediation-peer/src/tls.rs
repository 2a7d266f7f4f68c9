//! TLS of the peer service: version 1.3, ALPN `h2`, both sides with the shared certificate.
//!
//! Go's gRPC enforces ALPN and sends no SNI for an IP server name; the certificates of existing
//! installations are RSA-4096 with a PKCS#1 key, and leaf and CA have the same subject and
//! serial number. All of that is accepted here.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// The name in every peer certificate: an address reserved for documentation (RFC 5737), since
/// one certificate serves all agents.
pub const SERVER_NAME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The only protocol offered and accepted by ALPN.
pub const ALPN: &[u8] = b"h2";

/// Why the material of the Secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No PEM block of the expected kind, or a broken one.
    #[error("{field} cannot be read as PEM")]
    Pem {
        /// The key of the Secret.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// There is no certificate.
    #[error("{field} holds no certificate")]
    Empty {
        /// The key of the Secret.
        field: &'static str,
    },
    /// The parts do not make a usable TLS configuration.
    #[error("{what}")]
    Rejected {
        /// What is wrong.
        what: &'static str,
        /// The TLS library's reason.
        #[source]
        source: rustls::Error,
    },
    /// The CA certificates cannot serve as trust anchors.
    #[error("caPem cannot be used to verify peers")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// The parsed contents of the Secret.
pub struct Identity {
    cas: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cas", &self.cas.len())
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Parses the three PEM texts. `ca` may hold several certificates; the key may be PKCS#1,
    /// PKCS#8 or SEC1.
    pub fn from_pem(ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let pem = |field| move |source| TlsError::Pem { field, source };
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(pem(crate::certificates::KEY_FIELD))?;
        Ok(Self {
            cas: certificates(ca, crate::certificates::CA_FIELD)?,
            chain: certificates(cert, crate::certificates::CERT_FIELD)?,
            key,
        })
    }

    /// The CA certificates in DER.
    pub fn cas(&self) -> &[CertificateDer<'static>] {
        &self.cas
    }

    /// The certificate shown to peers, with what follows it in the file.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for ca in &self.cas {
            roots.add(ca.clone()).map_err(|source| TlsError::Rejected {
                what: "a certificate of caPem cannot be a trust anchor",
                source,
            })?;
        }
        Ok(Arc::new(roots))
    }

    /// What a caller uses.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(version)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(own_certificate)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // One short call per connection: resumption would only hold memory.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// What the service uses.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(version)?
            .with_client_cert_verifier(self.client_verifier()?)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(own_certificate)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(TlsError::Verifier)
    }

    /// Checks what peers will check at `now`: that the own certificate is valid in both roles
    /// under one of the CA certificates, carries the fixed name and matches the key.
    pub fn verify(&self, now: UnixTime) -> Result<(), TlsError> {
        self.client_config()?;
        self.server_config()?;
        let (leaf, rest) = self.chain.split_first().ok_or(TlsError::Empty {
            field: crate::certificates::CERT_FIELD,
        })?;
        self.client_verifier()?
            .verify_client_cert(leaf, rest, now)
            .map_err(|source| TlsError::Rejected {
                what: "peers would reject certPem as a client",
                source,
            })?;
        WebPkiServerVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(TlsError::Verifier)?
            .verify_server_cert(leaf, rest, &server_name(), &[], now)
            .map_err(|source| TlsError::Rejected {
                what: "peers would reject certPem as a server",
                source,
            })?;
        Ok(())
    }
}

fn certificates(pem: &[u8], field: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { field, source })?;
    if found.is_empty() {
        Err(TlsError::Empty { field })
    } else {
        Ok(found)
    }
}

/// The fixed name as rustls wants it.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(SERVER_NAME.into())
}

/// X25519 and P-256 are both offered (FIPS hosts lack the former).
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn version(source: rustls::Error) -> TlsError {
    TlsError::Rejected {
        what: "the TLS library lacks TLS 1.3",
        source,
    }
}

fn own_certificate(source: rustls::Error) -> TlsError {
    TlsError::Rejected {
        what: "certPem and keyPem do not belong together",
        source,
    }
}
