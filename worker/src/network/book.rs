//! What is known of one network: who is on it, which services have addresses there, and who bears a name.
//!
//! The maps are persistent: a clone costs nothing and stays as it is, so that the resolver and load balancing work on
//! what held at one moment while the directory goes on.
//!
//! Invariant: the indexes (by service, name and address) hold what the entries say and nothing else, in whatever order
//! the entries came.

use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use netdriver::Peer;
use proto::model::{NodeId, ServiceId, TaskId};

/// A task on the network, from its assignment to a node until its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub node: NodeId,
    /// Empty for a task that belongs to no service.
    pub service: ServiceId,
    pub service_name: String,
    pub task_name: String,
    /// Further names of the service on this network.
    pub aliases: Vec<String>,
    /// Empty: the beginning of its id.
    pub hostname: String,
    /// It runs and is healthy: names may resolve to it, and virtual addresses lead to it.
    pub ready: bool,
    /// Its node is down: the task is given up.
    pub lost: bool,
    /// Its addresses, and how to reach them.
    pub peer: Arc<Peer>,
}

/// The address of a service. Its backends are the endpoints of the service that are ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualIp {
    pub service_name: String,
    pub addresses: Vec<IpAddr>,
    pub aliases: Vec<String>,
}

/// Who bears a name or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bearer {
    Service(ServiceId),
    Task(TaskId),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    endpoints: OrdMap<TaskId, Arc<Endpoint>>,
    virtual_ips: OrdMap<ServiceId, Arc<VirtualIp>>,
    members: OrdMap<(ServiceId, TaskId), Arc<Endpoint>>,
    /// Lower case. With each bearer, how many entries say that it bears the name.
    names: OrdMap<String, Vec<(Bearer, usize)>>,
    addresses: OrdMap<IpAddr, Bearer>,
}

impl Book {
    pub fn endpoints(&self) -> impl Iterator<Item = (&TaskId, &Arc<Endpoint>)> {
        self.endpoints.iter()
    }

    pub fn endpoint(&self, task: &TaskId) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(task)
    }

    /// Endpoints that differ from those of `before`, as they were and as they are.
    pub fn endpoints_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (&'a TaskId, Option<&'a Arc<Endpoint>>, Option<&'a Arc<Endpoint>>)> {
        before.endpoints.diff(&self.endpoints).map(|difference| match difference {
            DiffItem::Add(task, new) => (task, None, Some(new)),
            DiffItem::Remove(task, old) => (task, Some(old), None),
            DiffItem::Update { old: (task, old), new: (_, new) } => (task, Some(old), Some(new)),
        })
    }

    /// Services whose addresses or names differ from those of `before`.
    pub fn virtual_ips_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a ServiceId> {
        before.virtual_ips.diff(&self.virtual_ips).map(|difference| match difference {
            DiffItem::Add(service, _)
            | DiffItem::Remove(service, _)
            | DiffItem::Update { old: (service, _), .. } => service,
        })
    }

    /// The tasks of a service, ready or not.
    pub fn endpoints_of(&self, service: &ServiceId) -> impl Iterator<Item = (&TaskId, &Arc<Endpoint>)> {
        let from = Bound::Included((service.clone(), TaskId::from("")));
        let members = self.members.range((from, Bound::Unbounded));
        let members = members.take_while(move |((of, _), _)| of == service);
        members.map(|((_, task), endpoint)| (task, endpoint))
    }

    pub fn virtual_ips(&self) -> impl Iterator<Item = (&ServiceId, &Arc<VirtualIp>)> {
        self.virtual_ips.iter()
    }

    pub fn virtual_ip(&self, service: &ServiceId) -> Option<&Arc<VirtualIp>> {
        self.virtual_ips.get(service)
    }

    /// Services and tasks with the name or alias `name`, which is in lower case.
    pub fn bearers(&self, name: &str) -> impl Iterator<Item = &Bearer> {
        self.names.get(name).into_iter().flatten().map(|(bearer, _)| bearer)
    }

    /// The first task whose id begins with `prefix`, which is in lower case.
    pub fn task_by_prefix(&self, prefix: &str) -> Option<(&TaskId, &Arc<Endpoint>)> {
        let (id, endpoint) =
            self.endpoints.range::<_, str>((Bound::Included(prefix), Bound::Unbounded)).next()?;
        id.as_str().starts_with(prefix).then_some((id, endpoint))
    }

    pub fn bearer_of(&self, address: IpAddr) -> Option<&Bearer> {
        self.addresses.get(&address)
    }

    pub fn set_endpoint(&mut self, task: TaskId, endpoint: Endpoint) {
        self.remove_endpoint(&task);
        for (name, bearer) in names_of_endpoint(&task, &endpoint) {
            self.add_name(name, bearer);
        }
        for address in &endpoint.peer.addresses {
            self.addresses.insert(*address, Bearer::Task(task.clone()));
        }
        let endpoint = Arc::new(endpoint);
        self.members.insert((endpoint.service.clone(), task.clone()), endpoint.clone());
        self.endpoints.insert(task, endpoint);
    }

    pub fn remove_endpoint(&mut self, task: &TaskId) {
        let Some(endpoint) = self.endpoints.remove(task) else { return };
        for (name, bearer) in names_of_endpoint(task, &endpoint) {
            self.remove_name(&name, &bearer);
        }
        self.remove_addresses(&endpoint.peer.addresses, &Bearer::Task(task.clone()));
        self.members.remove(&(endpoint.service.clone(), task.clone()));
    }

    pub fn set_virtual_ip(&mut self, service: ServiceId, virtual_ip: VirtualIp) {
        self.remove_virtual_ip(&service);
        let bearer = Bearer::Service(service.clone());
        for name in names_of_virtual_ip(&virtual_ip) {
            self.add_name(name, bearer.clone());
        }
        for address in &virtual_ip.addresses {
            self.addresses.insert(*address, bearer.clone());
        }
        self.virtual_ips.insert(service, Arc::new(virtual_ip));
    }

    pub fn remove_virtual_ip(&mut self, service: &ServiceId) {
        let Some(virtual_ip) = self.virtual_ips.remove(service) else { return };
        let bearer = Bearer::Service(service.clone());
        for name in names_of_virtual_ip(&virtual_ip) {
            self.remove_name(&name, &bearer);
        }
        self.remove_addresses(&virtual_ip.addresses, &bearer);
    }

    fn add_name(&mut self, name: String, bearer: Bearer) {
        let bearers = self.names.entry(name).or_default();
        match bearers.binary_search_by(|(known, _)| known.cmp(&bearer)) {
            Ok(place) => bearers[place].1 += 1,
            Err(place) => bearers.insert(place, (bearer, 1)),
        }
    }

    fn remove_name(&mut self, name: &str, bearer: &Bearer) {
        let Some(bearers) = self.names.get_mut(name) else { return };
        bearers.retain_mut(|(known, count)| {
            *count -= usize::from(known == bearer);
            *count > 0
        });
        if bearers.is_empty() {
            self.names.remove(name);
        }
    }

    /// An address that somebody else was given meanwhile stays theirs.
    fn remove_addresses(&mut self, addresses: &[IpAddr], bearer: &Bearer) {
        for address in addresses {
            if self.addresses.get(address) == Some(bearer) {
                self.addresses.remove(address);
            }
        }
    }
}

/// A name of the form `<service>.<slot>.<task id>` is not among them: it is found by the id in it, and there is one for
/// each task.
fn names_of_endpoint<'a>(
    task: &'a TaskId,
    endpoint: &'a Endpoint,
) -> impl Iterator<Item = (String, Bearer)> + use<'a> {
    let owner = if endpoint.service.as_str().is_empty() {
        Bearer::Task(task.clone())
    } else {
        Bearer::Service(endpoint.service.clone())
    };
    let shared = std::iter::once(&endpoint.service_name).chain(&endpoint.aliases);
    let shared = shared.map(move |name| (name, owner.clone()));
    let ends_with_id = endpoint.task_name.rsplit('.').next() == Some(task.as_str());
    let own = (!ends_with_id).then_some(&endpoint.task_name).into_iter().chain([&endpoint.hostname]);
    let own = own.map(|name| (name, Bearer::Task(task.clone())));
    let names = shared.chain(own).filter(|(name, _)| !name.is_empty());
    names.map(|(name, bearer)| (name.to_ascii_lowercase(), bearer))
}

fn names_of_virtual_ip(virtual_ip: &VirtualIp) -> impl Iterator<Item = String> + use<'_> {
    let names = std::iter::once(&virtual_ip.service_name).chain(&virtual_ip.aliases);
    names.filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use netdriver::mac_for;
    use proptest::prelude::*;

    use super::*;

    fn endpoint(task: &str, service: &str, host: u8, aliases: &[&str]) -> Endpoint {
        let address = IpAddr::from([10, 0, 9, host]);
        Endpoint {
            node: "n1".into(),
            service: format!("id-{service}").as_str().into(),
            service_name: service.into(),
            task_name: format!("{service}.1.{task}"),
            aliases: aliases.iter().map(|&alias| alias.into()).collect(),
            hostname: String::new(),
            ready: true,
            lost: false,
            peer: Arc::new(Peer {
                mac: mac_for(address),
                addresses: vec![address],
                vtep: [192, 0, 2, 1].into(),
            }),
        }
    }

    fn virtual_ip(service: &str, host: u8) -> VirtualIp {
        let addresses = vec![[10, 0, 9, host].into()];
        VirtualIp { service_name: service.into(), addresses, aliases: vec!["front".into()] }
    }

    #[test]
    fn finds_by_service_name_id_and_address() {
        let mut book = Book::default();
        book.set_endpoint("t1".into(), endpoint("t1", "Web", 3, &["front"]));
        let box_two = Endpoint { hostname: "Box-2".into(), ..endpoint("t2", "Web", 4, &["front"]) };
        book.set_endpoint("t2".into(), box_two);
        book.set_endpoint(
            "t3".into(),
            Endpoint { task_name: "alone".into(), ..endpoint("t3", "", 5, &["a"]) },
        );
        book.set_virtual_ip("id-Web".into(), virtual_ip("Web", 2));

        let tasks: Vec<_> = book.endpoints_of(&"id-Web".into()).map(|(id, _)| id.as_str()).collect();
        assert_eq!(tasks, ["t1", "t2"]);
        let web = Bearer::Service("id-Web".into());
        assert_eq!(book.bearers("web").collect::<Vec<_>>(), [&web]);
        assert_eq!(book.bearers("front").collect::<Vec<_>>(), [&web]);
        assert_eq!(book.bearers("box-2").collect::<Vec<_>>(), [&Bearer::Task("t2".into())]);
        assert_eq!(book.bearers("alone").collect::<Vec<_>>(), [&Bearer::Task("t3".into())]);
        assert_eq!(book.bearer_of([10, 0, 9, 2].into()), Some(&web));
        assert_eq!(book.bearer_of([10, 0, 9, 4].into()), Some(&Bearer::Task("t2".into())));
        assert_eq!(book.task_by_prefix("t2").unwrap().1.peer.addresses, [IpAddr::from([10, 0, 9, 4])]);
        assert!(book.task_by_prefix("t4").is_none() && book.task_by_prefix("x").is_none());
    }

    #[test]
    fn a_name_lasts_as_long_as_anything_bears_it() {
        let mut book = Book::default();
        book.set_endpoint("t1".into(), endpoint("t1", "web", 3, &[]));
        book.set_endpoint("t2".into(), endpoint("t2", "web", 4, &["old"]));
        book.remove_endpoint(&"t1".into());
        assert_eq!(book.bearers("web").count(), 1);
        book.set_endpoint("t2".into(), endpoint("t2", "web", 4, &["new"]));
        assert_eq!((book.bearers("old").count(), book.bearers("new").count()), (0, 1));
        book.remove_endpoint(&"t2".into());
        assert_eq!(book, Book::default());
    }

    #[test]
    fn a_clone_stays_as_it_is() {
        let mut book = Book::default();
        book.set_endpoint("t1".into(), endpoint("t1", "web", 3, &[]));
        let before = book.clone();
        book.remove_endpoint(&"t1".into());
        assert_eq!(before.bearers("web").count(), 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Endpoint(u8, u8, bool),
        NoEndpoint(u8),
        Virtual(u8),
        NoVirtual(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..6u8, 0..3u8, any::<bool>())
                .prop_map(|(task, service, alias)| Step::Endpoint(task, service, alias)),
            (0..6u8).prop_map(Step::NoEndpoint),
            (0..3u8).prop_map(Step::Virtual),
            (0..3u8).prop_map(Step::NoVirtual),
        ]
    }

    fn take(book: &mut Book, step: &Step) {
        let task = |number: &u8| TaskId::from(format!("t{number}"));
        let service = |number: &u8| ServiceId::from(format!("id-s{number}"));
        match step {
            Step::Endpoint(number, of, alias) => {
                let aliases: &[&str] = if *alias { &["front"] } else { &[] };
                let endpoint = endpoint(task(number).as_str(), &format!("s{of}"), *number, aliases);
                book.set_endpoint(task(number), endpoint);
            }
            Step::NoEndpoint(number) => book.remove_endpoint(&task(number)),
            Step::Virtual(number) => {
                book.set_virtual_ip(service(number), virtual_ip(&format!("s{number}"), 100 + number));
            }
            Step::NoVirtual(number) => book.remove_virtual_ip(&service(number)),
        }
    }

    proptest! {
        /// Whatever happened before, the book is the one that its entries alone would give.
        #[test]
        fn indexes_follow_the_entries(steps in prop::collection::vec(step(), 0..60)) {
            let mut book = Book::default();
            steps.iter().for_each(|step| take(&mut book, step));
            let mut anew = Book::default();
            for (task, endpoint) in book.endpoints() {
                anew.set_endpoint(task.clone(), Endpoint::clone(endpoint));
            }
            for (service, virtual_ip) in book.virtual_ips() {
                anew.set_virtual_ip(service.clone(), VirtualIp::clone(virtual_ip));
            }
            prop_assert_eq!(book, anew);
        }
    }
}
