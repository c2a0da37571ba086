//! One connection with its peer. Whatever a peer does or leaves undone, the connection is cut soon after its identity
//! ceased to count; before that its streams were ended with the reason (`guard`).
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{peer::Peer, places::Place};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// From the first look at which nothing counted: time for the streams to be ended with a reason.
const CUT_AFTER: Duration = Duration::from_secs(2);
/// Without a certificate there is enrolling, and nothing else to stay for.
const NOBODY_MAX: Duration = Duration::from_secs(60);

pub struct Connection {
    io: Io,
    peer: Arc<Peer>,
    look: Interval,
    opened: Instant,
    fallen: Option<Instant>,
    /// Given back when the connection ends: one of all, and one of those that its peer may have.
    _place: (OwnedSemaphorePermit, Place),
}

enum Io {
    Plaintext(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn new(io: Io, peer: Arc<Peer>, place: (OwnedSemaphorePermit, Place)) -> Self {
        let opened = Instant::now();
        let mut look = interval_at(opened + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { io, peer, look, opened, fallen: None, _place: place }
    }

    pub fn plaintext(stream: TcpStream, peer: Arc<Peer>, place: (OwnedSemaphorePermit, Place)) -> Self {
        Self::new(Io::Plaintext(stream), peer, place)
    }

    pub fn tls(stream: TlsStream<TcpStream>, peer: Arc<Peer>, place: (OwnedSemaphorePermit, Place)) -> Self {
        Self::new(Io::Tls(Box::new(stream)), peer, place)
    }

    /// Looks when it is time, and arranges to be woken for the next look.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if self.peer.is_plaintext() {
            return false;
        }
        while self.look.poll_tick(context).is_ready() {
            match self.peer.standing() {
                Ok(()) => self.fallen = None,
                Err(_) => {
                    self.fallen.get_or_insert_with(Instant::now);
                }
            }
        }
        let fallen = self.fallen.is_some_and(|since| since.elapsed() >= CUT_AFTER);
        fallen || (self.peer.is_stranger() && self.opened.elapsed() >= NOBODY_MAX)
    }

    /// In both directions: a peer that takes nothing of what it is sent keeps the connection from being read.
    fn refuse_when_over(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.is_over(context) {
            let why = "the identity behind this connection does not count any more";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.refuse_when_over(context)?;
        match &mut self.io {
            Io::Plaintext(stream) => Pin::new(stream).poll_read(context, into),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.refuse_when_over(context)?;
        match &mut self.io {
            Io::Plaintext(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.refuse_when_over(context)?;
        match &mut self.io {
            Io::Plaintext(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plaintext(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use tokio::{io::AsyncWriteExt as _, net::TcpListener, sync::Semaphore};

    use super::{
        super::places::{Pool, Room},
        *,
    };
    use crate::identity::{
        certificate,
        keeper::{Keeper, Lives},
        request,
    };

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_cut_when_it_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Arc::new(Keeper::open(dir.path(), Lives::default()).unwrap());
        let (token, _) = keeper.create_token("p", "a", Duration::from_secs(60)).unwrap();
        let (_, signed) = keeper.enrol(&token, &request::make().unwrap().1).unwrap();
        let seen = certificate::client(&CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Open, and never read from.
        let _deaf = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let all = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let own = Pool::new(Room { all: 1, each: 1 }).take_from(address.ip()).unwrap();
        let peer = Peer::named(address.ip(), seen, keeper.clone());
        let mut connection = Connection::plaintext(stream, peer, (all, own));
        let full = async {
            loop {
                // Until the kernel takes no more, which is when this waits.
                connection.write_all(&[0; 65_536]).await?;
            }
        };
        let revoked = async {
            keeper.revoke("a").unwrap();
            std::future::pending::<()>().await;
        };
        let ended: io::Result<()> = tokio::select! {
            ended = tokio::time::timeout(Duration::from_secs(20), full) => ended.expect("it is cut"),
            () = revoked => unreachable!("it never ends"),
        };
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
