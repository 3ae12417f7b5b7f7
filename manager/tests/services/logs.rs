//! Output finds its way from the nodes to the client, also across managers.

use proto::model::{NodeId, TaskState};
use proto::wire::log_broker_client::LogBrokerClient;
use proto::wire::logs_client::LogsClient;
use proto::wire::{
    ListenSubscriptionsRequest, LogContext, LogMessage, LogSelector, LogSubscriptionOptions,
    PublishLogsMessage, SubscribeLogsMessage, SubscribeLogsRequest, SubscriptionMessage,
};
use tonic::{Code, Status, Streaming};

use crate::fixtures::{in_state, manager, node, node_id, put, service, store, task};
use crate::swarm::{Client, Swarm, soon};

struct Node {
    client: LogBrokerClient<Client>,
    subscriptions: Streaming<SubscriptionMessage>,
}

impl Node {
    async fn listen(swarm: &Swarm, id: &NodeId) -> Self {
        let mut client = LogBrokerClient::new(swarm.worker(id));
        let subscriptions =
            client.listen_subscriptions(ListenSubscriptionsRequest {}).await.unwrap().into_inner();
        Self { client, subscriptions }
    }

    async fn next(&mut self) -> SubscriptionMessage {
        soon("a subscription", self.subscriptions.message()).await.unwrap().unwrap()
    }

    async fn publish(&mut self, subscription: &str, task: &str, data: &str) -> Result<(), Status> {
        let context = LogContext { task_id: task.into(), ..Default::default() };
        let message = LogMessage { context: Some(context), data: data.into(), ..Default::default() };
        let lines = PublishLogsMessage {
            subscription_id: subscription.into(),
            messages: vec![message],
            close: false,
        };
        let end =
            PublishLogsMessage { subscription_id: subscription.into(), close: true, ..Default::default() };
        self.client.publish_logs(tokio_stream::iter([lines, end])).await.map(drop)
    }
}

fn logs_of(service: &str, follow: bool) -> SubscribeLogsRequest {
    SubscribeLogsRequest {
        selector: Some(LogSelector { service_ids: vec![service.into()], ..Default::default() }),
        options: Some(LogSubscriptionOptions { follow, ..Default::default() }),
    }
}

/// The text of all that comes until the end, and how it ended.
async fn text(mut lines: Streaming<SubscribeLogsMessage>) -> (String, Option<Status>) {
    soon("the end of the output", async {
        let mut text = String::new();
        loop {
            match lines.message().await {
                Ok(Some(message)) => {
                    text.extend(
                        message.messages.iter().map(|m| String::from_utf8_lossy(&m.data).into_owned()),
                    );
                }
                Ok(None) => return (text, None),
                Err(status) => return (text, Some(status)),
            }
        }
    })
    .await
}

async fn two_tasks(swarm: &Swarm) {
    put(&swarm.store, [node(1), node(2)]).await;
    let web = service(1, &[]);
    put(&swarm.store, [web.clone()]).await;
    let running = |number, node| in_state(task(number, &web, node, &[]), TaskState::Running);
    put(&swarm.store, [running(1, 1), running(2, 2)]).await;
}

#[tokio::test]
async fn output_comes_from_all_nodes_and_ends() {
    let swarm = Swarm::start().await;
    two_tasks(&swarm).await;
    let mut nodes = [Node::listen(&swarm, &node_id(1)).await, Node::listen(&swarm, &node_id(2)).await];
    let mut client = LogsClient::new(swarm.local());
    let lines = client.subscribe_logs(logs_of("service1", false)).await.unwrap().into_inner();
    let publishing = async {
        for (node, id) in nodes.iter_mut().zip(["task1", "task2"]) {
            let subscription = node.next().await;
            assert_eq!(subscription.selector.unwrap().service_ids, ["service1"]);
            node.publish(&subscription.id, id, &format!("{id};")).await.unwrap();
        }
    };
    let ((text, end), ()) = tokio::join!(text(lines), publishing);
    assert!(text == "task1;task2;" || text == "task2;task1;", "{text}");
    assert!(end.is_none(), "{end:?}");
    swarm.stop().await;
}

#[tokio::test]
async fn a_node_publishes_only_what_is_its_own_and_asked_for() {
    let swarm = Swarm::start().await;
    two_tasks(&swarm).await;
    let mut node = Node::listen(&swarm, &node_id(1)).await;
    let mut client = LogsClient::new(swarm.local());
    let _lines = client.subscribe_logs(logs_of("service1", true)).await.unwrap();
    let subscription = node.next().await;
    let foreign = node.publish(&subscription.id, "task2", "x").await.unwrap_err();
    assert_eq!(foreign.code(), Code::PermissionDenied);
    let unknown = node.publish("no-such-subscription", "task1", "x").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    swarm.stop().await;
}

#[tokio::test]
async fn who_follows_hears_new_tasks_and_ends_it_by_going() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    let web = service(1, &[]);
    put(&swarm.store, [web.clone()]).await;
    let mut node = Node::listen(&swarm, &node_id(1)).await;
    let mut client = LogsClient::new(swarm.local());
    let mut lines = client.subscribe_logs(logs_of("service1", true)).await.unwrap().into_inner();
    put(&swarm.store, [task(1, &web, 1, &[])]).await;
    // The client has to listen for the manager to move on.
    let subscription = tokio::select! {
        subscription = node.next() => subscription,
        line = lines.message() => panic!("nothing was published: {line:?}"),
    };
    let (published, line) =
        tokio::join!(node.publish(&subscription.id, "task1", "hello"), soon("a line", lines.message()));
    published.unwrap();
    let message = line.unwrap().unwrap().messages.remove(0);
    assert_eq!(message.context.unwrap().node_id, "node1");
    drop(lines);
    let end = node.next().await;
    assert!(end.close && end.id == subscription.id);
    swarm.stop().await;
}

#[tokio::test]
async fn output_of_nodes_at_another_manager_is_relayed() {
    let store = store().await;
    let first = Swarm::start_on(store.clone(), "node11").await;
    let second = Swarm::start_on(store, "node12").await;
    two_tasks(&first).await;
    for (number, swarm) in [(11, &first), (12, &second)] {
        first.store.membership().add(node_id(number), swarm.addr.to_string()).await.unwrap();
    }
    // Whom a call without a certificate comes from here.
    let mut relay = manager(13, "127.0.0.1:1");
    relay.id = "relay".into();
    put(&first.store, [relay]).await;

    let mut here = Node::listen(&first, &node_id(1)).await;
    let mut there = Node::listen(&second, &node_id(2)).await;
    let mut client = LogsClient::new(first.local());
    let (lines, ()) = tokio::join!(client.subscribe_logs(logs_of("service1", false)), async {
        let subscription = there.next().await;
        there.publish(&subscription.id, "task2", "there;").await.unwrap();
        let subscription = here.next().await;
        here.publish(&subscription.id, "task1", "here;").await.unwrap();
    });
    let (text, end) = text(lines.unwrap().into_inner()).await;
    assert!(text == "here;there;" || text == "there;here;", "{text}");
    assert!(end.is_none(), "{end:?}");
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let swarm = Swarm::start().await;
    two_tasks(&swarm).await;
    let mut client = LogsClient::new(swarm.local());
    let lines = client.subscribe_logs(logs_of("service1", false)).await.unwrap().into_inner();
    let (text, end) = text(lines).await;
    assert_eq!(text, "");
    assert!(end.unwrap().message().contains("node1 (host1) is missing"));
    for (request, message) in [
        (logs_of("nope", false), "service \"nope\" was not found"),
        (
            SubscribeLogsRequest::default(),
            "selector has the value \"\": a service, a node or a task is needed",
        ),
    ] {
        let refused = client.subscribe_logs(request).await.unwrap_err();
        assert_eq!(refused.message(), message);
    }
    swarm.stop().await;
}
