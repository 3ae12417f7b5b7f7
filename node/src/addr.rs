//! Which addresses a node listens on and tells others.
//!
//! What a user leaves out is chosen only where there is no doubt; with several candidates the error lists them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;

/// Managers listen here unless told otherwise.
pub const PORT: u16 = 2377;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{field} {value:?}: expected an IP address or the name of a network interface, optionally with a port"
    )]
    Invalid { field: &'static str, value: String },
    #[error("{field}: interface {name} has no address")]
    NoAddress { field: &'static str, name: String },
    #[error(
        "cannot choose an address to advertise: this machine has {found}; name one with --advertise-addr"
    )]
    Ambiguous { found: String },
    #[error("{field} {value:?}: others cannot reach it; name an address of this machine")]
    Unspecified { field: &'static str, value: String },
    #[error("{value:?} is not the address of a manager: expected <host>[:<port>]")]
    Manager { value: String },
    #[error("cannot list the addresses of this machine")]
    List(#[source] nix::Error),
    #[error("no route to manager {addr}")]
    Route { addr: String, source: std::io::Error },
}

/// An address of this machine with a name of its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Local {
    interface: String,
    addr: IpAddr,
}

/// `--listen-addr`; empty: all addresses.
pub fn listen(value: &str) -> Result<SocketAddr, Error> {
    if value.is_empty() {
        return Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT));
    }
    with_port("--listen-addr", value, PORT, &locals()?)
}

/// `--advertise-addr`; empty: the address of the machine, if it has only one.
///
/// The port is that of `listen` unless given.
pub fn advertise(value: &str, listen: SocketAddr) -> Result<SocketAddr, Error> {
    let locals = locals()?;
    if !value.is_empty() {
        let field = "--advertise-addr";
        let addr = with_port(field, value, listen.port(), &locals)?;
        let reachable = !addr.ip().is_unspecified();
        return if reachable { Ok(addr) } else { Err(Error::Unspecified { field, value: value.into() }) };
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    only(&locals).map(|addr| SocketAddr::new(addr, listen.port()))
}

/// A manager as users name it, with the managers' port unless another is given.
pub fn manager(value: &str) -> Result<String, Error> {
    if let Ok(ip) = value.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT).to_string());
    }
    match value.rsplit_once(':') {
        None if !value.is_empty() => Ok(format!("{value}:{PORT}")),
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(value.into()),
        _ => Err(Error::Manager { value: value.into() }),
    }
}

/// The address from which this machine reaches `manager`.
pub fn towards(manager: &str) -> Result<IpAddr, Error> {
    let route = |source| Error::Route { addr: manager.into(), source };
    // Connecting a datagram socket looks up the route and sends nothing.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(route)?;
    if socket.connect(manager).is_ok() {
        return socket.local_addr().map(|addr| addr.ip()).map_err(route);
    }
    let socket = UdpSocket::bind("[::]:0").map_err(route)?;
    socket.connect(manager).map_err(route)?;
    socket.local_addr().map(|addr| addr.ip()).map_err(route)
}

/// `--data-path-addr`: an address or an interface; empty: none given.
pub fn data_path(value: &str) -> Result<Option<IpAddr>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    host("--data-path-addr", value, &locals()?).map(Some)
}

fn with_port(field: &'static str, value: &str, port: u16, locals: &[Local]) -> Result<SocketAddr, Error> {
    if let Ok(addr) = value.parse() {
        return Ok(addr);
    }
    if let Ok(addr) = value.parse() {
        return Ok(SocketAddr::new(addr, port));
    }
    match value.rsplit_once(':') {
        Some((name, port)) => {
            let port = port.parse().map_err(|_| Error::Invalid { field, value: value.into() })?;
            Ok(SocketAddr::new(host(field, name, locals)?, port))
        }
        None => Ok(SocketAddr::new(host(field, value, locals)?, port)),
    }
}

fn host(field: &'static str, value: &str, locals: &[Local]) -> Result<IpAddr, Error> {
    if let Ok(addr) = value.parse() {
        return Ok(addr);
    }
    let mut on_interface = locals.iter().filter(|local| local.interface == value).peekable();
    if on_interface.peek().is_none() {
        let exists = nix::net::if_::if_nametoindex(value).is_ok();
        let name = value.to_owned();
        return Err(if exists {
            Error::NoAddress { field, name }
        } else {
            Error::Invalid { field, value: name }
        });
    }
    // IPv4 sorts before IPv6.
    let addr = on_interface.map(|local| local.addr).min();
    addr.ok_or_else(|| Error::NoAddress { field, name: value.into() })
}

fn only(locals: &[Local]) -> Result<IpAddr, Error> {
    let candidates: Vec<&Local> = locals.iter().filter(|local| local.addr.is_ipv4()).collect();
    match candidates.as_slice() {
        [one] => Ok(one.addr),
        [] => Err(Error::Ambiguous { found: "no IPv4 address".into() }),
        several => {
            let listed: Vec<String> =
                several.iter().map(|local| format!("{} ({})", local.addr, local.interface)).collect();
            Err(Error::Ambiguous { found: format!("several: {}", listed.join(", ")) })
        }
    }
}

/// Addresses that others may reach: not loopback, not link-local, not those of our own bridge to the outside.
fn locals() -> Result<Vec<Local>, Error> {
    let all = getifaddrs().map_err(Error::List)?;
    let locals = all.filter_map(|interface| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
        let addr = v4.or_else(|| storage.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))?;
        let reachable =
            !addr.is_loopback() && !is_link_local(addr) && !interface.interface_name.starts_with("swarm_");
        reachable.then_some(Local { interface: interface.interface_name, addr })
    });
    Ok(locals.collect())
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(interface: &str, addr: &str) -> Local {
        Local { interface: interface.into(), addr: addr.parse().unwrap() }
    }

    #[test]
    fn an_address_may_be_written_in_four_ways() {
        let locals = [local("eth0", "192.168.77.11"), local("eth0", "fd00::11")];
        for (value, expected) in [
            ("192.168.77.11", "192.168.77.11:2377"),
            ("192.168.77.11:99", "192.168.77.11:99"),
            ("eth0", "192.168.77.11:2377"),
            ("eth0:99", "192.168.77.11:99"),
        ] {
            assert_eq!(with_port("--advertise-addr", value, PORT, &locals).unwrap().to_string(), expected);
        }
        let error = with_port("--advertise-addr", "eth9", PORT, &locals).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }

    #[test]
    fn a_manager_has_the_usual_port_unless_another_is_given() {
        for (value, expected) in [
            ("192.168.77.11", "192.168.77.11:2377"),
            ("fd00::11", "[fd00::11]:2377"),
            ("h1", "h1:2377"),
            ("h1:99", "h1:99"),
        ] {
            assert_eq!(manager(value).unwrap(), expected);
        }
        for wrong in ["", ":2377", "h1:port", "h1:", "h1:99999"] {
            assert!(matches!(manager(wrong), Err(Error::Manager { .. })), "{wrong}");
        }
    }

    #[test]
    fn several_addresses_are_listed_and_none_is_guessed() {
        let error = only(&[local("eth0", "10.0.0.1"), local("eth1", "10.1.0.1")]).unwrap_err().to_string();
        assert!(error.contains("10.0.0.1 (eth0), 10.1.0.1 (eth1)"), "{error}");
        assert_eq!(
            only(&[local("eth0", "10.0.0.1"), local("eth0", "fd00::1")]).unwrap().to_string(),
            "10.0.0.1"
        );
    }
}
