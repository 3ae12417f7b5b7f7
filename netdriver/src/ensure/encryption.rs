//! Encryption of networks: associations and policies of one network, and the shield that all of them share.
//!
//! A network is shielded before its VXLAN device exists and until after it is gone; its associations exist as long as
//! the shield does. What is shielded is kept in memory between calls and comes from the kernel: read when it is first
//! asked for, and compared again by each pass over the whole node.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use super::{failure, report};
use crate::desired::{Desired, Overlay};
use crate::driver::encryption::{self, Shielded};
use crate::error::Error;
use crate::esp::Encryption;
use crate::model::Place;
use crate::netlink::Refusal;
use crate::plan::{Action, Change, Security, secure};
use crate::report::{Report, Subject};
use crate::site::Sites;
use crate::xfrm::{AssociationId, Xfrm};
use crate::{Netdriver, nft};

type Done = (Vec<Action>, Vec<Error>);

/// The networks whose packets must be encrypted.
#[derive(Debug, Default)]
pub struct Shield {
    /// `None`: the kernel was not asked yet.
    networks: Option<Shielded>,
    /// The table as `nft` listed it after it was set.
    listing: Option<String>,
}

impl Netdriver {
    /// Drops the network's packets that are not encrypted, from now on.
    pub(super) async fn raise_shield(&self, overlay: &Overlay, done: &mut Vec<Action>) -> Result<(), Error> {
        let mut shield = self.shield.lock().await;
        let mut networks = self.known(&mut shield).await?;
        if networks.insert(overlay.vni, overlay.port) == Some(overlay.port) {
            return Ok(());
        }
        done.push(self.set_shield(&mut shield, networks).await?);
        Ok(())
    }

    /// Forgets a network that is gone, if it was an encrypted one.
    pub(super) async fn unsecure(&self, vni: u32) -> Result<Done, Error> {
        let mut shield = self.shield.lock().await;
        let mut networks = self.known(&mut shield).await?;
        if networks.remove(&vni).is_none() {
            return Ok(Done::default());
        }
        let mut sites = self.sites().await;
        let (mut done, errors) = remove_associations(&mut sites, |owner| owner == vni).await?;
        drop(sites);
        done.push(self.set_shield(&mut shield, networks).await?);
        Ok((done, errors))
    }

    /// Looks at the shield as a whole, and removes what belongs to no network. `unclear`: some network could not be
    /// removed, so what is shielded stays.
    pub(super) async fn sweep_encryption(&self, desired: &Desired, unclear: bool) -> Report {
        match self.sweep_shield(desired, unclear).await {
            Ok(done) => report(&Subject::Host, done),
            Err(error) => failure(&Subject::Host, error),
        }
    }

    async fn sweep_shield(&self, desired: &Desired, unclear: bool) -> Result<Done, Error> {
        // On a kernel that cannot encrypt no such network is made.
        let can = self.lacks.is_empty();
        let encrypted = desired.networks.values().filter(|overlay| can && overlay.encryption.is_some());
        let mut wanted: Shielded = encrypted.map(|overlay| (overlay.vni, overlay.port)).collect();
        let mut shield = self.shield.lock().await;
        let known = self.known(&mut shield).await?;
        if known.is_empty() && wanted.is_empty() {
            return Ok(Done::default());
        }
        if unclear {
            wanted.extend(known.clone());
        }
        let owners: BTreeSet<u32> = wanted.keys().copied().collect();
        let mut sites = self.sites().await;
        let (mut done, errors) = remove_associations(&mut sites, |owner| !owners.contains(&owner)).await?;
        let listing = list(&mut sites).await?;
        drop(sites);
        let as_set = match (&shield.listing, &listing) {
            (Some(known), Some(listing)) => known == listing && has_same(&shield, &wanted),
            (None, Some(listing)) => encryption::has_mark(&wanted, listing),
            (_, None) => wanted.is_empty(),
        };
        if as_set {
            (shield.networks, shield.listing) = (Some(wanted), listing);
        } else {
            done.push(self.set_shield(&mut shield, wanted).await?);
        }
        Ok((done, errors))
    }

    async fn known(&self, shield: &mut Shield) -> Result<Shielded, Error> {
        if let Some(networks) = &shield.networks {
            return Ok(networks.clone());
        }
        let listing = list(&mut self.sites().await).await?;
        let networks = listing.as_deref().map(encryption::shielded).unwrap_or_default();
        shield.networks = Some(networks.clone());
        Ok(networks)
    }

    async fn set_shield(&self, shield: &mut Shield, networks: Shielded) -> Result<Action, Error> {
        let mut sites = self.sites().await;
        let script = match networks.is_empty() {
            true => encryption::no_rules(),
            false => encryption::rules(&networks),
        };
        failpoint::reached(format_args!("host: shield {} networks", networks.len()));
        // Until it is known what came of it, nothing is.
        (shield.networks, shield.listing) = (None, None);
        let host = sites.enter(&Place::Host).await?;
        nft::run(host.and_then(|host| host.file.as_ref()), script).await?;
        shield.listing = list(&mut sites).await?;
        shield.networks = Some(networks.clone());
        Ok(Action::new(&Place::Host, Change::SetShield(networks)))
    }
}

fn has_same(shield: &Shield, wanted: &Shielded) -> bool {
    shield.networks.as_ref() == Some(wanted)
}

async fn list(sites: &mut Sites<'_>) -> Result<Option<String>, Error> {
    let host = sites.enter(&Place::Host).await?;
    let listing = nft::list(host.and_then(|host| host.file.as_ref()), "inet", encryption::TABLE).await?;
    // Counters count on.
    Ok(listing.map(|listing| without_counts(&listing)))
}

fn without_counts(listing: &str) -> String {
    let mut words = listing.split(' ').peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        kept.push(word);
        if matches!(word, "packets" | "bytes") {
            words.next();
        }
    }
    kept.join(" ")
}

/// Brings the associations and policies of a network about.
///
/// `spent`: associations that were sent with. One that is gone is not made again: its sequence would begin anew under
/// the same key.
pub(super) async fn bring(
    sites: &mut Sites<'_>,
    overlay: &Overlay,
    encryption: &Encryption,
    spent: &Mutex<BTreeSet<AssociationId>>,
) -> Result<Done, Error> {
    let xfrm = open(sites).await?;
    let (associations, policies) = xfrm.read().await.map_err(Error::read("the host's associations"))?;
    let wanted = encryption::wanted(overlay.vni, overlay.port, overlay.local, encryption);
    // The kernel tells associations apart by destination and SPI alone, whichever network they belong to.
    let others = associations.iter().filter(|found| found.vni != overlay.vni);
    if let Some(taken) = others.map(|found| found.id).find(|id| wanted.associations.contains_key(id)) {
        return Err(Error::SpiTaken { spi: taken.spi });
    }
    let found = Security {
        associations: associations
            .into_iter()
            .filter(|found| found.vni == overlay.vni)
            .map(|a| (a.id, a))
            .collect(),
        policies: policies
            .into_iter()
            .filter(|found| found.vni == overlay.vni)
            .map(|policy| (policy.destination, policy))
            .collect(),
    };
    let changes = secure(&wanted, &found, &encryption.peers);
    let sent_with = changes.iter().filter_map(|change| match change {
        Change::AddAssociation(association) if association.source == overlay.local => Some(association.id),
        _ => None,
    });
    {
        let mut spent = spent.lock().unwrap_or_else(PoisonError::into_inner);
        for id in sent_with {
            if !spent.insert(id) {
                return Err(Error::Spent { id });
            }
        }
    }
    let (done, errors) = carry_out(&xfrm, changes).await;
    let mut spent = spent.lock().unwrap_or_else(PoisonError::into_inner);
    for error in &errors {
        if let Error::Action { action, .. } = error
            && let Change::AddAssociation(association) = &action.change
        {
            spent.remove(&association.id);
        }
    }
    Ok((done, errors))
}

async fn remove_associations(sites: &mut Sites<'_>, which: impl Fn(u32) -> bool) -> Result<Done, Error> {
    let xfrm = open(sites).await?;
    let (associations, policies) = xfrm.read().await.map_err(Error::read("the host's associations"))?;
    let policies = policies.into_iter().filter(|found| which(found.vni)).map(Change::RemovePolicy);
    let associations = associations.iter().filter(|found| which(found.vni));
    let associations = associations.map(|found| Change::RemoveAssociation(found.id));
    Ok(carry_out(&xfrm, policies.chain(associations).collect()).await)
}

async fn open(sites: &mut Sites<'_>) -> Result<Xfrm, Error> {
    let path = sites.path(&Place::Host);
    let host = sites.enter(&Place::Host).await?;
    let opened = Xfrm::open(host.and_then(|host| host.file.as_ref())).await;
    opened.map_err(|cause| Error::file("opening a socket for IPsec in", path, cause))
}

/// All that can be done: an association that fails does not keep others from working.
async fn carry_out(xfrm: &Xfrm, changes: Vec<Change>) -> Done {
    let (mut done, mut errors) = Done::default();
    for change in changes {
        let action = Action::new(&Place::Host, change);
        failpoint::reached(&action);
        let result = match &action.change {
            Change::AddAssociation(association) => xfrm.add(association).await,
            Change::RemoveAssociation(id) => tolerate(xfrm.remove(id).await, Errno::ESRCH),
            Change::PutPolicy(policy) => xfrm.put_policy(policy).await,
            Change::RemovePolicy(policy) => tolerate(xfrm.remove_policy(policy).await, Errno::ENOENT),
            _ => Ok(()),
        };
        match result {
            Ok(()) => done.push(action),
            Err(cause) => errors.push(Error::Action { action: Box::new(action), cause }),
        }
    }
    (done, errors)
}

fn tolerate(result: Result<(), Refusal>, tolerated: Errno) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.errno() == Some(tolerated) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_no_difference() {
        let listing = |n: u32| format!("rt ipsec missing counter packets {n} bytes {n} drop\n");
        assert_eq!(without_counts(&listing(0)), without_counts(&listing(77)));
        assert_ne!(
            without_counts(&listing(0)),
            without_counts("rt ipsec missing counter packets 0 bytes 0\n")
        );
    }
}
