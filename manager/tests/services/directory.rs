//! The directory over a session's stream.

use std::time::Duration;

use proto::model::TaskState;
use proto::network::directory_client::DirectoryClient;
use proto::network::network_update::Kind;
use proto::network::{ConfirmRequest, Confirmed, DrainRequest, Known, WatchRequest, WatchResponse};
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::{NodeDescription, SessionRequest};
use tonic::Code;

use crate::fixtures::{in_state, network, node, node_id, put, service, task, task_id};
use crate::swarm::{Swarm, soon};

#[tokio::test]
async fn a_network_comes_changes_and_goes_with_the_nodes_tasks() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1), node(2)]).await;
    put(&swarm.store, [network(1)]).await;
    let web = service(1, &[1]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [task(2, &web, 2, &[1])]).await;

    let mut dispatcher = DispatcherClient::new(swarm.worker(&node_id(1)));
    let request = SessionRequest { description: Some(NodeDescription::default()), ..Default::default() };
    let mut session = dispatcher.session(request).await.unwrap().into_inner();
    let session_id = session.message().await.unwrap().unwrap().session_id;
    let mut client = DirectoryClient::new(swarm.worker(&node_id(1)));
    let wrong =
        client.watch(WatchRequest { session_id: "x".into(), index: 0, known: vec![] }).await.unwrap_err();
    assert_eq!(wrong.code(), Code::NotFound);
    let mut updates =
        client.watch(WatchRequest { session_id, index: 0, known: vec![] }).await.unwrap().into_inner();
    let mut next = async || {
        let mut response = soon("an update", updates.message()).await.unwrap().unwrap();
        assert_eq!(response.updates.len(), 1);
        response.updates.remove(0)
    };

    // The first that comes is the node's need, though its neighbour was there before.
    put(&swarm.store, [task(1, &web, 1, &[1])]).await;
    let first = next().await;
    let Some(Kind::Complete(all)) = first.kind else { panic!("the whole first") };
    assert_eq!((all.endpoints.len(), all.virtual_ips.len()), (2, 1));

    put(&swarm.store, [in_state(task(2, &web, 2, &[1]), TaskState::Running)]).await;
    let second = next().await;
    let Some(Kind::Difference(difference)) = second.kind else { panic!("then differences") };
    assert!(difference.set_endpoints[0].ready);
    assert!(second.index > first.index);

    put(&swarm.store, [in_state(task(1, &web, 1, &[1]), TaskState::Shutdown)]).await;
    assert!(matches!(next().await.kind, Some(Kind::Gone(_))));
    swarm.stop().await;
}

#[tokio::test]
async fn a_task_may_stop_when_its_nodes_have_confirmed_to_know_it() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1), node(2)]).await;
    put(&swarm.store, [network(1)]).await;
    let web = service(1, &[1]);
    put(&swarm.store, [web.clone()]).await;
    let running = || in_state(task(1, &web, 1, &[1]), TaskState::Running);
    put(&swarm.store, [running()]).await;

    let mut dispatcher = DispatcherClient::new(swarm.worker(&node_id(1)));
    let request = SessionRequest { description: Some(NodeDescription::default()), ..Default::default() };
    let mut session = dispatcher.session(request).await.unwrap().into_inner();
    let session_id = session.message().await.unwrap().unwrap().session_id;
    let mut client = DirectoryClient::new(swarm.worker(&node_id(1)));
    let request = WatchRequest { session_id: session_id.clone(), ..Default::default() };
    let mut updates = client.watch(request).await.unwrap().into_inner();
    let mut next = async || soon("an update", updates.message()).await.unwrap().unwrap().updates.remove(0);
    assert!(!next().await.confirm, "nobody waits");

    let mut leaving = running();
    leaving.desired = TaskState::Shutdown;
    put(&swarm.store, [leaving]).await;
    let update = next().await;
    assert!(update.confirm);

    let request =
        |session: &str| DrainRequest { session_id: session.into(), task_id: task_id(1).to_string() };
    assert_eq!(client.drain(request("x")).await.unwrap_err().code(), Code::NotFound);
    let mut asking = DirectoryClient::new(swarm.worker(&node_id(1)));
    let drained = async { asking.drain(request(&session_id)).await.unwrap() };
    let confirm = async {
        let confirmed = Confirmed { network_id: update.network_id.clone(), index: update.index };
        let request =
            |session: &str| ConfirmRequest { session_id: session.into(), confirmed: vec![confirmed.clone()] };
        assert_eq!(client.confirm(request("x")).await.unwrap_err().code(), Code::NotFound);
        client.confirm(request(&session_id)).await.unwrap();
    };
    let start = tokio::time::Instant::now();
    tokio::join!(drained, confirm);
    assert!(start.elapsed().as_secs() < 4, "by the confirmation and not by the bound");
    swarm.stop().await;
}

#[tokio::test]
async fn nothing_older_is_told_than_the_node_knows() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    put(&swarm.store, [network(1)]).await;
    let web = service(1, &[1]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [task(1, &web, 1, &[1])]).await;
    let mut dispatcher = DispatcherClient::new(swarm.worker(&node_id(1)));
    let request = SessionRequest { description: Some(NodeDescription::default()), ..Default::default() };
    let mut session = dispatcher.session(request).await.unwrap().into_inner();
    let session_id = session.message().await.unwrap().unwrap().session_id;
    // Another manager told the node more than this one has heard of yet.
    let index = swarm.store.view().index() + 1;
    let mut client = DirectoryClient::new(swarm.worker(&node_id(1)));
    let mut updates =
        client.watch(WatchRequest { session_id, index, known: vec![] }).await.unwrap().into_inner();
    let early = tokio::time::timeout(Duration::from_millis(300), updates.message()).await;
    assert!(early.is_err(), "{early:?}");
    put(&swarm.store, [task(2, &web, 1, &[1])]).await;
    let told = soon("the whole", updates.message()).await.unwrap().unwrap().updates.remove(0);
    let Some(Kind::Complete(all)) = told.kind else { panic!("the whole first") };
    assert!(told.index >= index && all.endpoints.len() == 2, "{} {}", told.index, all.endpoints.len());
    swarm.stop().await;
}

/// Two managers with the same store. What they tell a node first that comes with what it knows.
#[tokio::test]
async fn who_comes_from_another_manager_is_told_differences_and_the_whole_by_one_that_started_later() {
    let first = Swarm::start().await;
    let store = first.store.clone();
    let second = Swarm::start_on(store.clone(), "manager2").await;
    put(&store, [node(1), node(2)]).await;
    put(&store, [network(1)]).await;
    let web = service(1, &[1]);
    put(&store, [web.clone()]).await;
    put(&store, [task(1, &web, 1, &[1]), task(2, &web, 2, &[1])]).await;

    let all = first_told(&first, vec![]).await;
    let Some(Kind::Complete(_)) = all.updates[0].kind else { panic!("{all:?}") };
    let moment = all.moment.unwrap();
    put(&store, [in_state(task(2, &web, 2, &[1]), TaskState::Running)]).await;
    let known = vec![Known { network_id: "network1".into(), moment: Some(moment) }];

    let told = first_told(&second, known.clone()).await;
    let Some(Kind::Difference(difference)) = &told.updates[0].kind else { panic!("{told:?}") };
    assert_eq!((difference.since, difference.set_endpoints.len()), (moment.index, 1));
    assert!(difference.set_endpoints[0].ready && difference.set_virtual_ips.is_empty());

    let third = Swarm::start_on(store.clone(), "manager3").await;
    let told = first_told(&third, known).await;
    let Some(Kind::Complete(all)) = &told.updates[0].kind else { panic!("{told:?}") };
    assert_eq!(all.endpoints.len(), 2);
    for swarm in [first, second, third] {
        swarm.stop().await;
    }
}

/// The first that a node is told in a new session with this manager.
async fn first_told(swarm: &Swarm, known: Vec<Known>) -> WatchResponse {
    let mut dispatcher = DispatcherClient::new(swarm.worker(&node_id(1)));
    let request = SessionRequest { description: Some(NodeDescription::default()), ..Default::default() };
    let mut session = dispatcher.session(request).await.unwrap().into_inner();
    let session_id = session.message().await.unwrap().unwrap().session_id;
    let index = known.iter().filter_map(|known| known.moment).map(|moment| moment.index).max();
    let request = WatchRequest { session_id, index: index.unwrap_or_default(), known };
    let mut client = DirectoryClient::new(swarm.worker(&node_id(1)));
    let mut updates = client.watch(request).await.unwrap().into_inner();
    soon("an update", updates.message()).await.unwrap().unwrap()
}
