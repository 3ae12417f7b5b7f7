//! Brings the table of service addresses and resolver about in one sandbox.

use super::failure;
use crate::desired::{Desired, NetworkKey, Sandbox, SandboxKey};
use crate::error::Error;
use crate::model::Place;
use crate::netlink::Refusal;
use crate::plan::{Action, Change};
use crate::report::{Report, Subject};
use crate::steering::{Known, Settled, Steering, settle};
use crate::{Netdriver, netns, site};

impl Netdriver {
    /// After a change of `network`: its services, in a sandbox that is attached to it and exists. Failures are the
    /// network's, since nobody has asked for the sandbox.
    pub(super) async fn ensure_services(
        &self,
        key: &SandboxKey,
        sandbox: &Sandbox,
        network: &NetworkKey,
        desired: &Desired,
    ) -> Report {
        let wanted = Steering::of(sandbox, desired);
        let lock = self.sandboxes.lease(key);
        let mut known = lock.lock().await;
        if known.as_ref().is_some_and(|known| known.is_of(&wanted)) {
            return Report::default();
        }
        self.steer(key, &Subject::Network(network.clone()), wanted, &mut known).await
    }

    /// Nothing is done if the sandbox does not exist.
    pub(super) async fn steer(
        &self,
        key: &SandboxKey,
        subject: &Subject,
        wanted: Steering,
        known: &mut Option<Known>,
    ) -> Report {
        if let Err(error) = wanted.validate(known.as_ref()) {
            return failure(subject, error);
        }
        match self.settle(key, wanted, known).await {
            Ok(settled) => {
                let place = Place::Sandbox(key.clone());
                let steered = (settled.operations > 0).then_some(Change::Steer(settled.operations));
                let forgotten = (settled.flows > 0).then_some(Change::ForgetFlows(settled.flows));
                let changes = steered.into_iter().chain(forgotten);
                Report {
                    changes: changes.map(|change| Action::new(&place, change)).collect(),
                    errors: vec![],
                }
            }
            Err(cause) => failure(subject, Error::Steering { sandbox: key.clone(), cause }),
        }
    }

    async fn settle(
        &self,
        key: &SandboxKey,
        wanted: Steering,
        known: &mut Option<Known>,
    ) -> Result<Settled, Refusal> {
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let path = site::path(&self.config, &Place::Sandbox(key.clone()));
        let Some(namespace) = path.map(|path| netns::open(&path)).transpose()?.flatten() else {
            return Ok(Settled::default());
        };
        // Here, and not where it is done: the check of the machine does it, too.
        failpoint::reached(format_args!("sandbox {key}: steer packets"));
        let mut before = known.take();
        let work = move || (settle(&wanted, &mut before), before);
        let (settled, after) = netns::within(Some(&namespace), work).await?;
        *known = after;
        settled
    }
}
