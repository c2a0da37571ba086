//! Ports that the plan names before anybody serves on them.
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};

/// A port of loopback, kept bound but not listening: connections are refused, and the kernel gives it to nobody else,
/// also not to a second demo, until the agent that was told of it listens there (`SO_REUSEPORT`, same user).
#[derive(Debug)]
pub struct Reserved {
    _socket: OwnedFd,
    port: u16,
}

impl Reserved {
    pub fn new() -> io::Result<Self> {
        let socket = reusable_socket()?;
        // Port 0: a free one. Where the kernel chooses, it never chooses one that is shared.
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let bound = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok(Self { _socket: socket, port: bound.port() })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Listens on a port that a demo keeps reserved; in a container of its own on every address.
pub fn listen_on(port: u16, anywhere: bool) -> io::Result<TcpListener> {
    let host = if anywhere { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let socket = reusable_socket()?;
    bind(&socket, &SocketAddr::from((host, port)))?;
    listen(&socket, 64)?;
    Ok(TcpListener::from(socket))
}

/// Without `SO_REUSEADDR`, which would let any other server that has it in. Not inherited: a child would keep the port.
fn reusable_socket() -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_differ_and_nobody_else_can_bind_them() {
        let ports: Vec<Reserved> = (0..20).map(|_| Reserved::new().expect("a port")).collect();
        let numbers: std::collections::BTreeSet<u16> = ports.iter().map(Reserved::port).collect();
        assert_eq!(numbers.len(), ports.len());
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0].port())).expect_err("must be taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
