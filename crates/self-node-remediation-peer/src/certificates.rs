//! The shared certificate of all agents: made by the manager, kept in one Secret.
//!
//! Made here: ECDSA P-256, PKCS#8 key, random serial numbers, distinct names. Accepted: whatever
//! [`Identity`] accepts, which includes the Secrets of the original.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use rustls_pki_types::UnixTime;

use crate::tls::{Identity, SERVER_NAME, TlsError};

/// Name of the Secret in the operator's namespace.
pub const SECRET_NAME: &str = "self-node-remediation-certificates";
/// Key of the CA certificates in the Secret.
pub const CA_FIELD: &str = "caPem";
/// Key of the certificate in the Secret.
pub const CERT_FIELD: &str = "certPem";
/// Key of the private key in the Secret.
pub const KEY_FIELD: &str = "keyPem";

/// Ten years, as the original.
const LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// Clocks of nodes may be behind.
const SKEW: Duration = Duration::from_hours(1);

/// The three PEM texts of the Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateSet {
    /// One or more CA certificates.
    pub ca_pem: String,
    /// The certificate of every agent.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: String,
}

impl std::fmt::Debug for CertificateSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        f.debug_struct("CertificateSet").finish_non_exhaustive()
    }
}

/// When parts of a set expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The certificate's own end.
    pub not_after: Timestamp,
    /// The earliest end of any certificate of the set; rotation is due before it.
    pub first_expiry: Timestamp,
}

/// Why a set could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The library refused.
    #[error("could not make the peer certificates")]
    Generate(#[from] rcgen::Error),
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The clock is outside what certificates can express.
    #[error("the clock is out of range")]
    Clock,
}

/// Why a set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateProblem {
    /// Peers would not accept it.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate's dates cannot be read.
    #[error("{field} holds a certificate that cannot be parsed")]
    Unreadable {
        /// The key of the Secret.
        field: &'static str,
        /// The parser's reason.
        #[source]
        source: x509_parser::nom::Err<x509_parser::error::X509Error>,
    },
    /// A date beyond what can be represented.
    #[error("{field} holds a certificate with an impossible date")]
    Date {
        /// The key of the Secret.
        field: &'static str,
    },
}

impl CertificateSet {
    /// Makes a CA, signs one certificate and forgets the CA's key.
    pub fn create(now: Timestamp) -> Result<Self, CreateError> {
        let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut ca = params("self-node-remediation peer CA", now)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        let ca = CertifiedIssuer::self_signed(ca, ca_key)?;

        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut leaf = params("self-node-remediation peer", now)?;
        leaf.is_ca = IsCa::NoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.subject_alt_names = vec![SanType::IpAddress(SERVER_NAME)];
        let leaf = leaf.signed_by(&key, &ca)?;
        Ok(Self {
            ca_pem: ca.pem(),
            cert_pem: leaf.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Checks that agents can use this set at `now`, and tells until when.
    pub fn validate(&self, now: Timestamp) -> Result<Validity, CertificateProblem> {
        let identity = self.identity()?;
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        identity.verify(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))?;
        let mut ends = Vec::new();
        for (field, certificates) in [(CERT_FIELD, identity.chain()), (CA_FIELD, identity.cas())] {
            for der in certificates {
                let (_, parsed) = x509_parser::parse_x509_certificate(der)
                    .map_err(|source| CertificateProblem::Unreadable { field, source })?;
                let end = Timestamp::from_second(parsed.validity().not_after.timestamp())
                    .map_err(|_out_of_range| CertificateProblem::Date { field })?;
                ends.push(end);
            }
        }
        let not_after = ends.first().copied();
        let first_expiry = ends.iter().copied().min();
        match (not_after, first_expiry) {
            (Some(not_after), Some(first_expiry)) => Ok(Validity {
                not_after,
                first_expiry,
            }),
            (None, _) | (_, None) => Err(TlsError::Empty { field: CERT_FIELD }.into()),
        }
    }

    /// The parsed set.
    pub fn identity(&self) -> Result<Identity, TlsError> {
        Identity::from_pem(
            self.ca_pem.as_bytes(),
            self.cert_pem.as_bytes(),
            self.key_pem.as_bytes(),
        )
    }
}

fn params(common_name: &str, now: Timestamp) -> Result<CertificateParams, CreateError> {
    let since_epoch = u64::try_from(now.as_second()).map_err(|_negative| CreateError::Clock)?;
    let since_epoch = Duration::from_secs(since_epoch);
    let start = since_epoch.checked_sub(SKEW).ok_or(CreateError::Clock)?;
    let end = since_epoch
        .checked_add(LIFETIME)
        .ok_or(CreateError::Clock)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + start;
    params.not_after = epoch + end;
    params.serial_number = Some(serial()?);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "medik8s");
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A positive random number of 126 bits (RFC 5280 allows 20 bytes and wants it positive).
fn serial() -> Result<SerialNumber, CreateError> {
    let mut bytes = [0_u8; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_failed| CreateError::Random)?;
    let [first, ..] = &mut bytes;
    *first = (*first & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests;
