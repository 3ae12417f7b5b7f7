//! Keeps a node's certificate fresh: sleep, certify, repeat.
//!
//! Decides when to ask for a new certificate; who signs it is a `Certify`. A new certificate is checked, written to
//! disk and only then put to use. Sessions go on: see `credentials`.
//!
//! The time of a renewal is drawn once per certificate, between 50 % and 80 % of its lifetime, so that nodes that joined
//! together do not come back together. A failure is repeated with growing pauses; an order to renew, or a role that
//! the managers want and the certificate does not have, makes it happen at once.
//!
//! A new root is trusted, instead of the old one, once the node's own certificate is good under it: before that, others
//! would not know the node any more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::model::Role;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::certificate::{self, NodeCertificate, NodeIdentity, Validity};
use crate::certificate_dir::{self, CertificateDir};
use crate::credentials::Credentials;
use crate::issuance::{self, Certify};
use crate::root::{self, RootCertificate};
use crate::{Clock, PrivateKey, private_key, tls};

const EARLIEST: f64 = 0.5;
const LATEST: f64 = 0.8;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// The wall clock is read again at least this often: it may be set, and machines sleep.
const LONGEST_NAP: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Issuance(#[from] issuance::Error),
    #[error("the certificate that was issued is unusable")]
    Certificate(#[from] certificate::Error),
    #[error("the certificate that was issued is not of this swarm")]
    Untrusted(#[from] root::Error),
    #[error("the certificate that was issued is for another node or cluster")]
    OtherNode,
    #[error("the certificate that was issued is for a {found:?}; this node is to be a {wanted:?}")]
    OtherRole { wanted: Role, found: Role },
    #[error(transparent)]
    Key(#[from] private_key::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error(transparent)]
    Disk(#[from] certificate_dir::Error),
    #[error("writing the certificate was interrupted")]
    Interrupted,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Orders {
    renewals: u64,
    role: Option<Role>,
    /// The certificate that the managers want to be replaced.
    outdated: Option<Arc<[u8]>>,
    root: Option<RootCertificate>,
}

/// Tells a running [`Renewal`] what the node wants.
#[derive(Clone, Debug)]
pub struct Trigger(Arc<watch::Sender<Orders>>);

impl Trigger {
    /// Renews at once, whatever the age of the certificate.
    pub fn renew_now(&self) {
        self.0.send_modify(|orders| orders.renewals += 1);
    }

    /// The managers want this role: renews until the certificate has it. Nothing happens if it does already.
    pub fn expect(&self, role: Role) {
        self.0.send_if_modified(|orders| orders.role.replace(role) != Some(role));
    }

    /// The managers want another certificate in place of this one, which they have issued last. Once for each.
    pub fn replace(&self, chain: &[u8]) {
        self.0.send_if_modified(|orders| {
            let is_new = orders.outdated.as_deref() != Some(chain);
            if is_new {
                orders.outdated = Some(chain.into());
            }
            is_new
        });
    }

    /// The managers tell this root.
    pub fn trust(&self, root: RootCertificate) {
        self.0.send_if_modified(|orders| {
            let is_new = orders.root.as_ref() != Some(&root);
            orders.root = Some(root);
            is_new
        });
    }
}

#[derive(Debug)]
pub struct Renewal<C> {
    credentials: Credentials,
    dir: CertificateDir,
    ca: C,
    clock: Clock,
    random: StdRng,
    orders: watch::Receiver<Orders>,
    /// The orders that the last attempt knew of.
    served: Orders,
}

enum Done {
    Nothing,
    Renewed,
}

/// When to try next, and how often it has failed.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    due: SystemTime,
    failures: u32,
}

impl<C: Certify> Renewal<C> {
    pub fn new(
        credentials: Credentials,
        dir: CertificateDir,
        ca: C,
        clock: Clock,
        random: StdRng,
    ) -> (Self, Trigger) {
        let orders = watch::Sender::new(Orders::default());
        let renewal = Self {
            credentials,
            dir,
            ca,
            clock,
            random,
            orders: orders.subscribe(),
            served: Orders::default(),
        };
        (renewal, Trigger(Arc::new(orders)))
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut schedule = self.fresh();
        while stop.run_until_cancelled(self.wait(&schedule)).await.is_some() {
            let before = std::mem::replace(&mut self.served, self.orders.borrow_and_update().clone());
            let Some(outcome) = stop.run_until_cancelled(self.serve(&before, &schedule)).await else {
                return;
            };
            schedule = match outcome {
                Ok(Done::Nothing) => schedule,
                Ok(Done::Renewed) => self.fresh(),
                Err(error) => self.retry(&schedule, &error),
            };
        }
    }

    /// Returns when it is time, or when there is an order that the last attempt did not know.
    async fn wait(&mut self, schedule: &Schedule) {
        loop {
            let left = schedule.due.duration_since(self.clock.now()).unwrap_or_default();
            if left.is_zero() || self.has_new_order() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LONGEST_NAP)) => {}
                Ok(()) = self.orders.changed() => {}
            }
        }
    }

    fn has_new_order(&self) -> bool {
        let orders = self.orders.borrow();
        self.asks_for_renewal(&orders, &self.served) || orders.root != self.served.root
    }

    /// Whether `orders` ask for a certificate for which those `before` did not ask.
    fn asks_for_renewal(&self, orders: &Orders, before: &Orders) -> bool {
        let new_role = orders.role != before.role && orders.role.is_some_and(|wanted| wanted != self.role());
        orders.renewals != before.renewals || orders.outdated != before.outdated || new_role
    }

    async fn serve(&self, before: &Orders, schedule: &Schedule) -> Result<Done, Error> {
        self.follow_root().await?;
        let is_due = schedule.due <= self.clock.now();
        if !is_due && !self.asks_for_renewal(&self.served, before) {
            return Ok(Done::Nothing);
        }
        self.renew().await?;
        self.follow_root().await?;
        Ok(Done::Renewed)
    }

    /// Trusts the root that the managers tell, if others will still know this node then.
    async fn follow_root(&self) -> Result<(), Error> {
        let current = self.credentials.current();
        let Some(told) = self.served.root.as_ref().filter(|told| *told != current.root()) else {
            return Ok(());
        };
        if let Err(error) = told.verify(current.identity().certificate(), self.clock.now()) {
            tracing::warn!(%error, "this node's certificate is not good under the swarm's new root yet");
            return Ok(());
        }
        self.adopt(current.identity().clone(), told.clone()).await?;
        tracing::info!(root = %told.digest(), "trusts the swarm's new root");
        Ok(())
    }

    async fn renew(&self) -> Result<(), Error> {
        let key = PrivateKey::generate()?;
        let chain = self.ca.issue(&key.signing_request()?).await?;
        let current = self.credentials.current();
        let (identity, root) = self.check(&chain, key, current.identity(), current.root())?;
        self.adopt(identity, root).await?;
        match self.unmet_role() {
            Some(wanted) => Err(Error::OtherRole { wanted, found: self.role() }),
            None => Ok(()),
        }
    }

    /// A certificate that names another node, or that peers would not accept, must never replace a good one.
    fn check(
        &self,
        chain: &str,
        key: PrivateKey,
        current: &NodeIdentity,
        root: &RootCertificate,
    ) -> Result<(NodeIdentity, RootCertificate), Error> {
        let certificate = NodeCertificate::from_pem(chain)?;
        let told = self.served.root.as_ref();
        let root = told.filter(|told| told.verify(&certificate, self.clock.now()).is_ok()).unwrap_or(root);
        root.verify(&certificate, self.clock.now())?;
        let (new, old) = (certificate.subject(), current.subject());
        if new.node != old.node || new.cluster != old.cluster {
            return Err(Error::OtherNode);
        }
        Ok((NodeIdentity::new(certificate, key)?, root.clone()))
    }

    async fn adopt(&self, identity: NodeIdentity, root: RootCertificate) -> Result<(), Error> {
        let (dir, saved, trusted) = (self.dir.clone(), identity.clone(), root.clone());
        let saving = tokio::task::spawn_blocking(move || dir.save(&saved, &trusted));
        saving.await.map_err(|_| Error::Interrupted)??;
        self.credentials.replace(identity, root)?;
        let current = self.credentials.current();
        let validity = current.identity().certificate().validity();
        tracing::info!(role = ?self.role(), not_after = ?validity.not_after, "this node's certificate");
        Ok(())
    }

    fn role(&self) -> Role {
        self.credentials.current().identity().subject().role
    }

    fn unmet_role(&self) -> Option<Role> {
        self.orders.borrow().role.filter(|wanted| *wanted != self.role())
    }

    fn fresh(&mut self) -> Schedule {
        let validity = self.credentials.current().identity().certificate().validity();
        Schedule { due: renewal_time(validity, self.random.random()), failures: 0 }
    }

    fn retry(&mut self, schedule: &Schedule, error: &Error) -> Schedule {
        let pause = retry_pause(schedule.failures, self.random.random());
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, cause, ?pause, "could not renew the node's certificate");
        Schedule { due: self.clock.now() + pause, failures: schedule.failures.saturating_add(1) }
    }
}

/// `fraction` of 0 is the earliest time for a renewal, 1 the latest.
fn renewal_time(validity: Validity, fraction: f64) -> SystemTime {
    let share = EARLIEST + (LATEST - EARLIEST) * fraction.clamp(0.0, 1.0);
    validity.not_before + validity.lifetime().mul_f64(share)
}

/// Doubles with each failure up to the cap; `jitter` (0 to 1) takes away up to a half.
fn retry_pause(failures: u32, jitter: f64) -> Duration {
    let full = FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LONGEST_RETRY);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
