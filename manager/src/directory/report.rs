//! What nodes report of their part in encrypted networks, written into the keyrings.

use proto::model::{INCARNATION_BYTES, Keyring, KeyringMember, NetworkId, NodeId};
use proto::network::KeysReport;
use raft_store::Store;
use tonic::Status;

use super::need;
use crate::error::{Error, status};

/// A report, read.
struct Report {
    network: NetworkId,
    member: KeyringMember,
}

/// What concerns networks that the node has no task on, or that have no keys, is out of date and passed over.
pub async fn write(store: &Store, node: &NodeId, reports: Vec<KeysReport>) -> Result<(), Status> {
    let reports = reports.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let written = store.update(|tx| {
        let needed = need::networks(tx, node);
        for report in reports.iter().filter(|report| needed.contains(&report.network)) {
            let Some(known) = tx.keyring(&report.network) else { continue };
            let mut keyring = Keyring::clone(known);
            let member =
                KeyringMember { confirmed: report.member.confirmed.min(keyring.epoch), ..report.member };
            if keyring.members.insert(node.clone(), member) != Some(member) {
                tx.update(keyring);
            }
        }
        Ok::<_, Error>(())
    });
    written.await.map_err(status)
}

fn read(report: KeysReport) -> Result<Report, Error> {
    let bytes = report.incarnation.len();
    let incarnation: [u8; INCARNATION_BYTES] = report.incarnation.try_into().map_err(|_| {
        Error::invalid("reports.incarnation", format!("{bytes} bytes"), "16 bytes are needed")
    })?;
    let member = KeyringMember { incarnation, confirmed: report.epoch };
    Ok(Report { network: report.network_id.into(), member })
}
