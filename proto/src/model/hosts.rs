//! The addresses of a subnet, as numbers: which of them hosts may have, and how many are left.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Subnet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: impl Into<IpAddr>) -> Self {
        if address.into().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn of_net(net: &IpNet) -> Self {
        Self::of(net.addr())
    }

    /// Bits of an address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    pub fn address(self, number: u128) -> IpAddr {
        match self {
            // Only numbers of IPv4 subnets come here.
            Self::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

/// An address as a number, in the order of addresses of its family.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The addresses that hosts may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hosts {
    family: Family,
    first: u128,
    last: u128,
}

impl Hosts {
    /// Without the network's own address and the broadcast address (RFC 1122), or the subnet routers' anycast address
    /// (RFC 4291); in the smallest subnets all are hosts (RFC 3021, RFC 6164).
    pub fn of_net(net: &IpNet) -> Self {
        let (first, last) = (number(net.network()), number(net.broadcast()));
        let family = Family::of_net(net);
        match family {
            _ if net.max_prefix_len() - net.prefix_len() < 2 => Self { family, first, last },
            Family::V4 => Self { family, first: first + 1, last: last - 1 },
            Family::V6 => Self { family, first: first + 1, last },
        }
    }

    /// Those inside `range` too.
    #[must_use]
    pub fn within(self, range: &IpNet) -> Self {
        let (first, last) = (number(range.network()), number(range.broadcast()));
        Self { first: self.first.max(first), last: self.last.min(last), ..self }
    }

    pub fn count(self) -> u128 {
        if self.last < self.first { 0 } else { (self.last - self.first).saturating_add(1) }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        Family::of(address) == self.family && (self.first..=self.last).contains(&number(address))
    }

    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        (self.first..=self.last).map(move |n| self.family.address(n))
    }

    /// All of them, starting behind `last` and going round.
    pub fn after(self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let start = last.map_or(self.first, |last| number(last).saturating_add(1));
        let start = if (self.first..=self.last).contains(&start) { start } else { self.first };
        (start..=self.last).chain(self.first..start).map(move |n| self.family.address(n))
    }
}

/// How far a subnet is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Held by tasks, services and the network itself.
    pub in_use: u128,
    /// Left for tasks and services, which get theirs from the subnet's range.
    pub available: u128,
}

impl Subnet {
    /// What tasks and services are given, less what the network itself holds.
    pub fn hosts(&self) -> Hosts {
        let all = Hosts::of_net(&self.net);
        self.range.as_ref().map_or(all, |range| all.within(range))
    }

    /// Whether the network itself holds the address.
    pub fn is_own(&self, address: IpAddr) -> bool {
        address == self.gateway || self.reserved.values().any(|reserved| *reserved == address)
    }

    /// `held` are the addresses of tasks and services, also on other subnets.
    pub fn usage(&self, held: impl IntoIterator<Item = IpAddr>) -> Usage {
        let all = Hosts::of_net(&self.net);
        let own = self.reserved.values().copied().chain([self.gateway]);
        let edges =
            [self.net.network(), self.net.broadcast()].into_iter().filter(|edge| !all.contains(*edge));
        let taken = held.into_iter().filter(|address| self.net.contains(address));
        let taken: BTreeSet<IpAddr> = taken.chain(own).chain(edges).collect();
        let hosts = self.hosts();
        let given = taken.iter().filter(|address| hosts.contains(**address)).count();
        Usage { in_use: taken.len() as u128, available: hosts.count().saturating_sub(given as u128) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(net: &str, range: Option<&str>) -> Subnet {
        let net: IpNet = net.parse().unwrap();
        let gateway = Hosts::of_net(&net).iter().next().unwrap();
        Subnet {
            net,
            range: range.map(|range| range.parse().unwrap()),
            gateway,
            reserved: Default::default(),
        }
    }

    fn held(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn goes_round_from_the_last_one() {
        let hosts = Hosts::of_net(&"10.0.9.0/29".parse().unwrap());
        let round: Vec<String> = hosts.after(held(&["10.0.9.4"]).pop()).map(|a| a.to_string()).collect();
        assert_eq!(round, ["10.0.9.5", "10.0.9.6", "10.0.9.1", "10.0.9.2", "10.0.9.3", "10.0.9.4"]);
        assert_eq!(hosts.after(None).count(), 6);
        assert_eq!(Hosts::of_net(&"10.0.9.0/31".parse().unwrap()).count(), 2);
        assert_eq!(Hosts::of_net(&"fd00::/64".parse().unwrap()).count(), (1 << 64) - 1);
        assert_eq!(Hosts::of_net(&"::/0".parse().unwrap()).count(), u128::MAX);
    }

    #[test]
    fn what_is_used_and_what_is_left_make_up_the_subnet() {
        let whole = subnet("10.0.9.0/24", None);
        assert_eq!(whole.usage([]), Usage { in_use: 3, available: 253 });
        let two = held(&["10.0.9.2", "10.0.9.3", "10.0.8.1", "fd00::1"]);
        assert_eq!(whole.usage(two), Usage { in_use: 5, available: 251 });
        assert_eq!(subnet("fd00::/126", None).usage([]), Usage { in_use: 2, available: 2 });
    }

    #[test]
    fn what_is_left_is_left_in_the_range() {
        let mut part = subnet("10.0.9.0/24", Some("10.0.9.64/28"));
        part.reserved.insert("router".into(), "10.0.9.65".parse().unwrap());
        part.reserved.insert("printer".into(), "10.0.9.200".parse().unwrap());
        assert_eq!(part.usage(held(&["10.0.9.66", "10.0.9.100"])), Usage { in_use: 7, available: 14 });
        let empty = Hosts::of_net(&"10.0.9.0/24".parse().unwrap()).within(&"10.0.8.0/24".parse().unwrap());
        assert_eq!((empty.count(), empty.iter().count()), (0, 0));
    }
}
