//! One trace: finds out what is meant, asks the nodes, and has it judged.
//!
//! Decides who is asked what, and in which order. To whom the packet goes is decided in `goal`, what is wrong in `judge`. It goes as far as it can: a node that
//! does not answer leaves steps unknown, and is a finding itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use proto::model::{Network, NodeId, Task, TaskState};
use proto::network::{
    Facts, Far, Heard, HeardOf, Listen, Look, Probe, Probed, TraceRequest, TraceResponse, TraceStep, Trail,
    answer, question,
};
use raft_store::View;
use tonic::Status;

use super::Diagnosis;
use super::judge::{self, End, Evidence, Step, first_wrong};
use super::target::{self, Meant, Words};
use crate::directory;
use crate::error::Error;

/// Backends of a service that are traced.
pub(super) const BACKENDS: usize = 16;
/// RFC 7348.
const VXLAN_PORT: u32 = 4789;
/// Bits of an ICMP identifier that are drawn; the first one is the node's.
const TOKEN: u32 = 0x7fff;
pub(super) const UNKNOWN: &str = "the node says something else than it was asked";

/// Steps so far; `Err`: it goes no further.
pub(super) type Found<T> = Result<T, Vec<TraceStep>>;

pub(super) struct Trace<'a> {
    diagnosis: &'a Diagnosis,
    pub(super) view: View,
    pub(super) words: Words,
    pub(super) source: Arc<Task>,
    pub(super) source_name: String,
    pub(super) source_node: String,
}

/// To whom the packet goes.
pub(super) struct Goal {
    pub(super) network: Arc<Network>,
    pub(super) service: Option<judge::Service>,
    /// Ready tasks; of a service, the first of them.
    pub(super) backends: Vec<Arc<Task>>,
    pub(super) ipv6: Option<bool>,
    pub(super) called: String,
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

    pub(super) async fn ask(&self, task: &Arc<Task>, kind: question::Kind) -> Result<answer::Kind, String> {
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
