//! Connecting: TCP checks, and the connection of HTTP checks. Refused or silent is seen and fails; a name that cannot
//! be resolved or a network that cannot be reached is not known.
use std::{io::ErrorKind, net::SocketAddr};

use tokio::net::{TcpStream, lookup_host};

use super::Seen;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

pub async fn check(address: &str) -> Seen {
    match connect(address).await {
        Ok((_, peer)) => Seen::passed(format!("{address} accepts connections{}", resolved(address, peer))),
        Err(seen) => *seen,
    }
}

fn resolved(address: &str, peer: SocketAddr) -> String {
    let peer = peer.to_string();
    if peer == address { String::new() } else { format!(" at {peer}") }
}

/// The first address of `host:port` that accepts.
pub(super) async fn connect(address: &str) -> Result<(TcpStream, SocketAddr), Box<Seen>> {
    let addresses = match lookup_host(address).await {
        Ok(addresses) => addresses,
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            return Err(Box::new(Seen::unknown(format!("{address} is not host:port"))));
        }
        Err(error) => return Err(Box::new(Seen::unknown(format!("{address} cannot be resolved: {}", plain(&error))))),
    };
    let mut last = None;
    for peer in addresses.take(ADDRESSES_MAX) {
        match TcpStream::connect(peer).await {
            Ok(stream) => return Ok((stream, peer)),
            Err(error) => last = Some(error),
        }
    }
    let Some(error) = last else {
        return Err(Box::new(Seen::unknown(format!("{address} has no address"))));
    };
    let text = format!("{address}: {}", plain(&error));
    Err(Box::new(match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::TimedOut => Seen::failed(text),
        _ => Seen::unknown(text),
    }))
}

pub(super) fn plain(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use pitwall_proto::v1::Outcome;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_that_accepts_passes_and_one_that_refuses_fails() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(check(&address).await.outcome, Outcome::Passed);
        drop(listener);
        let refused = check(&address).await;
        assert_eq!(refused.outcome, Outcome::Failed);
        assert!(refused.evidence.summary.contains("refused"), "{refused:?}");
        assert_eq!(check("no port").await.outcome, Outcome::Unknown);
        assert_eq!(check("127.0.0.1:99999").await.outcome, Outcome::Unknown);
    }
}
