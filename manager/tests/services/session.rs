//! A node's session, from its registration to its end.

use proto::model::{NodeState, TaskState};
use proto::network::WatchRequest;
use proto::network::directory_client::DirectoryClient;
use proto::wire::assignments_message::Type;
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::update_task_status_request::TaskStatusUpdate;
use proto::wire::{
    self, AssignmentsRequest, HeartbeatRequest, SessionMessage, SessionRequest, UpdateTaskStatusRequest,
};
use tonic::{Code, Status, Streaming};

use crate::fixtures::{in_state, network, node, node_id, put, remove, service, task, task_id};
use crate::swarm::{Client, Swarm, soon};

struct Node {
    client: DispatcherClient<Client>,
    messages: Streaming<SessionMessage>,
    first: SessionMessage,
}

async fn join(swarm: &Swarm, number: u8) -> Node {
    let mut client = DispatcherClient::new(swarm.worker(&node_id(number)));
    let mut messages = client.session(registration("host")).await.unwrap().into_inner();
    let first = soon("the first message", messages.message()).await.unwrap().unwrap();
    Node { client, messages, first }
}

fn registration(hostname: &str) -> SessionRequest {
    let description = wire::NodeDescription { hostname: hostname.into(), ..Default::default() };
    SessionRequest { description: Some(description), session_id: String::new() }
}

async fn ended<T>(messages: &mut Streaming<T>) -> Status {
    soon("the end of the stream", async {
        loop {
            match messages.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a stream ends with a reason"),
                Err(status) => return status,
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_session_makes_the_node_ready_and_tells_it_the_managers() {
    let swarm = Swarm::start().await;
    let mut down = node(1);
    down.status.state = NodeState::Down;
    put(&swarm.store, [down]).await;
    let group = swarm.store.membership();
    group.add(node_id(2), "192.0.2.2:2377".into()).await.unwrap();
    let mut joined = join(&swarm, 1).await;
    let view = swarm.store.view();
    let registered = view.node(&node_id(1)).unwrap();
    assert_eq!(registered.status.state, NodeState::Ready);
    // From where the connection came.
    assert_eq!(registered.status.addr, "192.0.2.77");
    assert_eq!(registered.hostname(), "host");
    let peers: Vec<_> =
        joined.first.managers.iter().map(|m| m.peer.as_ref().unwrap().addr.as_str()).collect();
    assert!(peers.contains(&"192.0.2.2:2377"), "{peers:?}");
    assert!(joined.first.root_ca.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let cluster_port = swarm.store.view().cluster().unwrap().vxlan_port;
    assert_eq!(joined.first.node.as_ref().unwrap().vxlan_udp_port, u32::from(cluster_port));

    // Another manager joins: every node is told.
    group.add(node_id(3), "192.0.2.3:2377".into()).await.unwrap();
    let next = soon("news of the manager", joined.messages.message()).await.unwrap().unwrap();
    assert_eq!(next.managers.len(), peers.len() + 1);
    swarm.stop().await;
}

#[tokio::test]
async fn heartbeats_belong_to_a_session() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1), node(2)]).await;
    let mut first = join(&swarm, 1).await;
    let beat = |session_id: &str| HeartbeatRequest { session_id: session_id.into() };
    let answer = first.client.heartbeat(beat(&first.first.session_id)).await.unwrap().into_inner();
    let period = std::time::Duration::try_from(answer.period.unwrap()).unwrap();
    assert!((4.0..=5.0).contains(&period.as_secs_f64()), "{period:?}");

    let mut other = DispatcherClient::new(swarm.worker(&node_id(2)));
    let foreign = other.heartbeat(beat(&first.first.session_id)).await.unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);

    let mut second = join(&swarm, 1).await;
    assert_eq!(ended(&mut first.messages).await.code(), Code::Aborted);
    let old = second.client.heartbeat(beat(&first.first.session_id)).await.unwrap_err();
    assert_eq!(old.code(), Code::NotFound);
    second.client.heartbeat(beat(&second.first.session_id)).await.unwrap();
    swarm.stop().await;
}

#[tokio::test]
async fn a_session_ends_when_the_node_is_down_or_removed() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1), node(2)]).await;
    let (mut first, mut second) = (join(&swarm, 1).await, join(&swarm, 2).await);
    let mut down = node(1);
    down.status.state = NodeState::Down;
    put(&swarm.store, [down]).await;
    assert_eq!(ended(&mut first.messages).await.code(), Code::Unavailable);
    remove(&swarm.store, node_id(2)).await;
    assert_eq!(ended(&mut second.messages).await.code(), Code::PermissionDenied);
    swarm.stop().await;
}

#[tokio::test]
async fn assignments_come_down_and_status_comes_up() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    put(&swarm.store, [network(1)]).await;
    let web = service(1, &[1]);
    put(&swarm.store, [web.clone()]).await;
    let mut joined = join(&swarm, 1).await;
    let session_id = joined.first.session_id.clone();
    let request = AssignmentsRequest { session_id: session_id.clone() };
    let mut assignments = joined.client.assignments(request).await.unwrap().into_inner();
    let complete = soon("the full set", assignments.message()).await.unwrap().unwrap();
    assert_eq!((complete.r#type(), complete.changes.len()), (Type::Complete, 0));

    put(&swarm.store, [task(1, &web, 1, &[1])]).await;
    let difference = soon("the difference", assignments.message()).await.unwrap().unwrap();
    assert_eq!((difference.r#type(), difference.changes.len()), (Type::Incremental, 1));
    assert_eq!(difference.applies_to, complete.results_in);

    let status = wire::TaskStatus { state: wire::TaskState::Running.into(), ..Default::default() };
    let update = TaskStatusUpdate { task_id: "task1".into(), status: Some(status) };
    let report = UpdateTaskStatusRequest { session_id, updates: vec![update] };
    joined.client.update_task_status(report).await.unwrap();
    assert_eq!(swarm.store.view().task(&task_id(1)).unwrap().status.state, TaskState::Running);

    // With the session, all that belongs to it ends.
    drop(joined.messages);
    assert_eq!(ended(&mut assignments).await.code(), Code::Unavailable);
    swarm.stop().await;
}

#[tokio::test]
async fn a_report_about_anothers_task_changes_nothing() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1), node(2)]).await;
    let web = service(1, &[]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [task(1, &web, 1, &[]), task(2, &web, 2, &[])]).await;
    let mut joined = join(&swarm, 1).await;
    let running = |id: &str| TaskStatusUpdate {
        task_id: id.into(),
        status: Some(wire::TaskStatus { state: wire::TaskState::Running.into(), ..Default::default() }),
    };
    let session_id = joined.first.session_id.clone();
    let report = UpdateTaskStatusRequest { session_id, updates: vec![running("task1"), running("task2")] };
    assert_eq!(joined.client.update_task_status(report).await.unwrap_err().code(), Code::PermissionDenied);
    let view = swarm.store.view();
    assert!(view.tasks().all(|task| task.status.state == TaskState::Assigned));
    swarm.stop().await;
}

#[tokio::test]
async fn a_manager_that_stops_says_so() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    let web = service(1, &[]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [in_state(task(1, &web, 1, &[]), TaskState::Running)]).await;
    let mut joined = join(&swarm, 1).await;
    let ending = tokio::join!(swarm.stop(), ended(&mut joined.messages)).1;
    assert_eq!(ending.code(), Code::Aborted);
}

#[tokio::test]
async fn an_incomplete_registration_names_the_field() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    let mut client = DispatcherClient::new(swarm.worker(&node_id(1)));
    let refused = client.session(SessionRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "description is missing"));
    swarm.stop().await;
}

#[tokio::test]
async fn a_node_has_one_stream_of_each_kind_the_newest() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    let mut joined = join(&swarm, 1).await;
    let session_id = joined.first.session_id.clone();
    let assignments = || AssignmentsRequest { session_id: session_id.clone() };
    let mut first = joined.client.assignments(assignments()).await.unwrap().into_inner();
    let mut second = joined.client.assignments(assignments()).await.unwrap().into_inner();
    assert_eq!(ended(&mut first).await.code(), Code::Aborted);
    let mut directory = DirectoryClient::new(swarm.worker(&node_id(1)));
    let watch = || WatchRequest { session_id: session_id.clone(), index: 0, known: vec![] };
    let mut older = directory.watch(watch()).await.unwrap().into_inner();
    let _newer = directory.watch(watch()).await.unwrap().into_inner();
    assert_eq!(ended(&mut older).await.code(), Code::Aborted);

    // The newer one lives: the other's end has not taken it along.
    soon("the complete set", second.message()).await.unwrap().unwrap();
    put(&swarm.store, [network(1)]).await;
    let web = service(1, &[1]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [task(1, &web, 1, &[1])]).await;
    let news = soon("the task", second.message()).await.unwrap().unwrap();
    assert_eq!(news.changes.len(), 1);
    swarm.stop().await;
}
