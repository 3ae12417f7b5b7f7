//! Becoming and ceasing to be a member of the group of managers.
//!
//! Decides under which address a new manager is reached, and writes into its node that it is a member. How a member
//! catches up and gets its vote, and whether the group can spare one, is the store's; whom the group puts out because
//! the operator wants it is decided by `rolemanager`.

use std::net::{IpAddr, SocketAddr};

use proto::model::{ManagerStatus, Node, NodeId, Role};
use proto::wire::{
    JoinRequest, JoinResponse, LeaveRequest, LeaveResponse, RaftMember, RaftMemberStatus, raft_member_status,
    raft_membership_server,
};
use raft_store::{Member, RaftId, Store, membership};
use tonic::{Request, Response, Status};

use crate::error::{Error, status};
use crate::peers;
use crate::rolemanager::{self, Group};

#[derive(Clone)]
pub struct Membership {
    store: Store,
}

impl Membership {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    fn must_become_manager(&self, node: &NodeId) -> Result<(), Error> {
        let view = self.store.view();
        let desired = view.node(node).map(|node| node.spec.desired_role);
        match desired {
            Some(Role::Manager) => Ok(()),
            Some(Role::Worker) => {
                Err(Error::Precondition(format!("node {node} is about to become a worker")))
            }
            None => Err(Error::not_found("node", node)),
        }
    }

    async fn record(&self, id: &NodeId, manager: Option<ManagerStatus>) -> Result<(), Status> {
        let updated = self.store.update(|tx| {
            let node = tx.node(id).ok_or_else(|| Error::not_found("node", id))?;
            if node.manager != manager {
                let node = Node { manager: manager.clone(), ..Node::clone(node) };
                tx.update(node);
            }
            Ok(())
        });
        updated.await.map_err(status)
    }
}

#[tonic::async_trait]
impl raft_membership_server::RaftMembership for Membership {
    /// Answered once the caller has caught up and has a vote: its store must be open and serving already.
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let node = peers::node_id(&request)?;
        let addr = advertised(&request.get_ref().addr, peers::remote_ip(&request))?;
        self.must_become_manager(&node)?;
        let group = self.store.membership();
        let raft_id = group.add(node.clone(), addr.clone()).await.map_err(refusal)?;
        failpoint::reached("roles: joined");
        self.record(&node, Some(rolemanager::status(raft_id, addr))).await?;
        tracing::info!(%node, raft_id, "a manager has joined");
        let members = group.members().into_iter().map(shown).collect();
        Ok(Response::new(JoinResponse { raft_id, members, removed_members: Vec::new() }))
    }

    /// A manager may take itself out, and nobody else.
    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let node = peers::node_id(&request)?;
        let raft_id = request.into_inner().node.unwrap_or_default().raft_id;
        let group = self.store.membership();
        let own =
            group.members().into_iter().any(|member| member.raft_id == raft_id && member.node_id == node);
        if !own {
            return Err(Status::permission_denied(format!("{raft_id} is not the Raft id of node {node}")));
        }
        let view = self.store.view();
        let before = view.node(&node).and_then(|node| node.manager.clone());
        // Written first, since afterwards this manager may be the one that is out.
        self.record(&node, None).await?;
        if let Err(error) = group.remove(raft_id).await {
            self.record(&node, before).await?;
            return Err(refusal(error));
        }
        tracing::info!(%node, raft_id, "a manager has left");
        Ok(Response::new(LeaveResponse {}))
    }
}

/// The group as the role manager wants it.
pub struct Members(pub Store);

impl Group for Members {
    fn members(&self) -> Vec<rolemanager::Member> {
        let members = self.0.membership().members().into_iter();
        let member = |Member { raft_id, node_id, addr, voter, .. }| rolemanager::Member {
            raft_id,
            node: node_id,
            addr,
            voter,
        };
        members.map(member).collect()
    }

    async fn remove(&self, member: RaftId) -> Result<(), String> {
        self.0.membership().remove(member).await.map_err(|error| error.to_string())
    }
}

/// Where a manager that says it listens on `addr` is reached: a host that means "any" is the one it was seen at.
fn advertised(addr: &str, seen: Option<IpAddr>) -> Result<String, Error> {
    let needed = |remedy| Err(Error::invalid("addr", addr, remedy));
    let Some((host, port)) = addr.rsplit_once(':') else { return needed("<host>:<port> is needed") };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
        return needed("a port between 1 and 65535 is needed");
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return needed("an IPv6 address is written [address]:port");
    }
    let address = bracketed.unwrap_or(host).parse::<IpAddr>();
    if !host.is_empty() && !address.is_ok_and(|address| address.is_unspecified()) {
        return Ok(addr.to_owned());
    }
    match seen {
        Some(seen) => Ok(SocketAddr::new(seen, port).to_string()),
        None => needed("an address that other managers can reach is needed"),
    }
}

fn refusal(error: membership::Error) -> Status {
    use membership::Error as Group;
    match error {
        Group::NotLeader | Group::NoQuorum(_) | Group::Stopped => Status::unavailable(error.to_string()),
        error => Status::failed_precondition(error.to_string()),
    }
}

fn shown(member: Member) -> RaftMember {
    RaftMember {
        raft_id: member.raft_id,
        node_id: member.node_id.to_string(),
        addr: member.addr,
        status: Some(RaftMemberStatus {
            leader: member.leader,
            reachability: raft_member_status::Reachability::from(member.reachability).into(),
            message: String::new(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_becomes_the_one_that_was_seen() {
        let v4 = Some("192.0.2.1".parse().unwrap());
        let v6 = Some("fd00::1".parse().unwrap());
        for (addr, seen, reached) in [
            ("0.0.0.0:2377", v4, "192.0.2.1:2377"),
            (":2377", v4, "192.0.2.1:2377"),
            ("[::]:2377", v6, "[fd00::1]:2377"),
            ("192.0.2.9:2377", v4, "192.0.2.9:2377"),
            ("manager.example:2377", None, "manager.example:2377"),
            ("[fd00::9]:2377", v4, "[fd00::9]:2377"),
        ] {
            assert_eq!(advertised(addr, seen).unwrap(), reached);
        }
        for addr in ["", "192.0.2.1", "192.0.2.1:0", "fd00::1:2377", "0.0.0.0:2377"] {
            assert!(
                advertised(addr, None).unwrap_err().to_string().starts_with("addr has the value"),
                "{addr}"
            );
        }
    }
}
