//! A client that does what it can to resume its session: nothing of it is accepted, so that every connection is judged by
//! the certificate that it shows, and a revoked one is refused whatever was stored before.
use std::{fs, path::Path, sync::Arc};

use hyper_util::rt::TokioIo;
use pitwall_proto::v1::{self, control_service_client::ControlServiceClient};
use pitwall_tests::{binaries::Server, identities, plans};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Status, transport::Endpoint};

/// With room for sessions, which it keeps for as long as it lives.
fn config(identity: &Path, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let read = |name: &str| fs::read(identity.join(name)).expect("an identity has three files");
    let certificate = |name: &str| CertificateDer::from_pem_slice(&read(name)).expect("PEM");
    let mut roots = RootCertStore::empty();
    roots.add(certificate("authority.pem")).expect("an authority");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("the provider has it")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![certificate("certificate.pem")],
            PrivateKeyDer::from_pem_slice(&read("key.pem")).expect("PEM"),
        )
        .expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// One connection, one call; whether it was a full handshake.
async fn look(address: &str, config: &Arc<ClientConfig>) -> (Option<HandshakeKind>, Result<(), Status>) {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await.expect("it is its server");
    let kind = stream.get_ref().1.handshake_kind();
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let taken = once.take().ok_or_else(|| std::io::Error::other("one connection only"));
        async move { taken }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
    let channel = endpoint.connect_with_connector(connector).await.expect("it speaks HTTP/2");
    let answer = ControlServiceClient::new(channel).get_situation(v1::GetSituationRequest::default()).await;
    (kind, answer.map(|_| ()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_never_resumed_and_a_revoked_one_not_let_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &plans::writer());
    for (name, version) in [("ann", &TLS13), ("bob", &TLS12)] {
        let identity = identities::create(dir.path(), &server.url, name, "viewer", &[]);
        let config = config(&identity, version);
        for _ in 0..3 {
            let (kind, answer) = look(server.address(), &config).await;
            assert_eq!(kind, Some(HandshakeKind::Full), "{name}");
            answer.expect("it counts");
        }
        identities::done(&server.url, &["identity", "revoke", name]);
        let (kind, answer) = look(server.address(), &config).await;
        assert_eq!(kind, Some(HandshakeKind::Full), "{name}");
        assert_eq!(identities::reason(&answer.expect_err("it was revoked")), "CERTIFICATE_REVOKED", "{name}");
    }
}
