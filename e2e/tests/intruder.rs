//! What somebody can do with a certificate that he has: a worker's, and one of a manager that is none any more.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod inside;

use std::fmt::Debug;

use e2e::{Lab, PATIENCE, wait};
use identity::PrivateKey;
use inside::{channel, credentials, inside};
use proto::network::WatchRequest;
use proto::network::directory_client::DirectoryClient;
use proto::network::network_update::Kind;
use proto::raft;
use proto::raft::liveness_client::LivenessClient;
use proto::raft::raft_client::RaftClient;
use proto::store::Vote;
use proto::wire::ca_client::CaClient;
use proto::wire::control_client::ControlClient;
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::node_ca_client::NodeCaClient;
use proto::wire::raft_membership_client::RaftMembershipClient;
use proto::wire::update_task_status_request::TaskStatusUpdate;
use proto::wire::{
    AssignmentsRequest, GetUnlockKeyRequest, IssueNodeCertificateRequest, JoinRequest, ListNodesRequest,
    NodeDescription, SessionRequest, TaskState, TaskStatus, UpdateTaskStatusRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

#[track_caller]
fn refused<T: Debug>(what: &str, answer: Result<T, Status>, code: Code) -> String {
    let status = answer.err().unwrap_or_else(|| panic!("{what} was accepted"));
    assert_eq!(status.code(), code, "{what}: {status:?}");
    status.message().to_owned()
}

/// A report that the task runs or, rather, has failed.
fn report(session_id: &str, task_id: &str) -> UpdateTaskStatusRequest {
    let status = TaskStatus { state: TaskState::Failed.into(), ..Default::default() };
    let update = TaskStatusUpdate { task_id: task_id.to_owned(), status: Some(status) };
    UpdateTaskStatusRequest { session_id: session_id.to_owned(), updates: vec![update] }
}

async fn open_session(channel: &Channel) -> (tonic::Streaming<proto::wire::SessionMessage>, String) {
    let description = Some(NodeDescription { hostname: "h3".to_owned(), ..Default::default() });
    let request = SessionRequest { description, session_id: String::new() };
    let mut session = DispatcherClient::new(channel.clone()).session(request).await.unwrap().into_inner();
    let id = session.message().await.unwrap().unwrap().session_id;
    (session, id)
}

/// A leader of a term that is long over speaks, as the member `claimed`.
async fn append(channel: &Channel, to: u64, claimed: u64) -> Result<(), Status> {
    let vote = Some(Vote { term: 0, candidate: claimed, committed: true });
    let append = raft::AppendRequest { to, vote, ..Default::default() };
    let mut answers =
        RaftClient::new(channel.clone()).append(tokio_stream::iter([append])).await?.into_inner();
    answers.message().await.map(drop)
}

async fn vote(channel: &Channel, to: u64, claimed: u64) -> Result<(), Status> {
    let vote = Some(Vote { term: 1 << 40, candidate: claimed, committed: false });
    let request = raft::VoteRequest { to, vote, ..Default::default() };
    RaftClient::new(channel.clone()).vote(request).await.map(drop)
}

/// What only managers may do.
async fn managers_calls_are_refused(channel: &Channel) {
    let list = ControlClient::new(channel.clone()).list_nodes(ListNodesRequest::default()).await;
    refused("ListNodes", list, Code::PermissionDenied);
    let join = RaftMembershipClient::new(channel.clone()).join(JoinRequest::default()).await;
    refused("Join", join, Code::PermissionDenied);
    let beat = LivenessClient::new(channel.clone()).beat(raft::BeatRequest::default()).await;
    refused("Beat", beat, Code::PermissionDenied);
    let mut group = RaftClient::new(channel.clone());
    refused("Propose", group.propose(raft::ProposeRequest::default()).await, Code::PermissionDenied);
    let change = group.change_membership(raft::ChangeMembershipRequest::default()).await;
    refused("ChangeMembership", change, Code::PermissionDenied);
    refused("Members", group.members(raft::MembersRequest {}).await, Code::PermissionDenied);
    refused("Append", append(channel, 1, 1).await, Code::PermissionDenied);
    refused("Vote", vote(channel, 1, 1).await, Code::PermissionDenied);
}

#[test]
fn a_workers_certificate_opens_what_is_its_own() {
    let lab = Lab::swarm("a worker's certificate", 1, 2);
    let [h1, h2, h3] = [1, 2, 3].map(|number| lab.host(number));
    let image = lab.web();
    let on_h2 = ["--constraint", "node.hostname==h2", "--name", "web", &image];
    h1.ctl(&[&["service", "create"], &on_h2[..]].concat()).ok();
    let tasks = h1.wait_running("web", 1);
    // Its own daemon must not take the session back in the middle.
    h3.freeze();
    let (mine, others) = (credentials(h3), credentials(h2));
    inside(h3, async {
        let channel = channel(&mine, h1);
        managers_calls_are_refused(&channel).await;

        let (_session, id) = open_session(&channel).await;
        let mut dispatcher = DispatcherClient::new(channel.clone());
        let said = dispatcher.update_task_status(report(&id, &tasks[0].id)).await;
        let said = refused("a report about another's task", said, Code::PermissionDenied);
        assert!(said.contains(&tasks[0].id), "{said}");

        let other = self::channel(&others, h1);
        let watch = DirectoryClient::new(other.clone())
            .watch(WatchRequest { session_id: id.clone(), index: 0, known: vec![] })
            .await;
        refused("another's session at the directory", watch, Code::NotFound);
        let assignments = AssignmentsRequest { session_id: id.clone() };
        let assignments = DispatcherClient::new(other.clone()).assignments(assignments).await;
        refused("another's session for assignments", assignments, Code::NotFound);
        let said = DispatcherClient::new(other).update_task_status(report(&id, &tasks[0].id)).await;
        refused("another's session for a report", said, Code::NotFound);
    });
    h3.resume();
    assert_eq!(h1.wait_running("web", 1)[0].id, tasks[0].id);
}

/// A node is told what its own tasks need, and nothing else: read from what a manager sends it.
#[test]
fn a_worker_is_told_of_the_networks_of_its_own_tasks_alone() {
    let lab = Lab::swarm("what a worker is told", 1, 2);
    let (h1, h2) = (lab.host(1), lab.host(2));
    for (network, subnet, on) in [("red", "10.0.1.0/24", "h2"), ("blue", "10.0.2.0/24", "h3")] {
        let id = h1.create_network(network, subnet);
        // One on the node itself, one on the manager.
        for host in [on, "h1"] {
            let place = format!("node.hostname=={host}");
            let name = format!("{network}-{host}");
            let attached = ["--constraint", &place, "--network", network, "--name", &name, &lab.web()];
            h1.ctl(&[&["service", "create"], &attached[..]].concat()).ok();
        }
        assert_eq!(id.len(), 25);
    }
    let red = h1.inspect("network", "red")["Id"].as_str().unwrap().to_owned();
    let task = |service: &str| h1.running(service).remove(0).id;
    let (own, other) = (task("red-h2"), task("red-h1"));
    h2.freeze();
    let mine = credentials(h2);
    let (updates, assigned) = inside(h2, async {
        let channel = channel(&mine, h1);
        let (_session, id) = open_session(&channel).await;
        let watch = WatchRequest { session_id: id.clone(), index: 0, known: vec![] };
        let mut directory = DirectoryClient::new(channel.clone()).watch(watch).await.unwrap().into_inner();
        let assignments = AssignmentsRequest { session_id: id };
        let assignments = DispatcherClient::new(channel).assignments(assignments).await;
        let assignments = assignments.unwrap().into_inner().message().await.unwrap().unwrap();
        (directory.message().await.unwrap().unwrap().updates, assignments.changes)
    });
    let networks: Vec<&str> = updates.iter().map(|update| update.network_id.as_str()).collect();
    assert_eq!(networks, [red.as_str()]);
    let Some(Kind::Complete(all)) = &updates[0].kind else { panic!("the whole first: {updates:?}") };
    let mut endpoints: Vec<&str> = all.endpoints.iter().map(|endpoint| endpoint.task_id.as_str()).collect();
    endpoints.sort_unstable();
    let mut expected = [own.as_str(), other.as_str()];
    expected.sort_unstable();
    assert_eq!(endpoints, expected);
    // Nothing of what it was assigned names the other network either.
    assert_eq!(assigned.len(), 1);
    let said = format!("{assigned:?} {updates:?}");
    assert!(said.contains(&own) && !said.contains("blue") && !said.contains("10.0.2."), "{said}");
    h2.resume();
}

#[test]
fn a_certificate_of_a_manager_that_was_demoted_opens_nothing_of_a_managers() {
    let lab = Lab::swarm("a demoted manager's certificate", 2, 0);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let kept = credentials(h2);
    let ids = inside(h2, async {
        let id = async |to| RaftClient::new(channel(&kept, to)).identify(raft::IdentifyRequest {}).await;
        let (h1, h2) = (id(h1).await.unwrap(), id(h2).await.unwrap());
        (h1.into_inner().raft_id, h2.into_inner().raft_id)
    });
    h1.ctl(&["node", "demote", "h2"]).ok();
    wait("h2 to be a worker", PATIENCE, || {
        let node = h1.node("h2");
        if node.manager_status.is_empty() { Ok(()) } else { Err(format!("{node:#?}")) }
    });
    inside(h2, async {
        let channel = channel(&kept, h1);
        let list = ControlClient::new(channel.clone()).list_nodes(ListNodesRequest::default()).await;
        refused("ListNodes", list, Code::PermissionDenied);
        let propose = RaftClient::new(channel.clone()).propose(raft::ProposeRequest::default()).await;
        refused("Propose", propose, Code::PermissionDenied);
        // Replication asks the group, not the store: h2 is no member any more, and was never h1.
        for claimed in [ids.0, ids.1, 1] {
            refused("Append", append(&channel, ids.0, claimed).await, Code::PermissionDenied);
            refused("Vote", vote(&channel, ids.0, claimed).await, Code::PermissionDenied);
        }
    });
    h1.create_network("afterwards", "10.0.9.0/24");
}

/// What a node, or a manager, may call while it is one. All at once, since each is given the benefit of the doubt for a
/// while.
async fn nodes_calls_are_refused(channel: &Channel, group: u64) {
    let description = Some(NodeDescription::default());
    let session = SessionRequest { description, ..Default::default() };
    let csr = PrivateKey::generate().unwrap().signing_request().unwrap().into_bytes();
    let renewal = IssueNodeCertificateRequest { csr, ..Default::default() };
    let mut control = ControlClient::new(channel.clone());
    let mut dispatcher = DispatcherClient::new(channel.clone());
    let mut node_ca = NodeCaClient::new(channel.clone());
    let mut ca = CaClient::new(channel.clone());
    let (list, session, renewal, key, append, vote) = tokio::join!(
        control.list_nodes(ListNodesRequest::default()),
        dispatcher.session(session),
        node_ca.issue_node_certificate(renewal),
        ca.get_unlock_key(GetUnlockKeyRequest {}),
        append(channel, group, 1),
        vote(channel, group, 1),
    );
    refused("ListNodes", list, Code::PermissionDenied);
    refused("Session", session, Code::PermissionDenied);
    refused("a renewal", renewal, Code::PermissionDenied);
    refused("GetUnlockKey", key, Code::PermissionDenied);
    refused("Append", append, Code::PermissionDenied);
    refused("Vote", vote, Code::PermissionDenied);
}

#[test]
fn a_certificate_of_a_node_that_was_removed_opens_nothing_on_any_manager() {
    let lab = Lab::swarm("a removed node's certificate", 4, 0);
    let [h1, h2, h3, h4] = [1, 2, 3, 4].map(|number| lab.host(number));
    let kept = credentials(h4);
    let id = kept.current().identity().subject().node.clone();
    let ids: Vec<u64> = inside(h4, async {
        let mut ids = Vec::new();
        for to in [h1, h2, h3] {
            let asked = RaftClient::new(channel(&kept, to)).identify(raft::IdentifyRequest {}).await;
            ids.push(asked.unwrap().into_inner().raft_id);
        }
        ids
    });
    h4.freeze();
    inside(h4, async {
        // What is open when the node is removed ends with it, on whichever manager.
        let open = self::channel(&kept, h2);
        let (mut session, _) = open_session(&open).await;
        // By its id: the session has told another name.
        h1.ctl(&["node", "demote", id.as_str()]).ok();
        wait("the node to be removed", PATIENCE, || {
            let removed = h1.ctl(&["node", "rm", "--force", id.as_str()]);
            if removed.succeeded() { Ok(()) } else { Err(removed) }
        });
        let ended = tokio::time::timeout(PATIENCE, async { while session.message().await.is_ok() {} });
        ended.await.unwrap();
        for (to, id) in [h1, h2, h3].into_iter().zip(&ids) {
            nodes_calls_are_refused(&self::channel(&kept, to), *id).await;
        }
    });
    h4.resume();
    h2.create_network("afterwards", "10.0.9.0/24");
}
