//! Which addresses a node listens on and tells others.
//!
//! What a user leaves out is chosen only where there is no doubt; with several candidates the error lists them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

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
    #[error(
        "--advertise-addr {advertise}: nobody is reached there while listening on {listen}; use --listen-addr {remedy}"
    )]
    Families { advertise: SocketAddr, listen: SocketAddr, remedy: SocketAddr },
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

/// Where a node listens and what others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    pub listen: SocketAddr,
    pub advertise: SocketAddr,
}

/// `--listen-addr` (empty: all addresses) and `--advertise-addr` (empty: `otherwise`, else the address of the machine, if
/// it has only one).
///
/// The port of one is that of the other unless given. Who advertises an IPv6 address listens on IPv6 as well.
pub fn listening(listen: &str, advertise: &str, otherwise: Option<IpAddr>) -> Result<Listening, Error> {
    settle(listen, advertise, otherwise, &locals()?)
}

fn settle(
    listen: &str,
    advertise: &str,
    otherwise: Option<IpAddr>,
    locals: &[Local],
) -> Result<Listening, Error> {
    let listen = match listen {
        "" => None,
        given => Some(with_port("--listen-addr", given, PORT, locals)?),
    };
    let port = listen.map_or(PORT, |listen| listen.port());
    let advertise = match (advertise, listen) {
        ("", Some(listen)) if !listen.ip().is_unspecified() => listen,
        ("", _) => SocketAddr::new(otherwise.map_or_else(|| only(locals), Ok)?, port),
        (given, _) => reachable("--advertise-addr", given, port, locals)?,
    };
    let all: IpAddr = match advertise {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // One that listens on [::] hears IPv4 too.
    let all = SocketAddr::new(all, port);
    let listen = listen.unwrap_or(all);
    if advertise.is_ipv6() && listen.is_ipv4() || advertise.is_ipv4() && is_ipv6_only(listen.ip()) {
        return Err(Error::Families { advertise, listen, remedy: all });
    }
    Ok(Listening { listen, advertise })
}

fn is_ipv6_only(listen: IpAddr) -> bool {
    listen.is_ipv6() && !listen.is_unspecified()
}

fn reachable(field: &'static str, value: &str, port: u16, locals: &[Local]) -> Result<SocketAddr, Error> {
    let addr = with_port(field, value, port, locals)?;
    if addr.ip().is_unspecified() { Err(Error::Unspecified { field, value: value.into() }) } else { Ok(addr) }
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
    let field = "--data-path-addr";
    match host(field, value, &locals()?)? {
        addr if addr.is_unspecified() => Err(Error::Unspecified { field, value: value.into() }),
        addr => Ok(Some(addr)),
    }
}

fn with_port(field: &'static str, value: &str, port: u16, locals: &[Local]) -> Result<SocketAddr, Error> {
    if let Ok(addr) = value.parse() {
        return Ok(addr);
    }
    let bare = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    if let Ok(addr) = bare.parse() {
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
    let of = |v4: bool| locals.iter().filter(move |local| local.addr.is_ipv4() == v4).collect::<Vec<_>>();
    let v4 = of(true);
    // A machine with IPv4 is known by it; most have some IPv6 addresses that come and go.
    let candidates = if v4.is_empty() { of(false) } else { v4 };
    match candidates.as_slice() {
        [one] => Ok(one.addr),
        [] => Err(Error::Ambiguous { found: "no address".into() }),
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
    fn an_address_may_be_written_in_several_ways() {
        let locals = [local("eth0", "192.168.77.11"), local("eth0", "fd00::11")];
        for (value, expected) in [
            ("192.168.77.11", "192.168.77.11:2377"),
            ("192.168.77.11:99", "192.168.77.11:99"),
            ("eth0", "192.168.77.11:2377"),
            ("eth0:99", "192.168.77.11:99"),
            ("fd00::11", "[fd00::11]:2377"),
            ("[fd00::11]", "[fd00::11]:2377"),
            ("[fd00::11]:99", "[fd00::11]:99"),
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
    #[test]
    fn a_machine_without_ipv4_is_known_by_its_only_ipv6_address() {
        assert_eq!(only(&[local("eth0", "fd00::1")]).unwrap().to_string(), "fd00::1");
        assert!(only(&[local("eth0", "fd00::1"), local("eth0", "fd00::2")]).is_err());
        assert!(only(&[]).is_err());
    }

    fn settled(listen: &str, advertise: &str) -> Result<(String, String), String> {
        let locals = [local("eth0", "192.168.77.11"), local("eth1", "fd00::11")];
        let settled = settle(listen, advertise, None, &locals).map_err(|error| error.to_string())?;
        Ok((settled.listen.to_string(), settled.advertise.to_string()))
    }

    #[test]
    fn a_node_listens_where_it_is_to_be_reached() {
        for (listen, advertise, expected) in [
            ("", "", ("0.0.0.0:2377", "192.168.77.11:2377")),
            ("", "fd00::11", ("[::]:2377", "[fd00::11]:2377")),
            ("", "eth1", ("[::]:2377", "[fd00::11]:2377")),
            ("[::]:99", "", ("[::]:99", "192.168.77.11:99")),
            ("[::]:99", "fd00::11", ("[::]:99", "[fd00::11]:99")),
            ("fd00::11", "", ("[fd00::11]:2377", "[fd00::11]:2377")),
            ("0.0.0.0:99", "192.168.77.11:98", ("0.0.0.0:99", "192.168.77.11:98")),
        ] {
            let (listening, advertised) = settled(listen, advertise).unwrap();
            assert_eq!((listening.as_str(), advertised.as_str()), expected, "{listen:?} {advertise:?}");
        }
        let refused = settled("0.0.0.0:2377", "fd00::11").unwrap_err();
        assert_eq!(
            refused,
            "--advertise-addr [fd00::11]:2377: nobody is reached there while listening on 0.0.0.0:2377; use \
             --listen-addr [::]:2377"
        );
        assert!(
            settled("[fd00::11]:2377", "192.168.77.11").unwrap_err().contains("--listen-addr 0.0.0.0:2377")
        );
        assert!(settled("", "::").unwrap_err().contains("others cannot reach it"));
    }

    #[test]
    fn who_joins_is_known_by_the_address_from_which_it_reaches_the_manager() {
        let locals = [local("eth0", "192.168.77.11"), local("eth0", "192.168.88.11")];
        let joined = |otherwise: &str| settle("", "", Some(otherwise.parse().unwrap()), &locals).unwrap();
        assert_eq!(joined("192.168.88.11").advertise.to_string(), "192.168.88.11:2377");
        assert_eq!(joined("fd00::7").listen.to_string(), "[::]:2377");
    }
}
