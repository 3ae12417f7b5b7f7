//! The replicated state as records.

use prost::Message;
use proto::store::snapshot_record::Kind;
use proto::store::{Answered, LastAddress, SnapshotRecord};

use super::{Error, Reader, Writer};
use crate::codec::{self, Malformed};
use crate::state_machine::{Answer, State};
use crate::types::SnapshotMeta;

/// Records are gathered into chunks of this size. In tests there are several, however little there is.
const CHUNK_BYTES: usize = if cfg!(test) { 1 << 10 } else { 512 << 10 };

pub(super) fn write(writer: &mut Writer, meta: &SnapshotMeta, state: &State) -> Result<(), Error> {
    writer
        .push(&record(Kind::Meta(codec::raft::put_snapshot_meta(meta))).encode_length_delimited_to_vec())?;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    for record in records(state) {
        // A Vec takes whatever is encoded into it.
        record.encode_length_delimited(&mut chunk).expect("a vector has room");
        if chunk.len() >= CHUNK_BYTES {
            writer.push(&chunk)?;
            chunk.clear();
        }
    }
    writer.push(&chunk)
}

fn records(state: &State) -> impl Iterator<Item = SnapshotRecord> {
    let horizon = std::iter::once(Kind::Horizon(state.answered.horizon));
    let objects = state.tables.objects().map(|object| Kind::Object(codec::put_object(&object)));
    let addresses = state.tables.last_addresses().map(|(network, subnet, address)| {
        Kind::LastAddress(LastAddress {
            network_id: network.to_string(),
            subnet: subnet.to_string(),
            address: address.to_string(),
        })
    });
    let answered = state.answered.iter().map(|(index, answer)| {
        Kind::Answered(Answered { index, id: codec::put_proposal_id(answer.id), applied: answer.applied })
    });
    let vni = std::iter::once(Kind::LastVni(state.tables.last_vni()));
    horizon.chain(objects).chain(addresses).chain(vni).chain(answered).map(record)
}

fn record(kind: Kind) -> SnapshotRecord {
    SnapshotRecord { kind: Some(kind) }
}

pub(super) fn read_meta(reader: &mut Reader) -> Result<SnapshotMeta, Error> {
    let path = reader.path().to_owned();
    let chunk = reader.next()?.unwrap_or_default();
    let record = SnapshotRecord::decode_length_delimited(&chunk[..]).map_err(Malformed::bad);
    let meta = record.and_then(|record| match record.kind {
        Some(Kind::Meta(meta)) => codec::raft::get_snapshot_meta(meta),
        _ => Err(Malformed::missing("meta")),
    });
    meta.map_err(Error::content(&path))
}

pub(super) fn read(reader: &mut Reader) -> Result<(SnapshotMeta, State), Error> {
    let path = reader.path().to_owned();
    let meta = read_meta(reader)?;
    let mut state = State::default();
    while let Some(chunk) = reader.next()? {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let record = SnapshotRecord::decode_length_delimited(&mut rest).map_err(Malformed::bad);
            record.and_then(|record| take_in(&mut state, record)).map_err(Error::content(&path))?;
        }
    }
    state.tables.set_index(meta.last_log_id.map_or(0, |last| last.index));
    state.tables.set_mark(state.answered.mark());
    Ok((meta, state))
}

fn take_in(state: &mut State, record: SnapshotRecord) -> Result<(), Malformed> {
    match record.kind.ok_or(Malformed::missing("record"))? {
        Kind::Meta(_) => return Err(Malformed::bad("a second meta record")),
        Kind::Horizon(horizon) => state.answered.horizon = horizon,
        Kind::Object(object) => {
            let object = codec::get_object(object)?;
            // Taken before already: this restores, and is no new taking of addresses.
            state.tables.insert(object.clone(), Some(&object));
        }
        Kind::LastAddress(last) => {
            let subnet = last.subnet.parse().map_err(Malformed::bad)?;
            let address = last.address.parse().map_err(Malformed::bad)?;
            state.tables.set_last_address(&last.network_id.into(), subnet, address);
        }
        Kind::LastVni(vni) => state.tables.set_last_vni(vni),
        Kind::Answered(answered) => {
            let id = codec::get_proposal_id(&answered.id)?;
            state.answered.remember(answered.index, Answer { id, applied: answered.applied });
        }
    }
    Ok(())
}
