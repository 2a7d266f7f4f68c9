//! The operator's own certificate authority: what to keep, what to make. No I/O, no clock.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time,
};

use crate::tls::certified_key;

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
/// A new authority is made when the old one has less than this left. Longer than a certificate
/// lives, so that no certificate outlives its authority.
const AUTHORITY_RENEWAL: Duration = DAY.saturating_mul(730);
const CERTIFICATE_LIFE: Duration = DAY.saturating_mul(365);
const CERTIFICATE_RENEWAL: Duration = DAY.saturating_mul(120);

const BUNDLE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What the Secret holds, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Material {
    /// Certificates of authorities to trust; the first one signs.
    pub(super) bundle: Vec<u8>,
    /// Key of the authority that signs.
    pub(super) authority_key: Vec<u8>,
    /// What is served.
    pub(super) certificate: Vec<u8>,
    /// Its key.
    pub(super) key: Vec<u8>,
}

/// Why something could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error("could not make a key or certificate")]
    Make(#[from] rcgen::Error),
    #[error("the stored authority cannot be used")]
    Stored,
    #[error("the certificate's dates cannot be represented")]
    Dates,
}

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A new authority and a certificate signed by it.
    Authority,
    /// A certificate signed by the authority that is there.
    Certificate,
}

/// What to do about the Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Use it as it is.
    Keep,
    /// Make something and store it.
    Make(Wanted),
}

impl Material {
    /// Reads a Secret's data; `None` when an entry is missing.
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let entry = |key: &str| data.get(key).map(|bytes| bytes.0.clone());
        Some(Self {
            bundle: entry(BUNDLE)?,
            authority_key: entry(AUTHORITY_KEY)?,
            certificate: entry(CERTIFICATE)?,
            key: entry(KEY)?,
        })
    }

    /// The data of a Secret.
    pub(super) fn entries(&self) -> [(&'static str, Vec<u8>); 4] {
        [
            (BUNDLE, self.bundle.clone()),
            (AUTHORITY_KEY, self.authority_key.clone()),
            (CERTIFICATE, self.certificate.clone()),
            (KEY, self.key.clone()),
        ]
    }
}

/// Decides what to do about what is stored.
pub(super) fn plan(stored: Option<&Material>, names: &[String], now: Timestamp) -> Plan {
    let Some(stored) = stored else {
        return Plan::Make(Wanted::Authority);
    };
    if !authority_is_good(stored, now) {
        return Plan::Make(Wanted::Authority);
    }
    if certificate_is_good(stored, names, now) {
        Plan::Keep
    } else {
        Plan::Make(Wanted::Certificate)
    }
}

/// Makes what is wanted. The bundle keeps earlier authorities that have not run out, so that
/// replicas that still serve the earlier certificate are trusted.
pub(super) fn make(
    wanted: Wanted,
    stored: Option<&Material>,
    names: &[String],
    now: Timestamp,
) -> Result<Material, AuthorityError> {
    match (wanted, stored) {
        (Wanted::Certificate, Some(stored)) => {
            let signer = KeyPair::from_pem(text(&stored.authority_key)?)?;
            let first = text(&stored.bundle)?;
            let issuer = Issuer::from_ca_cert_pem(first, signer)?;
            let (certificate, key) = certificate(&issuer, names, now)?;
            Ok(Material {
                certificate,
                key,
                ..stored.clone()
            })
        }
        (Wanted::Authority, _) | (Wanted::Certificate, None) => {
            let signer = KeyPair::generate()?;
            let params = authority_params(now)?;
            let mut bundle = params.self_signed(&signer)?.pem();
            for old in stored
                .into_iter()
                .flat_map(|stored| trusted(&stored.bundle, now))
            {
                bundle.push_str(&old);
            }
            let authority_key = signer.serialize_pem();
            let issuer = Issuer::new(params, signer);
            let (certificate, key) = certificate(&issuer, names, now)?;
            Ok(Material {
                bundle: bundle.into_bytes(),
                authority_key: authority_key.into_bytes(),
                certificate,
                key,
            })
        }
    }
}

fn authority_params(now: Timestamp) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(Vec::new())?;
    let mut name = DistinguishedName::new();
    // Two authorities must not have the same name, or a verifier may try only one of them.
    name.push(
        DnType::CommonName,
        format!("medik8s webhook authority {}", now.as_second()),
    );
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_LIFE, now)?;
    Ok(params)
}

fn certificate(
    issuer: &Issuer<'_, KeyPair>,
    names: &[String],
    now: Timestamp,
) -> Result<(Vec<u8>, Vec<u8>), AuthorityError> {
    let mut params = CertificateParams::new(names.to_vec())?;
    let mut name = DistinguishedName::new();
    // At most 64 characters fit into a common name; verifiers look at the alternative names only.
    name.push(DnType::CommonName, "medik8s webhook");
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, CERTIFICATE_LIFE, now)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((
        certificate.pem().into_bytes(),
        key.serialize_pem().into_bytes(),
    ))
}

/// From yesterday, for clocks that are late.
fn valid_for(
    params: &mut CertificateParams,
    life: Duration,
    now: Timestamp,
) -> Result<(), AuthorityError> {
    let date = |at: Timestamp| {
        let date = at.to_zoned(TimeZone::UTC).date();
        let month = u8::try_from(date.month()).map_err(|_| AuthorityError::Dates)?;
        let day = u8::try_from(date.day()).map_err(|_| AuthorityError::Dates)?;
        Ok::<_, AuthorityError>(date_time_ymd(i32::from(date.year()), month, day))
    };
    let start = now.checked_sub(DAY).map_err(|_| AuthorityError::Dates)?;
    params.not_before = date(start)?;
    params.not_after = date(now.checked_add(life).map_err(|_| AuthorityError::Dates)?)?;
    params.serial_number = Some(SerialNumber::from(rand::random::<[u8; 16]>().to_vec()));
    Ok(())
}

fn text(pem: &[u8]) -> Result<&str, AuthorityError> {
    std::str::from_utf8(pem).map_err(|_| AuthorityError::Stored)
}

fn ders(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect()
}

fn authority_is_good(stored: &Material, now: Timestamp) -> bool {
    let bundle = ders(&stored.bundle);
    let Some(first) = bundle.first() else {
        return false;
    };
    let Ok((_, parsed)) = X509Certificate::from_der(first) else {
        return false;
    };
    let Some(key) = text(&stored.authority_key)
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
    else {
        return false;
    };
    parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
        && lasts(&parsed, AUTHORITY_RENEWAL, now)
}

fn certificate_is_good(stored: &Material, names: &[String], now: Timestamp) -> bool {
    let (bundle, chain) = (ders(&stored.bundle), ders(&stored.certificate));
    let (Some(authority), Some(leaf)) = (bundle.first(), chain.first()) else {
        return false;
    };
    let (Ok((_, authority)), Ok((_, leaf))) = (
        X509Certificate::from_der(authority),
        X509Certificate::from_der(leaf),
    ) else {
        return false;
    };
    certified_key(&stored.certificate, &stored.key).is_ok()
        && leaf.verify_signature(Some(authority.public_key())).is_ok()
        && lasts(&leaf, CERTIFICATE_RENEWAL, now)
        && names.iter().all(|name| covers(&leaf, name))
}

/// Whether nobody accepts this certificate any more.
pub(super) fn has_expired(material: &Material, now: Timestamp) -> bool {
    let chain = ders(&material.certificate);
    chain.first().is_none_or(|leaf| {
        X509Certificate::from_der(leaf).is_ok_and(|(_, leaf)| !lasts(&leaf, Duration::ZERO, now))
    })
}

fn lasts(certificate: &X509Certificate<'_>, renewal: Duration, now: Timestamp) -> bool {
    let Ok(limit) = now.checked_add(renewal) else {
        return false;
    };
    let Ok(limit) = ASN1Time::from_timestamp(limit.as_second()) else {
        return false;
    };
    let Ok(now) = ASN1Time::from_timestamp(now.as_second()) else {
        return false;
    };
    let validity = certificate.validity();
    validity.not_before <= now && limit < validity.not_after
}

fn covers(certificate: &X509Certificate<'_>, name: &str) -> bool {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return false;
    };
    let address = name.parse::<IpAddr>().ok().map(|address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    alternatives
        .value
        .general_names
        .iter()
        .any(|one| match (one, &address) {
            (GeneralName::DNSName(dns), None) => dns.eq_ignore_ascii_case(name),
            (GeneralName::IPAddress(bytes), Some(address)) => *bytes == address.as_slice(),
            _ => false,
        })
}

/// Earlier authorities that still count, each as PEM.
fn trusted(bundle: &[u8], now: Timestamp) -> Vec<String> {
    ders(bundle)
        .into_iter()
        .filter(|der| {
            X509Certificate::from_der(der)
                .is_ok_and(|(_, parsed)| lasts(&parsed, Duration::ZERO, now))
        })
        .map(|der| pem_text(&der))
        .collect()
}

fn pem_text(der: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let encoded = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, symbol) in encoded.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(symbol);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests;
