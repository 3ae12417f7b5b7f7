//! Which tasks are meant by the words of a trace, as the store has it.
//!
//! Pure. Words that mean nothing or several things are the user's mistake and refused; what is wrong with what they mean
//! is a finding, and found by `judge`.

use std::net::IpAddr;
use std::sync::Arc;

use proto::model::{HealthState, NetworkId, NodeState, Service, Slot, Task, TaskState};
use raft_store::{AddressOwner, Tables};

use crate::error::Error;

/// Characters of an id that are taken for the beginning of one.
const SHORTEST_PREFIX: usize = 4;

/// A destination's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    pub host: String,
    pub port: Option<u16>,
}

/// What is meant.
#[derive(Debug, Clone)]
pub enum Meant {
    Task(Arc<Task>),
    Service(Arc<Service>),
}

/// `host`, `host:port`, `[address]:port`, or an address.
pub fn split(destination: &str) -> Result<Words, Error> {
    let refuse = |remedy: &str| Error::invalid("destination", destination, remedy);
    let (host, port) = match destination.strip_prefix('[') {
        _ if destination.parse::<IpAddr>().is_ok() => (destination, None),
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => {
                (host, Some(port.strip_prefix(':').ok_or_else(|| refuse("write [address]:port"))?))
            }
            None => return Err(refuse("write [address]:port")),
        },
        None => match destination.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (destination, None),
        },
    };
    let port = port.map(|port| match port.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(refuse("a port is a number from 1 to 65535")),
    });
    if host.is_empty() || host.len() > 253 || host.contains(char::is_whitespace) {
        return Err(refuse("name a task, a service or an address"));
    }
    Ok(Words { host: host.into(), port: port.transpose()? })
}

/// By id, by name, by `service.slot`, or by the beginning of an id; none if nothing is called so.
pub fn find(tables: &Tables, field: &str, words: &str) -> Result<Option<Meant>, Error> {
    if let Some(task) = tables.task(&words.into()) {
        return Ok(Some(Meant::Task(task.clone())));
    }
    if let Some(service) = tables.service(&words.into()).or_else(|| tables.service_by_name(words)) {
        return Ok(Some(Meant::Service(service.clone())));
    }
    if let Some(task) = by_name(tables, words) {
        return Ok(Some(Meant::Task(task)));
    }
    if words.len() < SHORTEST_PREFIX {
        return Ok(None);
    }
    let tasks = tables.tasks_by_prefix(words).map(|task| Meant::Task(task.clone()));
    let services = tables.services_by_prefix(words).map(|service| Meant::Service(service.clone()));
    let mut found = tasks.chain(services);
    match (found.next(), found.count()) {
        (found, 0) => Ok(found),
        (_, more) => {
            let remedy = format!("the ids of {} tasks or services begin so: write more of it", more + 1);
            Err(Error::invalid(field, words, remedy))
        }
    }
}

/// The task that lives, of those that a slot has had.
fn by_name(tables: &Tables, words: &str) -> Option<Arc<Task>> {
    let (service, rest) = words.split_once('.')?;
    let service = tables.service_by_name(service)?;
    let named = |task: &&Arc<Task>| task.annotations.name == words || called(tables, task) == words;
    let candidates: Vec<&Arc<Task>> = match rest.parse() {
        Ok(slot) if slot > 0 => tables.tasks_by_slot(&service.id, Slot(slot)).collect(),
        _ => tables.tasks_by_service(&service.id).filter(named).collect(),
    };
    let liveliest =
        |task: &&Arc<Task>| (is_ready(task), !task.status.state.is_terminal(), task.meta.created_at);
    candidates.into_iter().max_by_key(liveliest).cloned()
}

/// `web.1`, or `web.<node>` for a global service.
pub fn called(tables: &Tables, task: &Task) -> String {
    let service =
        tables.service(&task.service).map_or(&*task.service_annotations.name, |service| service.name());
    match (task.slot, &task.node) {
        _ if service.is_empty() => task.id.to_string(),
        (Slot(0), Some(node)) => format!("{service}.{node}"),
        (Slot(slot), _) => format!("{service}.{slot}"),
    }
}

/// The host name of its node, or the node's id.
pub fn node_of(tables: &Tables, task: &Task) -> String {
    let Some(id) = &task.node else { return "no node".into() };
    let hostname = tables.node(id).map(|node| node.hostname().to_owned());
    hostname.filter(|name| !name.is_empty()).unwrap_or_else(|| id.to_string())
}

/// Runs, and is to go on.
pub fn is_ready(task: &Task) -> bool {
    crate::directory::is_ready(task)
}

/// Why a task gets no connections; none if it does.
pub fn unready(tables: &Tables, task: &Task) -> Option<String> {
    let node = task.node.as_ref().and_then(|node| tables.node(node));
    let down = node.is_some_and(|node| node.status.state == NodeState::Down);
    if is_ready(task) && !down {
        return None;
    }
    let status = &task.status;
    let words = [&status.err, &status.message].into_iter().find(|text| !text.is_empty());
    let words = words.map(|text| format!(": {text}")).unwrap_or_default();
    let leaving = if task.desired > TaskState::Running && !status.state.is_terminal() {
        ", and is to stop"
    } else {
        ""
    };
    let is_unhealthy = status.health().is_some_and(|health| health.state == HealthState::Unhealthy);
    let unhealthy = if is_unhealthy { ", unhealthy" } else { "" };
    Some(match down {
        true => format!("its node {} is down", node_of(tables, task)),
        false => format!("it is {}{unhealthy}{leaving}{words}", status.state),
    })
}

/// The networks of a task or service, in the order of the interfaces.
pub fn networks(meant: &Meant) -> Vec<NetworkId> {
    match meant {
        Meant::Task(task) => task.attachments.iter().map(|attachment| attachment.network.clone()).collect(),
        Meant::Service(service) => {
            service.spec.task.networks.iter().map(|config| config.network.clone()).collect()
        }
    }
}

pub fn network_names(tables: &Tables, networks: &[NetworkId]) -> String {
    let name =
        |id: &NetworkId| tables.network(id).map_or_else(|| id.to_string(), |network| network.name().into());
    let names: Vec<String> = networks.iter().map(name).collect();
    if names.is_empty() { "no network".into() } else { names.join(", ") }
}

/// Whose an address is, on the first of the networks where it is somebody's.
pub fn owner(tables: &Tables, networks: &[NetworkId], address: IpAddr) -> Option<(NetworkId, AddressOwner)> {
    let mut owners =
        networks.iter().filter_map(|id| Some((id.clone(), tables.address_owner(id, address)?.clone())));
    owners.next()
}

/// The tasks of a service that have not ended, with their addresses on the network.
pub fn placed<'a>(
    tables: &'a Tables,
    service: &Service,
    network: &'a NetworkId,
) -> impl Iterator<Item = &'a Arc<Task>> {
    let on =
        move |task: &&Arc<Task>| task.attachments.iter().any(|attachment| attachment.network == *network);
    tables.tasks_by_service(&service.id).filter(|task| task.is_placed()).filter(on)
}

/// The task's address of that family on the network.
pub fn address(task: &Task, network: &NetworkId, ipv6: Option<bool>) -> Option<IpAddr> {
    let attachment = task.attachments.iter().find(|attachment| attachment.network == *network)?;
    let mut addresses = attachment.addresses.iter().map(|net| net.addr());
    match ipv6 {
        Some(ipv6) => addresses.find(|address| address.is_ipv6() == ipv6),
        None => addresses.clone().find(IpAddr::is_ipv4).or_else(|| addresses.next()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{in_state, network, node, put, service, store, task};

    #[test]
    fn a_destination_may_have_a_port() {
        let words = |host: &str, port| Words { host: host.into(), port };
        for (text, expected) in [
            ("web", words("web", None)),
            ("web:80", words("web", Some(80))),
            ("web.1:65535", words("web.1", Some(65535))),
            ("10.0.9.2:80", words("10.0.9.2", Some(80))),
            ("fd00::1", words("fd00::1", None)),
            ("[fd00::1]", words("fd00::1", None)),
            ("[fd00::1]:80", words("fd00::1", Some(80))),
        ] {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
        for bad in ["", ":80", "web:", "web:0", "web:65536", "web:http", "[fd00::1", "[fd00::1]80", "a b"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn tasks_and_services_are_found_by_what_people_call_them() {
        let store = store().await;
        put(&store, [node(1)]).await;
        put(&store, [network(1)]).await;
        let web = service(1, &[1]);
        put(&store, [web.clone()]).await;
        let task = |number, state| in_state(task(number, &web, 1, &[1]), state);
        put(&store, [task(1, TaskState::Running), task(2, TaskState::Starting)]).await;
        let view = store.view();
        let found = |words: &str| match find(&view, "source", words) {
            Ok(Some(Meant::Task(task))) => task.id.to_string(),
            Ok(Some(Meant::Service(service))) => service.id.to_string(),
            Ok(None) => "nothing".into(),
            Err(error) => error.to_string(),
        };
        for (words, id) in
            [("svc1", "service1"), ("service1", "service1"), ("svc1.2", "task2"), ("task1", "task1")]
        {
            assert_eq!(found(words), id);
        }
        assert_eq!(
            (found("serv"), found("ser"), found("db")),
            ("service1".into(), "nothing".into(), "nothing".into())
        );
        assert_eq!(
            found("task"),
            "source has the value \"task\": the ids of 2 tasks or services begin so: write more of it"
        );
        let unready = |id: &str| unready(&view, view.task(&id.into()).unwrap());
        assert_eq!(unready("task1"), None);
        assert_eq!(unready("task2").unwrap(), "it is starting: assigned");
    }
}
