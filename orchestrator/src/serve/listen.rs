//! Where to listen: the rules for addresses, and a port that is taken, each told in one message.
use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::cli::exit::{self, CliError, Exit};

/// Refuses what is not allowed, before anything is opened.
pub fn permitted(listen: SocketAddr, insecure: bool) -> exit::Result<()> {
    if insecure && !listen.ip().is_loopback() {
        let message = format!("--insecure is plaintext without any identity: on loopback only, and {listen} is not");
        return Err(CliError::new(Exit::Usage, message).hint("leave --insecure out, or listen on 127.0.0.1:7440"));
    }
    Ok(())
}

pub async fn bind(listen: SocketAddr) -> exit::Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            CliError::new(Exit::Failed, format!("the port {} on {} is in use", listen.port(), listen.ip()))
                .hint("stop what listens there, or choose another with --listen; port 0 takes a free one")
        }
        _ => CliError::new(Exit::Failed, format!("cannot listen on {listen}: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_for_loopback_and_only_when_asked() {
        let table = [
            ("127.0.0.1:0", true, true),
            ("[::1]:7440", true, true),
            ("127.0.0.1:0", false, true),
            ("0.0.0.0:7440", false, true),
            ("0.0.0.0:7440", true, false),
            ("192.168.1.2:7440", true, false),
            ("[::]:7440", true, false),
        ];
        for (address, insecure, allowed) in table {
            let answer = permitted(address.parse().unwrap(), insecure);
            assert_eq!(answer.is_ok(), allowed, "{address} {insecure}");
            if let Err(error) = answer {
                assert_eq!(error.exit, Exit::Usage);
                assert!(error.hint.is_some());
            }
        }
    }
}
