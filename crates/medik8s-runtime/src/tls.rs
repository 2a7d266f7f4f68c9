//! TLS of our own servers.
//!
//! # Purpose
//! Certificates that can be exchanged while serving ([`CertSlot`]), and protocol versions and
//! ciphers by OpenShift's profiles ([`Profile`]).
//!
//! # Caveats
//! rustls offers TLS 1.2 with forward secrecy and AEAD ciphers, and TLS 1.3. Profiles that would
//! also allow older protocols or ciphers are served with these.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::{
    ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::watch;

pub mod openshift;

/// The lowest protocol version of a [`Profile::Custom`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MinVersion {
    /// TLS 1.2 (also for profiles that name 1.0 or 1.1).
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// OpenShift's `spec.tlsSecurityProfile`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Profile {
    /// TLS 1.2 and newer; also used for OpenShift's `Old`.
    #[default]
    Intermediate,
    /// TLS 1.3 only.
    Modern,
    /// Named by the administrator.
    Custom {
        /// Lowest protocol version.
        min_version: MinVersion,
        /// Ciphers in OpenSSL's or IANA's spelling; unknown ones are left out.
        ciphers: Vec<String>,
    },
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM.
    #[error("the {what} is not valid PEM")]
    Pem {
        /// Certificate or key.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// No certificate in the file.
    #[error("there is no certificate in the PEM text")]
    Empty,
    /// A certificate, key or profile that rustls refuses.
    #[error("the certificate, key or profile cannot be used")]
    Refused(#[source] rustls::Error),
    /// No common cipher is left.
    #[error("none of the profile's ciphers is supported")]
    NoCipher,
    /// Client certificates cannot be verified.
    #[error("the client CA cannot be used")]
    ClientCa(#[source] rustls::server::VerifierBuilderError),
}

/// A certificate that can be exchanged while it is served. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CertSlot(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl CertSlot {
    /// Serves this certificate from the next handshake on.
    pub fn set(&self, certified: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
    }

    /// Whether there is a certificate.
    pub fn is_set(&self) -> bool {
        self.get().is_some()
    }

    pub(crate) fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for CertSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}

/// Reads a certificate chain (leaf first, CA not needed) and its key (PKCS#8, SEC1 or PKCS#1) and
/// checks that they belong together.
pub fn certified_key(chain_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem {
            what: "certificate",
            source,
        })?;
    if chain.is_empty() {
        return Err(TlsError::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|source| TlsError::Pem {
        what: "key",
        source,
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(TlsError::Refused)
}

/// Which clients a server accepts.
#[derive(Debug, Clone)]
enum Clients {
    /// Everybody.
    Anybody,
    /// Those with a certificate of a known CA; nobody while no CA is known.
    Certified(Option<Arc<dyn ClientCertVerifier>>),
}

/// What the configuration of a server is made from.
#[derive(Debug)]
struct Demands {
    profile: Profile,
    clients: Clients,
}

/// The configuration of a server, exchangeable while serving. Clones share it.
#[derive(Debug, Clone)]
pub struct ServerTls {
    certificate: CertSlot,
    http2: bool,
    demands: Arc<Mutex<Demands>>,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl ServerTls {
    /// Serves the certificate in `certificate` to anybody.
    pub fn new(certificate: CertSlot, profile: &Profile, http2: bool) -> Result<Self, TlsError> {
        let config = server_config(&certificate, profile, http2, None)?;
        let demands = Demands {
            profile: profile.clone(),
            clients: Clients::Anybody,
        };
        Ok(Self {
            certificate,
            http2,
            demands: Arc::new(Mutex::new(demands)),
            current: watch::Sender::new(Arc::new(config)),
        })
    }

    /// Uses another profile from the next connection on. Which clients are accepted stays as it is.
    pub fn set_profile(&self, profile: &Profile) -> Result<(), TlsError> {
        self.change(|demands| demands.profile = profile.clone())
    }

    /// From the next connection on accepts only clients with a certificate; nobody before a CA is
    /// given by [`Self::require_client_ca`].
    pub fn require_client_certificates(&self) -> Result<(), TlsError> {
        self.change(|demands| {
            if matches!(demands.clients, Clients::Anybody) {
                demands.clients = Clients::Certified(None);
            }
        })
    }

    /// From the next connection on accepts only clients with a certificate of one of these CAs.
    pub fn require_client_ca(&self, ca_pem: &[u8]) -> Result<(), TlsError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|source| TlsError::Pem {
                what: "client CA",
                source,
            })?;
            roots.add(certificate).map_err(TlsError::Refused)?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(TlsError::ClientCa)?;
        self.change(|demands| demands.clients = Clients::Certified(Some(verifier)))
    }

    /// Changes the demands if a server can be run by them; keeps everything as it is otherwise.
    fn change(&self, change: impl FnOnce(&mut Demands)) -> Result<(), TlsError> {
        let mut demands = self.demands.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = Demands {
            profile: demands.profile.clone(),
            clients: demands.clients.clone(),
        };
        change(&mut wanted);
        let config = match &wanted.clients {
            Clients::Anybody => {
                server_config(&self.certificate, &wanted.profile, self.http2, None)?
            }
            Clients::Certified(Some(verifier)) => {
                let verifier = Some(Arc::clone(verifier));
                server_config(&self.certificate, &wanted.profile, self.http2, verifier)?
            }
            // Without a certificate of the server every handshake fails.
            Clients::Certified(None) => {
                server_config(&CertSlot::default(), &wanted.profile, self.http2, None)?
            }
        };
        *demands = wanted;
        self.current.send_replace(Arc::new(config));
        Ok(())
    }

    /// The slot of the certificate that is served.
    pub const fn certificate(&self) -> &CertSlot {
        &self.certificate
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow())
    }
}

fn server_config(
    certificate: &CertSlot,
    profile: &Profile,
    http2: bool,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, TlsError> {
    let mut provider: CryptoProvider = ring::default_provider();
    if let Profile::Custom { ciphers, .. } = profile {
        provider
            .cipher_suites
            .retain(|suite| is_named(*suite, ciphers));
        if provider.cipher_suites.is_empty() {
            return Err(TlsError::NoCipher);
        }
    }
    let versions: &[&'static SupportedProtocolVersion] = match profile {
        Profile::Intermediate
        | Profile::Custom {
            min_version: MinVersion::Tls12,
            ..
        } => &[&TLS13, &TLS12],
        Profile::Modern
        | Profile::Custom {
            min_version: MinVersion::Tls13,
            ..
        } => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .map_err(TlsError::Refused)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificate.clone()));
    config.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    // Callers of these servers keep their connections; a session cache would only cost memory.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Whether a profile names this suite, in IANA's spelling (`TLS_ECDHE_..`) or OpenSSL's
/// (`ECDHE-..`). TLS 1.3 suites cannot be switched off in OpenShift's profiles either way.
fn is_named(suite: SupportedCipherSuite, names: &[String]) -> bool {
    let Some(iana) = suite.suite().as_str() else {
        return false;
    };
    if suite.tls13().is_some() {
        return true;
    }
    let openssl = openssl_name(iana);
    names.iter().any(|name| name == iana || *name == openssl)
}

/// `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256` is `ECDHE-RSA-AES128-GCM-SHA256` in OpenSSL.
fn openssl_name(iana: &str) -> String {
    let name = iana.strip_prefix("TLS_").unwrap_or(iana);
    if name.contains("CHACHA20") {
        let short = name.replace("_WITH_", "_");
        return short
            .strip_suffix("_SHA256")
            .unwrap_or(&short)
            .replace('_', "-");
    }
    name.replace("_WITH_", "-")
        .replace("AES_", "AES")
        .replace('_', "-")
}

#[cfg(test)]
mod tests;
