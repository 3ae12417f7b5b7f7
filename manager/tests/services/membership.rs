//! Managers join and leave the group.

use proto::model::Role;
use proto::wire::control_client::ControlClient;
use proto::wire::raft_membership_client::RaftMembershipClient;
use proto::wire::{GetNodeRequest, JoinRequest, LeaveRequest, RaftMember, raft_member_status};
use tonic::Code;

use crate::fixtures::{manager, node, node_id, put};
use crate::swarm::Swarm;

fn leave(raft_id: u64) -> LeaveRequest {
    LeaveRequest { node: Some(RaftMember { raft_id, ..Default::default() }) }
}

#[tokio::test]
async fn a_manager_joins_under_the_address_it_is_reached_at_and_leaves() {
    let swarm = Swarm::start().await;
    let mut promoted = node(1);
    promoted.role = Role::Manager;
    promoted.spec.desired_role = Role::Manager;
    put(&swarm.store, [promoted]).await;
    let mut client = RaftMembershipClient::new(swarm.manager(&node_id(1)));
    let joined = client.join(JoinRequest { addr: "0.0.0.0:2377".into() }).await.unwrap().into_inner();
    let manager = swarm.store.view().node(&node_id(1)).unwrap().manager.clone().unwrap();
    assert_eq!((manager.raft_id, manager.addr.as_str()), (joined.raft_id, "192.0.2.77:2377"));
    assert!(joined.members.iter().any(|member| member.raft_id == joined.raft_id));

    let request = GetNodeRequest { node_id: "node1".into() };
    let shown = ControlClient::new(swarm.local()).get_node(request).await.unwrap().into_inner().node.unwrap();
    let reachable = raft_member_status::Reachability::Reachable;
    assert_eq!(shown.manager_status.unwrap().reachability(), reachable);

    let other = client.leave(leave(joined.raft_id + 1)).await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied);
    client.leave(leave(joined.raft_id)).await.unwrap();
    assert!(swarm.store.view().node(&node_id(1)).unwrap().manager.is_none());
    let members = swarm.store.membership().members();
    assert!(members.iter().all(|member| member.raft_id != joined.raft_id));
    swarm.stop().await;
}

#[tokio::test]
async fn a_node_that_shall_be_a_worker_does_not_join() {
    let swarm = Swarm::start().await;
    let mut demoted = manager(1, "192.0.2.1:2377");
    demoted.spec.desired_role = Role::Worker;
    put(&swarm.store, [demoted]).await;
    let mut client = RaftMembershipClient::new(swarm.manager(&node_id(1)));
    let refused = client.join(JoinRequest { addr: "192.0.2.1:2377".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let mut worker = RaftMembershipClient::new(swarm.worker(&node_id(1)));
    let refused = worker.join(JoinRequest { addr: "192.0.2.1:2377".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    swarm.stop().await;
}
