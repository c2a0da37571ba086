//! Reading certificates: whom one names, its serial number, its dates. Whatever is not exactly as ours are is an error.
use std::{fmt, time::Duration};

use pitwall_core::{identity::Subject, io::Millis};
use pitwall_proto::join::hex;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::{IdentityError, Result};

/// What a client's certificate says. That it was signed by the authority is checked elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub subject: Subject,
    pub serial: String,
    pub expires: Millis,
}

#[derive(Clone, Copy, Debug)]
pub struct Unreadable(&'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl From<Unreadable> for IdentityError {
    fn from(error: Unreadable) -> Self {
        Self::Crypto { doing: "read a certificate", why: error.0.into() }
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> std::result::Result<X509Certificate<'a>, Unreadable> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(Unreadable("it is no certificate")),
    }
}

/// A client's certificate: exactly one name, and that a subject of ours.
pub fn client(der: &CertificateDer<'_>) -> std::result::Result<Seen, Unreadable> {
    let certificate = parse(der)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Unreadable("its names cannot be read"))?
        .ok_or(Unreadable("it names nobody"))?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return Err(Unreadable("it has not exactly one name of the form spiffe://pitwall/…"));
    };
    let subject = Subject::parse(uri).ok_or(Unreadable("its name is none of the form spiffe://pitwall/…"))?;
    let expires = expires(&certificate);
    Ok(Seen { subject, serial: hex(certificate.raw_serial()), expires })
}

fn expires(certificate: &X509Certificate<'_>) -> Millis {
    certificate.validity().not_after.timestamp().saturating_mul(1_000)
}

/// A moment at which this certificate counts: now, or the nearest one. So its signature can be checked apart from its
/// dates, and whoever comes with an expired one can be told so.
pub fn moment_inside(der: &CertificateDer<'_>, now: UnixTime) -> std::result::Result<UnixTime, Unreadable> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
    let (begins, ends) = (seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp()));
    if begins > ends {
        return Err(Unreadable("it ends before it begins"));
    }
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().clamp(begins, ends))))
}

pub fn serial_of(der: &CertificateDer<'_>) -> Result<String> {
    Ok(hex(parse(der)?.raw_serial()))
}

/// The whole `SubjectPublicKeyInfo`.
pub fn public_key(der: &CertificateDer<'_>) -> Result<Vec<u8>> {
    Ok(parse(der)?.public_key().raw.to_vec())
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}
