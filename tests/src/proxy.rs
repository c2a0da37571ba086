//! A TCP link that can be hurt: between a sidecar and its orchestrator, which know nothing of it. What is read while a
//! fault says so is gone for good, as on a line that nobody sends again on; connections stay open until an end closes them.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the sidecar to the orchestrator.
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// After so many more bytes of either way every connection is closed, and the link is well again.
    CutAfter(u64),
    /// Each piece waits so long.
    Delay(Duration),
    /// Accepts, and swallows both ways.
    BlackHole,
    /// Only this way passes.
    Only(Way),
    /// Bytes per second, each way.
    Trickle(u64),
}

/// What passes at once.
const PIECE: usize = 16 * 1024;
/// So often a trickle passes something.
const DROPS_A_SECOND: u64 = 20;

#[derive(Debug)]
struct Link {
    fault: watch::Sender<Fault>,
    /// Of [`Fault::CutAfter`]: what may still pass.
    left: AtomicU64,
    /// Grows when every connection that is open is to be closed.
    cuts: watch::Sender<u64>,
    passed: AtomicU64,
}

#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    link: Arc<Link>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn before(upstream: &str) -> Self {
        let upstream: SocketAddr = upstream.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let link = Arc::new(Link {
            fault: watch::Sender::new(Fault::None),
            left: AtomicU64::new(0),
            cuts: watch::Sender::new(0),
            passed: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, upstream, link.clone()));
        Self { address, link, task }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn set(&self, fault: Fault) {
        if let Fault::CutAfter(bytes) = fault {
            self.link.left.store(bytes, Ordering::SeqCst);
        }
        self.link.fault.send_replace(fault);
    }

    pub fn fault(&self) -> Fault {
        *self.link.fault.borrow()
    }

    /// Closes every connection now.
    pub fn cut(&self) {
        self.link.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Bytes of both ways so far.
    pub fn passed(&self) -> u64 {
        self.link.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, link: Arc<Link>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let link = link.clone();
        tokio::spawn(async move {
            let mut cuts = link.cuts.subscribe();
            // An orchestrator that is not there is one that closes.
            let Ok(far) = TcpStream::connect(upstream).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            tokio::select! {
                _ = cuts.changed() => {}
                () = async { tokio::join!(pump(Way::Up, near_in, far_out, &link), pump(Way::Down, far_in, near_out, &link)); } => {}
            }
        });
    }
}

/// One way, until its source ends.
async fn pump(way: Way, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: &Link) {
    let mut piece = vec![0; PIECE];
    loop {
        let at_once = match *link.fault.borrow() {
            Fault::Trickle(rate) => usize::try_from(rate / DROPS_A_SECOND).unwrap_or(PIECE).clamp(1, PIECE),
            _ => PIECE,
        };
        let read = match from.read(&mut piece[..at_once]).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let fault = *link.fault.borrow();
        let passes = match fault {
            Fault::None => read,
            Fault::BlackHole => 0,
            Fault::Only(only) => {
                if only == way {
                    read
                } else {
                    0
                }
            }
            Fault::Delay(delay) => {
                sleep(delay).await;
                read
            }
            Fault::Trickle(_) => {
                sleep(Duration::from_millis(1_000 / DROPS_A_SECOND)).await;
                read
            }
            Fault::CutAfter(_) => take(&link.left, read),
        };
        if passes > 0 && to.write_all(&piece[..passes]).await.is_err() {
            break;
        }
        link.passed.fetch_add(passes as u64, Ordering::Relaxed);
        if matches!(fault, Fault::CutAfter(_)) && passes < read {
            link.fault.send_replace(Fault::None);
            link.cuts.send_modify(|cuts| *cuts += 1);
        }
    }
    let _ = to.shutdown().await;
}

/// What of it still may pass.
fn take(left: &AtomicU64, wanted: usize) -> usize {
    let took = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(wanted as u64)));
    usize::try_from(took.unwrap_or(0)).unwrap_or(usize::MAX).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::before(&listener.local_addr().unwrap().to_string()).await;
        let near = TcpStream::connect(proxy.address).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (proxy, near, far)
    }

    async fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        stream.read_exact(&mut buffer).await.unwrap();
        buffer
    }

    #[tokio::test]
    async fn what_comes_during_a_fault_is_gone_and_the_rest_passes() {
        let (proxy, mut near, mut far) = pair().await;
        near.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut far, 3).await, b"one");
        proxy.set(Fault::Only(Way::Down));
        near.write_all(b"two").await.unwrap();
        far.write_all(b"2").await.unwrap();
        assert_eq!(read(&mut near, 1).await, b"2");
        // Read, and gone, before the link is well.
        sleep(Duration::from_millis(50)).await;
        proxy.set(Fault::None);
        near.write_all(b"three").await.unwrap();
        assert_eq!(read(&mut far, 5).await, b"three");
    }

    #[tokio::test]
    async fn a_cut_comes_after_so_many_bytes_and_closes_both_ends() {
        let (proxy, mut near, mut far) = pair().await;
        proxy.set(Fault::CutAfter(2));
        near.write_all(b"three").await.unwrap();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"th");
        near.read_to_end(&mut rest).await.ok();
        assert_eq!(proxy.fault(), Fault::None);
    }
}
