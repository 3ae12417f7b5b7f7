//! Follows the role that the managers give this node.
//!
//! Promotion: a new certificate, then the manager side, which asks to become a member. Demotion: the leader removes
//! the member and then changes the role, so a session that tells the role of a worker, which is never older than what
//! was told before, is the word that the vote is gone: the manager side ends, and the certificate is renewed.
//!
//! A manager side that cannot run is opened again, one that takes no part asks to be taken in again, in growing
//! intervals; the worker does not notice either.

use std::time::Duration;

use identity::RootCertificate;
use proto::model::{IssuanceState, Role};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::{Published, Swarm, begin, remove_dir};
use crate::error::{Error, Expelled, chain};
use crate::gate::Serving;
use crate::manager_side::{ManagerSide, ask_to_join};
use crate::record;

/// A member that hears no leader for so long may have been removed, and asks to be taken in. Elections take less.
const LEADERLESS: Duration = Duration::from_secs(5);

/// Answers on end that leave no doubt.
const CERTAIN: u32 = 2;

/// How it goes on with this node's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    GoesOn,
    /// The managers do not know this node any more.
    Removed,
}

impl Swarm {
    /// Resolves when `follow` may have something to do.
    pub async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.session.changed() => {}
            Ok(()) = self.certificate.changed() => {}
            Ok(()) = self.whereabouts.changed() => {}
            Some(asked) = self.joining.join_next() => self.asked(asked),
            () = side_changed(&mut self.manager) => {}
            () = self.retry.becomes_due() => {}
        }
    }

    /// Brings the manager side in line with the role, as far as that is possible now.
    pub async fn follow(&mut self) -> Outcome {
        if self.session.borrow().removed || self.is_expelled(Expelled::FromTheSwarm) {
            return Outcome::Removed;
        }
        self.move_along();
        let told = self.learn();
        if let Some(role) = told {
            self.renewal.expect(role);
        }
        match (told.unwrap_or(self.role()), self.role()) {
            (Role::Worker, _) => self.be_no_manager().await,
            (Role::Manager, Role::Manager) => self.be_manager().await,
            // The certificate comes first.
            (Role::Manager, Role::Worker) => {}
        }
        Outcome::GoesOn
    }

    /// Takes from the session what the rest of the node needs; tells the role that the managers want.
    fn learn(&mut self) -> Option<Role> {
        let tls = self.certificate.borrow_and_update().tls_info();
        self.tls.send_if_modified(|told| {
            let changed = *told != tls;
            *told = tls;
            changed
        });
        let session = self.session.borrow_and_update();
        if let Some(certificate) = session.node.as_ref().map(|node| &node.certificate)
            && certificate.state == IssuanceState::Rotate
        {
            self.renewal.replace(&certificate.chain);
        }
        match std::str::from_utf8(&session.root_ca).map(RootCertificate::from_pem) {
            Ok(Ok(root)) => self.renewal.trust(root),
            _ if session.root_ca.is_empty() => {}
            _ => tracing::warn!("the root certificate that the manager tells is not usable"),
        }
        if !session.managers.is_empty() {
            self.managers.send_if_modified(|managers| {
                let changed = *managers != session.managers;
                managers.clone_from(&session.managers);
                changed
            });
        }
        session.node.as_ref().map(|node| node.role)
    }

    /// A worker that was found elsewhere is known by that address from now on.
    fn move_along(&mut self) {
        let Some(local) = self.whereabouts.borrow_and_update().local else { return };
        let known = self.record.advertise.ip();
        let follows = self.record.follows && self.record.data_path.is_none() && self.manager.is_none();
        if !follows || local == known || local.is_ipv4() != known.is_ipv4() {
            return;
        }
        self.record.advertise.set_ip(local);
        if let Err(error) = record::save(&self.context.settings.data_root, &self.record) {
            tracing::error!(error = chain(&error), "cannot note this node's new address");
        }
        self.published.send_modify(|published| published.advertise = Some(self.record.advertise));
    }

    /// Whether the others have said so for certain: one that was asked may have lagged.
    fn is_expelled(&self, from: Expelled) -> bool {
        self.expelled.is_some_and(|(told, times)| told == from && times >= CERTAIN)
    }

    async fn be_manager(&mut self) {
        if self.is_expelled(Expelled::FromTheManagers) && self.manager.is_some() {
            self.step_aside().await;
        }
        if let Some(reason) = self.manager.as_ref().and_then(ManagerSide::failure) {
            self.close_failed(reason).await;
        }
        if self.manager.is_none() && self.retry.is_due() {
            self.open().await;
        }
        let Some(manager) = &self.manager else { return };
        let is_voter = manager.is_voter();
        if is_voter && manager.hears_leader() {
            self.idle_since = None;
            self.show(None);
            return;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if is_voter {
            self.retry.at_earliest(since + LEADERLESS);
        }
        if self.joining.is_empty() && self.retry.is_due() {
            self.ask_again();
        }
    }

    pub(super) async fn open(&mut self) {
        failpoint::reached("role: open the replica");
        self.context.serving.send_replace(Serving::Starting);
        let managers = self.managers.borrow().clone();
        match begin::open_manager(&self.context, &self.record, &self.credentials, &managers).await {
            Ok(manager) => {
                self.manager = Some(manager);
                self.idle_since = None;
                self.show(None);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// The replica of a manager that was put out while it was away knows nothing of that, nor does the session with
    /// it. Without it another manager tells what this node is now.
    async fn step_aside(&mut self) {
        self.expelled = None;
        if let Some(manager) = self.manager.take() {
            self.joining.shutdown().await;
            let error = Error::Stopped("the others do not know this node as a manager any more".into());
            manager.stop(Serving::Failing(chain(&error))).await;
            self.fail(&error);
        }
    }

    async fn close_failed(&mut self, reason: String) {
        if let Some(manager) = self.manager.take() {
            self.joining.shutdown().await;
            let error = Error::Stopped(reason);
            manager.stop(Serving::Failing(chain(&error))).await;
            self.fail(&error);
        }
    }

    /// The manager side does not run; it is opened again later.
    fn fail(&mut self, error: &Error) {
        let reason = chain(error);
        tracing::error!(error = reason, "the manager on this node does not run; it is tried again");
        self.context.serving.send_replace(Serving::Failing(reason.clone()));
        self.retry.failed();
        self.show(Some(reason));
    }

    fn ask_again(&mut self) {
        failpoint::reached("role: ask to join");
        let (dialer, own) = (self.dialer.clone(), self.record.advertise);
        let managers = self.managers.borrow().clone();
        self.retry.at_earliest(Instant::now() + LEADERLESS);
        if managers.iter().any(|addr| *addr != own.to_string()) {
            self.joining.spawn(async move { ask_to_join(&dialer, own, &managers).await });
        }
    }

    fn asked(&mut self, asked: Result<Result<(), Error>, JoinError>) {
        match asked {
            Ok(Ok(())) => {
                self.expelled = None;
                self.show(None);
            }
            Ok(Err(error)) => {
                let before = self.expelled.filter(|(told, _)| Some(*told) == error.expelled());
                let times = before.map_or(0, |(_, times)| times) + 1;
                self.expelled = error.expelled().map(|told| (told, times));
                let reason = chain(&error);
                tracing::warn!(error = reason, "this node takes no part in the managers yet; it asks again");
                self.retry.failed();
                self.show(Some(reason));
            }
            Err(_) => self.retry.failed(),
        }
    }

    async fn be_no_manager(&mut self) {
        self.joining.shutdown().await;
        match self.manager.take() {
            Some(manager) => manager.stop(Serving::Nothing).await,
            None if matches!(*self.context.serving.borrow(), Serving::Nothing) => return,
            None => drop(self.context.serving.send_replace(Serving::Nothing)),
        }
        self.show(None);
        failpoint::reached("role: remove the replica");
        if let Err(error) = self.context.certificates.seal(None, 0) {
            tracing::error!(error = chain(&error), "cannot take the seal off this node's key");
        }
        if let Err(error) = remove_dir(self.context.raft_dir()) {
            tracing::warn!(
                error = chain(&error),
                "cannot remove the replica of a manager that is none any more"
            );
        }
        tracing::info!("this node is no longer a manager");
    }

    fn show(&self, problem: Option<String>) {
        let store = self.manager.as_ref().map(|manager| manager.store().clone());
        let advertise = Some(self.record.advertise);
        self.published.send_replace(Published { advertise, store, problem });
    }
}

async fn side_changed(manager: &mut Option<ManagerSide>) {
    match manager {
        Some(manager) => manager.changed().await,
        None => std::future::pending().await,
    }
}
