//! Sockets within a sandbox, for a resolver that runs outside of it.
//!
//! A socket keeps the namespace in which it was made alive, whoever uses it. So whoever takes one from here closes it
//! before the sandbox is to go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use crate::{Netdriver, RESOLVER_PORT, SandboxKey, netns};

/// The address that is known to tasks, Docker's. Any of 127.0.0.0/8 is there as soon as loopback is up.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// What a resolver listens on.
#[derive(Debug)]
pub struct ResolverSockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

impl Netdriver {
    /// Listens at [`RESOLVER_PORT`] in the sandbox. Fails while others do.
    pub async fn resolver_sockets(&self, key: &SandboxKey) -> io::Result<ResolverSockets> {
        let address = (RESOLVER, RESOLVER_PORT);
        let bind = move || {
            let udp = std::net::UdpSocket::bind(address)?;
            let tcp = std::net::TcpListener::bind(address)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok(ResolverSockets { udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? })
        };
        self.within(key, bind).await
    }

    /// A socket that speaks from the sandbox to `remote` only, from a port of the kernel's choice.
    pub async fn udp_towards(&self, key: &SandboxKey, remote: SocketAddr) -> io::Result<UdpSocket> {
        let connect = move || {
            let any: IpAddr = match remote {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = std::net::UdpSocket::bind((any, 0))?;
            socket.connect(remote)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        };
        self.within(key, connect).await
    }

    /// A socket of the sandbox that may be connected to `remote`.
    pub async fn tcp_towards(&self, key: &SandboxKey, remote: SocketAddr) -> io::Result<TcpSocket> {
        let make = move || if remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        self.within(key, make).await
    }

    pub(crate) async fn within<T: Send + 'static>(
        &self,
        key: &SandboxKey,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("there is no sandbox {key}"));
        let namespace = netns::open(&self.sandbox_path(key))?.ok_or_else(absent)?;
        netns::within(Some(&namespace), work).await?
    }
}
