//! Finds this node's address in the network below the overlays.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{UdpSocket, lookup_host};

/// The address from which this node reaches `manager` (`host:port`). Nothing is sent: connecting a UDP socket only
/// asks the kernel for the route.
pub async fn local_towards(manager: &str) -> io::Result<IpAddr> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let target = lookup_host(manager).await?.next().ok_or_else(unknown)?;
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn asks_the_kernel() {
        assert_eq!(local_towards("127.0.0.1:2377").await.unwrap(), Ipv4Addr::LOCALHOST);
    }
}
