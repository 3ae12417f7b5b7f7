//! What nodes report of their part in encrypted networks, written into the keyrings.

use std::collections::BTreeMap;

use proto::model::{INCARNATION_BYTES, Keyring, NetworkId, NodeId};
use proto::network::KeysReport;
use raft_store::{Store, Tables};
use tonic::Status;

use super::gate::Gate;
use super::handover::{Report, enter};
use super::need;
use crate::error::{Error, status};

/// What concerns networks that the node has no task on, or that have no keys, is out of date and passed over.
pub async fn write(
    store: &Store,
    gate: &Gate,
    node: &NodeId,
    reports: Vec<KeysReport>,
) -> Result<(), Status> {
    let reports = reports.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if changed(&store.view(), node, &reports).is_empty() {
        return Ok(());
    }
    gate.pass(node).await?;
    let written = store.update(|tx| {
        for keyring in changed(tx, node, &reports) {
            tx.update(keyring);
        }
        Ok::<_, Error>(())
    });
    written.await.map_err(status)
}

/// The keyrings as they are with the reports, where that is another than without.
fn changed(tables: &Tables, node: &NodeId, reports: &[(NetworkId, Report)]) -> Vec<Keyring> {
    let needed = need::networks(tables, node);
    let mut changed = BTreeMap::new();
    for (network, report) in reports.iter().filter(|(network, _)| needed.contains(network)) {
        let Some(known) = tables.keyring(network) else { continue };
        let keyring: &mut Keyring = changed.entry(network).or_insert_with(|| Keyring::clone(known));
        enter(keyring, node, report);
    }
    let is_new = |(network, keyring): (&NetworkId, Keyring)| {
        let before = tables.keyring(network).and_then(|known| known.members.get(node));
        (before != keyring.members.get(node)).then_some(keyring)
    };
    changed.into_iter().filter_map(is_new).collect()
}

fn read(wire: KeysReport) -> Result<(NetworkId, Report), Error> {
    let instead_of = match wire.instead_of {
        None => None,
        Some(bytes) if bytes.is_empty() => Some(None),
        Some(bytes) => Some(Some(incarnation("reports.instead_of", bytes)?)),
    };
    let report = Report {
        incarnation: incarnation("reports.incarnation", wire.incarnation)?,
        instead_of,
        epoch: wire.epoch,
        receives: wire.receives,
        sends: wire.sends,
        passed_over: wire.passed_over.into_iter().map(NodeId::from).collect(),
    };
    Ok((wire.network_id.into(), report))
}

fn incarnation(field: &'static str, bytes: Vec<u8>) -> Result<[u8; INCARNATION_BYTES], Error> {
    let count = bytes.len();
    bytes.try_into().map_err(|_| Error::invalid(field, format!("{count} bytes"), "16 bytes are needed"))
}
