//! The gateway: made with the first leg, removed with the last; and which address belongs to which leg.
//!
//! Addresses are kept in memory between calls and come from the kernel: read when the driver opens, and again by each
//! pass over the whole node. One lock guards them; it is held over I/O only by the first and the last leg, for whose
//! sake everybody must wait anyway, and by that pass.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{carry_out, failure, report};
use crate::desired::{Desired, SandboxKey};
use crate::driver::gateway::{self, Gateway};
use crate::error::Error;
use crate::model::{Namespace, Place, World};
use crate::observe::{self, Look, View};
use crate::plan::{Action, Change};
use crate::report::{Report, Subject};
use crate::site::{self, Sites};
use crate::sysctl::FORWARDING;
use crate::{Netdriver, name, netns, nft};

#[derive(Debug, Default)]
pub struct Legs {
    /// By the name of the leg.
    addresses: BTreeMap<String, Ipv4Addr>,
    /// Whether bridge and rules are known to be in order.
    ready: bool,
    /// The table as `nft` listed it after it was set.
    listing: Option<String>,
}

impl Legs {
    /// Has bridge and rules looked at again; whether they were taken to be in order.
    pub(super) fn distrust(&mut self) -> bool {
        std::mem::take(&mut self.ready)
    }
}

type Done = (Vec<Action>, Vec<Error>);

impl Netdriver {
    /// Reads the legs that exist.
    pub(crate) async fn read_legs(&self) -> Result<(), Error> {
        let mut sites = self.sites().await;
        let found = look(&mut sites, Look::Whole).await?;
        self.legs.lock().await.addresses = recorded(&found.namespace);
        Ok(())
    }

    /// The address of a sandbox's leg: the one that it has, or one that is free. The bridge then exists.
    pub(super) async fn reserve_leg(&self, key: &SandboxKey, made: &mut Report) -> Result<Ipv4Addr, Error> {
        let gateway = Gateway::of(&self.config);
        let mut legs = self.legs.lock().await;
        let leg = name::leg(key);
        let fitting = |address: &&Ipv4Addr| gateway.subnet.contains(*address);
        let address = match legs.addresses.get(&leg).filter(fitting) {
            Some(address) => *address,
            None => {
                let taken = legs.addresses.values().copied().collect();
                gateway.vacant(&taken).ok_or(Error::GatewayFull { subnet: gateway.subnet })?
            }
        };
        if !legs.ready {
            let (done, mut errors) = self.make_gateway(&mut legs).await?;
            made.changes.extend(done);
            if !errors.is_empty() {
                return Err(errors.swap_remove(0));
            }
        }
        legs.addresses.insert(leg, address);
        Ok(address)
    }

    /// Frees the address of a leg that is gone; with the last one the gateway goes.
    pub(super) async fn release_leg(&self, key: &SandboxKey) -> Report {
        let mut legs = self.legs.lock().await;
        if legs.addresses.remove(&name::leg(key)).is_none() || !legs.addresses.is_empty() {
            return Report::default();
        }
        conclude(self.unmake_gateway(&mut legs).await)
    }

    /// Looks at the gateway as a whole: leftover legs, the bridge, the rules.
    pub(super) async fn sweep_gateway(&self, desired: &Desired) -> Report {
        let mut legs = self.legs.lock().await;
        let swept = match self.sweep_legs(&mut legs, desired).await {
            Ok(done) => report(&Subject::Gateway, done),
            Err(error) => return failure(&Subject::Gateway, error),
        };
        let result = match legs.addresses.is_empty() {
            true => self.unmake_gateway(&mut legs).await,
            false => self.make_gateway(&mut legs).await,
        };
        let mut all = swept;
        all.absorb(conclude(result));
        all
    }

    async fn sweep_legs(&self, legs: &mut Legs, desired: &Desired) -> Result<Done, Error> {
        let mut sites = self.sites().await;
        let mut found = look(&mut sites, Look::Whole).await?.namespace;
        // Read after the legs were, so that a leg whose sandbox is just being made is not taken for a leftover.
        let mut owned: Vec<String> = desired.sandboxes.keys().map(name::leg).collect();
        for place in site::list(&self.config.netns_dir)? {
            if let Place::Sandbox(key) = place {
                owned.push(name::leg(&key));
            }
        }
        let is_owned = |leg: &String| owned.contains(leg) || self.sandboxes.any(|key| name::leg(key) == *leg);
        legs.addresses.extend(recorded(&found));
        legs.addresses.retain(|leg, _| is_owned(leg));
        found.links.retain(|leg, _| !is_owned(leg));
        let wanted = World::from([(Place::Host, Namespace::default())]);
        Ok(carry_out(&mut sites, &wanted, &World::from([(Place::Host, found)])).await)
    }

    async fn make_gateway(&self, legs: &mut Legs) -> Result<Done, Error> {
        let gateway = Gateway::of(&self.config);
        let wanted = gateway.wanted();
        let mut sites = self.sites().await;
        let (found, strangers) = self.look_at_gateway(&mut sites, legs).await?;
        if let Some(name) = strangers.into_iter().next() {
            return Err(Error::NameTaken { name });
        }
        let worlds = [wanted, found].map(|namespace| World::from([(Place::Host, namespace)]));
        let (done, errors) = carry_out(&mut sites, &worlds[0], &worlds[1]).await;
        legs.ready = errors.is_empty();
        if legs.listing.is_none() || done.iter().any(|action| matches!(action.change, Change::SetRules(_))) {
            let file = sites.get(&Place::Host).and_then(|site| site.file.as_ref());
            legs.listing = nft::list(file, "ip", gateway::TABLE).await?;
        }
        Ok((done, errors))
    }

    async fn unmake_gateway(&self, legs: &mut Legs) -> Result<Done, Error> {
        (legs.ready, legs.listing) = (false, None);
        let mut sites = self.sites().await;
        let (mut found, _) = self.look_at_gateway(&mut sites, legs).await?;
        found.forwarding = None;
        let wanted = World::from([(Place::Host, Namespace::default())]);
        Ok(carry_out(&mut sites, &wanted, &World::from([(Place::Host, found)])).await)
    }

    /// The bridge, the rules and whether the host forwards; and the bridge's name if another device has it.
    async fn look_at_gateway(
        &self,
        sites: &mut Sites<'_>,
        legs: &Legs,
    ) -> Result<(Namespace, Vec<String>), Error> {
        let gateway = Gateway::of(&self.config);
        let View { namespace: mut found, strangers, .. } =
            look(sites, Look::Devices(&[gateway.bridge])).await?;
        let file = sites.get(&Place::Host).and_then(|site| site.file.as_ref());
        let listing = nft::list(file, "ip", gateway::TABLE).await?;
        found.rules = listing.map(|listing| {
            // What nft prints is compared only with what it printed; before that, the mark has to do.
            let as_set = match &legs.listing {
                Some(known) => *known == listing,
                None => gateway.has_mark(&listing),
            };
            if as_set { gateway.wanted().rules.unwrap_or_default() } else { listing }
        });
        let forwarding = netns::within(file, || FORWARDING.is_set()).await.and_then(|set| set);
        let path = "/proc/sys/net/ipv4/ip_forward";
        found.forwarding = Some(forwarding.map_err(|cause| Error::file("reading", path, cause))?);
        Ok((found, strangers))
    }
}

async fn look(sites: &mut Sites<'_>, look: Look<'_>) -> Result<View, Error> {
    let path = sites.path(&Place::Host);
    let missing = || Error::file("entering namespace", path, std::io::ErrorKind::NotFound);
    let site = sites.enter(&Place::Host).await?.ok_or_else(missing)?;
    observe::read(site, &Place::Host, look).await.map_err(Error::read("the host's devices"))
}

/// The addresses that legs record.
fn recorded(found: &Namespace) -> BTreeMap<String, Ipv4Addr> {
    let legs = found.links.iter();
    legs.filter_map(|(name, link)| Some((name.clone(), gateway::recorded(link.mac?)?))).collect()
}

fn conclude(result: Result<Done, Error>) -> Report {
    match result {
        Ok(done) => report(&Subject::Gateway, done),
        Err(error) => failure(&Subject::Gateway, error),
    }
}
