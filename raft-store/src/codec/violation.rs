//! Violations and other answers to a forwarded proposal.

use proto::model::TaskState;
use proto::raft as wire;

use super::{Malformed, get_id, put_id};
use crate::state_machine::Outcome;
use crate::{AddressOwner, Kind, Violation};

pub(crate) fn put_outcome(outcome: Outcome) -> wire::ProposeResponse {
    use wire::propose_response::Outcome as Wire;
    let outcome = match outcome {
        Outcome::Applied { index } => Wire::Applied(index),
        Outcome::Conflict { index } => Wire::Conflict(index),
        Outcome::Forgotten { index } => Wire::Forgotten(index),
        Outcome::Violated(violation) => Wire::Violated(put(&violation)),
        Outcome::Deposed => Wire::Deposed(wire::Deposed {}),
    };
    wire::ProposeResponse { outcome: Some(outcome), more: Vec::new() }
}

/// None if the receiver did not lead.
pub(crate) fn get_outcome(response: wire::ProposeResponse) -> Result<Option<Outcome>, Malformed> {
    use wire::propose_response::Outcome as Wire;
    Ok(Some(match response.outcome.ok_or(Malformed::missing("outcome"))? {
        Wire::Applied(index) => Outcome::Applied { index },
        Wire::Conflict(index) => Outcome::Conflict { index },
        Wire::Forgotten(index) => Outcome::Forgotten { index },
        Wire::Violated(violation) => Outcome::Violated(get(violation)?),
        Wire::Deposed(_) => Outcome::Deposed,
        Wire::NotLeader(_) => return Ok(None),
    }))
}

fn put(violation: &Violation) -> wire::Violation {
    use wire::violation::Kind;
    let kind = match violation {
        Violation::NameTaken { kind: _, name, by } => {
            Kind::NameTaken(wire::NameTaken { name: name.clone(), by: Some(put_id(by)) })
        }
        Violation::Exists { id } => Kind::Exists(put_id(id)),
        Violation::AddressTaken { network, address, by } => Kind::AddressTaken(wire::AddressTaken {
            network_id: network.to_string(),
            address: address.to_string(),
            by: Some(put_owner(by)),
        }),
        Violation::VniTaken { vni, by } => {
            Kind::VniTaken(wire::VniTaken { vni: *vni, network_id: by.to_string() })
        }
        Violation::SubnetOverlap { subnet, other, name } => Kind::SubnetOverlap(wire::SubnetOverlap {
            subnet: subnet.to_string(),
            other: other.to_string(),
            network_name: name.clone(),
        }),
        Violation::InUse { network, by } => {
            Kind::InUse(wire::InUse { network_id: network.to_string(), by: by.iter().map(put_id).collect() })
        }
        Violation::Missing { missing, by } => {
            Kind::Missing(wire::Missing { missing: Some(put_id(missing)), by: Some(put_id(by)) })
        }
        Violation::TooMany { kind, limit } => {
            Kind::TooMany(wire::TooMany { kind: kind.to_string(), limit: *limit as u64 })
        }
        Violation::Immutable { id, field } => {
            Kind::Immutable(wire::Immutable { id: Some(put_id(id)), field: (*field).into() })
        }
        Violation::Backwards { task, from, to } => Kind::Backwards(wire::Backwards {
            task_id: task.to_string(),
            from: put_state(*from),
            to: put_state(*to),
        }),
    };
    wire::Violation { kind: Some(kind) }
}

fn get(violation: wire::Violation) -> Result<Violation, Malformed> {
    use wire::violation::Kind;
    Ok(match violation.kind.ok_or(Malformed::missing("violation"))? {
        Kind::NameTaken(taken) => {
            let by = get_id(taken.by)?;
            Violation::NameTaken { kind: by.kind(), name: taken.name, by }
        }
        Kind::Exists(id) => Violation::Exists { id: get_id(Some(id))? },
        Kind::AddressTaken(taken) => Violation::AddressTaken {
            network: taken.network_id.into(),
            address: taken.address.parse().map_err(Malformed::bad)?,
            by: get_owner(taken.by.ok_or(Malformed::missing("address_taken.by"))?),
        },
        Kind::VniTaken(taken) => Violation::VniTaken { vni: taken.vni, by: taken.network_id.into() },
        Kind::SubnetOverlap(overlap) => Violation::SubnetOverlap {
            subnet: overlap.subnet.parse().map_err(Malformed::bad)?,
            other: overlap.other.parse().map_err(Malformed::bad)?,
            name: overlap.network_name,
        },
        Kind::InUse(used) => Violation::InUse {
            network: used.network_id.into(),
            by: used.by.into_iter().map(|id| get_id(Some(id))).collect::<Result<_, _>>()?,
        },
        Kind::Missing(missing) => {
            Violation::Missing { missing: get_id(missing.missing)?, by: get_id(missing.by)? }
        }
        Kind::TooMany(many) => Violation::TooMany {
            kind: get_kind(&many.kind)?,
            limit: many.limit.try_into().map_err(Malformed::bad)?,
        },
        Kind::Immutable(immutable) => {
            Violation::Immutable { id: get_id(immutable.id)?, field: field(&immutable.field) }
        }
        Kind::Backwards(backwards) => Violation::Backwards {
            task: backwards.task_id.into(),
            from: get_state(backwards.from)?,
            to: get_state(backwards.to)?,
        },
    })
}

fn put_owner(owner: &AddressOwner) -> wire::address_taken::By {
    use wire::address_taken::By;
    match owner {
        AddressOwner::Task(id) => By::TaskId(id.to_string()),
        AddressOwner::Service(id) => By::ServiceId(id.to_string()),
        AddressOwner::Gateway => By::Gateway(true),
        AddressOwner::Reserved(name) => By::Reservation(name.clone()),
    }
}

fn get_owner(owner: wire::address_taken::By) -> AddressOwner {
    use wire::address_taken::By;
    match owner {
        By::TaskId(id) => AddressOwner::Task(id.into()),
        By::ServiceId(id) => AddressOwner::Service(id.into()),
        By::Gateway(_) => AddressOwner::Gateway,
        By::Reservation(name) => AddressOwner::Reserved(name),
    }
}

/// Those that `check_transition` names.
fn field(name: &str) -> &'static str {
    ["service", "slot", "node"].into_iter().find(|known| *known == name).unwrap_or("a field")
}

fn get_kind(name: &str) -> Result<Kind, Malformed> {
    let kinds = [Kind::Node, Kind::Service, Kind::Task, Kind::Network, Kind::Cluster, Kind::Keyring];
    let kind = kinds.into_iter().find(|kind| kind.to_string() == name);
    kind.ok_or(Malformed::missing("a known kind"))
}

const STATES: [TaskState; 14] = [
    TaskState::New,
    TaskState::Pending,
    TaskState::Assigned,
    TaskState::Accepted,
    TaskState::Preparing,
    TaskState::Ready,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Complete,
    TaskState::Shutdown,
    TaskState::Failed,
    TaskState::Rejected,
    TaskState::Remove,
    TaskState::Orphaned,
];

fn put_state(state: TaskState) -> i32 {
    state as i32
}

fn get_state(number: i32) -> Result<TaskState, Malformed> {
    let state = STATES.into_iter().find(|state| *state as i32 == number);
    state.ok_or(Malformed::missing("a known task state"))
}

#[cfg(test)]
mod tests {
    use proto::model::{NetworkId, ServiceId, TaskId};

    use super::*;
    use crate::ObjectId;

    #[test]
    fn every_violation_survives_the_wire() {
        let service = ObjectId::from(ServiceId::from("s1"));
        let network = NetworkId::from("n1");
        let address = "10.0.9.5".parse().unwrap();
        let task = TaskId::from("t1");
        let violations = [
            Violation::NameTaken { kind: Kind::Service, name: "web".into(), by: service.clone() },
            Violation::Exists { id: service.clone() },
            Violation::AddressTaken { network: network.clone(), address, by: AddressOwner::Gateway },
            Violation::AddressTaken {
                network: network.clone(),
                address,
                by: AddressOwner::Task(task.clone()),
            },
            Violation::AddressTaken {
                network: network.clone(),
                address,
                by: AddressOwner::Reserved("a".into()),
            },
            Violation::AddressTaken {
                network: network.clone(),
                address,
                by: AddressOwner::Service("s1".into()),
            },
            Violation::VniTaken { vni: 4097, by: network.clone() },
            Violation::SubnetOverlap {
                subnet: "10.0.9.0/24".parse().unwrap(),
                other: "10.0.0.0/16".parse().unwrap(),
                name: "net".into(),
            },
            Violation::InUse { network: network.clone(), by: vec![service.clone()] },
            Violation::Missing { missing: network.into(), by: service.clone() },
            Violation::TooMany { kind: Kind::Node, limit: 7 },
            Violation::Immutable { id: service, field: "node" },
            Violation::Backwards { task, from: TaskState::Failed, to: TaskState::Running },
        ];
        for violation in violations {
            assert_eq!(get(put(&violation)).unwrap(), violation);
        }
        assert_eq!(STATES.map(put_state).map(|number| get_state(number).unwrap()), STATES);
    }
}
