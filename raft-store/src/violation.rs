//! Invariants that span objects, and how their violations are told.
//!
//! The state machine checks them at apply, so that they hold whatever the callers do.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use proto::model::{NetworkId, ServiceId, TaskId, TaskState};

use crate::{Kind, ObjectId};

/// Who holds an address of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressOwner {
    /// Until the task's observed state is terminal or the task is removed.
    Task(TaskId),
    /// A virtual address, until the service gives it up or is removed.
    Service(ServiceId),
    /// The network itself, as gateway of a subnet.
    Gateway,
    /// The network itself, under a name of the user's.
    Reserved(String),
}

impl fmt::Display for AddressOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(id) => write!(f, "task {id}"),
            Self::Service(id) => write!(f, "service {id}"),
            Self::Gateway => f.write_str("the gateway"),
            Self::Reserved(name) => write!(f, "the reservation {name}"),
        }
    }
}

/// Why the state machine refused a change set. Nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{kind} name {name} is already in use by {by}: choose another name")]
    NameTaken { kind: Kind, name: String, by: ObjectId },
    #[error("{id} already exists")]
    Exists { id: ObjectId },
    #[error("address {address} of network {network} is already in use by {by}")]
    AddressTaken { network: NetworkId, address: IpAddr, by: AddressOwner },
    #[error("VXLAN network identifier {vni} is already in use by network {by}")]
    VniTaken { vni: u32, by: NetworkId },
    #[error("subnet {subnet} overlaps {other} of network {name}: choose another subnet")]
    SubnetOverlap { subnet: IpNet, other: IpNet, name: String },
    #[error("network {network} is in use by {}: remove them first", list(by))]
    InUse { network: NetworkId, by: Vec<ObjectId> },
    #[error("{by} names {missing}, which does not exist")]
    Missing { missing: ObjectId, by: ObjectId },
    #[error("a swarm has {limit} objects of kind {kind} at most: remove some first")]
    TooMany { kind: Kind, limit: usize },
    #[error("{field} of {id} cannot be changed")]
    Immutable { id: ObjectId, field: &'static str },
    #[error("task {task} is {from} and cannot become {to}: observed states only move forward")]
    Backwards { task: TaskId, from: TaskState, to: TaskState },
}

fn list(ids: &[ObjectId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
