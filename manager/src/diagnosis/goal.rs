//! To whom the packet of a trace goes: what the words of a destination mean on the networks of the source.
//!
//! Decides by the store, and for a name by what the source's own name server says. Each way to a goal notes the steps that
//! led there, or the one that is wrong.

use std::net::IpAddr;
use std::sync::Arc;

use proto::model::{EndpointMode, Network, NetworkId, Service, Task};
use proto::network::{Resolve, Resolved, TraceStep, answer, question};
use raft_store::AddressOwner;
use tonic::Status;

use super::ask::{BACKENDS, Found, Goal, Trace, UNKNOWN};
use super::judge::{self, Name, Step};
use super::target::{self, Meant};

impl Trace<'_> {
    pub(super) async fn goal(
        &self,
        meant: Option<Meant>,
        steps: &mut Vec<TraceStep>,
    ) -> Result<Result<Goal, ()>, Status> {
        let address: Option<IpAddr> = self.words.host.parse().ok();
        let found = match (meant, address) {
            (_, Some(address)) => self.by_address(address),
            (Some(meant), None) => self.by_meaning(&meant).await,
            (None, None) => self.by_name().await?,
        };
        Ok(match found {
            Ok((goal, seen)) => {
                steps.extend(seen);
                Ok(goal)
            }
            Err(seen) => {
                steps.extend(seen);
                Err(())
            }
        })
    }

    fn networks(&self) -> Vec<NetworkId> {
        target::networks(&Meant::Task(Arc::clone(&self.source)))
    }

    /// An address on a network of the source.
    fn by_address(&self, address: IpAddr) -> Found<(Goal, Vec<TraceStep>)> {
        let mut step = Step::new("network");
        let (view, own) = (&self.view, self.networks());
        let ipv6 = Some(address.is_ipv6());
        match target::owner(view, &own, address) {
            Some((network, AddressOwner::Task(id))) => {
                let task = view.task(&id).cloned();
                self.goal_of(task.map(Meant::Task), &network, ipv6, vec![])
            }
            Some((network, AddressOwner::Service(id))) => {
                let service = view.service(&id).cloned();
                self.goal_of(service.map(Meant::Service), &network, ipv6, vec![])
            }
            Some((network, owner)) => {
                let name = target::network_names(view, &[network]);
                step.saw("", format!("{address} on {name}: {owner}"));
                step.wrong(
                    format!("{address} belongs to the network {name} itself: {owner}"),
                    "trace to a task or a service",
                );
                Err(vec![step.done()])
            }
            None => Err(vec![self.nobodys(step, address)]),
        }
    }

    fn nobodys(&self, mut step: Step, address: IpAddr) -> TraceStep {
        let (view, own, task) = (&self.view, self.networks(), &self.source_name);
        let names = target::network_names(view, &own);
        step.saw("", format!("{task} is on {names}"));
        let all: Vec<NetworkId> = view.networks().map(|network| network.id.clone()).collect();
        let within = |id: &&NetworkId| {
            let state = view.network(id).and_then(|network| network.state.as_ref());
            state.is_some_and(|state| state.subnets.iter().any(|subnet| subnet.net.contains(&address)))
        };
        if own.iter().any(|id| within(&id)) {
            step.wrong(
                format!("nobody has {address} on {names}"),
                "is it of a task that has ended? Ask for the name again",
            );
        } else if let Some(id) = all.iter().find(within) {
            let name = target::network_names(view, std::slice::from_ref(id));
            let service = &self.source.service_annotations.name;
            let remedy = format!("attach it: `swarmctl service update --network-add {name} {service}`");
            step.wrong(format!("{address} is on network {name}, and {task} is on {names}"), remedy);
        } else {
            let remedy = "it goes out through the node's own network: look there";
            step.wrong(format!("{address} is on no network of the swarm"), remedy);
        }
        step.done()
    }

    /// A task or a service that the store knows: the name server is asked for it all the same.
    async fn by_meaning(&self, meant: &Meant) -> Found<(Goal, Vec<TraceStep>)> {
        let (own, theirs) = (self.networks(), target::networks(meant));
        let shared = own.iter().find(|id| theirs.contains(id));
        let Some(network) = shared else { return Err(vec![self.unshared(meant, &own, &theirs)]) };
        let (goal, mut steps) = self.goal_of(Some(meant.clone()), network, None, vec![])?;
        let asked = match meant {
            Meant::Task(task) => task.annotations.name.clone(),
            Meant::Service(service) => service.name().to_owned(),
        };
        let expected = match &goal.service {
            Some(service) => vec![service.virtual_ip],
            None => goal.backends.iter().filter_map(|task| target::address(task, network, None)).collect(),
        };
        let answer = self.resolve(&asked).await;
        steps.push(judge::name(&self.source_node, &Name { asked, expected, answer }));
        Ok((goal, steps))
    }

    fn unshared(&self, meant: &Meant, own: &[NetworkId], theirs: &[NetworkId]) -> TraceStep {
        let (view, task) = (&self.view, &self.source_name);
        let (own, other) = (target::network_names(view, own), target::network_names(view, theirs));
        let called = match meant {
            Meant::Task(task) => target::called(view, task),
            Meant::Service(service) => service.name().to_owned(),
        };
        let mut step = Step::new("network");
        step.saw("", format!("{task} is on {own}")).saw("", format!("{called} is on {other}"));
        let network =
            theirs.first().and_then(|id| view.network(id)).map_or("<network>", |network| network.name());
        let service = &self.source.service_annotations.name;
        let remedy = format!(
            "attach one to a network of the other: `swarmctl service update --network-add {network} {service}`"
        );
        step.wrong(format!("{task} is on {own} and {called} on {other}: they share no network"), remedy);
        step.done()
    }

    /// A name that only the task's name server knows, such as an alias.
    async fn by_name(&self) -> Result<Found<(Goal, Vec<TraceStep>)>, Status> {
        let asked = self.words.host.clone();
        let answer = self.resolve(&asked).await;
        let addresses: Vec<IpAddr> = answer
            .iter()
            .flat_map(|resolved| &resolved.addresses)
            .filter_map(|text| text.parse().ok())
            .collect();
        let step = judge::name(&self.source_node, &Name { asked: asked.clone(), expected: vec![], answer });
        let owner = addresses.iter().find_map(|address| {
            let (network, owner) = target::owner(&self.view, &self.networks(), *address)?;
            Some((*address, network, owner))
        });
        let found = match owner {
            Some((address, network, AddressOwner::Task(id))) => {
                let task = self.view.task(&id).cloned().map(Meant::Task);
                self.goal_of(task, &network, Some(address.is_ipv6()), vec![step])
            }
            Some((address, network, AddressOwner::Service(id))) => {
                let service = self.view.service(&id).cloned().map(Meant::Service);
                self.goal_of(service, &network, Some(address.is_ipv6()), vec![step])
            }
            _ => {
                let outside = addresses.first().map(|address| self.nobodys(Step::new("network"), *address));
                Err([Some(step), outside].into_iter().flatten().collect())
            }
        };
        Ok(found)
    }

    async fn resolve(&self, name: &str) -> Result<Resolved, String> {
        match self.ask(&self.source, question::Kind::Resolve(Resolve { name: name.into() })).await? {
            answer::Kind::Resolved(resolved) => Ok(resolved),
            _ => Err(UNKNOWN.into()),
        }
    }

    /// Steps `network` and `destination`.
    fn goal_of(
        &self,
        meant: Option<Meant>,
        network: &NetworkId,
        ipv6: Option<bool>,
        mut steps: Vec<TraceStep>,
    ) -> Found<(Goal, Vec<TraceStep>)> {
        let view = &self.view;
        let (Some(meant), Some(network)) = (meant, view.network(network).cloned()) else {
            return Err(steps);
        };
        let mut step = Step::new("network");
        let vni = network.state.as_ref().map(|state| state.vni).unwrap_or_default();
        let encrypted = if network.is_encrypted() { ", encrypted" } else { "" };
        step.saw("", format!("both are on {} (VNI {vni}{encrypted})", network.name()));
        steps.push(step.done());
        let mut step = Step::new("destination");
        let goal = match &meant {
            Meant::Task(task) => self.task_goal(task, &network, ipv6, &mut step),
            Meant::Service(service) => self.service_goal(service, &network, ipv6, &mut step),
        };
        let well = !step.is_wrong();
        steps.push(step.done());
        if well { Ok((goal, steps)) } else { Err(steps) }
    }

    fn task_goal(
        &self,
        task: &Arc<Task>,
        network: &Arc<Network>,
        ipv6: Option<bool>,
        step: &mut Step,
    ) -> Goal {
        let (view, name) = (&self.view, target::called(&self.view, task));
        let address =
            target::address(task, &network.id, ipv6).map(|address| address.to_string()).unwrap_or_default();
        step.saw("", format!("{name} on {}, {address}", target::node_of(view, task)));
        if let Some(why) = target::unready(view, task) {
            step.wrong(
                format!("{name} is not ready: {why}"),
                "`swarmctl service ps` says more; names and service addresses lead to ready tasks only",
            );
        }
        Goal {
            network: network.clone(),
            service: None,
            backends: vec![task.clone()],
            ipv6,
            called: format!("{name}, {address}"),
        }
    }

    fn service_goal(
        &self,
        service: &Arc<Service>,
        network: &Arc<Network>,
        ipv6: Option<bool>,
        step: &mut Step,
    ) -> Goal {
        let view = &self.view;
        let (ready, unready): (Vec<_>, Vec<_>) = target::placed(view, service, &network.id)
            .partition(|task| target::unready(view, task).is_none());
        let vips = service
            .endpoint
            .virtual_ips
            .iter()
            .filter(|vip| vip.network == network.id)
            .map(|vip| vip.addr.addr());
        let fits = |vip: &IpAddr| ipv6.is_none_or(|ipv6| vip.is_ipv6() == ipv6);
        let vip = vips.clone().find(|vip| vip.is_ipv4() && fits(vip)).or_else(|| vips.clone().find(fits));
        let why = |task: &&Arc<Task>| {
            let why = target::unready(view, task).unwrap_or_default();
            format!("{} on {}: {why}", target::called(view, task), target::node_of(view, task))
        };
        let waiting: Vec<String> = unready.iter().map(why).collect();
        let name = service.name();
        let not =
            if waiting.is_empty() { String::new() } else { format!("; not ready: {}", waiting.join("; ")) };
        step.saw("", format!("{name}, {} of {} tasks ready{not}", ready.len(), ready.len() + unready.len()));
        if ready.is_empty() {
            let latest = view.tasks_by_service(&service.id).max_by_key(|task| task.meta.created_at);
            let last = waiting
                .first()
                .cloned()
                .or_else(|| latest.as_ref().map(why))
                .unwrap_or_else(|| "it has none".into());
            step.wrong(
                format!("no task of {name} is ready: {last}"),
                format!("`swarmctl service ps {name}` says more"),
            );
        }
        let ipv6 = vip.map(|vip| vip.is_ipv6()).or(ipv6);
        let addresses = ready
            .iter()
            .filter_map(|task| Some((target::address(task, &network.id, ipv6)?, target::called(view, task))));
        let dnsrr = service.endpoint.mode == EndpointMode::DnsRoundRobin;
        let called = match vip {
            Some(vip) => format!("{name}, {vip}"),
            None if dnsrr => format!("{name}, by its tasks' addresses"),
            None => name.to_owned(),
        };
        let balanced = vip.map(|virtual_ip| judge::Service { virtual_ip, ready: addresses.collect() });
        let backends = ready.into_iter().take(BACKENDS).cloned().collect();
        Goal { network: network.clone(), service: balanced, backends, ipv6, called }
    }
}
