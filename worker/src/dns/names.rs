//! What a name or an address means to a task.
//!
//! Pure. The networks are asked in the order of the task's interfaces, and the first that knows the name decides. A name
//! that a network knows is never unknown, even when it has no address at present: else it would be asked elsewhere,
//! where it means something else or nothing.

use std::net::IpAddr;

use proto::model::TaskId;

use crate::network::{Bearer, Book, Endpoint, OverlayNetwork};

/// Prefix of a service's name for the addresses of its tasks instead of its virtual one.
const TASKS: &str = "tasks.";
/// Characters of a task's id that serve as the id of its container, and by default as its host name.
pub const SHORT_ID: usize = 12;

/// What one task may ask about.
#[derive(Debug)]
pub struct View<'a> {
    pub own: &'a TaskId,
    pub zones: Vec<Zone<'a>>,
}

/// A network that the task is attached to.
#[derive(Debug)]
pub struct Zone<'a> {
    pub network: &'a OverlayNetwork,
    pub book: Book,
}

/// Whose address it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pointer {
    Name(String),
    /// An address on one of the networks that nobody has.
    Nobody,
    Elsewhere,
}

impl View<'_> {
    /// What `name`, in lower case, means; none if no network knows it. No order is promised.
    pub fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let plain = self.zones.iter().find_map(|zone| self.find(&zone.book, name));
        let scoped = || {
            self.zones.iter().find_map(|zone| {
                let network = zone.network.name.to_ascii_lowercase();
                self.find(&zone.book, name.strip_suffix(&network)?.strip_suffix('.')?)
            })
        };
        plain.or_else(scoped)
    }

    pub fn pointer(&self, address: IpAddr) -> Pointer {
        let named = self.zones.iter().find_map(|zone| {
            let name = self.name_of(&zone.book, zone.book.bearer_of(address)?)?;
            Some(format!("{name}.{}", zone.network.name))
        });
        let ours = || {
            let mut subnets = self.zones.iter().flat_map(|zone| &zone.network.subnets);
            subnets.any(|subnet| subnet.net.contains(&address))
        };
        match named {
            Some(name) => Pointer::Name(name),
            None if ours() => Pointer::Nobody,
            None => Pointer::Elsewhere,
        }
    }

    fn find(&self, book: &Book, name: &str) -> Option<Vec<IpAddr>> {
        if let Some(tasks) = name.strip_prefix(TASKS).and_then(|service| tasks_of(book, service)) {
            return Some(tasks);
        }
        let mut bearers = book.bearers(name).peekable();
        if bearers.peek().is_some() {
            return Some(bearers.flat_map(|bearer| self.addresses_of(book, bearer)).collect());
        }
        let (task, endpoint) = task_named(book, name)?;
        Some(self.addresses_of_task(task, endpoint).to_vec())
    }

    fn addresses_of(&self, book: &Book, bearer: &Bearer) -> Vec<IpAddr> {
        match bearer {
            Bearer::Service(service) => match book.virtual_ip(service) {
                Some(virtual_ip) => virtual_ip.addresses.clone(),
                None => ready(book, bearer).collect(),
            },
            Bearer::Task(task) => {
                let endpoint = book.endpoint(task);
                endpoint.map(|endpoint| self.addresses_of_task(task, endpoint).to_vec()).unwrap_or_default()
            }
        }
    }

    /// A task finds itself from the start; others only when it is ready.
    fn addresses_of_task<'b>(&self, task: &TaskId, endpoint: &'b Endpoint) -> &'b [IpAddr] {
        if endpoint.ready || task == self.own { &endpoint.peer.addresses } else { &[] }
    }

    fn name_of<'b>(&self, book: &'b Book, bearer: &Bearer) -> Option<&'b str> {
        match bearer {
            Bearer::Service(service) => Some(&book.virtual_ip(service)?.service_name),
            Bearer::Task(task) => {
                let endpoint = book.endpoint(task)?;
                (!self.addresses_of_task(task, endpoint).is_empty()).then_some(&endpoint.task_name)
            }
        }
    }
}

fn tasks_of(book: &Book, service: &str) -> Option<Vec<IpAddr>> {
    let mut services = book.bearers(service).filter(|bearer| matches!(bearer, Bearer::Service(_))).peekable();
    services.peek()?;
    Some(services.flat_map(|bearer| ready(book, bearer)).collect())
}

fn ready<'a>(book: &'a Book, bearer: &'a Bearer) -> impl Iterator<Item = IpAddr> + 'a {
    let service = if let Bearer::Service(service) = bearer { Some(service) } else { None };
    let endpoints = service.into_iter().flat_map(|service| book.endpoints_of(service));
    endpoints
        .filter(|(_, endpoint)| endpoint.ready)
        .flat_map(|(_, endpoint)| endpoint.peer.addresses.iter().copied())
}

/// By `<service>.<slot>.<task id>`, by the id, or by its beginning.
fn task_named<'a>(book: &'a Book, name: &str) -> Option<(&'a TaskId, &'a Endpoint)> {
    let (found, endpoint) = match name.rsplit_once('.') {
        Some((_, id)) => {
            let (found, endpoint) = book.task_by_prefix(id)?;
            (found.as_str() == id && endpoint.task_name.eq_ignore_ascii_case(name))
                .then_some((found, endpoint))?
        }
        None => {
            let (found, endpoint) = book.task_by_prefix(name)?;
            (name.len() == SHORT_ID || found.as_str() == name).then_some((found, endpoint))?
        }
    };
    Some((found, endpoint))
}
