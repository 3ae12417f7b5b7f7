//! The table names every call that there is, and is asked before each.

use std::collections::BTreeSet;

use manager::access::{Callers, paths, rule};
use proto::model::Role;
use proto::network::WatchRequest;
use proto::network::directory_client::DirectoryClient;
use proto::wire::ca_client::CaClient;
use proto::wire::control_client::ControlClient;
use proto::wire::{GetRootCaCertificateRequest, ListNodesRequest};
use raft_store::Leadership;
use tonic::Code;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::fixtures::{manager, node, node_id, put, remove};
use crate::swarm::Swarm;

/// Every call of every service in the `.proto` files.
fn all_calls() -> BTreeSet<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/proto");
    let files = [
        "control.proto",
        "dispatcher.proto",
        "ca.proto",
        "logbroker.proto",
        "raft.proto",
        "swarm/network.proto",
        "swarm/diagnosis.proto",
        "swarm/raft.proto",
        "swarm/node.proto",
    ];
    let mut calls = BTreeSet::new();
    for file in protox::compile(files, [root]).unwrap().file {
        for service in &file.service {
            for method in &service.method {
                calls.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    calls
}

#[test]
fn the_table_names_every_call_and_no_other() {
    let named: Vec<_> = paths().collect();
    assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), all_calls());
    assert_eq!(named.len(), all_calls().len(), "no call is named twice");
}

#[test]
fn nobody_without_a_certificate_calls_anything_but_the_ca() {
    for path in paths() {
        let open = rule(&path).unwrap().callers.contains(Callers::ANONYMOUS);
        assert_eq!(open, path.contains(".CA/GetRoot") || path.contains(".NodeCA/"), "{path}");
    }
}

#[test]
fn workers_call_what_a_node_needs_and_no_more() {
    let allowed = [
        ".Dispatcher/",
        ".LogBroker/",
        ".Directory/",
        ".CA/GetRoot",
        ".NodeCA/",
        ".Questions/Watch",
        ".Questions/Answer",
    ];
    for path in paths() {
        let open = rule(&path).unwrap().callers.contains(Callers::of(Role::Worker));
        assert_eq!(open, allowed.iter().any(|service| path.contains(service)), "{path}");
    }
}

#[tokio::test]
async fn a_worker_is_refused_a_managers_command() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    let mut control = ControlClient::new(swarm.worker(&node_id(1)));
    let refused = control.list_nodes(ListNodesRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("only managers and local clients may"), "{refused}");
    let mut control = ControlClient::new(swarm.local());
    assert_eq!(control.list_nodes(ListNodesRequest::default()).await.unwrap().into_inner().nodes.len(), 1);
    swarm.stop().await;
}

#[tokio::test]
async fn strangers_get_the_root_certificate_and_nothing_else() {
    let swarm = Swarm::start().await;
    let root = CaClient::new(swarm.client("anonymous - -"))
        .get_root_ca_certificate(GetRootCaCertificateRequest {})
        .await
        .unwrap();
    assert!(root.into_inner().certificate.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let mut directory = DirectoryClient::new(swarm.client("anonymous - -"));
    let refused = directory.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let foreign = swarm.client("manager node1 another-cluster");
    let refused = ControlClient::new(foreign).list_nodes(ListNodesRequest::default()).await.unwrap_err();
    assert!(refused.message().contains("another-cluster"), "{refused}");
    swarm.stop().await;
}

#[tokio::test]
async fn a_removed_or_demoted_nodes_certificate_opens_nothing() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [manager(1, "192.0.2.1:2377")]).await;
    let mut control = ControlClient::new(swarm.manager(&node_id(1)));
    control.list_nodes(ListNodesRequest::default()).await.unwrap();
    // Demoted; the certificate still says manager.
    put(&swarm.store, [node(1)]).await;
    let refused = control.list_nodes(ListNodesRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    remove(&swarm.store, node_id(1)).await;
    // A manager that hears no leader cannot tell.
    let unknown = control.list_nodes(ListNodesRequest::default()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable);
    swarm.store.set_leadership(Leadership { leading: None, leader: Some(9) });
    let refused = control.list_nodes(ListNodesRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "node node1 is not part of this swarm: it was removed");
    swarm.stop().await;
}

#[tokio::test]
async fn a_removed_nodes_certificate_opens_no_call_at_all() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    remove(&swarm.store, node_id(1)).await;
    swarm.store.set_leadership(Leadership { leading: None, leader: Some(9) });
    let nodes = Callers::of(Role::Worker).and(Callers::of(Role::Manager));
    // Replication asks the group instead: see raft-store/tests.
    let asked = paths().filter(|path| {
        let rule = rule(path).unwrap();
        rule.known && (nodes.contains(rule.callers) || rule.callers.contains(Callers::of(Role::Manager)))
    });
    let calls = asked.map(async |path| {
        let mut client = Grpc::new(swarm.manager(&node_id(1)));
        client.ready().await.unwrap();
        let codec = ProstCodec::<(), ()>::default();
        let called = client.unary(tonic::Request::new(()), path.parse().unwrap(), codec).await;
        let refused = called.err().unwrap_or_else(|| panic!("{path} was answered"));
        assert_eq!(refused.code(), Code::PermissionDenied, "{path}: {refused}");
        assert_eq!(refused.message(), "node node1 is not part of this swarm: it was removed", "{path}");
    });
    let asked = futures_util::future::join_all(calls).await.len();
    assert!(asked > 40, "{asked} calls were asked");
    swarm.stop().await;
}
