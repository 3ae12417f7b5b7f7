//! Networks.

use std::sync::Arc;
use std::time::Duration;

use proto::model::{Network, NetworkId, NetworkSpec, Task, TaskState, VXLAN_ID_LIST};
use proto::wire::{
    CreateNetworkRequest, CreateNetworkResponse, GetNetworkRequest, GetNetworkResponse, ListNetworksRequest,
    ListNetworksResponse, RemoveNetworkRequest, RemoveNetworkResponse,
};
use raft_store::{Store, Tables, Transaction};
use tonic::Status;

use super::filter::common;
use super::request::RequestId;
use super::{Control, validate};
use crate::error::{Error, status};

/// Tasks that a refusal names; the rest are counted.
const NAMED: usize = 5;

/// How long a removal waits for tasks that are about to end: twice the usual grace period.
const ENDING: Duration = Duration::from_secs(20);

pub(super) async fn get(api: &Control, request: GetNetworkRequest) -> Result<GetNetworkResponse, Status> {
    let view = api.store.view();
    let network = find(&view, &request.network_id, &request.name)?;
    Ok(GetNetworkResponse { network: Some((&**network).into()) })
}

pub(super) async fn list(
    api: &Control,
    request: ListNetworksRequest,
) -> Result<ListNetworksResponse, Status> {
    let view = api.store.view();
    let filters = request.filters.unwrap_or_default();
    let networks = view.networks().filter(|network| {
        common!(filters).admit(network.id.as_str(), network.name(), &network.spec.annotations.labels)
    });
    Ok(ListNetworksResponse { networks: networks.map(|network| (&**network).into()).collect() })
}

pub(super) async fn create(
    api: &Control,
    RequestId(once): RequestId,
    request: CreateNetworkRequest,
) -> Result<CreateNetworkResponse, Status> {
    let spec = validate::network(request.spec)?;
    let id = NetworkId::from_random(once);
    let created = api.store.update_once(once, |tx| {
        if tx.network(&id).is_some() {
            return Ok(());
        }
        let (id, mut spec) = (id.clone(), spec.clone());
        if let Some(name) = spec.config_from.clone() {
            take_over(tx, &mut spec, &name)?;
        }
        check_free(tx, &spec)?;
        tx.create(Network { id, meta: Default::default(), spec, state: None, pending_delete: false });
        Ok(())
    });
    created.await.map_err(status)?;
    let view = api.store.view();
    Ok(CreateNetworkResponse { network: view.network(&id).map(|network| (&**network).into()) })
}

/// Copies the settings of the network `from` (name or id). It cannot be removed while it counts as their source.
fn take_over(tx: &mut Transaction, spec: &mut NetworkSpec, from: &str) -> Result<(), Error> {
    let source = tx.network(&from.into()).or_else(|| tx.network_by_name(from)).cloned();
    let source = source.ok_or_else(|| Error::not_found("network", from))?;
    if !source.spec.is_config_only() {
        let remedy = "it holds no settings for others: name one that was created with --config-only";
        return Err(Error::invalid("spec.config_from", source.name(), remedy));
    }
    tx.expect_unchanged(source.id.clone());
    spec.config_from = Some(source.name().to_owned());
    spec.ipv6 = source.spec.ipv6;
    spec.ipam.clone_from(&source.spec.ipam);
    spec.driver.options.clone_from(&source.spec.driver.options);
    for (label, value) in &source.spec.annotations.labels {
        spec.annotations.labels.entry(label.clone()).or_insert_with(|| value.clone());
    }
    Ok(())
}

/// The store holds the same rules; here the refusal can name the field.
fn check_free(tables: &Tables, spec: &NetworkSpec) -> Result<(), Error> {
    let name = &spec.annotations.name;
    if tables.network_by_name(name).is_some() {
        return Err(Error::Exists { kind: "network", name: name.clone() });
    }
    if spec.is_config_only() {
        return Ok(());
    }
    let name_of =
        |id: &NetworkId| tables.network(id).map_or(id.as_str(), |network| network.name()).to_owned();
    if let Some(asked) = spec.driver.options.get(VXLAN_ID_LIST)
        && let Some(owner) = asked.parse().ok().and_then(|vni| tables.vni_owner(vni))
    {
        let field = format!("spec.driver_config.options.{VXLAN_ID_LIST}");
        let remedy = format!("network {:?} has it: choose another identifier", name_of(owner));
        return Err(Error::invalid(field, asked, remedy));
    }
    for (i, config) in spec.ipam.iter().enumerate() {
        if let Some((other, owner)) = tables.overlapping_subnet(&config.subnet) {
            let remedy =
                format!("it overlaps {other} of network {:?}: choose another subnet", name_of(owner));
            return Err(Error::invalid(format!("spec.ipam.configs[{i}].subnet"), config.subnet, remedy));
        }
    }
    Ok(())
}

pub(super) async fn remove(
    api: &Control,
    request: RemoveNetworkRequest,
) -> Result<RemoveNetworkResponse, Status> {
    // Whatever comes of the wait, what counts is how things are in the update.
    let _ = tokio::time::timeout(ENDING, last_tasks_end(&api.store, &request)).await;
    let removed = api.store.update(|tx| {
        let network = find(tx, &request.network_id, &request.name)?;
        check_unused(tx, network)?;
        let id = network.id.clone();
        tx.remove(id);
        Ok(())
    });
    removed.await.map_err(status)?;
    Ok(RemoveNetworkResponse {})
}

/// Waits as long as the network is used by nothing but tasks that are about to end: those of a service that was just
/// removed, say.
async fn last_tasks_end(store: &Store, request: &RemoveNetworkRequest) {
    let mut watch = store.watch();
    let mut view = watch.view.clone();
    while find(&view, &request.network_id, &request.name).is_ok_and(|network| only_ends(&view, network)) {
        view = match watch.next().await {
            Ok(commit) => commit.view.clone(),
            Err(_) => {
                watch = store.watch();
                watch.view.clone()
            }
        };
    }
}

fn only_ends(tables: &Tables, network: &Network) -> bool {
    let mut tasks = users(tables, network).peekable();
    tables.services_by_network(&network.id).next().is_none()
        && tasks.peek().is_some()
        // That a removed service's task shall end may not have been said yet.
        && tasks.all(|task| task.desired > TaskState::Running || tables.service(&task.service).is_none())
}

fn users<'a>(tables: &'a Tables, network: &Network) -> impl Iterator<Item = &'a Arc<Task>> {
    tables.tasks_by_network(&network.id).filter(|task| !task.status.state.is_terminal())
}

fn check_unused(tables: &Tables, network: &Network) -> Result<(), Error> {
    let services = tables.services_by_network(&network.id).map(|service| service.name().to_owned());
    let tasks = users(tables, network).map(|task| task.annotations.name.clone());
    let (services, tasks): (Vec<_>, Vec<_>) = (services.collect(), tasks.collect());
    let others = tables.networks_configured_from(network.name());
    let others: Vec<_> = others.map(|other| other.name().to_owned()).collect();
    if network.spec.is_config_only() && !others.is_empty() {
        let (name, others) = (network.name(), enumerate(&others));
        let used = format!(
            "network {name:?} is in use by network {others}, which has its settings: remove that first"
        );
        return Err(Error::Precondition(used));
    }
    let (kind, users, remedy) = match (services.is_empty(), tasks.is_empty()) {
        (true, true) => return Ok(()),
        (false, _) => ("service", services, "remove it from the network first"),
        (true, false) => ("task", tasks, "which is about to end: try again then"),
    };
    let used = format!("network {:?} is in use by {kind} {}: {remedy}", network.name(), enumerate(&users));
    Err(Error::Precondition(used))
}

fn enumerate(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// By id or, as the protocol allows, by name.
fn find<'a>(tables: &'a Tables, id: &str, name: &str) -> Result<&'a Arc<Network>, Error> {
    if id.is_empty() && !name.is_empty() {
        return tables.network_by_name(name).ok_or_else(|| Error::not_found("network", name));
    }
    tables.network(&id.into()).ok_or_else(|| Error::not_found("network", id))
}
