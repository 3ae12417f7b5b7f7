//! How many calls a caller may have under way.
//!
//! Counted before a request is read, so that what a node or a stranger can make this manager hold in memory is bounded.
//! Streams to a node are bounded by their services: each has one a node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use identity::Peer;
use proto::model::{NodeId, Role};
use tonic::Status;

/// Of one worker. It has a handful, and one more for each client that follows output of its tasks.
const OF_A_WORKER: usize = 256;
/// Of all who have no certificate.
const OF_STRANGERS: usize = 512;
/// How long a call of somebody without a certificate may take, sending included.
pub const STRANGERS_TIME: Duration = Duration::from_secs(30);

/// Whose calls are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Account {
    Worker(NodeId),
    Strangers,
}

#[derive(Clone, Default)]
pub struct Load(Arc<Mutex<HashMap<Account, usize>>>);

/// A call that is under way.
pub struct Call {
    load: Load,
    account: Account,
}

impl Load {
    /// None for callers that are not counted: clients here, and managers, which call on behalf of many.
    pub fn begin(&self, peer: &Peer) -> Result<Option<Call>, Status> {
        let (account, most) = match peer {
            Peer::Local | Peer::Node { role: Role::Manager, .. } => return Ok(None),
            Peer::Node { id, role: Role::Worker, .. } => (Account::Worker(id.clone()), OF_A_WORKER),
            Peer::Anonymous => (Account::Strangers, OF_STRANGERS),
        };
        let mut calls = self.lock();
        let under_way = calls.entry(account.clone()).or_default();
        if *under_way >= most {
            return Err(Status::resource_exhausted("too many calls at a time: try again later"));
        }
        *under_way += 1;
        Ok(Some(Call { load: self.clone(), account }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Account, usize>> {
        // Nothing that runs under the lock leaves the table half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = self.load.lock();
        if let Some(under_way) = calls.get_mut(&self.account) {
            *under_way -= 1;
            if *under_way == 0 {
                calls.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, role: Role) -> Peer {
        Peer::Node { id: id.into(), role, cluster: "c".into() }
    }

    #[test]
    fn each_worker_has_its_own_bound_and_strangers_share_one() {
        let load = Load::default();
        for (peer, other, most) in [
            (node("w1", Role::Worker), node("w2", Role::Worker), OF_A_WORKER),
            (Peer::Anonymous, node("w3", Role::Worker), OF_STRANGERS),
        ] {
            let mut calls: Vec<_> = (0..most).map(|_| load.begin(&peer).unwrap()).collect();
            assert_eq!(load.begin(&peer).err().unwrap().code(), tonic::Code::ResourceExhausted);
            assert!(load.begin(&other).is_ok());
            calls.pop();
            assert!(load.begin(&peer).is_ok());
        }
        assert!(load.begin(&node("m1", Role::Manager)).unwrap().is_none());
        assert!(load.lock().is_empty(), "nothing is kept of calls that are over");
    }
}
