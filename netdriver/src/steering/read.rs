//! Reads the table of a namespace. It is either what `rules` and `operation` make, part for part, or strange.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use netlink_packet_core::NLM_F_DUMP;
use nix::errno::Errno;

use super::operation::{
    Family, GET_CHAIN, GET_ELEMENT, GET_GENERATION, GET_RULE, GET_SET, GET_TABLE, INET, TABLE,
};
use super::rules::{self, Chain};
use super::{Found, Numbers, Table};
use crate::desired::{Service, Services};
use crate::netlink::Refusal;
use crate::nfnetlink::{Attributes, Message, NfSocket, find, list, number};

/// The number of the last transaction in the namespace.
pub fn generation(socket: &mut NfSocket) -> Result<u32, Refusal> {
    let message = Message { kind: GET_GENERATION, flags: 0, family: 0, attributes: Attributes::default() };
    let answers = socket.ask(&message)?;
    answers.iter().find_map(|answer| number(answer, &[1])).ok_or(Refusal::of(Errno::EPROTO))
}

pub fn table(socket: &mut NfSocket) -> Result<Found, Refusal> {
    let message = Message { kind: GET_TABLE, flags: 0, family: INET, attributes: of_table() };
    match socket.ask(&message) {
        Err(refusal) if refusal.errno() == Some(Errno::ENOENT) => return Ok(Found::Nothing),
        answer => answer?,
    };
    let chains = chains(socket)?;
    let maps = maps(socket)?;
    let mut table = Table { resolver: chains.contains_key("resolver"), ..Table::default() };
    let mut numbers = OrdMap::new();
    for family in Family::ALL {
        if !rules::of_family(family).iter().any(|chain| chains.contains_key(&chain.name)) {
            continue;
        }
        table.fans.insert(family, chains.keys().filter_map(|name| family.parse_fan(name)).collect());
        if [family.services(), family.backends(), family.refused()].iter().any(|map| !maps.contains(map)) {
            return Ok(Found::Strange);
        }
        let Some(found) = numbers_of(socket, family)? else { return Ok(Found::Strange) };
        numbers.extend(found);
    }
    table.services = std::iter::once(services(&numbers)).collect();
    table.numbers = numbers;
    Ok(if chains == expected(&table) { Found::Table(table) } else { Found::Strange })
}

fn of_table() -> Attributes {
    Attributes::default().text(1, TABLE)
}

fn dump(socket: &mut NfSocket, kind: u16, attributes: Attributes) -> Result<Vec<Vec<u8>>, Refusal> {
    socket.ask(&Message { kind, flags: NLM_F_DUMP, family: INET, attributes })
}

fn text(bytes: &[u8], path: &[u16]) -> String {
    let value = find(bytes, path).unwrap_or_default();
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// What is compared of a chain: kind, hook and priority, and the marks of its rules.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    hook: Option<(String, u32, i32)>,
    marks: Vec<Vec<u8>>,
}

impl From<&Chain> for Seen {
    fn from(chain: &Chain) -> Self {
        let hook = chain.hook.as_ref().map(|hook| (hook.kind.to_owned(), hook.number, hook.priority));
        Self { hook, marks: chain.rules.iter().map(rules::Rule::mark).collect() }
    }
}

fn expected(table: &Table) -> BTreeMap<String, Seen> {
    let resolver = table.resolver.then(rules::resolver);
    let families = table.fans.iter().flat_map(|(family, fans)| {
        let fans = fans.iter().map(|backends| rules::fan(*family, *backends));
        rules::of_family(*family).into_iter().chain(fans)
    });
    resolver.into_iter().chain(families).map(|chain| (chain.name.clone(), Seen::from(&chain))).collect()
}

fn chains(socket: &mut NfSocket) -> Result<BTreeMap<String, Seen>, Refusal> {
    let mut chains = BTreeMap::new();
    for chain in dump(socket, GET_CHAIN, of_table())?.iter().filter(|chain| text(chain, &[1]) == TABLE) {
        let hook = number(chain, &[4, 1]).zip(number(chain, &[4, 2]));
        let hook = hook.map(|(hook, priority)| (text(chain, &[7]), hook, priority.cast_signed()));
        chains.insert(text(chain, &[3]), Seen { hook, marks: Vec::new() });
    }
    for rule in dump(socket, GET_RULE, of_table())?.iter().filter(|rule| text(rule, &[1]) == TABLE) {
        if let Some(chain) = chains.get_mut(&text(rule, &[2])) {
            chain.marks.push(find(rule, &[7]).unwrap_or_default().to_vec());
        }
    }
    Ok(chains)
}

fn maps(socket: &mut NfSocket) -> Result<BTreeSet<String>, Refusal> {
    let sets = dump(socket, GET_SET, of_table())?;
    Ok(sets.iter().filter(|set| text(set, &[1]) == TABLE).map(|set| text(set, &[2])).collect())
}

/// The backends of each address in the order of their numbers; none if they do not fit together.
fn numbers_of(socket: &mut NfSocket, family: Family) -> Result<Option<Numbers>, Refusal> {
    let mut counts = BTreeMap::new();
    for Element { key, attributes } in elements(socket, &family.services())? {
        let fan = family.parse_fan(&text(&attributes, &[2, 2, 2]));
        let (Some(address), Some(backends)) = (address(&key), fan) else { return Ok(None) };
        counts.insert(address, backends);
    }
    for Element { key, .. } in elements(socket, &family.refused())? {
        let Some(address) = address(&key).filter(|address| !counts.contains_key(address)) else {
            return Ok(None);
        };
        counts.insert(address, 0);
    }
    let mut slots = BTreeMap::new();
    for Element { key, attributes } in elements(socket, &family.backends())? {
        let slot = key
            .split_last_chunk()
            .and_then(|(key, number)| Some((address(key)?, u32::from_ne_bytes(*number))));
        let backend = find(&attributes, &[2, 1]).and_then(address);
        let (Some(slot), Some(backend)) = (slot, backend) else { return Ok(None) };
        slots.insert(slot, backend);
    }
    let mut numbers: BTreeMap<IpAddr, Vec<IpAddr>> = counts.keys().map(|a| (*a, Vec::new())).collect();
    for ((address, number), backend) in slots {
        match numbers.get_mut(&address) {
            Some(backends) if backends.len() == number as usize => backends.push(backend),
            _ => return Ok(None),
        }
    }
    let fits = |(address, backends): (&IpAddr, &Vec<IpAddr>)| {
        let different: BTreeSet<_> = backends.iter().collect();
        different.len() == backends.len() && counts[address] as usize == backends.len()
    };
    let fits = numbers.iter().all(fits);
    Ok(fits.then(|| numbers.into_iter().map(|(address, backends)| (address, Arc::new(backends))).collect()))
}

fn services(numbers: &Numbers) -> Services {
    let service = |backends: &Arc<Vec<IpAddr>>| {
        let backends = backends.iter().copied().collect();
        Arc::new(Service { backends, ..Service::default() })
    };
    numbers.iter().map(|(address, backends)| (*address, service(backends))).collect()
}

/// An element of a map or a set.
struct Element {
    key: Vec<u8>,
    attributes: Vec<u8>,
}

fn elements(socket: &mut NfSocket, map: &str) -> Result<Vec<Element>, Refusal> {
    let mut found = Vec::new();
    for part in dump(socket, GET_ELEMENT, of_table().text(2, map))? {
        for element in list(&part, &[3]) {
            let key = find(element, &[1, 1]).unwrap_or_default();
            found.push(Element { key: key.to_vec(), attributes: element.to_vec() });
        }
    }
    Ok(found)
}

pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}
