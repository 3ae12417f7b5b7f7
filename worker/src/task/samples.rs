//! Tasks for tests, as a manager would send them.

use std::collections::BTreeMap;

use proto::wire;

use super::assigned::Assigned;
use crate::description::{Facts, describe};

pub(crate) fn facts() -> Facts {
    Facts::new("n1".into(), describe("h1", BTreeMap::new(), None, String::new()))
}

pub(crate) fn assigned(id: &str) -> Assigned {
    wire_task(id).try_into().unwrap()
}

/// Slot 2 of the service `web`, on one network with the address 10.0.9.3.
pub(crate) fn wire_task(id: &str) -> wire::Task {
    let container = wire::ContainerSpec { image: "nginx".into(), ..Default::default() };
    let labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
    wire::Task {
        id: id.into(),
        service_id: "s1".into(),
        slot: 2,
        node_id: "n1".into(),
        annotations: Some(wire::Annotations { name: format!("web.2.{id}"), ..Default::default() }),
        service_annotations: Some(wire::Annotations { name: "web".into(), labels }),
        spec: Some(wire::TaskSpec {
            runtime: Some(wire::task_spec::Runtime::Container(container)),
            ..Default::default()
        }),
        status: Some(wire::TaskStatus { state: wire::TaskState::Assigned.into(), ..Default::default() }),
        desired_state: wire::TaskState::Running.into(),
        networks: vec![wire::NetworkAttachment {
            network: Some(network("net1")),
            addresses: vec!["10.0.9.3/24".into()],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn network(id: &str) -> wire::Network {
    let vni = ("com.docker.network.driver.overlay.vxlanid_list".to_owned(), "4097".to_owned());
    let config =
        wire::IpamConfig { subnet: "10.0.9.0/24".into(), gateway: "10.0.9.1".into(), ..Default::default() };
    wire::Network {
        id: id.into(),
        spec: Some(wire::NetworkSpec::default()),
        driver_state: Some(wire::Driver { name: "overlay".into(), options: BTreeMap::from([vni]) }),
        ipam: Some(wire::IpamOptions { driver: None, configs: vec![config] }),
        ..Default::default()
    }
}
