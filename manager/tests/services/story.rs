//! One `service create`, through services and loops, to running tasks that know each other.

use std::collections::BTreeMap;

use proto::network::WatchRequest;
use proto::network::directory_client::DirectoryClient;
use proto::network::network_update::Kind;
use proto::wire::assignment::Item;
use proto::wire::control_client::ControlClient;
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::update_task_status_request::TaskStatusUpdate;
use proto::wire::{
    self, AssignmentsMessage, AssignmentsRequest, SessionRequest, UpdateTaskStatusRequest, service_spec,
    task_spec,
};
use tonic::Streaming;

use crate::fixtures::{node, node_id, put};
use crate::swarm::{Client, Swarm, soon};

fn named(name: &str) -> Option<wire::Annotations> {
    Some(wire::Annotations { name: name.into(), ..Default::default() })
}

/// A node that runs whatever it is given, at once.
struct Worker {
    dispatcher: DispatcherClient<Client>,
    session_id: String,
    assignments: Streaming<AssignmentsMessage>,
    _session: Streaming<wire::SessionMessage>,
}

impl Worker {
    async fn start(swarm: &Swarm, number: u8) -> Self {
        let mut dispatcher = DispatcherClient::new(swarm.worker(&node_id(number)));
        let description = Some(wire::NodeDescription::default());
        let request = SessionRequest { description, ..Default::default() };
        let mut session = dispatcher.session(request).await.unwrap().into_inner();
        let session_id = session.message().await.unwrap().unwrap().session_id;
        let request = AssignmentsRequest { session_id: session_id.clone() };
        let assignments = dispatcher.assignments(request).await.unwrap().into_inner();
        Self { dispatcher, session_id, assignments, _session: session }
    }

    /// Runs tasks until it has so many.
    async fn run(&mut self, count: usize) -> BTreeMap<String, wire::Task> {
        let mut tasks = BTreeMap::new();
        while tasks.len() < count {
            let message = soon("an assignment", self.assignments.message()).await.unwrap().unwrap();
            let items = message.changes.into_iter().filter_map(|change| change.assignment?.item);
            let new: Vec<_> = items.map(|Item::Task(task)| task).collect();
            let running = |task: &wire::Task| TaskStatusUpdate {
                task_id: task.id.clone(),
                status: Some(wire::TaskStatus {
                    state: wire::TaskState::Running.into(),
                    ..Default::default()
                }),
            };
            let updates = new.iter().map(running).collect();
            let report = UpdateTaskStatusRequest { session_id: self.session_id.clone(), updates };
            self.dispatcher.update_task_status(report).await.unwrap();
            tasks.extend(new.into_iter().map(|task| (task.id.clone(), task)));
        }
        tasks
    }
}

async fn create(swarm: &Swarm) -> String {
    let mut control = ControlClient::new(swarm.local());
    let config = wire::IpamConfig { subnet: "10.0.9.0/24".into(), ..Default::default() };
    let ipam = Some(wire::IpamOptions { configs: vec![config], ..Default::default() });
    let spec = wire::NetworkSpec { annotations: named("front"), ipam, ..Default::default() };
    control.create_network(wire::CreateNetworkRequest { spec: Some(spec) }).await.unwrap();
    let container = wire::ContainerSpec { image: "nginx".into(), ..Default::default() };
    let spec = wire::ServiceSpec {
        annotations: named("web"),
        task: Some(wire::TaskSpec {
            runtime: Some(task_spec::Runtime::Container(container)),
            networks: vec![wire::NetworkAttachmentConfig { target: "front".into(), ..Default::default() }],
            ..Default::default()
        }),
        mode: Some(service_spec::Mode::Replicated(wire::ReplicatedService { replicas: 2 })),
        ..Default::default()
    };
    let created = control.create_service(wire::CreateServiceRequest { spec: Some(spec) }).await.unwrap();
    created.into_inner().service.unwrap().id
}

#[tokio::test]
async fn two_replicas_run_on_two_nodes_and_know_each_other() {
    let swarm = Swarm::lead().await;
    put(&swarm.store, [node(1), node(2)]).await;
    let (mut first, mut second) = (Worker::start(&swarm, 1).await, Worker::start(&swarm, 2).await);
    let mut client = DirectoryClient::new(swarm.worker(&node_id(1)));
    let request = WatchRequest { session_id: first.session_id.clone(), index: 0, known: vec![] };
    let mut directory = client.watch(request).await.unwrap().into_inner();

    let service = create(&swarm).await;
    let (here, there) = tokio::join!(first.run(1), second.run(1));
    let addresses: Vec<_> =
        here.values().chain(there.values()).map(|task| &task.networks[0].addresses).collect();
    assert_ne!(addresses[0], addresses[1]);
    assert!(addresses.iter().all(|addresses| addresses[0].starts_with("10.0.9.")), "{addresses:?}");

    let request = wire::ListServiceStatusesRequest { services: vec![service] };
    let mut control = ControlClient::new(swarm.local());
    let status = control.list_service_statuses(request).await.unwrap().into_inner().statuses.remove(0);
    assert_eq!((status.desired_tasks, status.running_tasks), (2, 2));

    soon("both in the directory", async {
        let mut ready = BTreeMap::new();
        while ready.values().filter(|ready| **ready).count() < 2 {
            for update in directory.message().await.unwrap().unwrap().updates {
                let endpoints = match update.kind.unwrap() {
                    Kind::Complete(all) => all.endpoints,
                    Kind::Difference(difference) => difference.set_endpoints,
                    Kind::Gone(_) => panic!("the network stays"),
                };
                ready.extend(endpoints.into_iter().map(|endpoint| (endpoint.task_id, endpoint.ready)));
            }
        }
    })
    .await;
    swarm.stop().await;
}
