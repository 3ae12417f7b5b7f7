//! What the local database holds of the directory, so that names are answered after a restart without a manager, and the
//! first manager tells only what has changed.
//!
//! Pure. Written now and then, and only the entries that differ from what was written before. Keys are never among them;
//! networks that the managers no longer tell are removed.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use proto::model::NetworkId;
use proto::network::{self as wire, Moment};

use super::book::{Book, Endpoint, VirtualIp};
use super::directory::{self, Directory, Remembered};

/// Changes of so long are written together. What came later is told again by the next manager.
pub const PERIOD: Duration = Duration::from_secs(2);

/// Key and value; none: the key is removed.
pub type Write = (String, Option<Vec<u8>>);

/// What the database holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Memory {
    networks: BTreeMap<NetworkId, Remembered>,
}

/// Of a key: what it is about.
enum Of {
    Network,
    Endpoint,
    VirtualIp,
}

impl Of {
    fn key(&self, network: &NetworkId, id: &str) -> String {
        let letter = match self {
            Self::Network => 'n',
            Self::Endpoint => 't',
            Self::VirtualIp => 's',
        };
        format!("{network} {letter} {id}")
    }

    fn read(key: &str) -> Option<(&str, Self)> {
        let mut words = key.splitn(3, ' ');
        let (network, letter) = (words.next()?, words.next()?);
        let of = match letter {
            "n" => Self::Network,
            "t" => Self::Endpoint,
            "s" => Self::VirtualIp,
            _ => return None,
        };
        Some((network, of))
    }
}

impl Memory {
    /// Reads what was written. What cannot be read any more is left out; without all of a network no manager can go on
    /// from it.
    pub fn read<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut memory = Self::default();
        let mut damaged = Vec::new();
        for (key, value) in entries {
            let Some((network, of)) = Of::read(key) else { continue };
            let network = NetworkId::from(network);
            let remembered = memory.networks.entry(network.clone()).or_insert_with(nothing);
            if take_in(remembered, &of, value).is_none() {
                damaged.push(network);
            }
        }
        for network in damaged {
            tracing::warn!(%network, "what was kept of a network's directory is damaged");
            memory.networks.entry(network).and_modify(|remembered| remembered.moment = None);
        }
        memory
    }

    pub fn networks(&self) -> impl Iterator<Item = (&NetworkId, &Remembered)> {
        self.networks.iter()
    }

    /// What has to be written so that the directory is held, and what is held then.
    pub fn plan(&self, directory: &Directory) -> (Vec<Write>, Self) {
        let next: BTreeMap<_, _> = directory.to_remember().map(|(id, all)| (id.clone(), all)).collect();
        let nothing = nothing();
        let mut writes = Vec::new();
        for (network, before) in &self.networks {
            if !next.contains_key(network) {
                entries(network, before, &nothing, &mut writes);
                writes.push((Of::Network.key(network, ""), None));
            }
        }
        for (network, now) in &next {
            let before = self.networks.get(network);
            entries(network, before.unwrap_or(&nothing), now, &mut writes);
            if before.is_none_or(|before| (before.index, before.moment) != (now.index, now.moment)) {
                let response = wire::WatchResponse {
                    updates: vec![wire::NetworkUpdate { index: now.index, ..Default::default() }],
                    moment: now.moment,
                };
                writes.push((Of::Network.key(network, ""), Some(response.encode_to_vec())));
            }
        }
        (writes, Self { networks: next })
    }
}

fn nothing() -> Remembered {
    Remembered { index: 0, moment: None::<Moment>, book: Book::default() }
}

fn take_in(remembered: &mut Remembered, of: &Of, value: &[u8]) -> Option<()> {
    match of {
        Of::Network => {
            let response = wire::WatchResponse::decode(value).ok()?;
            remembered.index = response.updates.first()?.index;
            remembered.moment = response.moment;
        }
        Of::Endpoint => {
            let wire = wire::Endpoint::decode(value).ok()?;
            let task = wire.task_id.as_str().into();
            remembered.book.set_endpoint(task, directory::endpoint(wire).ok()?);
        }
        Of::VirtualIp => {
            let wire = wire::VirtualIp::decode(value).ok()?;
            let addresses = directory::addresses(&wire.addresses).ok()?;
            let virtual_ip = VirtualIp { service_name: wire.service_name, addresses, aliases: wire.aliases };
            remembered.book.set_virtual_ip(wire.service_id.as_str().into(), virtual_ip);
        }
    }
    Some(())
}

fn entries(network: &NetworkId, before: &Remembered, now: &Remembered, writes: &mut Vec<Write>) {
    for (task, _, endpoint) in now.book.endpoints_since(&before.book) {
        let value = endpoint.map(|endpoint| to_wire(task.as_str(), endpoint).encode_to_vec());
        writes.push((Of::Endpoint.key(network, task.as_str()), value));
    }
    for service in now.book.virtual_ips_since(&before.book) {
        let value = now.book.virtual_ip(service).map(|virtual_ip| {
            let VirtualIp { service_name, addresses, aliases } = (**virtual_ip).clone();
            let addresses = addresses.iter().map(ToString::to_string).collect();
            wire::VirtualIp { service_id: service.to_string(), service_name, addresses, aliases }
                .encode_to_vec()
        });
        writes.push((Of::VirtualIp.key(network, service.as_str()), value));
    }
}

fn to_wire(task: &str, endpoint: &Endpoint) -> wire::Endpoint {
    wire::Endpoint {
        task_id: task.into(),
        node_id: endpoint.node.to_string(),
        vtep: endpoint.peer.vtep.to_string(),
        mac: endpoint.peer.mac.0.to_vec(),
        addresses: endpoint.peer.addresses.iter().map(ToString::to_string).collect(),
        service_id: endpoint.service.to_string(),
        service_name: endpoint.service_name.clone(),
        task_name: endpoint.task_name.clone(),
        aliases: endpoint.aliases.clone(),
        ready: endpoint.ready,
        lost: endpoint.lost,
        hostname: endpoint.hostname.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::network::network_update::Kind;
    use proto::network::{Encryption, Gone, NetworkDirectory, NetworkKey, NetworkUpdate};

    use super::*;

    /// By key, as the database has it.
    type Held = BTreeMap<String, Vec<u8>>;

    fn write(held: &mut Held, memory: &mut Memory, directory: &Directory) -> usize {
        let (writes, next) = memory.plan(directory);
        *memory = next;
        let count = writes.len();
        for (key, value) in writes {
            match value {
                Some(value) => _ = held.insert(key, value),
                None => assert!(held.remove(&key).is_some(), "{key}"),
            }
        }
        count
    }

    fn read(held: &Held) -> Memory {
        Memory::read(held.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
    }

    fn told(network: u8, tasks: &[u8], services: &[u8], encrypted: bool) -> Kind {
        let endpoint = |number: &u8| wire::Endpoint {
            task_id: format!("t{number}"),
            node_id: "n2".into(),
            vtep: "192.0.2.2".into(),
            mac: vec![2, 0x42, 10, 0, network, *number],
            addresses: vec![format!("10.0.{network}.{number}")],
            service_id: "s1".into(),
            service_name: "web".into(),
            aliases: vec!["front".into()],
            ready: number.is_multiple_of(2),
            ..Default::default()
        };
        let virtual_ip = |number: &u8| wire::VirtualIp {
            service_id: format!("s{number}"),
            service_name: "web".into(),
            addresses: vec![format!("10.0.{network}.{}", 100 + number)],
            ..Default::default()
        };
        let secret = wire::NetworkKey { generation: 1, secret: vec![b'k'; 32] };
        let keys = |secret: NetworkKey| Encryption {
            keys: vec![secret],
            sending: 1,
            epoch: 1,
            ..Default::default()
        };
        Kind::Complete(NetworkDirectory {
            endpoints: tasks.iter().map(endpoint).collect(),
            virtual_ips: services.iter().map(virtual_ip).collect(),
            encryption: encrypted.then(|| keys(secret)),
        })
    }

    fn any_update() -> impl Strategy<Value = (u8, Kind)> {
        let numbers = || prop::sample::subsequence(vec![1u8, 2, 3, 4], 0..4);
        (1..4u8, numbers(), numbers(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(network, tasks, services, encrypted, gone)| match gone {
                true => (network, Kind::Gone(Gone {})),
                false => (network, told(network, &tasks, &services, encrypted)),
            },
        )
    }

    fn apply(directory: &mut Directory, index: u64, network: u8, kind: Kind) {
        let network_id = format!("net{network}");
        let update = NetworkUpdate { network_id, index, kind: Some(kind), ..Default::default() };
        directory.apply(update).unwrap();
        directory.reach(Some(Moment { index, mark: index * 3 }));
    }

    proptest! {
        /// Whatever was told and whenever it was written, what is read is what was known when it was written last.
        #[test]
        fn what_is_read_is_what_was_known(
            history in prop::collection::vec((any_update(), any::<bool>()), 0..20),
        ) {
            let mut directory = Directory::new("n1".into());
            let (mut held, mut memory) = (Held::new(), Memory::default());
            for (index, ((network, kind), written)) in (1..).zip(history) {
                apply(&mut directory, index, network, kind);
                if written {
                    write(&mut held, &mut memory, &directory);
                    prop_assert_eq!(&read(&held), &memory);
                    prop_assert_eq!(write(&mut held, &mut memory, &directory), 0);
                }
            }
        }
    }

    #[test]
    fn keys_are_not_written_nor_what_needs_them_to_go_on() {
        let mut directory = Directory::new("n1".into());
        apply(&mut directory, 5, 1, told(1, &[1], &[], true));
        apply(&mut directory, 6, 2, told(2, &[1], &[], false));
        let (mut held, mut memory) = (Held::new(), Memory::default());
        write(&mut held, &mut memory, &directory);
        let bytes: Vec<u8> = held.values().flatten().copied().collect();
        assert!(!bytes.windows(5).any(|window| window == b"kkkkk"));
        let memory = read(&held);
        let moments: Vec<_> = memory.networks().map(|(_, remembered)| remembered.moment).collect();
        assert_eq!(moments, [None, Some(Moment { index: 6, mark: 18 })]);
    }

    #[test]
    fn what_is_damaged_is_left_out_and_not_gone_on_from() {
        let mut directory = Directory::new("n1".into());
        apply(&mut directory, 5, 1, told(1, &[1, 2], &[1], false));
        let (mut held, mut memory) = (Held::new(), Memory::default());
        write(&mut held, &mut memory, &directory);
        held.insert("net1 t t1".into(), vec![0xff]);
        let memory = read(&held);
        let (_, remembered) = memory.networks().next().unwrap();
        assert_eq!((remembered.book.endpoints().count(), remembered.moment), (1, None));
    }
}
