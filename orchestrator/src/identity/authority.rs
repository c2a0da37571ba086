//! The built-in certificate authority: made once, its key readable by its owner only. It signs what it is told by the
//! records, from a public key alone; nothing of a request is copied.
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pitwall_core::{
    identity::{Role, Subject},
    io::Millis,
};
use pitwall_proto::join::hex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use ring::rand::SecureRandom as _;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

use super::{AUTHORITY_LIFE, BACKDATED, IdentityError, Result, crypto, files, keeper::RECORDS, ms, now};

pub(super) const CERTIFICATE: &str = "authority.pem";
const KEY: &str = "authority.key";
const SERIAL_BYTES: usize = 16;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    fingerprint: [u8; 32],
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", hex(&self.fingerprint))
    }
}

/// A client's certificate that was just made.
#[derive(Clone, Debug)]
pub struct Signed {
    pub pem: String,
    pub serial: String,
    pub expires: Millis,
}

impl Authority {
    /// The one in this directory; made when there is none. The second value tells whether it was made now.
    pub fn open_or_make(dir: &Path) -> Result<(Self, bool)> {
        let [certificate, key] = [CERTIFICATE, KEY].map(|name| dir.join(name));
        match (files::read_text(&certificate)?, files::read_text(&key)?) {
            (Some(pem), Some(key_pem)) => Ok((Self::read(pem, &key_pem, &certificate)?, false)),
            // Made before, and given out: another one in its place would lock everybody out.
            (None, key_pem) if dir.join(RECORDS).exists() => Err(IdentityError::File {
                doing: "find the authority of the records in",
                path: dir.into(),
                why: format!(
                    "{} gone; restore it, or remove the directory and let everybody join again",
                    if key_pem.is_some() { "authority.pem is" } else { "authority.pem and authority.key are" }
                ),
            }),
            (None, None) => {
                let (pem, key_pem) = make()?;
                files::make_private_dir(dir)?;
                // The key first: a certificate without one would look like a lost key.
                files::write(&key, key_pem.as_bytes(), files::SECRET)?;
                files::write(&certificate, pem.as_bytes(), files::PUBLIC)?;
                Ok((Self::read(pem, &key_pem, &certificate)?, true))
            }
            // Made halfway: nobody was ever given anything of it.
            (None, Some(_)) => {
                std::fs::remove_file(&key).map_err(files::failed("remove", &key))?;
                Self::open_or_make(dir)
            }
            (Some(_), None) => Err(IdentityError::File {
                doing: "find the key of the authority",
                path: key,
                why: "it is gone; restore it, or remove the directory and let everybody join again".into(),
            }),
        }
    }

    fn read(pem: String, key_pem: &str, path: &Path) -> Result<Self> {
        let unusable = |why: String| IdentityError::File { doing: "use the authority in", path: path.into(), why };
        let key = KeyPair::from_pem(key_pem).map_err(|error| unusable(error.to_string()))?;
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unusable(error.to_string()))?.into_owned();
        let known = super::certificate::public_key(&certificate).map_err(|error| unusable(error.to_string()))?;
        if known != key.subject_public_key_info() {
            return Err(unusable("the key beside it belongs to another certificate".into()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unusable(error.to_string()))?;
        let fingerprint = super::certificate::sha256(&certificate);
        Ok(Self { issuer, certificate, pem, fingerprint })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of its certificate, as tokens pin it.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// A client's certificate: everything in it but the key comes from here.
    pub fn sign_client(
        &self,
        subject: &Subject,
        key: &impl PublicKeyData,
        from: Millis,
        life: Duration,
    ) -> Result<Signed> {
        // Certificates count whole seconds; rounding up keeps very short ones alive.
        let expires = (from + ms(life)).div_euclid(1_000) * 1_000 + 1_000;
        let serial = random::<SERIAL_BYTES>()?;
        let mut params = params(from - ms(BACKDATED), expires, &serial)?;
        params.distinguished_name.push(DnType::CommonName, subject.name());
        if let Some(role) = pitwall_core::identity::role(subject) {
            params.distinguished_name.push(DnType::OrganizationalUnitName, Role::word(role));
        }
        params.subject_alt_names = vec![SanType::URI(ia5(&subject.to_string())?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(key, &self.issuer).map_err(crypto("sign a certificate"))?;
        Ok(Signed { pem: certificate.pem(), serial: super::certificate::serial_of(certificate.der())?, expires })
    }

    /// The server's own certificate with a key of its own, never on disk. The chain holds the authority too, so that
    /// whoever has only its fingerprint can find it there.
    pub fn sign_server(&self, names: &[String], life: Duration) -> Result<(Arc<CertifiedKey>, Millis)> {
        let (from, serial) = (now(), random::<SERIAL_BYTES>()?);
        let expires = from + ms(life);
        let mut params = params(from - ms(BACKDATED), expires, &serial)?;
        params.distinguished_name.push(DnType::CommonName, "pitwall orchestrator");
        params.subject_alt_names = names.iter().map(|name| san(name)).collect::<Result<_>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(crypto("make a key"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(crypto("sign the server's certificate"))?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = rustls::crypto::ring::sign::any_supported_type(&der)
            .map_err(|error| IdentityError::Crypto { doing: "use the server's key", why: error.to_string() })?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        Ok((Arc::new(CertifiedKey::new(chain, signing)), expires))
    }
}

fn make() -> Result<(String, String)> {
    let from = now();
    let serial = random::<SERIAL_BYTES>()?;
    let mut params = params(from - ms(BACKDATED), from + ms(AUTHORITY_LIFE), &serial)?;
    // Told apart from those of other orchestrators where a client lists several.
    params.distinguished_name.push(DnType::CommonName, format!("pitwall authority {}", hex(&serial[..4])));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(crypto("make the authority's key"))?;
    let certificate = params.self_signed(&key).map_err(crypto("make the authority"))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn params(from: Millis, until: Millis, serial: &[u8]) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.not_before = at(from)?;
    params.not_after = at(until)?;
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn at(moment: Millis) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(moment.div_euclid(1_000))
        .map_err(|error| IdentityError::Crypto { doing: "date a certificate", why: error.to_string() })
}

fn ia5(text: &str) -> Result<Ia5String> {
    Ia5String::try_from(text).map_err(crypto("name a certificate"))
}

/// A name that clients connect to: an address or a host name, `*.` allowed.
fn san(name: &str) -> Result<SanType> {
    match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(ia5(name)?)),
    }
}

/// From the system.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| IdentityError::Crypto { doing: "draw random numbers", why: "the system gave none".into() })?;
    Ok(bytes)
}

/// The names under which this server is reached when nobody says: loopback and the machine's own name.
pub fn names(told: &[String]) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if is_host_name(&host) {
        names.push(host);
    }
    for name in told {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Letters, digits, `-` and `.`, or `*.` before them: what a certificate may be for.
pub fn is_host_name(name: &str) -> bool {
    let bare = name.strip_prefix("*.").unwrap_or(name);
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    bare.len() <= 253 && bare.split('.').all(label)
}

/// Where the authority lies in a data directory.
pub fn directory(data: &Path) -> PathBuf {
    data.join("identity")
}
