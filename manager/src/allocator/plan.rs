//! The plan: networks first, then services, then tasks in the order in which they were made.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;
use proto::model::{
    Attachment, AttachmentConfig, Endpoint, EndpointMode, Family, NetworkId, NetworkState, Service,
    ServiceId, Task, VirtualIp,
};
use raft_store::Tables;

use super::addresses::Addresses;
use super::networks::Free;
use super::{Action, Key, waits};
use crate::reconcile::Scope;

pub(super) fn plan(view: &Tables, scope: &Scope<Key>) -> Vec<Action> {
    let lot = match scope {
        Scope::All => Lot::all(view),
        Scope::Keys(keys) => Lot::of(view, keys),
    };
    let mut planner = Planner::new(view);
    for network in lot.networks {
        // Why it cannot be had is told by the tasks that need it.
        let _ = planner.network(network);
    }
    for service in lot.services {
        if let Some(service) = view.service(service) {
            let _ = planner.endpoint(service);
        }
    }
    let mut tasks: Vec<&Task> = lot.tasks;
    tasks.sort_by_key(|task| (task.meta.created_at, &task.service, task.slot, &task.id));
    tasks.dedup_by_key(|task| &task.id);
    tasks.into_iter().for_each(|task| planner.task(task));
    planner.actions
}

/// What a plan looks at.
#[derive(Default)]
struct Lot<'a> {
    networks: BTreeSet<&'a NetworkId>,
    services: BTreeSet<&'a ServiceId>,
    tasks: Vec<&'a Task>,
}

impl<'a> Lot<'a> {
    fn all(view: &'a Tables) -> Self {
        Self {
            networks: view.networks().map(|network| &network.id).collect(),
            services: view.services().map(|service| &service.id).collect(),
            tasks: view.tasks().map(|task| &**task).filter(|task| waits(task)).collect(),
        }
    }

    fn of(view: &'a Tables, keys: &'a BTreeSet<Key>) -> Self {
        let mut lot = Self::default();
        for key in keys {
            match key {
                Key::Network(id) => {
                    lot.networks.insert(id);
                    lot.services.extend(view.services_by_network(id).map(|service| &service.id));
                    lot.wait(view.tasks_by_network(id).map(|task| &**task));
                }
                Key::Service(id) => {
                    lot.services.insert(id);
                    lot.wait(view.tasks_by_service(id).map(|task| &**task));
                }
                Key::Task(id) => lot.wait(view.task(id).map(|task| &**task).into_iter()),
            }
        }
        lot
    }

    fn wait(&mut self, tasks: impl Iterator<Item = &'a Task>) {
        self.tasks.extend(tasks.filter(|task| waits(task)));
    }
}

struct Planner<'a> {
    view: &'a Tables,
    actions: Vec<Action>,
    free: Option<Free<'a>>,
    /// Of networks that were looked at; or why one cannot be used.
    networks: HashMap<NetworkId, Result<Addresses<'a>, String>>,
    /// Of services that were looked at; or why one is not complete.
    endpoints: HashMap<ServiceId, Result<Endpoint, String>>,
}

impl<'a> Planner<'a> {
    fn new(view: &'a Tables) -> Self {
        Self { view, actions: Vec::new(), free: None, networks: HashMap::new(), endpoints: HashMap::new() }
    }

    /// The addresses of the network, which is given its state if it has none.
    fn network(&mut self, id: &NetworkId) -> Result<&mut Addresses<'a>, String> {
        if !self.networks.contains_key(id) {
            let addresses = self.open(id);
            self.networks.insert(id.clone(), addresses);
        }
        let addresses = self.networks.get_mut(id).expect("was inserted just now");
        addresses.as_mut().map_err(|why| why.clone())
    }

    fn open(&mut self, id: &NetworkId) -> Result<Addresses<'a>, String> {
        let view = self.view;
        let network = view.network(id).ok_or_else(|| format!("network {id} does not exist"))?;
        let state = match &network.state {
            Some(state) => state.clone(),
            None if network.spec.is_config_only() => {
                return Err(format!("network {} holds settings for other networks only", network.name()));
            }
            None => self.allocate(network)?,
        };
        Ok(Addresses::new(view, &network.id, network.name(), state))
    }

    fn allocate(&mut self, network: &proto::model::Network) -> Result<NetworkState, String> {
        let view = self.view;
        let state = self.free.get_or_insert_with(|| Free::new(view)).allocate(network)?;
        self.actions.push(Action::Network { network: network.id.clone(), state: state.clone() });
        Ok(state)
    }

    /// The service's virtual addresses, one a network and family; planned if some are missing or too many.
    fn endpoint(&mut self, service: &Service) -> Result<Endpoint, String> {
        if let Some(endpoint) = self.endpoints.get(&service.id) {
            return endpoint.clone();
        }
        let mut endpoint = Endpoint { mode: service.spec.endpoint, virtual_ips: Vec::new() };
        let mut missing = None;
        if service.spec.endpoint == EndpointMode::Vip {
            for config in &service.spec.task.networks {
                if let Err(why) = self.virtual_ips(service, &config.network, &mut endpoint.virtual_ips) {
                    missing.get_or_insert(format!(
                        "{why}, for the virtual address of service {}",
                        service.name()
                    ));
                }
            }
        }
        if endpoint != service.endpoint {
            let (service, spec_version) = (service.id.clone(), service.spec_version);
            self.actions.push(Action::Service { service, spec_version, endpoint: endpoint.clone() });
        }
        let outcome = missing.map_or(Ok(endpoint), Err);
        self.endpoints.insert(service.id.clone(), outcome.clone());
        outcome
    }

    fn virtual_ips(
        &mut self,
        service: &Service,
        id: &NetworkId,
        vips: &mut Vec<VirtualIp>,
    ) -> Result<(), String> {
        let addresses = self.network(id)?;
        let held = service.endpoint.virtual_ips.iter().filter(|vip| vip.network == *id);
        for family in Family::ALL {
            let subnets: Vec<IpNet> = addresses.subnets(family).map(|subnet| subnet.net).collect();
            if subnets.is_empty() {
                continue;
            }
            let vip = match held.clone().find(|vip| subnets.contains(&vip.addr.trunc())) {
                Some(vip) => vip.clone(),
                None => VirtualIp {
                    network: id.clone(),
                    addr: addresses.take_any(family, &format!("service {}", service.name()))?,
                },
            };
            vips.push(vip);
        }
        Ok(())
    }

    fn task(&mut self, task: &Task) {
        // Without its service a task is about to be removed.
        let Some(service) = self.view.service(&task.service) else { return };
        let endpoint = self.endpoint(service);
        match endpoint.and_then(|endpoint| Ok((self.attachments(task)?, endpoint))) {
            Ok((attachments, endpoint)) => {
                self.actions.push(Action::Task { task: task.id.clone(), attachments, endpoint });
            }
            Err(err) if err != task.status.err => {
                self.actions.push(Action::Explain { task: task.id.clone(), err });
            }
            Err(_) => {}
        }
    }

    /// All or none of them.
    fn attachments(&mut self, task: &Task) -> Result<Vec<Attachment>, String> {
        let mut attachments = Vec::with_capacity(task.spec.networks.len());
        let holder = format!("task {}", task.annotations.name);
        for config in &task.spec.networks {
            let addresses = self.network(&config.network);
            match addresses.and_then(|addresses| addresses.take(&config.addresses, &holder)) {
                Ok(addresses) => attachments.push(attachment(config, addresses)),
                Err(why) => {
                    attachments.iter().for_each(|attachment| self.give_back(attachment));
                    return Err(why);
                }
            }
        }
        Ok(attachments)
    }

    fn give_back(&mut self, attachment: &Attachment) {
        if let Ok(addresses) = self.network(&attachment.network) {
            addresses.give_back(&attachment.addresses);
        }
    }
}

fn attachment(config: &AttachmentConfig, addresses: Vec<IpNet>) -> Attachment {
    Attachment {
        network: config.network.clone(),
        addresses,
        aliases: config.aliases.clone(),
        options: config.options.clone(),
    }
}
