//! Certificates of our own servers: from files, or made in memory.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::sign::CertifiedKey;

use crate::{
    probes::Check,
    shutdown::Shutdown,
    tls::{CertSlot, TlsError, certified_key},
};

/// How often mounted files are looked at. The kubelet itself takes up to a minute to update them.
pub const RELOAD_PERIOD: Duration = Duration::from_secs(10);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file cannot be read.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The files hold something else than a certificate and its key.
    #[error("{certificate} and {key} are not a certificate and its key")]
    Content {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// Why not.
        #[source]
        source: TlsError,
    },
    /// A certificate could not be made.
    #[error("could not make a certificate")]
    Make(#[source] rcgen::Error),
    /// A certificate that was made cannot be used.
    #[error("could not use a certificate that was just made")]
    Use(#[source] TlsError),
}

/// Device, inode, time of change in seconds and nanoseconds, size.
type Fingerprint = (u64, u64, i64, i64, u64);

/// A certificate and its key in two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertFiles {
    /// PEM file with the certificate, chain optional.
    pub certificate: PathBuf,
    /// PEM file with the key.
    pub key: PathBuf,
}

impl CertFiles {
    /// `tls.crt` and `tls.key` in a directory.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            certificate: dir.join("tls.crt"),
            key: dir.join("tls.key"),
        }
    }

    /// Where OLM mounts them: `apiserver.crt` and `apiserver.key`.
    pub fn olm() -> Self {
        let dir = Path::new("/apiserver.local.config/certificates");
        Self {
            certificate: dir.join("apiserver.crt"),
            key: dir.join("apiserver.key"),
        }
    }

    /// controller-runtime's directory, also mounted by OLM.
    pub fn serving() -> Self {
        Self::in_dir(Path::new("/tmp/k8s-webhook-server/serving-certs"))
    }

    /// Whether both files are there.
    pub fn exist(&self) -> bool {
        self.certificate.is_file() && self.key.is_file()
    }

    /// Reads and checks both files.
    pub fn load(&self) -> Result<CertifiedKey, CertError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| CertError::Read {
                path: path.to_owned(),
                source,
            })
        };
        certified_key(&read(&self.certificate)?, &read(&self.key)?).map_err(|source| {
            CertError::Content {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
                source,
            }
        })
    }

    /// What changes when the files do, through the kubelet's symbolic links.
    fn fingerprint(&self) -> Option<[Fingerprint; 2]> {
        let one = |path: &Path| {
            let meta = fs::metadata(path).ok()?;
            Some((
                meta.dev(),
                meta.ino(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.size(),
            ))
        };
        Some([one(&self.certificate)?, one(&self.key)?])
    }
}

/// Keeps `slot` filled from the first pair of files that exists, until `stop`.
///
/// Files that cannot be used are reported once per change; the certificate served before stays.
pub async fn follow(files: &[CertFiles], slot: &CertSlot, check: &Check, stop: &Shutdown) {
    let mut seen = None;
    let mut told_missing = false;
    loop {
        match files.iter().find(|pair| pair.exist()) {
            Some(pair) => {
                told_missing = false;
                let now = Some((pair, pair.fingerprint()));
                if now != seen {
                    seen = now;
                    load_into(pair, slot, check);
                }
            }
            None if !told_missing => {
                told_missing = true;
                let places: Vec<_> = files
                    .iter()
                    .map(|pair| pair.certificate.display().to_string())
                    .collect();
                let places = places.join(" or ");
                if !slot.is_set() {
                    check.fail(format!("no certificate at {places}"));
                }
                tracing::error!(places, "there is no certificate; waiting for it");
            }
            None => {}
        }
        if stop
            .or_stop(tokio::time::sleep(RELOAD_PERIOD))
            .await
            .is_none()
        {
            return;
        }
    }
}

fn load_into(pair: &CertFiles, slot: &CertSlot, check: &Check) {
    match pair.load() {
        Ok(certified) => {
            tracing::info!(file = %pair.certificate.display(), "loaded certificate");
            slot.set(certified);
            check.pass();
        }
        Err(error) => {
            if !slot.is_set() {
                check.fail(error.to_string());
            }
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "could not load the certificate"
            );
        }
    }
}

/// A certificate for this process only, trusted by nobody: callers of `/metrics` either skip
/// verification or get a proper certificate mounted.
pub fn self_signed(product: &str) -> Result<CertSlot, CertError> {
    let mut params =
        CertificateParams::new(vec!["localhost".to_owned()]).map_err(CertError::Make)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, product);
    params.distinguished_name = name;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(CertError::Make)?;
    let certificate = params.self_signed(&key).map_err(CertError::Make)?;
    let certified = certified_key(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
        .map_err(CertError::Use)?;
    let slot = CertSlot::default();
    slot.set(certified);
    Ok(slot)
}

#[cfg(test)]
mod tests;
