//! A swarm without the managers that it had: the one that survived goes on alone, or a new one begins from a snapshot.
//!
//! Decides what this node must be for that, and the order in which it gets a store. What becomes of the others is
//! written with the store's first entry (`manager::cluster`), so no crash leaves a swarm that waits for lost managers.

use std::sync::Arc;
use std::time::SystemTime;

use identity::{Clock, Credentials, Signers, UnlockKey};
use manager::cluster::{self, FirstNode};
use proto::local::{InitRequest, RestoreSnapshotRequest};
use proto::model::{Availability, NodeId, Role};
use raft_store::Store;
use raft_store::backup::Backup;

use super::{Context, Swarm, begin};
use crate::addr::{self, Listening};
use crate::error::Error;
use crate::gate::Serving;
use crate::manager_side::{ManagerSide, bind, open_store, store_options};
use crate::record::{self, Record};

impl Swarm {
    /// Goes on with what this manager has, without the others. Tasks and the worker notice nothing.
    pub async fn refound(&mut self, request: &InitRequest) -> Result<NodeId, Error> {
        if self.role() != Role::Manager {
            return Err(Error::NoManager);
        }
        if self.manager.as_ref().is_some_and(ManagerSide::hears_leader) {
            return Err(Error::HasLeader);
        }
        let record = moved(&self.record, request)?;
        self.joining.shutdown().await;
        if let Some(manager) = self.manager.take() {
            manager.stop(Serving::Starting).await;
        }
        let alone = self.write_alone(&record).await;
        match alone {
            Ok(()) => self.record = record,
            // Nothing has become of it.
            Err(_) => drop(record::save(&self.context.settings.data_root, &self.record)),
        }
        // Also if it failed: then it is the manager that it was.
        self.open().await;
        alone?;
        self.current().await;
        match self.problem() {
            None => Ok(self.node_id()),
            Some(reason) => Err(Error::Stopped(reason)),
        }
    }

    /// The record first: once the group is rewritten this manager hears a leader, itself, and could not be asked again. If
    /// it dies in between, it waits at the new address for the others as before.
    async fn write_alone(&self, record: &Record) -> Result<(), Error> {
        record::save(&self.context.settings.data_root, record)?;
        failpoint::reached("refound: group");
        let place = begin::place(&self.context, record, &self.credentials);
        let survivor = place.node_id.clone();
        Store::refound(&store_options(&place), move |tx, _| cluster::without_other_managers(tx, &survivor))
            .await?;
        tracing::warn!("the other managers are given up: this one goes on alone");
        Ok(())
    }

    /// Begins the swarm that the backup holds anew, with this node as a new one and its only manager.
    pub async fn restore(context: &Arc<Context>, how: Restoration, backup: Backup) -> Result<Self, Error> {
        let restored = restore(context, how, backup).await;
        begin::undo_on_error(context, restored)
    }
}

/// What is asked for may be another address: the machine has a new one.
fn moved(known: &Record, request: &InitRequest) -> Result<Record, Error> {
    let mut record = known.clone();
    if !request.advertise_addr.is_empty() || !request.listen_addr.is_empty() {
        let Listening { listen, advertise } =
            addr::listening(&request.listen_addr, &request.advertise_addr, Some(known.advertise.ip()))?;
        (record.listen, record.advertise) = (listen, advertise);
    }
    if !request.data_path_addr.is_empty() {
        record.data_path = addr::data_path(&request.data_path_addr)?;
    }
    Ok(record)
}

/// How this node takes part in the swarm that it restores.
pub struct Restoration {
    record: Record,
    availability: Availability,
}

impl Restoration {
    pub fn read(request: &RestoreSnapshotRequest) -> Result<Self, Error> {
        let Listening { listen, advertise } =
            addr::listening(&request.listen_addr, &request.advertise_addr, None)?;
        let data_path = addr::data_path(&request.data_path_addr)?;
        let record = Record { listen, advertise, follows: false, data_path, managers: Vec::new() };
        Ok(Self { record, availability: begin::availability(request.availability)? })
    }
}

async fn restore(context: &Arc<Context>, how: Restoration, backup: Backup) -> Result<Swarm, Error> {
    let Restoration { record, availability } = how;
    let listener = bind(record.listen).await?;
    let (view, now) = (backup.view(), SystemTime::now());
    let found = view.cluster().ok_or(raft_store::backup::Error::Empty)?;
    let node = NodeId::from_random(rand::random());
    let signers = Signers::anonymous(Clock::system());
    let (identity, root) = cluster::identity_in(&view, node.clone(), &signers, now).await?;
    let credentials = Credentials::new(identity.clone(), root.clone())?;
    // So that nothing of a locked swarm is ever on this disk in clear.
    let unlock_key = found.unlock_key.as_ref().and_then(|key| UnlockKey::from_bytes(key.expose()).ok());
    context.certificates.seal(unlock_key, found.meta.version)?;
    let place = begin::place(context, &record, &credentials);
    let (addr, certificate) = (record.advertise.to_string(), identity.certificate().pem().into());
    Store::restore(&store_options(&place), backup, move |tx, raft_id| {
        cluster::take_over(tx, FirstNode { id: node, availability, raft_id, addr, certificate });
    })?;
    record::save(&context.settings.data_root, &record)?;
    context.certificates.save(&identity, &root)?;
    let store = open_store(&place).await?;
    let manager = ManagerSide::start(&place, store, listener, context.serving.clone());
    let mut swarm = Swarm::assemble(context, record, credentials, Some(manager), None).await?;
    swarm.current().await;
    Ok(swarm)
}
