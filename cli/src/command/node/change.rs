//! Changing the spec of a node, which several verbs do.

use anyhow::Result;
use proto::model::{Node, Role};
use proto::wire::{NodeSpec, UpdateNodeRequest, Version};

use crate::client::{Answer as _, Client};
use crate::resolve;

pub async fn save(client: &Client, node: &Node) -> Result<()> {
    let request = UpdateNodeRequest {
        node_id: node.id.to_string(),
        node_version: Some(Version { index: node.meta.version }),
        spec: Some(NodeSpec::from(&node.spec)),
    };
    client.control().update_node(request).await.answer()?;
    Ok(())
}

/// Gives `names` the role, one after the other, and says so.
pub async fn role(client: &Client, names: &[String], role: Role) -> Result<()> {
    for name in names {
        let mut node = resolve::node(client, name).await?;
        let (is, become_) = match role {
            Role::Manager => ("manager", "promoted to a manager in the swarm"),
            Role::Worker => ("worker", "demoted in the swarm"),
        };
        if node.spec.desired_role == role {
            println!("Node {name} is already a {is}.");
            continue;
        }
        node.spec.desired_role = role;
        save(client, &node).await?;
        println!("Node {name} {become_}.");
    }
    Ok(())
}
