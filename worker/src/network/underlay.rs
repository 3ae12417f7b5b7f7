//! Finds this node's address in the network below the overlays, and how large packets may be there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::{UdpSocket, lookup_host};

/// RFC 8200 section 5 demands that much of whatever carries IPv6.
const LEAST_INNER: u32 = 1280;
/// Headers of the tunnel, over IPv4 and IPv6.
const OVERHEAD: [u32; 2] = [50, 70];

/// The address from which this node reaches `manager` (`host:port`). Nothing is sent: connecting a UDP socket only
/// asks the kernel for the route.
pub async fn local_towards(manager: &str) -> io::Result<IpAddr> {
    Ok(towards(manager).await?.local_addr()?.ip())
}

/// Bytes of the largest packet that gets to `manager`, as far as the kernel knows the way. IPv4 only.
pub async fn path_mtu(manager: &str) -> Option<u32> {
    let socket =
        towards(manager).await.ok().filter(|socket| socket.local_addr().is_ok_and(|a| a.is_ipv4()))?;
    getsockopt(&socket, sockopt::IpMtu).ok().and_then(|mtu| u32::try_from(mtu).ok())
}

/// What users should know of the device below the overlays, with its address, and of the way to `manager`.
pub fn mtu_problem(
    local: IpAddr,
    device: &str,
    mtu: u32,
    manager: &str,
    path: Option<u32>,
) -> Option<String> {
    let least = LEAST_INNER + OVERHEAD[usize::from(local.is_ipv6())];
    if mtu < least {
        return Some(format!(
            "the MTU of {device}, the device with the address {local}, is {mtu}: too little for IPv6 in overlay networks, \
             and little for all else; at least {least} are needed"
        ));
    }
    let path = path.filter(|path| *path < mtu)?;
    Some(format!(
        "packets to manager {manager} may have {path} bytes, but the MTU of {device} is {mtu}: larger packets of overlay \
         networks get lost; set the MTU of {device} to {path}, or give networks a smaller one with \
         --opt com.docker.network.driver.mtu"
    ))
}

async fn towards(manager: &str) -> io::Result<UdpSocket> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let target = lookup_host(manager).await?.next().ok_or_else(unknown)?;
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn asks_the_kernel() {
        assert_eq!(local_towards("127.0.0.1:2377").await.unwrap(), Ipv4Addr::LOCALHOST);
        assert!(path_mtu("127.0.0.1:2377").await.unwrap() >= 1500);
    }

    #[test]
    fn too_small_packets_are_told_with_what_would_do() {
        let [v4, v6]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|addr| addr.parse().unwrap());
        let told = |local, mtu, path| mtu_problem(local, "eth0", mtu, "m:2377", path);
        assert_eq!(told(v4, 1500, Some(1500)), None);
        assert_eq!((told(v4, 1330, None), told(v6, 1350, None)), (None, None));
        assert!(told(v4, 1329, None).unwrap().ends_with("at least 1330 are needed"));
        assert!(told(v6, 1349, None).unwrap().ends_with("at least 1350 are needed"));
        assert!(told(v4, 1500, Some(1400)).unwrap().contains("set the MTU of eth0 to 1400"));
    }
}
