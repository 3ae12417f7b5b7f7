//! One trace: finds out what is meant, asks the nodes, and has it judged.
//!
//! Decides who is asked what, and in which order; what is wrong is decided in `judge`. It goes as far as it can: a node that
//! does not answer leaves steps unknown, and is a finding itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use proto::model::{EndpointMode, Network, NetworkId, NodeId, Service, Task, TaskState};
use proto::network::{
    Facts, Far, Heard, HeardOf, Listen, Look, Probe, Probed, Resolve, Resolved, TraceRequest, TraceResponse,
    TraceStep, Trail, answer, question,
};
use raft_store::{AddressOwner, View};
use tonic::Status;

use super::Diagnosis;
use super::judge::{self, End, Evidence, Name, Step, first_wrong};
use super::target::{self, Meant, Words};
use crate::directory;
use crate::error::Error;

/// Backends of a service that are traced.
const BACKENDS: usize = 16;
/// RFC 7348.
const VXLAN_PORT: u32 = 4789;
/// Bits of an ICMP identifier that are drawn; the first one is the node's.
const TOKEN: u32 = 0x7fff;
const UNKNOWN: &str = "the node says something else than it was asked";

/// Steps so far; `Err`: it goes no further.
type Found<T> = Result<T, Vec<TraceStep>>;

struct Trace<'a> {
    diagnosis: &'a Diagnosis,
    view: View,
    words: Words,
    source: Arc<Task>,
    source_name: String,
    source_node: String,
}

/// To whom the packet goes.
struct Goal {
    network: Arc<Network>,
    service: Option<judge::Service>,
    /// Ready tasks; of a service, the first of them.
    backends: Vec<Arc<Task>>,
    ipv6: Option<bool>,
    called: String,
}

pub async fn trace(diagnosis: &Diagnosis, request: TraceRequest) -> Result<TraceResponse, Status> {
    let view = diagnosis.store.view();
    let words = target::split(&request.destination)?;
    let unknown = || Error::not_found("task or service", &request.source);
    let source = target::find(&view, "source", &request.source)?.ok_or_else(unknown)?;
    let destination = target::find(&view, "destination", &words.host)?;
    let mut steps = Vec::new();
    let shown = |steps, source: &str, destination: &str| {
        let (source, destination) = (source.to_owned(), destination.to_owned());
        Ok(TraceResponse { source, destination, steps })
    };
    let Some(task) = first_source(&view, &source, &mut steps) else {
        return shown(steps, &request.source, &request.destination);
    };
    let (source_name, source_node) = (target::called(&view, &task), target::node_of(&view, &task));
    let trace = Trace { diagnosis, view, words, source: task, source_name, source_node };
    let from = format!("{} on {}", trace.source_name, trace.source_node);
    match trace.goal(destination, &mut steps).await? {
        Err(()) => shown(steps, &from, &request.destination),
        Ok(goal) => {
            let called = format!("{} ({})", request.destination, goal.called);
            steps.extend(trace.ways(&goal).await);
            shown(steps, &from, &called)
        }
    }
}

/// The task from which it goes, if one runs.
fn first_source(view: &View, source: &Meant, steps: &mut Vec<TraceStep>) -> Option<Arc<Task>> {
    let mut step = Step::new("source");
    let (task, chosen) = match source {
        Meant::Task(task) => (Some(task.clone()), String::new()),
        Meant::Service(service) => {
            let tasks: Vec<_> = view.tasks_by_service(&service.id).collect();
            let running: Vec<_> = tasks.iter().filter(|task| target::is_ready(task)).collect();
            let chosen = match running.len() {
                0 | 1 => String::new(),
                count => format!(", the first of {count} tasks of {} that run", service.name()),
            };
            let latest = tasks
                .iter()
                .max_by_key(|task| (task.status.state < TaskState::Complete, task.meta.created_at));
            (running.first().copied().or(latest).map(|task| Arc::clone(task)), chosen)
        }
    };
    let Some(task) = task else {
        let name = match source {
            Meant::Service(service) => service.name().to_owned(),
            Meant::Task(task) => task.id.to_string(),
        };
        step.saw("", format!("{name} has no task"));
        step.wrong(format!("service {name} has no task"), "scale it up: `swarmctl service scale`");
        steps.push(step.done());
        return None;
    };
    let (name, node) = (target::called(view, &task), target::node_of(view, &task));
    step.saw("", format!("{name} on {node}{chosen}"));
    if task.status.state != TaskState::Running {
        let why = target::unready(view, &task).unwrap_or_default();
        step.wrong(format!("{name} cannot send: {why}"), "`swarmctl service ps` says more");
    } else if let Some(why) = target::unready(view, &task).filter(|why| why.ends_with("is down")) {
        step.wrong(format!("{name} cannot be asked: {why}"), "look after the node: `swarmctl node ls`");
    } else if task.attachments.is_empty() {
        step.wrong(format!("{name} is attached to no network"), "`swarmctl service update --network-add …`");
    }
    let well = !step.is_wrong();
    steps.push(step.done());
    well.then_some(task)
}

impl Trace<'_> {
    async fn goal(
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

    /// The ways to all backends; those steps are told that go wrong first. If none does, a way to another node, which has
    /// more of them.
    async fn ways(&self, goal: &Goal) -> Vec<TraceStep> {
        let ways = join_all(goal.backends.iter().map(|backend| self.way(goal, backend))).await;
        let order = |steps: &[TraceStep]| first_wrong(steps).unwrap_or(usize::MAX);
        let wrong = ways.iter().filter(|steps| first_wrong(steps).is_some()).count();
        let is_here = |i: &usize| goal.backends[*i].node == self.source.node;
        let worst = (0..ways.len()).min_by_key(|i| (order(&ways[*i]), is_here(i)));
        let Some(worst) = worst else { return vec![] };
        let mut step = Step::new("backend");
        let backend = &goal.backends[worst];
        let address = target::address(backend, &goal.network.id, goal.ipv6);
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        let (name, node) = (target::called(&self.view, backend), target::node_of(&self.view, backend));
        let others = match (ways.len(), wrong) {
            (1, _) => String::new(),
            (count, 0) => format!(", shown of {count} that are well"),
            (count, wrong) => format!(", shown of {count} of which {wrong} are not well"),
        };
        step.saw("", format!("{name} on {node}, {address}{others}"));
        let mut steps = ways.into_iter().nth(worst).unwrap_or_default();
        let after = steps.iter().position(|step| step.name != "service").unwrap_or_default();
        if goal.service.is_some() || goal.backends.len() > 1 {
            steps.insert(after, step.done());
        }
        steps
    }

    async fn way(&self, goal: &Goal, backend: &Arc<Task>) -> Vec<TraceStep> {
        let (Some(source), Some(destination)) = (self.end(&self.source, goal), self.end(backend, goal))
        else {
            return vec![Step::new("backend").unknown("it has no address of that family, or no node")];
        };
        let virtual_ip =
            goal.service.as_ref().map(|service| service.virtual_ip.to_string()).unwrap_or_default();
        let (near, far) = tokio::join!(
            self.look(&self.source, goal, virtual_ip.clone(), &destination),
            self.look(backend, goal, String::new(), &source),
        );
        let cluster_port = self.view.cluster().map_or(VXLAN_PORT, |cluster| cluster.vxlan_port.into());
        let mut evidence = Evidence {
            network: goal.network.name().to_owned(),
            vni: goal.network.state.as_ref().map(|state| state.vni).unwrap_or_default(),
            udp_port: if cluster_port == 0 { VXLAN_PORT } else { cluster_port },
            encrypted: goal.network.is_encrypted(),
            service: goal.service.clone(),
            port: self.words.port,
            source,
            destination,
            near,
            far,
            probed: None,
            heard: None,
        };
        self.send(goal, backend, virtual_ip, &mut evidence).await;
        judge::way(&evidence)
    }

    /// Sends a probe, if there is an interface to send it from.
    async fn send(&self, goal: &Goal, backend: &Arc<Task>, virtual_ip: String, evidence: &mut Evidence) {
        let Ok(near) = &evidence.near else { return };
        let Some(interface) = &near.interface else { return };
        let trail = trail(goal, evidence, near, interface.mtu);
        let listen = Listen { trail: Some(trail.clone()) };
        let listening = match &evidence.far {
            Ok(_) => self.ask(backend, question::Kind::Listen(listen)).await,
            Err(why) => Err(why.clone()),
        };
        let probe = Probe {
            address: evidence.destination.address.to_string(),
            port: self.words.port.map(u32::from).unwrap_or_default(),
            virtual_ip,
            trail: Some(trail.clone()),
        };
        let probed = self.ask(&self.source, question::Kind::Probe(probe)).await;
        evidence.probed = Some(probed.and_then(|kind| match kind {
            answer::Kind::Probed(probed) => Ok::<Probed, _>(probed),
            _ => Err(UNKNOWN.into()),
        }));
        evidence.heard = Some(match listening {
            Ok(_) => self.heard(backend, trail.token).await,
            Err(why) => Err(why),
        });
    }

    async fn heard(&self, backend: &Arc<Task>, token: u32) -> Result<HeardOf, String> {
        match self.ask(backend, question::Kind::Heard(Heard { token })).await? {
            answer::Kind::Heard(heard) => Ok(heard),
            _ => Err(UNKNOWN.into()),
        }
    }

    async fn look(
        &self,
        task: &Arc<Task>,
        goal: &Goal,
        virtual_ip: String,
        other: &End,
    ) -> Result<Facts, String> {
        let far = Far {
            task_id: other.task.clone(),
            address: other.address.to_string(),
            mac: other.mac.to_vec(),
            vtep: other.vtep.map(|vtep| vtep.to_string()).unwrap_or_default(),
        };
        let look = Look { network_id: goal.network.id.to_string(), virtual_ip, far: Some(far) };
        match self.ask(task, question::Kind::Look(look)).await? {
            answer::Kind::Facts(facts) => Ok(facts),
            _ => Err(UNKNOWN.into()),
        }
    }

    async fn ask(&self, task: &Arc<Task>, kind: question::Kind) -> Result<answer::Kind, String> {
        let node: &NodeId = task.node.as_ref().ok_or("it has no node")?;
        self.diagnosis.ask(node, task.id.as_str(), kind).await
    }

    fn end(&self, task: &Arc<Task>, goal: &Goal) -> Option<End> {
        let node = self.view.node(task.node.as_ref()?)?;
        let attachment = task.attachments.iter().find(|attachment| attachment.network == goal.network.id)?;
        Some(End {
            task: task.id.to_string(),
            name: target::called(&self.view, task),
            node_id: node.id.to_string(),
            node: target::node_of(&self.view, task),
            address: target::address(task, &goal.network.id, goal.ipv6)?,
            mac: directory::mac(attachment)?,
            vtep: node.vtep(),
        })
    }
}

fn trail(goal: &Goal, evidence: &Evidence, near: &Facts, full_bytes: u32) -> Trail {
    let associations = near.keys.iter().flat_map(|keys| &keys.associations);
    let mut spis: BTreeMap<bool, Vec<u32>> = BTreeMap::new();
    for association in associations {
        spis.entry(association.outgoing).or_default().push(association.spi);
    }
    Trail {
        network_id: goal.network.id.to_string(),
        token: rand::random::<u32>() & TOKEN,
        ipv6: evidence.destination.address.is_ipv6(),
        full_bytes,
        local: evidence.is_local(),
        request_spis: spis.remove(&true).unwrap_or_default(),
        reply_spis: spis.remove(&false).unwrap_or_default(),
    }
}
