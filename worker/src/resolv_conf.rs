//! The format of `/etc/resolv.conf`, resolv.conf(5).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<Nameserver>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nameserver {
    pub address: IpAddr,
    /// The device, by name or number, on whose link a link-local address is meant: `fe80::1%eth0`, RFC 4007 section 11.
    pub zone: Option<String>,
}

impl From<IpAddr> for Nameserver {
    fn from(address: IpAddr) -> Self {
        Self { address, zone: None }
    }
}

impl Nameserver {
    fn parse(text: &str) -> Option<Self> {
        let Some((address, zone)) = text.split_once('%') else { return text.parse().ok().map(IpAddr::into) };
        let address: Ipv6Addr = address.parse().ok().filter(|_| !zone.is_empty())?;
        Some(Self { address: address.into(), zone: Some(zone.to_owned()) })
    }
}

impl fmt::Display for Nameserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}%{zone}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

impl ResolvConf {
    /// Reads what is understood and passes over the rest, as the C library does.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    conf.nameservers.extend(words.next().and_then(Nameserver::parse));
                }
                // The last one counts.
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }
}

impl fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in &self.nameservers {
            writeln!(f, "nameserver {server}")?;
        }
        for (key, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                writeln!(f, "{key} {}", values.join(" "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_passes_over_the_rest() {
        let text = "nameserver 9.9.9.9\nnameserver fd00::1\nnameserver fe80::1%eth0\nsearch a.b c\noptions ndots:2 rotate\n";
        let conf = ResolvConf::parse(text);
        assert_eq!(conf.nameservers.len(), 3);
        assert_eq!(conf.to_string(), text);
        let odd = "# nameserver 1.1.1.1\n;x\nnameserver\nnameserver fe80::1%\nnameserver 192.0.2.1%eth0\ndomain x\nsearch y\nsortlist z\n";
        let expected = ResolvConf { search: vec!["y".into()], ..ResolvConf::default() };
        assert_eq!(ResolvConf::parse(odd), expected);
    }
}
