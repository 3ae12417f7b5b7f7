//! Changing the spec of a node, which several verbs do.

use anyhow::Result;
use proto::model::{Node, NodeSpec, Role};
use proto::wire::{self, UpdateNodeRequest, UpdateNodeResponse, Version};
use tonic::{Code, Response, Status};

use crate::client::{Client, explain};
use crate::resolve;

/// Managers write into a node whenever its state changes, so that another write may come between.
const ATTEMPTS: usize = 10;

/// Reads the node `name`, applies `change` to its spec and saves it, on what it is by then. `change` tells whether there
/// is anything to save, and so does the answer.
pub async fn spec(
    client: &Client,
    name: &str,
    change: impl Fn(&mut NodeSpec) -> Result<bool>,
) -> Result<bool> {
    let mut attempt = 1;
    loop {
        let mut node = resolve::node(client, name).await?;
        if !change(&mut node.spec)? {
            return Ok(false);
        }
        match save(client, &node).await {
            Ok(_) => return Ok(true),
            Err(status) if status.code() == Code::Aborted && attempt < ATTEMPTS => attempt += 1,
            Err(status) => return Err(explain(status)),
        }
    }
}

async fn save(client: &Client, node: &Node) -> Result<Response<UpdateNodeResponse>, Status> {
    let request = UpdateNodeRequest {
        node_id: node.id.to_string(),
        node_version: Some(Version { index: node.meta.version }),
        spec: Some(wire::NodeSpec::from(&node.spec)),
    };
    client.control().update_node(request).await
}

/// Gives `names` the role, one after the other, and says so.
pub async fn role(client: &Client, names: &[String], role: Role) -> Result<()> {
    let (is, become_) = match role {
        Role::Manager => ("manager", "promoted to a manager in the swarm"),
        Role::Worker => ("worker", "demoted in the swarm"),
    };
    for name in names {
        let give = |spec: &mut NodeSpec| Ok(std::mem::replace(&mut spec.desired_role, role) != role);
        if spec(client, name, give).await? {
            println!("Node {name} {become_}.");
        } else {
            println!("Node {name} is already a {is}.");
        }
    }
    Ok(())
}
