//! The TLS side of the listener. Each handshake runs in a task of its own, with a limit in time and number. In the
//! handshake a client proves that it has the key of the certificate that it shows, if it shows one. Whose that is
//! ([`Clients::judge`]) is found once, right after it, and what it is worth at each call (`auth`): there every refusal,
//! another authority's certificate included, has a reason that clients can read. A TLS alert often never reaches them.
//!
//! Sessions are never resumed: nothing is stored and no ticket is sent, as a resumed handshake would not look at the
//! certificate again.
use std::{
    io,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    connection::Connection,
    peer::Peer,
    places::{Places, Pool, Room},
};
use crate::identity::{
    self, IdentityError,
    audit::{Audit, Entry},
    certificate::{self, Seen},
    keeper::Keeper,
};

/// Connections at the same time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4_096;
/// Those of each kind of peer, together no more than that. Whoever has a share already is cut off right after the handshake.
const STRANGERS: Room = Room { all: 1_024, each: 64 };
const SIDECARS: Room = Room { all: 2_048, each: 16 };
const OPERATORS: Room = Room { all: 1_024, each: 64 };
/// Handshakes at the same time, of all and from one address.
const HANDSHAKES: Room = Room { all: 256, each: 64 };
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Finished handshakes that the server has not taken yet.
const READY_MAX: usize = 64;
/// After the kernel gave no connection, for example for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// The server's certificate, which may be replaced at any time: handshakes from then on have the new one.
#[derive(Debug)]
pub struct OwnCertificate {
    now: RwLock<Arc<CertifiedKey>>,
}

impl OwnCertificate {
    pub fn new(certified: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self { now: RwLock::new(certified) })
    }

    pub fn replace(&self, certified: Arc<CertifiedKey>) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// What is asked of clients' certificates.
#[derive(Debug)]
pub struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
}

impl Clients {
    fn of(keeper: &Keeper, provider: Arc<CryptoProvider>) -> identity::Result<Arc<Self>> {
        let mut roots = RootCertStore::empty();
        roots.add(keeper.authority.der().clone()).map_err(|error| failed(&error))?;
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Arc::new(Self { inner }))
    }

    /// Whom a chain names that our authority signed for client use, or why it is not to be trusted. Dates are left to
    /// each call.
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<Seen, String> {
        let (end_entity, intermediates) = chain.split_first().ok_or("there is none")?;
        let inside = certificate::moment_inside(end_entity, UnixTime::now()).map_err(|why| why.to_string())?;
        self.inner.verify_client_cert(end_entity, intermediates, inside).map_err(|error| match error {
            rustls::Error::InvalidCertificate(why) => format!("{why:?}"),
            other => other.to_string(),
        })?;
        certificate::client(end_entity).map_err(|why| why.to_string())
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    /// Says nothing of the certificate: [`Clients::judge`] does, of every one, before its first call.
    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn failed(error: &dyn std::error::Error) -> IdentityError {
    IdentityError::Crypto { doing: "set up TLS", why: error.to_string() }
}

/// The door of this authority, with a certificate that may be replaced later.
pub fn door(keeper: Arc<Keeper>, own: Arc<OwnCertificate>, audit: Arc<Audit>) -> identity::Result<Door> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = Clients::of(&keeper, provider.clone())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(clients.clone())
        .with_cert_resolver(own);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Door::Tls { config: Arc::new(config), clients, keeper, audit })
}

/// How connections are taken.
#[derive(Clone)]
pub enum Door {
    /// `--insecure`.
    Plaintext,
    Tls {
        config: Arc<ServerConfig>,
        clients: Arc<Clients>,
        keeper: Arc<Keeper>,
        audit: Arc<Audit>,
    },
}

/// Takes connections until the receiver is dropped.
pub fn accept(listener: TcpListener, door: Door) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, taken) = mpsc::channel(READY_MAX);
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let places = Places::new(STRANGERS, SIDECARS, OPERATORS);
        let shaking = Pool::new(HANDSHAKES);
        loop {
            // Never closed.
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    let Ok(hand) = shaking.take_from(address.ip()) else {
                        tracing::debug!(%address, "too many handshakes");
                        continue;
                    };
                    let (door, ready, places) = (door.clone(), ready.clone(), places.clone());
                    tokio::spawn(async move {
                        let connection = open(stream, address.ip(), &door, place, &places).await;
                        drop(hand);
                        if let Some(connection) = connection {
                            // The server has ended.
                            let _ = ready.send(Ok(connection)).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection could be taken");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    });
    taken
}

async fn open(
    stream: TcpStream,
    address: IpAddr,
    door: &Door,
    place: OwnedSemaphorePermit,
    places: &Places,
) -> Option<Connection> {
    // Of no use on a connection that is gone already.
    let _ = stream.set_nodelay(true);
    let Door::Tls { config, clients, keeper, audit } = door else {
        let peer = Peer::plaintext(address);
        let own = places.take(&peer).ok()?;
        return Some(Connection::plaintext(stream, peer, (place, own)));
    };
    let stream = match timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(config.clone()).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tell_failed(&error, address, audit);
            return None;
        }
        Err(_) => {
            tracing::debug!(%address, "no handshake in time");
            return None;
        }
    };
    let peer = match stream.get_ref().1.peer_certificates().map(|chain| clients.judge(chain)) {
        None => Peer::nobody(address),
        Some(Ok(seen)) => Peer::named(address, seen, keeper.clone()),
        Some(Err(why)) => Peer::untrusted(address, why),
    };
    match places.take(&peer) {
        Ok(own) => Some(Connection::tls(stream, peer, (place, own))),
        Err(full) => {
            let who = peer.subject().map(ToString::to_string).unwrap_or_default();
            let message = format!("there are as many connections as there may be: {full}");
            audit.refusal(cut_off(who, address, "ResourceExhausted", "CONNECTIONS_EXHAUSTED", message));
            None
        }
    }
}

/// A connection that ended before its first call.
fn cut_off(who: String, address: IpAddr, outcome: &str, reason: &str, message: String) -> Entry {
    let (from, call) = (address.to_string(), "connect".into());
    let (outcome, reason) = (outcome.into(), reason.into());
    Entry { at: identity::now(), who, from, call, outcome, reason, message, times: 1, ..Default::default() }
}

/// Somebody else's certificate, without its key, is a refusal; a scan or a cut line is none.
fn tell_failed(error: &io::Error, address: IpAddr, audit: &Audit) {
    tracing::debug!(%address, %error, "handshake failed");
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(why)) = cause else { return };
    let message = format!("the client did not prove that it has the key of its certificate: {why:?}");
    audit.refusal(cut_off(String::new(), address, "Unauthenticated", "CERTIFICATE_NOT_PROVEN", message));
}
