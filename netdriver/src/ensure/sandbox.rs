//! One sandbox: its namespace, its cables into networks and its leg on the gateway bridge.

use std::collections::{BTreeMap, BTreeSet};

use super::{carry_out, check_key, failure, report};
use crate::desired::{Desired, NetworkKey, Sandbox, SandboxKey};
use crate::driver::gateway::Gateway;
use crate::driver::sandbox::{self, Surroundings};
use crate::error::Error;
use crate::mac::Mac;
use crate::model::{Namespace, Place, World};
use crate::observe::{self, Look, View};
use crate::plan::Action;
use crate::report::{Report, Subject};
use crate::site::Sites;
use crate::steering::Steering;
use crate::{Netdriver, name};

type Done = (Vec<Action>, Vec<Error>);

impl Netdriver {
    pub(super) async fn ensure_sandbox(
        &self,
        key: &SandboxKey,
        sandbox: &Sandbox,
        desired: &Desired,
    ) -> Report {
        let subject = Subject::Sandbox(key.clone());
        let checked = check_key("sandbox", key.as_str()).and_then(|()| sandbox::validate(sandbox));
        if let Err(error) = checked {
            return failure(&subject, error);
        }
        let lock = self.sandboxes.lease(key);
        let mut known = lock.lock().await;
        let mut made = Report::default();
        let mut result = self.make_sandbox(key, sandbox, desired, &mut made).await;
        if !matches!(&result, Ok((_, errors)) if errors.is_empty()) && self.distrust(sandbox).await {
            // What was remembered of the networks may have been wrong: once more, from what the kernel says.
            result = self.make_sandbox(key, sandbox, desired, &mut made).await;
        }
        match result {
            Ok(done) => {
                let is_whole = done.1.is_empty();
                made.absorb(report(&subject, done));
                if is_whole {
                    made.absorb(self.steer(key, &subject, Steering::of(sandbox, desired), &mut known).await);
                }
            }
            Err(error) => made.absorb(failure(&subject, error)),
        }
        made
    }

    /// Forgets that the sandbox's surroundings were in order; whether there was anything to forget.
    async fn distrust(&self, sandbox: &Sandbox) -> bool {
        let mut forgot = sandbox.outbound && self.legs.lock().await.distrust();
        for attachment in &sandbox.attachments {
            forgot |= self.networks.lease(&attachment.network).frame.write().await.take().is_some();
        }
        forgot
    }

    async fn make_sandbox(
        &self,
        key: &SandboxKey,
        sandbox: &Sandbox,
        desired: &Desired,
        made: &mut Report,
    ) -> Result<Done, Error> {
        for attachment in &sandbox.attachments {
            let network = &attachment.network;
            let overlay = desired.networks.get(network);
            let overlay = overlay.ok_or_else(|| Error::UnknownNetwork(network.clone()))?;
            self.require_network(network, overlay, made).await?;
        }
        let leg = match sandbox.outbound {
            true => Some(self.reserve_leg(key, made).await?),
            false => None,
        };
        // In the order of keys, and only for reading: see `keyed`.
        let keys: BTreeSet<&NetworkKey> = sandbox.attachments.iter().map(|a| &a.network).collect();
        let states: Vec<_> = keys.iter().map(|key| self.networks.lease(key)).collect();
        let mut mtus = BTreeMap::new();
        let mut held = Vec::new();
        for (key, state) in keys.iter().zip(&states) {
            let frame = state.frame.read().await;
            let gone =
                || Error::Network { network: (*key).clone(), cause: "was removed meanwhile".to_owned() };
            mtus.insert((*key).clone(), frame.ok_or_else(gone)?);
            held.push(frame);
        }
        let gateway = Gateway::of(&self.config);
        let around = Surroundings { mtus: &mtus, gateway: &gateway, leg };
        let wanted = sandbox::wanted(key, sandbox, &around);
        let mut sites = self.sites().await;
        let found = look_around(&mut sites, key, sandbox, &wanted).await?;
        let done = carry_out(&mut sites, &wanted, &found).await;
        drop((held, sites));
        if !sandbox.outbound {
            made.absorb(self.release_leg(key).await);
        }
        Ok(done)
    }

    pub(super) async fn remove_sandbox(&self, key: &SandboxKey) -> Report {
        let subject = Subject::Sandbox(key.clone());
        let lock = self.sandboxes.lease(key);
        let mut known = lock.lock().await;
        *known = None;
        let mut removed = match self.unmake_sandbox(key).await {
            Ok(done) => report(&subject, done),
            Err(error) => return failure(&subject, error),
        };
        if removed.errors.is_empty() {
            removed.absorb(self.release_leg(key).await);
        }
        removed
    }

    async fn unmake_sandbox(&self, key: &SandboxKey) -> Result<Done, Error> {
        check_key("sandbox", key.as_str())?;
        let mut sites = self.sites().await;
        let place = Place::Sandbox(key.clone());
        let wanted = World::from([(Place::Host, Namespace::default())]);
        let mut found = look_around(&mut sites, key, &Sandbox::default(), &wanted).await?;
        // A file that is no namespace goes, too.
        if !found.contains_key(&place) && sites.path(&place).exists() {
            found.insert(place, Namespace::default());
        }
        Ok(carry_out(&mut sites, &wanted, &found).await)
    }
}

/// Reads the sandbox, its ports and its leg: as much as it concerns, however large the networks are.
async fn look_around(
    sites: &mut Sites<'_>,
    key: &SandboxKey,
    sandbox: &Sandbox,
    wanted: &World,
) -> Result<World, Error> {
    let (port, leg) = (name::port(key), name::leg(key));
    let mut looks: Vec<(Place, Look<'_>)> = vec![
        (Place::Sandbox(key.clone()), Look::Whole),
        (Place::Host, Look::Port { name: &leg, station: None }),
    ];
    for attachment in &sandbox.attachments {
        let station: Option<Mac> = Some(attachment.mac);
        looks.push((Place::Network(attachment.network.clone()), Look::Port { name: &port, station }));
    }
    let mut views: BTreeMap<Place, View> = BTreeMap::new();
    for (place, look) in looks {
        let Some(site) = sites.enter(&place).await? else { continue };
        let view = observe::read(site, &place, look).await.map_err(Error::read(place.to_string()))?;
        if let Some(name) = view.strangers.first().filter(|_| sandbox.outbound) {
            return Err(Error::NameTaken { name: name.clone() });
        }
        views.insert(place, view);
    }
    Ok(observe::join(views, wanted))
}
