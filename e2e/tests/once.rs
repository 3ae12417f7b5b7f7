//! A request is done once, however often it is sent.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use e2e::{Host, Lab};
use proto::consistency::REQUEST_ID;
use proto::wire::control_client::ControlClient;
use proto::wire::{Annotations, CreateNetworkRequest, NetworkSpec};
use tonic::Request;
use tonic::transport::Endpoint;

/// Its id.
async fn create(host: &Host, request: u128) -> String {
    let channel = Endpoint::try_from(host.socket()).unwrap().connect().await.unwrap();
    let annotations = Annotations { name: "net".to_owned(), ..Default::default() };
    let spec = Some(NetworkSpec { annotations: Some(annotations), ..Default::default() });
    let mut message = Request::new(CreateNetworkRequest { spec });
    message.metadata_mut().insert(REQUEST_ID, format!("{request:032x}").parse().unwrap());
    let created = ControlClient::new(channel).create_network(message).await.unwrap();
    created.into_inner().network.unwrap().id
}

#[test]
fn a_create_whose_answer_was_lost_is_done_once() {
    let lab = Lab::swarm("a create whose answer was lost", 2, 0);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.kill();
    h1.launch_dying("api: service created");
    h1.wait_ready();
    let id = std::thread::scope(|scope| {
        let create =
            ["service", "create", "--detach", "--replicas", "0", "--name", "web", "none.invalid/web"];
        let creating = scope.spawn(move || h1.ctl(&create));
        h1.wait_exit();
        h1.start();
        creating.join().unwrap().ok()
    });
    for host in lab.hosts() {
        let services = host.services();
        assert!(services.len() == 1 && id.starts_with(&services[0].id), "{id}: {services:?}");
    }

    // Through both managers at a time, and again.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = runtime.block_on(async { tokio::join!(create(h1, 77), create(h2, 77)) });
    assert_eq!(first, second);
    assert_eq!(runtime.block_on(create(h2, 77)), first);
    assert_eq!(h1.networks().len(), 1);
}
