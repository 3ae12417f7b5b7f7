//! What nodes report of their part in encrypted networks, written into the keyrings.

use std::collections::BTreeMap;

use proto::model::{INCARNATION_BYTES, Keyring, KeyringMember, NetworkId, NodeId};
use proto::network::KeysReport;
use raft_store::{Store, Tables};
use tonic::Status;

use super::gate::Gate;
use super::need;
use crate::error::{Error, status};

/// A report, read.
struct Report {
    network: NetworkId,
    member: KeyringMember,
}

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
fn changed(tables: &Tables, node: &NodeId, reports: &[Report]) -> Vec<Keyring> {
    let needed = need::networks(tables, node);
    let mut changed = BTreeMap::new();
    for report in reports.iter().filter(|report| needed.contains(&report.network)) {
        let Some(known) = tables.keyring(&report.network) else { continue };
        let keyring: &mut Keyring = changed.entry(&report.network).or_insert_with(|| Keyring::clone(known));
        let confirmed = report.member.confirmed.min(keyring.epoch);
        keyring.members.insert(node.clone(), KeyringMember { confirmed, ..report.member });
    }
    let is_new = |(network, keyring): (&NetworkId, Keyring)| {
        let before = tables.keyring(network).and_then(|known| known.members.get(node));
        (before != keyring.members.get(node)).then_some(keyring)
    };
    changed.into_iter().filter_map(is_new).collect()
}

fn read(report: KeysReport) -> Result<Report, Error> {
    let bytes = report.incarnation.len();
    let incarnation: [u8; INCARNATION_BYTES] = report.incarnation.try_into().map_err(|_| {
        Error::invalid("reports.incarnation", format!("{bytes} bytes"), "16 bytes are needed")
    })?;
    let member = KeyringMember { incarnation, confirmed: report.epoch };
    Ok(Report { network: report.network_id.into(), member })
}
