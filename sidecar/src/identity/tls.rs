//! TLS to the orchestrator: the authority is the one that was joined, or, before that, the one whose fingerprint the join
//! token holds. Nothing else is trusted, and no session is resumed.
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use pitwall_proto::join::FINGERPRINT_BYTES;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::kept::Certificate;
use crate::stream::innermost;

type Fingerprint = [u8; FINGERPRINT_BYTES];

/// SHA-256 of a certificate.
pub fn fingerprint(pem: &str) -> Result<Fingerprint, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("no certificate: {error}"))?;
    Ok(sha256(&der))
}

fn sha256(bytes: &[u8]) -> Fingerprint {
    let mut out = [0; FINGERPRINT_BYTES];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Trusts the authority that was joined, and shows our certificate.
pub fn with_certificate(held: &Certificate, key_pem: &str) -> Result<ClientConfig, String> {
    let unusable = |why: String| format!("the certificate in the state directory cannot be used: {why}");
    let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| unusable(error.to_string()));
    let mut roots = RootCertStore::empty();
    roots.add(pem(&held.authority_pem)?).map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![pem(&held.certificate_pem)?], key)
        .map_err(|error| unusable(error.to_string()))?;
    Ok(finished(config))
}

/// Trusts the authority with this fingerprint, and shows nothing.
pub fn pinned(authority: Fingerprint) -> ClientConfig {
    let provider = provider();
    let verifier = Arc::new(Pinned { authority, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    finished(config)
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// The orchestrator sends its authority's certificate along: it is looked for there by its fingerprint.
#[derive(Debug)]
struct Pinned {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority =
            intermediates.iter().find(|certificate| sha256(certificate) == self.authority).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|_| unknown())?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The endpoint's limits hold for the handshake too.
pub async fn connect(url: &str, endpoint: Endpoint, config: ClientConfig) -> Result<Channel, String> {
    let connector = TlsConnector::from(Arc::new(config));
    let service = tower::service_fn(move |uri: Uri| {
        let connector = connector.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = uri.port_u16().unwrap_or(443);
            let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            // Of no use on a connection that is gone already.
            let _ = stream.set_nodelay(true);
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let connected = endpoint.connect_with_connector(service).await;
    connected.map_err(|error| format!("cannot connect to {url}: {}", plain(&innermost(&error))))
}

/// The library's words for the mistakes that people make here, in ours.
fn plain(cause: &str) -> String {
    // With the seconds of every try in it, it would be said again at every try.
    if cause.contains("certificate not valid yet") {
        return "its certificate counts only later by this machine's clock: is the clock behind?".into();
    }
    if cause.contains("certificate expired") {
        return "its certificate has expired by this machine's clock: is the clock ahead?".into();
    }
    let hint = if cause.contains("unknownissuer") {
        "it is not the orchestrator of that authority; a new token from it would join anew"
    } else if cause.contains("notvalidforname") {
        "its certificate is not for that name: start it with `pitwall serve --name` of this address"
    } else if cause.contains("corrupt message") || cause.contains("invalidcontenttype") {
        "it does not speak TLS: was it started with --insecure?"
    } else {
        return cause.to_owned();
    };
    format!("{cause}; {hint}")
}
