//! Passes confirmations on to the other managers.
//!
//! While one manager is being told, what comes meanwhile gathers for it: alone, a confirmation goes out at once; many
//! share a call. A manager that cannot be told is told no more of these: whoever waits there does so for a bounded time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::model::NodeId;
use proto::network::confirmations_client::ConfirmationsClient;
use proto::network::{ConfirmedBy, TellRequest, TellResponse, confirmations_server};
use raft_store::Store;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::confirmations::{Confirmations, Confirmed};
use crate::managers::Managers;
use crate::peers::Peers;

/// A call may take so long.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Teller {
    pub own: NodeId,
    pub store: Store,
    pub peers: Peers,
    pub news: mpsc::UnboundedReceiver<Confirmed>,
}

/// What a manager has not been told yet.
#[derive(Default)]
struct Outbox {
    unsent: Confirmed,
    busy: bool,
}

impl Teller {
    /// Runs until cancelled.
    pub async fn run(mut self, cancel: &CancellationToken) {
        let telling = async {
            let managers = Managers::of(&self.store);
            let mut outboxes: BTreeMap<String, Outbox> = BTreeMap::new();
            let mut calls = JoinSet::new();
            loop {
                tokio::select! {
                    news = self.news.recv() => {
                        let Some(news) = news else { return };
                        let others = managers.other_addrs(&self.own);
                        outboxes.retain(|addr, _| others.contains(addr));
                        for addr in others {
                            outboxes.entry(addr).or_default().unsent.extend(news.clone());
                        }
                    }
                    Some(told) = calls.join_next() => {
                        if let Ok(addr) = told && let Some(outbox) = outboxes.get_mut(&addr) {
                            outbox.busy = false;
                        }
                    }
                }
                for (addr, outbox) in &mut outboxes {
                    if !outbox.busy && !outbox.unsent.is_empty() {
                        outbox.busy = true;
                        calls.spawn(tell(
                            self.peers.clone(),
                            addr.clone(),
                            std::mem::take(&mut outbox.unsent),
                        ));
                    }
                }
            }
        };
        cancel.run_until_cancelled(telling).await;
    }
}

/// The address, when the manager there was told or cannot be.
async fn tell(peers: Peers, addr: String, confirmed: Confirmed) -> String {
    let entries = confirmed.into_iter().map(|((node, network), index)| ConfirmedBy {
        node_id: node.to_string(),
        network_id: network.to_string(),
        index,
    });
    let request = TellRequest { confirmed: entries.collect() };
    let call = async { ConfirmationsClient::new(peers.channel(&addr)?).tell(request).await };
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(addr, %error, "cannot tell a manager what nodes have confirmed"),
        Err(_) => tracing::debug!(addr, "a manager does not answer what nodes have confirmed"),
    }
    addr
}

/// Hears what nodes have confirmed to other managers.
pub struct Ear {
    pub store: Store,
    pub confirmations: Arc<Confirmations>,
}

#[tonic::async_trait]
impl confirmations_server::Confirmations for Ear {
    async fn tell(&self, request: Request<TellRequest>) -> Result<Response<TellResponse>, Status> {
        let entries = request.into_inner().confirmed.into_iter();
        let entries = entries.map(|entry| ((entry.node_id.into(), entry.network_id.into()), entry.index));
        self.confirmations.add(&self.store.view(), &entries.collect());
        Ok(Response::new(TellResponse {}))
    }
}
