//! Follows the role that the managers give this node.
//!
//! Promotion: a new certificate, then the manager side, which asks to become a member. Demotion: the leader removes
//! the member and then changes the role; the manager side ends once it is no longer a member, or has lost the
//! others for so long that it cannot be one, and the certificate is renewed as a worker's.

use std::time::Duration;

use proto::model::Role;
use tokio::time::Instant;

use super::{Published, Swarm, begin};
use crate::error::Error;

/// Between attempts to start or end the manager side.
const RETRY: Duration = Duration::from_secs(1);

impl Swarm {
    /// Resolves when `follow` may have something to do.
    pub async fn changed(&mut self) {
        let mut credentials = self.credentials.subscribe();
        let retry = self.retry_at;
        let retry = async move {
            match retry {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.session.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            _ = credentials.changed() => {}
            () = retry => {}
        }
    }

    /// Brings the manager side in line with the role, as far as that is possible now.
    pub async fn follow(&mut self) -> Result<(), Error> {
        self.retry_at = None;
        let wanted = self.learn();
        if let Some(role) = wanted {
            self.renewal.expect(role);
        }
        let result = match (wanted.unwrap_or(self.role()), self.role(), self.manager.is_some()) {
            (Role::Manager, Role::Manager, _) => self.be_manager().await,
            (Role::Worker, _, true) => {
                self.end_manager().await;
                Ok(())
            }
            _ => Ok(()),
        };
        if result.is_err() {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        result
    }

    /// Takes from the session what the rest of the node needs; tells the role that the managers want.
    fn learn(&mut self) -> Option<Role> {
        let session = self.session.borrow_and_update();
        if !session.managers.is_empty() {
            self.managers.send_if_modified(|managers| {
                let changed = *managers != session.managers;
                managers.clone_from(&session.managers);
                changed
            });
        }
        session.node.as_ref().map(|node| node.role)
    }

    async fn be_manager(&mut self) -> Result<(), Error> {
        if self.manager.is_none() {
            let manager = begin::open_manager(&self.context, &self.record, &self.credentials).await?;
            self.published.send_replace(Published { store: Some(manager.store().clone()) });
            self.manager = Some(manager);
        }
        let Some(manager) = &self.manager else { return Ok(()) };
        if manager.is_member() {
            return Ok(());
        }
        let managers = self.managers.borrow().clone();
        manager.join(&self.dialer, &managers).await
    }

    async fn end_manager(&mut self) {
        let Some(manager) = self.manager.take_if(|manager| !manager.has_vote()) else {
            self.retry_at = Some(Instant::now() + RETRY);
            return;
        };
        self.published.send_replace(Published::default());
        manager.stop().await;
        if let Err(error) = std::fs::remove_dir_all(self.context.raft_dir()) {
            tracing::warn!(%error, "cannot remove the replica of a manager that is none any more");
        }
        tracing::info!("this node is no longer a manager");
    }
}
