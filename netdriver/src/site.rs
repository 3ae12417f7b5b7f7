//! Namespaces that one piece of work has opened: each with a netlink socket, closed when the work ends.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use netlink_packet_route::RouteNetlinkMessage;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::Config;
use crate::desired::{NetworkKey, SandboxKey};
use crate::error::Error;
use crate::link::{self, Seen};
use crate::model::Place;
use crate::netlink::{Netlink, Refusal};
use crate::netns;

/// An open namespace.
pub struct Site {
    /// `None`: the process's own.
    pub file: Option<File>,
    pub netlink: Netlink,
    indices: Mutex<HashMap<String, u32>>,
}

/// How many pieces of work may have namespaces open at once, each up to about ten descriptors.
pub const AT_ONCE: usize = 32;

pub struct Sites<'a> {
    config: &'a Config,
    open: BTreeMap<Place, Site>,
    _permit: SemaphorePermit<'a>,
}

/// The file that holds the namespace of a place; `None` for the process's own.
pub fn path(config: &Config, place: &Place) -> Option<PathBuf> {
    match place {
        Place::Host => config.host_netns.clone(),
        Place::Network(key) => Some(config.netns_dir.join(format!("n-{key}"))),
        Place::Sandbox(key) => Some(config.netns_dir.join(format!("s-{key}"))),
    }
}

/// The places, other than the host, that have a file: a namespace or a leftover.
pub fn list(dir: &Path) -> Result<Vec<Place>, Error> {
    let failed = |cause| Error::file("reading", dir, cause);
    let mut places = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        match name.to_str().and_then(|name| name.split_at_checked(2)) {
            Some(("n-", key)) => places.push(Place::Network(NetworkKey::new(key))),
            Some(("s-", key)) => places.push(Place::Sandbox(SandboxKey::new(key))),
            _ => {}
        }
    }
    Ok(places)
}

impl<'a> Sites<'a> {
    /// Waits for its turn. Whoever holds this waits for no lock, so everybody's turn comes.
    pub async fn new(config: &'a Config, turns: &'a Semaphore) -> Self {
        let permit = turns.acquire().await.expect("the semaphore is never closed");
        Self { config, open: BTreeMap::new(), _permit: permit }
    }

    pub fn path(&self, place: &Place) -> PathBuf {
        path(self.config, place).unwrap_or_else(|| "/proc/self/ns/net".into())
    }

    /// Opens a place; `None` if its namespace does not exist.
    pub async fn enter(&mut self, place: &Place) -> Result<Option<&Site>, Error> {
        if !self.open.contains_key(place) {
            let Some(site) = self.open_site(place).await? else { return Ok(None) };
            self.open.insert(place.clone(), site);
        }
        Ok(self.open.get(place))
    }

    async fn open_site(&self, place: &Place) -> Result<Option<Site>, Error> {
        let path = path(self.config, place);
        let failed = |cause| Error::file("entering namespace", self.path(place), cause);
        let file = match &path {
            None => None,
            Some(path) => match netns::open(path).map_err(failed)? {
                None => return Ok(None),
                file => file,
            },
        };
        let netlink = Netlink::open(file.as_ref()).await.map_err(failed)?;
        Ok(Some(Site { file, netlink, indices: Mutex::default() }))
    }

    pub fn get(&self, place: &Place) -> Option<&Site> {
        self.open.get(place)
    }

    pub fn leave(&mut self, place: &Place) {
        self.open.remove(place);
    }
}

impl Site {
    /// The index of a device; `None` if there is no such device.
    pub async fn index(&self, name: &str) -> Result<Option<u32>, Refusal> {
        if let Some(index) = self.indices().get(name) {
            return Ok(Some(*index));
        }
        let seen = self.link(name).await?;
        Ok(seen.map(|seen| seen.index))
    }

    /// Reads one device.
    pub async fn link(&self, name: &str) -> Result<Option<Seen>, Refusal> {
        let seen = self.one(link::get(name)).await?;
        if let Some(seen) = &seen {
            self.remember(seen);
        }
        Ok(seen)
    }

    /// The name of the device with this index.
    pub async fn name(&self, index: u32) -> Result<Option<String>, Refusal> {
        let known = self.indices().iter().find(|(_, i)| **i == index).map(|(name, _)| name.clone());
        if known.is_some() {
            return Ok(known);
        }
        let seen = self.one(link::get_index(index)).await?;
        Ok(seen.map(|seen| {
            self.remember(&seen);
            seen.name
        }))
    }

    pub fn remember(&self, seen: &Seen) {
        self.indices().insert(seen.name.clone(), seen.index);
    }

    pub fn forget(&self, name: &str) {
        self.indices().remove(name);
    }

    async fn one(&self, request: RouteNetlinkMessage) -> Result<Option<Seen>, Refusal> {
        use nix::errno::Errno;
        match self.netlink.get(request).await {
            Ok(answers) => Ok(answers.iter().find_map(parse)),
            Err(refusal) if refusal.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    fn indices(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        // Whoever panicked left at worst a missing entry, which is looked up again.
        self.indices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn parse(message: &RouteNetlinkMessage) -> Option<Seen> {
    match message {
        RouteNetlinkMessage::NewLink(message) => link::parse(message),
        _ => None,
    }
}
