//! Ethernet addresses, and the one that belongs to an IP address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// The MAC of the endpoint that holds `addr`: `02:42:` (locally administered, Docker's) and the four octets of the
/// IPv4 address, or the last four of the IPv6 address, which differ within any subnet of up to 2^32 endpoints.
pub fn mac_for(addr: impl Into<IpAddr>) -> Mac {
    let [a, b, c, d] = match addr.into() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => last_octets(v6),
    };
    Mac([0x02, 0x42, a, b, c, d])
}

fn last_octets(addr: Ipv6Addr) -> [u8; 4] {
    let [.., a, b, c, d] = addr.octets();
    [a, b, c, d]
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not a MAC address: give six pairs of hex digits, such as 02:42:0a:00:09:02")]
pub struct ParseError(String);

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refuse)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() { Err(refuse()) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_address() {
        let v4: IpAddr = "10.0.9.2".parse().unwrap();
        let v6: IpAddr = "fd00::a:2".parse().unwrap();
        assert_eq!(mac_for(v4).to_string(), "02:42:0a:00:09:02");
        assert_eq!(mac_for(v6).to_string(), "02:42:00:0a:00:02");
    }

    #[test]
    fn parses_what_it_prints_and_nothing_else() {
        let mac = Mac([2, 0x42, 0, 0xff, 9, 0x7f]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in ["", "02:42", "02:42:00:00:00:00:00", "2:42:0:0:0:0", "02:42:00:00:00:zz"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
