//! Keys of encrypted networks: an operator asks for another one. Keys themselves are never told.

use std::time::Duration;

use proto::model::{Keyring, NetworkId};
use proto::network::keys_server::Keys;
use proto::network::{RotateRequest, RotateResponse};
use tonic::{Request, Response, Status};

use super::Control;
use crate::error::{Error, status};
use crate::fanout::until;

/// How long an answer waits for the rotation: twice as long as its three phases may take.
const ROTATION: Duration = Duration::from_secs(180);

#[tonic::async_trait]
impl Keys for Control {
    async fn rotate(&self, request: Request<RotateRequest>) -> Result<Response<RotateResponse>, Status> {
        let id = NetworkId::from(request.into_inner().network_id);
        let asked = self.store.update(|tx| {
            let network = tx.network(&id).ok_or_else(|| Error::not_found("network", &id))?;
            let name = network.name();
            if !network.is_encrypted() {
                let why = format!("network {name:?} is not encrypted: it has no key");
                return Err(Error::Precondition(why));
            }
            let again = || Error::Precondition(format!("network {name:?} has no key yet: try again"));
            let mut keyring = Keyring::clone(tx.keyring(&id).ok_or_else(again)?);
            if keyring.is_rotating() {
                let why =
                    format!("the key of network {name:?} is being rotated: try again when that is done");
                return Err(Error::Precondition(why));
            }
            keyring.wanted = keyring.newest() + 1;
            let generation = keyring.wanted;
            tx.update(keyring);
            Ok(generation)
        });
        let generation = asked.await.map_err(status)?;
        let done = until(&self.store, |view| {
            let over = |keyring: &Keyring| keyring.newest() >= generation && !keyring.is_rotating();
            view.keyring(&id).is_none_or(|keyring| over(keyring)).then_some(())
        });
        let complete = tokio::time::timeout(ROTATION, done).await.is_ok();
        Ok(Response::new(RotateResponse { generation, complete }))
    }
}
