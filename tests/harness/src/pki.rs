//! Keys and certificates of one control plane.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Files of the API server's identity and of the ServiceAccount key pair.
#[derive(Debug)]
pub(crate) struct Pki {
    pub ca: PathBuf,
    pub server_certificate: PathBuf,
    pub server_key: PathBuf,
    pub accounts_private: PathBuf,
    pub accounts_public: PathBuf,
    /// The CA's certificate for kubeconfigs.
    pub ca_pem: String,
}

impl Pki {
    /// Writes all of them into `folder`; the server may be called by `addresses` and `names`.
    pub(crate) fn write(
        folder: &Path,
        addresses: &[IpAddr],
        names: &[&str],
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let pki = |ca_pem| Self {
            ca: folder.join("ca.crt"),
            server_certificate: folder.join("apiserver.crt"),
            server_key: folder.join("apiserver.key"),
            accounts_private: folder.join("accounts.key"),
            accounts_public: folder.join("accounts.pub"),
            ca_pem,
        };
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "medik8s test cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let ca_key = KeyPair::generate()?;
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::from_params(&params, &ca_key);

        let mut server = CertificateParams::new(
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )?;
        server
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        server
            .subject_alt_names
            .extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server_key = KeyPair::generate()?;
        let server = server.signed_by(&server_key, &issuer)?;

        let accounts = KeyPair::generate()?;
        let files = pki(ca.pem());
        fs::write(&files.ca, &files.ca_pem)?;
        fs::write(&files.server_certificate, server.pem())?;
        fs::write(&files.server_key, server_key.serialize_pem())?;
        fs::write(&files.accounts_private, accounts.serialize_pem())?;
        fs::write(&files.accounts_public, accounts.public_key_pem())?;
        Ok(files)
    }
}
