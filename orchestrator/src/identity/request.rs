//! Signing requests (PKCS#10): read on the orchestrator's side, made on the command line's. Whoever sends one has the
//! key: its signature is checked here.
use pitwall_core::identity::{Asked, AskedName, Denied, DeniedClass};
use pitwall_proto::join::hex;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PublicKey, PublicKeyData as _, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;

use super::{Result, certificate, crypto};

/// Larger than any request for a key of a reasonable size.
const BYTES_MAX: usize = 16 * 1024;

/// What a request asks for, apart from its key.
pub struct Request {
    pub asked: Asked,
    pub key: PublicKey,
    /// SHA-256 of the public key.
    pub fingerprint: String,
}

pub fn read(der: &[u8]) -> std::result::Result<Request, Denied> {
    let refuse = |class, reason, message: String| Denied {
        class,
        reason,
        message,
        hint: "send a PKCS#10 request, DER, with an empty subject and no extensions".into(),
    };
    if der.len() > BYTES_MAX {
        let message = format!("a signing request has at most {BYTES_MAX} bytes");
        return Err(refuse(DeniedClass::Invalid, "REQUEST_MALFORMED", message));
    }
    let read = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der));
    let CertificateSigningRequestParams { params, public_key } = read.map_err(|error| match error {
        rcgen::Error::UnsupportedExtension | rcgen::Error::InvalidNameType => refuse(
            DeniedClass::Forbidden,
            "REQUEST_ASKS_FOR_MORE",
            "the signing request asks for an extension that is never granted".into(),
        ),
        rcgen::Error::InvalidCertificationRequestSignature => refuse(
            DeniedClass::Invalid,
            "REQUEST_MALFORMED",
            "the signing request is not signed by the key that it is for".into(),
        ),
        other => refuse(
            DeniedClass::Invalid,
            "REQUEST_MALFORMED",
            format!("the signing request cannot be read: {}", other.to_string().to_lowercase()),
        ),
    })?;
    let fingerprint = hex(&certificate::sha256(&public_key.subject_public_key_info()));
    Ok(Request { asked: asked(&params), key: public_key, fingerprint })
}

fn asked(params: &CertificateParams) -> Asked {
    let distinguished = params.distinguished_name.iter().map(|(kind, value)| (kind_word(kind), text(value))).collect();
    let names = params.subject_alt_names.iter().map(|name| match name {
        SanType::URI(uri) => AskedName::Uri(uri.as_str().into()),
        SanType::DnsName(host) => AskedName::Other(host.as_str().into()),
        SanType::Rfc822Name(mail) => AskedName::Other(mail.as_str().into()),
        SanType::IpAddress(address) => AskedName::Other(address.to_string()),
        other => AskedName::Other(format!("{other:?}")),
    });
    let usages = params.extended_key_usages.iter().filter(|usage| **usage != ExtendedKeyUsagePurpose::ClientAuth);
    let key_usages = params.key_usages.iter().filter(|usage| **usage != KeyUsagePurpose::DigitalSignature);
    Asked {
        distinguished,
        names: names.collect(),
        authority: matches!(params.is_ca, IsCa::Ca(_)),
        usages: usages.map(|usage| format!("{usage:?}")).collect(),
        key_usages: key_usages.map(|usage| format!("{usage:?}")).collect(),
    }
}

fn kind_word(kind: &DnType) -> String {
    match kind {
        DnType::CommonName => "CN".into(),
        DnType::OrganizationName => "O".into(),
        DnType::OrganizationalUnitName => "OU".into(),
        other => format!("{other:?}"),
    }
}

fn text(value: &DnValue) -> String {
    match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().into(),
        DnValue::Ia5String(text) => text.as_str().into(),
        other => format!("{other:?}"),
    }
}

/// A fresh key, as PEM, and a request for it that asks for nothing.
pub fn make() -> Result<(String, Vec<u8>)> {
    let key = KeyPair::generate().map_err(crypto("make a key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(crypto("make a signing request"))?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

#[cfg(test)]
mod tests {
    use rcgen::BasicConstraints;

    use super::*;

    fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn everything_that_a_request_asks_for_is_seen() {
        assert_eq!(read(&make().unwrap().1).unwrap().asked, Asked::default());
        let asked = |change: fn(&mut CertificateParams)| read(&request(change)).unwrap().asked;
        assert!(asked(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).authority);
        assert!(!asked(|p| p.is_ca = IsCa::ExplicitNoCa).authority);
        let named = asked(|p| p.distinguished_name.push(DnType::CommonName, "backend"));
        assert_eq!(named.distinguished, [("CN".to_owned(), "backend".to_owned())]);
        let names = asked(|p| {
            p.subject_alt_names = vec![
                SanType::URI("spiffe://pitwall/agent/p/a".try_into().unwrap()),
                SanType::DnsName("localhost".try_into().unwrap()),
                SanType::IpAddress([127, 0, 0, 1].into()),
            ];
        });
        let uri = AskedName::Uri("spiffe://pitwall/agent/p/a".into());
        assert_eq!(names.names, [uri, AskedName::Other("localhost".into()), AskedName::Other("127.0.0.1".into())]);
        let usages = asked(|p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        });
        assert_eq!((usages.usages.len(), usages.key_usages.len()), (1, 1), "{usages:?}");
    }

    #[test]
    fn what_is_no_request_or_not_signed_by_its_key_is_refused() {
        let whole = request(|_| {});
        let mut forged = whole.clone();
        *forged.last_mut().unwrap() ^= 1;
        for bytes in [&[][..], b"rubbish", &whole[..whole.len() - 1], &forged, &vec![0; BYTES_MAX + 1]] {
            assert_eq!(read(bytes).map(|_| ()).unwrap_err().reason, "REQUEST_MALFORMED");
        }
    }
}
