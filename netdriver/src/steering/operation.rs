//! The steps of a transaction, and each as messages to nf_tables.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

use super::rules::{self, Chain, Rule};
use crate::nfnetlink::{Attributes, Message, NF_TABLES};

pub const TABLE: &str = "swarmd";
/// `NFPROTO_INET`: IPv4 and IPv6.
pub const INET: u8 = 1;

pub const NEW_TABLE: u16 = NF_TABLES;
pub const GET_TABLE: u16 = NF_TABLES | 1;
const DELETE_TABLE: u16 = NF_TABLES | 2;
const NEW_CHAIN: u16 = NF_TABLES | 3;
pub const GET_CHAIN: u16 = NF_TABLES | 4;
const NEW_RULE: u16 = NF_TABLES | 6;
pub const GET_RULE: u16 = NF_TABLES | 7;
const NEW_SET: u16 = NF_TABLES | 9;
pub const GET_SET: u16 = NF_TABLES | 10;
const NEW_ELEMENT: u16 = NF_TABLES | 12;
pub const GET_ELEMENT: u16 = NF_TABLES | 13;
const DELETE_ELEMENT: u16 = NF_TABLES | 14;
pub const GET_GENERATION: u16 = NF_TABLES | 16;

/// `NFT_SET_MAP`.
const IS_MAP: u32 = 8;
/// How `nft` is to print keys and data: `verdict`, `ipv4_addr`, `ipv6_addr`, `mark`.
const VERDICT: u32 = 0xffff_ff00;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_MARK: u32 = 19;
/// Types of a concatenation follow each other, six bits each.
const TYPE_BITS: u32 = 6;
/// `NFT_GOTO`.
const GOTO: u32 = -4_i32 as u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Chain and rule names, as `nft` has the family.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// The map from virtual addresses to chains.
    pub fn services(self) -> String {
        format!("{}_services", self.name())
    }

    /// The map from virtual address and number to backends.
    pub fn backends(self) -> String {
        format!("{}_backends", self.name())
    }

    /// The set of virtual addresses without backends.
    pub fn refused(self) -> String {
        format!("{}_refused", self.name())
    }

    /// The chain for so many backends.
    pub fn fan(self, backends: u32) -> String {
        format!("{}_of_{backends}", self.name())
    }

    /// What [`Self::fan`] has made a name from.
    pub fn parse_fan(self, chain: &str) -> Option<u32> {
        chain.strip_prefix(self.name())?.strip_prefix("_of_")?.parse().ok()
    }

    pub fn address_bytes(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// How `nft` shows an address, and its length.
    fn address_kind(self) -> (u32, u32) {
        match self {
            Self::V4 => (TYPE_IPV4, self.address_bytes()),
            Self::V6 => (TYPE_IPV6, self.address_bytes()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Removes the table and all in it.
    Drop,
    /// Makes the table, empty.
    Make,
    /// Adds the chain for the resolver.
    Resolve,
    /// Adds a family's chains, maps and set, empty.
    Serve(Family),
    /// Adds the chain for so many backends, at least one.
    Fan(Family, u32),
    /// An address leads to so many backends, at least one.
    Put(IpAddr, u32),
    Remove(IpAddr),
    /// An address leads nowhere.
    Refuse(IpAddr),
    Permit(IpAddr),
    /// A backend gets a number.
    PutBackend(IpAddr, u32, IpAddr),
    RemoveBackend(IpAddr, u32),
}

impl Operation {
    pub fn messages(&self) -> Vec<Message> {
        match self {
            Self::Drop => vec![message(DELETE_TABLE, 0, Attributes::default().text(1, TABLE))],
            Self::Make => {
                vec![message(NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL, Attributes::default().text(1, TABLE))]
            }
            Self::Resolve => chain(&rules::resolver()),
            Self::Serve(family) => {
                let maps = [services_map(*family), backends_map(*family), refused_set(*family)];
                let chains = rules::of_family(*family);
                maps.into_iter().chain(chains.iter().flat_map(chain)).collect()
            }
            Self::Fan(family, backends) => chain(&rules::fan(*family, *backends)),
            Self::Put(address, backends) => {
                let family = Family::of(address);
                let chain = family.fan(*backends);
                let verdict = Attributes::default().be32(1, GOTO).text(2, &chain);
                let data = Attributes::default().nest(2, &verdict);
                vec![element(NEW_ELEMENT, &family.services(), &octets(address), Some(&data))]
            }
            Self::Remove(address) => {
                vec![element(DELETE_ELEMENT, &Family::of(address).services(), &octets(address), None)]
            }
            Self::Refuse(address) => {
                vec![element(NEW_ELEMENT, &Family::of(address).refused(), &octets(address), None)]
            }
            Self::Permit(address) => {
                vec![element(DELETE_ELEMENT, &Family::of(address).refused(), &octets(address), None)]
            }
            Self::PutBackend(address, number, backend) => {
                let data = Attributes::default().bytes(1, &octets(backend));
                let map = Family::of(address).backends();
                vec![element(NEW_ELEMENT, &map, &slot(address, *number), Some(&data))]
            }
            Self::RemoveBackend(address, number) => {
                let map = Family::of(address).backends();
                vec![element(DELETE_ELEMENT, &map, &slot(address, *number), None)]
            }
        }
    }
}

pub fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A key of the map of backends. `numgen` makes numbers in the processor's order.
fn slot(address: &IpAddr, number: u32) -> Vec<u8> {
    [&octets(address)[..], &number.to_ne_bytes()].concat()
}

fn message(kind: u16, flags: u16, attributes: Attributes) -> Message {
    Message { kind, flags, family: INET, attributes }
}

fn services_map(family: Family) -> Message {
    let name = family.services();
    map(&name, 1, family.address_kind(), (VERDICT, 0))
}

fn refused_set(family: Family) -> Message {
    let (kind, bytes) = family.address_kind();
    let attributes = Attributes::default().text(1, TABLE).text(2, &family.refused());
    let attributes = attributes.be32(3, 0).be32(4, kind).be32(5, bytes).be32(10, 3);
    message(NEW_SET, NLM_F_CREATE | NLM_F_EXCL, attributes)
}

fn backends_map(family: Family) -> Message {
    let (kind, bytes) = family.address_kind();
    map(&family.backends(), 2, (kind << TYPE_BITS | TYPE_MARK, bytes + 4), (kind, bytes))
}

/// `id` has to differ between the maps of a transaction.
fn map(name: &str, id: u32, key: (u32, u32), data: (u32, u32)) -> Message {
    let mut attributes = Attributes::default()
        .text(1, TABLE)
        .text(2, name)
        .be32(3, IS_MAP)
        .be32(4, key.0)
        .be32(5, key.1)
        .be32(6, data.0)
        .be32(10, id);
    if data.1 > 0 {
        attributes = attributes.be32(7, data.1);
    }
    message(NEW_SET, NLM_F_CREATE | NLM_F_EXCL, attributes)
}

fn element(kind: u16, map: &str, key: &[u8], data: Option<&Attributes>) -> Message {
    let mut element = Attributes::default().nest(1, &Attributes::default().bytes(1, key));
    if let Some(data) = data {
        element = element.nest(2, data);
    }
    let list = Attributes::default().nest(1, &element);
    let flags = if kind == NEW_ELEMENT { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
    message(kind, flags, Attributes::default().text(1, TABLE).text(2, map).nest(3, &list))
}

fn chain(chain: &Chain) -> Vec<Message> {
    let mut made = Attributes::default().text(1, TABLE).text(3, &chain.name);
    if let Some(hook) = &chain.hook {
        let place = Attributes::default().be32(1, hook.number).be32(2, hook.priority.cast_unsigned());
        made = made.nest(4, &place).text(7, hook.kind);
    }
    let made = message(NEW_CHAIN, NLM_F_CREATE | NLM_F_EXCL, made);
    let rules = chain.rules.iter().map(|rule| add_rule(&chain.name, rule));
    std::iter::once(made).chain(rules).collect()
}

fn add_rule(chain: &str, rule: &Rule) -> Message {
    let attributes = Attributes::default().text(1, TABLE).text(2, chain);
    let attributes = attributes.nest(4, &rule.expressions()).bytes(7, &rule.mark());
    message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, attributes)
}
