//! Where packets that a task sends are steered: to a backend of a service, or to the resolver.
//!
//! All of it is in the task's own namespace, in one nftables table, `inet swarmd`, so that a backend sees the real
//! client and no address of a node is spent:
//!
//! - A connection to a virtual address is translated (DNAT, as it leaves the socket) to one of the backends. Maps tell
//!   how many there are and which, so a packet costs the same with one service and with thousands:
//!   address → chain for *n* backends → random number below *n* → (address, number) → backend. An update is a few
//!   elements, never a rule. A connection to an address without backends is refused.
//! - 127.0.0.11:53 is rewritten to the resolver's port without tracking, so that names are answered also when the
//!   table of connections is full.
//!
//! The number is random, not counted: each client has a counter of its own, so many clients that open one connection
//! each would all count 0 and meet at one backend.
//!
//! A table is read at most once: a namespace counts its nftables transactions, and as long as the count is the one
//! after our own, the table is what we made it.
//!
//! Invariants: a transaction leads from one whole state to another, so a crash leaves either; a table that is not in
//! every part as this release makes it is replaced.

mod balanced;
mod flows;
mod operation;
mod plan;
mod read;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use nix::errno::Errno;

use crate::desired::{Desired, Sandbox};
use crate::error::Error;
use crate::netlink::Refusal;
use crate::nfnetlink::NfSocket;
use balanced::Balanced;
use operation::{Family, Operation};

/// The number of a namespace without a transaction.
const FRESH: u32 = 1;
/// While a task changes rules of its own in the same namespace.
const ATTEMPTS: u32 = 5;

/// What is wanted of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steering {
    pub resolver: bool,
    pub services: Balanced,
}

/// What a namespace has for one virtual address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// There is no table.
    Absent,
    /// Not, or not in all its parts, of our making.
    Strange,
    /// The address is not in it.
    Without,
    Backends(BTreeSet<IpAddr>),
}

/// Looks at the namespace of the calling thread and changes nothing.
pub fn look(virtual_ip: IpAddr) -> Result<Seen, Refusal> {
    let mut socket = NfSocket::open()?;
    Ok(match read::table(&mut socket)? {
        Found::Nothing => Seen::Absent,
        Found::Strange => Seen::Strange,
        Found::Table(table) => match table.services.get(&virtual_ip) {
            Some(service) => Seen::Backends(service.backends.iter().copied().collect()),
            None => Seen::Without,
        },
    })
}

/// A table that is in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Table {
    resolver: bool,
    /// For each family that has its chain and maps: the numbers of backends that have a chain.
    fans: BTreeMap<Family, BTreeSet<u32>>,
    services: Balanced,
    /// The backends of each address in the order of their numbers.
    numbers: Numbers,
}

/// By virtual address.
type Numbers = OrdMap<IpAddr, Arc<Vec<IpAddr>>>;

/// What a namespace was seen to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Not, or not in all its parts, of our making.
    Strange,
    Table(Table),
}

/// What is known of a namespace between two looks.
#[derive(Debug)]
pub struct Known {
    /// The number of its last nftables transaction.
    generation: u32,
    table: Option<Table>,
    /// Connections to others than these were forgotten.
    pruned: Balanced,
}

/// What was changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Operations on the table.
    pub operations: usize,
    /// Connections that were forgotten.
    pub flows: usize,
}

impl Steering {
    pub fn of(sandbox: &Sandbox, desired: &Desired) -> Self {
        let networks = sandbox.attachments.iter().filter_map(|a| desired.networks.get(&a.network));
        let services = networks.map(|network| network.services.clone()).collect();
        Self { resolver: sandbox.resolver, services }
    }

    fn is_empty(&self) -> bool {
        !self.resolver && self.services.is_empty()
    }

    /// Looks at what has changed since it was `known` to be usable.
    pub fn validate(&self, known: Option<&Known>) -> Result<(), Error> {
        let nothing = Balanced::default();
        let changes = self.services.since(known.map_or(&nothing, |known| &known.pruned));
        for (address, service) in
            changes.into_iter().filter_map(|(address, (_, after))| Some((address, after?)))
        {
            let is_strange = |backend: &&IpAddr| backend.is_ipv4() != address.is_ipv4();
            if let Some(strange) = service.backends.iter().find(is_strange) {
                return Err(Error::Invalid {
                    field: "backend",
                    value: format!("{strange} of {address}"),
                    allowed: "a backend is of the address family of the virtual address",
                });
            }
        }
        Ok(())
    }
}

/// Brings the namespace of the calling thread to `wanted`. `known` is what was left in it the last time; it is
/// forgotten if this fails.
pub fn settle(wanted: &Steering, known: &mut Option<Known>) -> Result<Settled, Refusal> {
    let before = known.take();
    let mut socket = NfSocket::open()?;
    let mut attempts = 0..ATTEMPTS;
    loop {
        let generation = read::generation(&mut socket)?;
        let found = match &before {
            Some(known) if known.generation == generation => known.found(),
            _ if generation == FRESH => Found::Nothing,
            _ => read::table(&mut socket)?,
        };
        let (operations, table) = plan::plan(&found, wanted);
        match commit(&mut socket, generation, &operations) {
            Err(refusal) if refusal.errno() == Some(Errno::ERESTART) && attempts.next().is_some() => {}
            Err(refusal) => return Err(refusal),
            Ok(generation) => {
                failpoint::reached("forget connections");
                let pruned = before.as_ref().map(|known| &known.pruned);
                let flows = match (pruned, &found) {
                    (None, Found::Nothing) => 0,
                    _ => flows::prune(&mut socket, pruned, &wanted.services)?,
                };
                *known = Some(Known { generation, table, pruned: wanted.services.clone() });
                return Ok(Settled { operations: operations.len(), flows });
            }
        }
    }
}

/// The number of the last transaction afterwards. ERESTART if there was another one meanwhile.
fn commit(socket: &mut NfSocket, generation: u32, operations: &[Operation]) -> Result<u32, Refusal> {
    if operations.is_empty() {
        return Ok(generation);
    }
    let messages: Vec<_> = operations.iter().flat_map(Operation::messages).collect();
    socket.transact(Some(generation), &messages)?;
    // Zero is never used.
    Ok(generation.checked_add(1).unwrap_or(1))
}

impl Known {
    /// Whether the last that was wanted is the same as this.
    pub fn is_of(&self, wanted: &Steering) -> bool {
        let resolver = self.table.as_ref().is_some_and(|table| table.resolver);
        resolver == wanted.resolver && self.pruned == wanted.services
    }

    fn found(&self) -> Found {
        self.table.clone().map_or(Found::Nothing, Found::Table)
    }
}
