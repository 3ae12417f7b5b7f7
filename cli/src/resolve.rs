//! Finds the object that a person means: by id, by name, or by the beginning of its id if that is unique.

use anyhow::{Result, bail};
use proto::model::{Cluster, Network, Node, Service, Task};
use proto::wire::{
    ListClustersRequest, ListNetworksRequest, ListNodesRequest, ListServicesRequest, ListTasksRequest,
    list_networks_request, list_nodes_request, list_services_request, list_tasks_request,
};

use crate::client::{Answer as _, Client};

/// Objects that people name.
pub trait Named: Sized {
    const KIND: &'static str;

    fn id(&self) -> &str;

    /// Those whose name is one of `names`, or whose id begins with one of `prefixes`; all if both are empty.
    async fn list(client: &Client, names: Vec<String>, prefixes: Vec<String>) -> Result<Vec<Self>>;
}

/// The one object that `wanted` means.
pub async fn find<T: Named>(client: &Client, wanted: &str) -> Result<T> {
    let by_id = T::list(client, vec![], vec![wanted.into()]).await?;
    let (exact, by_prefix): (Vec<T>, Vec<T>) = by_id.into_iter().partition(|object| object.id() == wanted);
    let by_name = if exact.is_empty() { T::list(client, vec![wanted.into()], vec![]).await? } else { vec![] };
    let candidates = [exact, by_name, by_prefix].into_iter().find(|found| !found.is_empty());
    let mut candidates = candidates.unwrap_or_default();
    match (candidates.pop(), candidates.as_slice()) {
        (Some(only), []) => Ok(only),
        (None, _) => bail!("no such {}: {wanted}", T::KIND),
        (Some(_), others) => {
            let count = others.len() + 1;
            bail!("{wanted} means {count} {}s: use a longer part of the id", T::KIND)
        }
    }
}

/// Like `find`, for each; the first that is missing is an error.
pub async fn find_all<T: Named>(client: &Client, wanted: &[String]) -> Result<Vec<T>> {
    let mut found = Vec::with_capacity(wanted.len());
    for name in wanted {
        found.push(find(client, name).await?);
    }
    Ok(found)
}

/// A node; `self` is the one that is asked.
pub async fn node(client: &Client, wanted: &str) -> Result<Node> {
    if wanted == "self" {
        let info = client.node().info(proto::local::InfoRequest {}).await.answer()?;
        return find(client, &info.node_id).await;
    }
    find(client, wanted).await
}

/// The one cluster object.
pub async fn cluster(client: &Client) -> Result<Cluster> {
    let answer = client.control().list_clusters(ListClustersRequest::default()).await.answer()?;
    match answer.clusters.into_iter().next() {
        Some(cluster) => Ok(cluster.try_into()?),
        None => bail!("the swarm has no settings yet; try again"),
    }
}

/// All nodes.
pub async fn nodes(client: &Client) -> Result<Vec<Node>> {
    model(client.control().list_nodes(ListNodesRequest::default()).await.answer()?.nodes)
}

fn model<W, M>(objects: Vec<W>) -> Result<Vec<M>>
where
    M: TryFrom<W, Error = proto::convert::Error>,
{
    Ok(objects.into_iter().map(M::try_from).collect::<Result<_, _>>()?)
}

macro_rules! named {
    ($model:ty, $kind:literal, $list:ident, $request:ident, $filters:ident, $objects:ident) => {
        impl Named for $model {
            const KIND: &'static str = $kind;

            fn id(&self) -> &str {
                self.id.as_str()
            }

            async fn list(client: &Client, names: Vec<String>, prefixes: Vec<String>) -> Result<Vec<Self>> {
                let filters = $filters::Filters { names, id_prefixes: prefixes, ..Default::default() };
                let request = $request { filters: Some(filters) };
                model(client.control().$list(request).await.answer()?.$objects)
            }
        }
    };
}

named!(Node, "node", list_nodes, ListNodesRequest, list_nodes_request, nodes);
named!(Service, "service", list_services, ListServicesRequest, list_services_request, services);
named!(Network, "network", list_networks, ListNetworksRequest, list_networks_request, networks);
named!(Task, "task", list_tasks, ListTasksRequest, list_tasks_request, tasks);

/// Tasks of services or nodes.
pub async fn tasks(client: &Client, filters: list_tasks_request::Filters) -> Result<Vec<Task>> {
    let answer = client.control().list_tasks(ListTasksRequest { filters: Some(filters) }).await.answer()?;
    model(answer.tasks)
}
