//! What the model writes, it reads back as the same; what others write is read or refused, and never fatal.
#![allow(clippy::unwrap_used, reason = "tests")]

mod arbitrary;

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use proto::convert::Error;
use proto::model::*;
use proto::{convert, store, wire};

/// Bytes that are put in place of others. Small ones, so that text mostly stays text and the rest is reached.
type Damage = Vec<(Index, u8)>;

fn damage() -> impl Strategy<Value = Damage> {
    vec((any::<Index>(), 0..128u8), 1..4)
}

/// What fails is printed; tests leave no files behind.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

fn comes_back<W, M>(object: M)
where
    W: Message + Default + for<'a> From<&'a M>,
    M: TryFrom<W, Error = Error> + Debug + PartialEq,
{
    let sent = W::from(&object).encode_to_vec();
    assert_eq!(M::try_from(W::decode(sent.as_slice()).unwrap()), Ok(object));
}

/// Reads bytes of unknown origin. What is admitted is an object like any other.
fn probe<W, M>(bytes: &[u8])
where
    W: Message + Default + for<'a> From<&'a M>,
    M: TryFrom<W, Error = Error> + Debug + PartialEq,
{
    if let Ok(object) = W::decode(bytes).map_err(drop).and_then(|message| M::try_from(message).map_err(drop))
    {
        comes_back::<W, M>(object);
    }
}

fn probe_damaged<W, M>(object: &M, damage: Damage)
where
    W: Message + Default + for<'a> From<&'a M>,
    M: TryFrom<W, Error = Error> + Debug + PartialEq,
{
    let mut bytes = W::from(object).encode_to_vec();
    for (at, byte) in damage {
        let at = at.index(bytes.len());
        bytes[at] = byte;
    }
    probe::<W, M>(&bytes);
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn nodes_come_back(node in arbitrary::node()) {
        comes_back::<wire::Node, _>(node);
    }

    #[test]
    fn services_come_back(service in arbitrary::service()) {
        comes_back::<wire::Service, _>(service);
    }

    #[test]
    fn tasks_come_back(task in arbitrary::task()) {
        comes_back::<wire::Task, _>(task);
    }

    #[test]
    fn networks_come_back(network in arbitrary::network()) {
        comes_back::<wire::Network, _>(network);
    }

    #[test]
    fn keyrings_come_back(keyring in arbitrary::keyring()) {
        comes_back::<store::Keyring, _>(keyring);
    }

    #[test]
    fn clusters_come_back(cluster in arbitrary::cluster()) {
        comes_back::<wire::Cluster, _>(cluster);
    }

    #[test]
    fn damaged_messages_are_read_or_refused(
        node in arbitrary::node(),
        service in arbitrary::service(),
        task in arbitrary::task(),
        network in arbitrary::network(),
        cluster in arbitrary::cluster(),
        keyring in arbitrary::keyring(),
        damage in damage(),
    ) {
        probe_damaged::<wire::Node, _>(&node, damage.clone());
        probe_damaged::<wire::Service, _>(&service, damage.clone());
        probe_damaged::<wire::Task, _>(&task, damage.clone());
        probe_damaged::<wire::Network, _>(&network, damage.clone());
        probe_damaged::<wire::Cluster, _>(&cluster, damage.clone());
        probe_damaged::<store::Keyring, _>(&keyring, damage);
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..64)) {
        probe::<wire::Node, Node>(&bytes);
        probe::<wire::NodeSpec, NodeSpec>(&bytes);
        probe::<wire::NodeDescription, NodeDescription>(&bytes);
        probe::<wire::Service, Service>(&bytes);
        probe::<wire::ServiceSpec, ServiceSpec>(&bytes);
        probe::<wire::TaskSpec, TaskSpec>(&bytes);
        probe::<wire::Task, Task>(&bytes);
        probe::<wire::TaskStatus, TaskStatus>(&bytes);
        probe::<wire::Network, Network>(&bytes);
        probe::<wire::NetworkSpec, NetworkSpec>(&bytes);
        probe::<wire::Cluster, Cluster>(&bytes);
        probe::<wire::ClusterSpec, ClusterSpec>(&bytes);
        probe::<store::Keyring, Keyring>(&bytes);
    }

    #[test]
    fn any_time_is_read_or_refused(seconds in number(), nanos in number()) {
        let nanos = i32::try_from(nanos).unwrap_or(i32::MIN);
        let timestamp = Some(prost_types::Timestamp { seconds, nanos });
        probe::<wire::TaskStatus, TaskStatus>(
            &wire::TaskStatus { timestamp, ..Default::default() }.encode_to_vec(),
        );
        let read = convert::duration("delay", Some(prost_types::Duration { seconds, nanos }));
        if let Ok(Some(duration)) = read {
            // Who reckons with it need not check.
            let _ = std::time::SystemTime::now() + duration;
        }
    }
}

/// The ends of the ranges more often than the rest.
fn number() -> impl Strategy<Value = i64> {
    let near = |at: i64| (-2..=2i64).prop_map(move |by| at.saturating_add(by));
    let ends = [i64::MIN, i64::MAX, i32::MIN.into(), i32::MAX.into(), 0, 1_000_000_000];
    let limits = [315_576_000_000, -62_135_596_800, 253_402_300_799];
    let edges = proptest::sample::select([ends.as_slice(), &limits].concat());
    prop_oneof![3 => edges.prop_flat_map(near), 1 => any::<i64>()]
}
