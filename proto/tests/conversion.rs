//! What is wrong in a message is refused by the path of the field; what this version has not is refused too.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use proto::convert::{Error, duration};
use proto::model::*;
use proto::wire;

fn service_spec() -> wire::ServiceSpec {
    let container = wire::ContainerSpec { image: "nginx:1".into(), ..Default::default() };
    let task = wire::TaskSpec {
        runtime: Some(wire::task_spec::Runtime::Container(container)),
        resources: Some(Default::default()),
        ..Default::default()
    };
    wire::ServiceSpec {
        task: Some(task),
        mode: Some(wire::service_spec::Mode::Replicated(wire::ReplicatedService { replicas: 3 })),
        endpoint: Some(Default::default()),
        ..Default::default()
    }
}

fn service_refusal(change: impl FnOnce(&mut wire::ServiceSpec, &mut wire::TaskSpec)) -> String {
    let mut spec = service_spec();
    let mut task = spec.task.take().unwrap();
    change(&mut spec, &mut task);
    spec.task = Some(task);
    ServiceSpec::try_from(spec).unwrap_err().to_string()
}

fn network_refusal(change: impl FnOnce(&mut wire::IpamOptions)) -> String {
    let config = wire::IpamConfig { subnet: "10.0.9.0/24".into(), ..Default::default() };
    let mut ipam = wire::IpamOptions { configs: vec![config], ..Default::default() };
    change(&mut ipam);
    let spec = wire::NetworkSpec { ipam: Some(ipam), ..Default::default() };
    NetworkSpec::try_from(spec).unwrap_err().to_string()
}

#[test]
fn a_wrong_field_is_named_by_its_path() {
    let mut task = wire::Task::default();
    assert_eq!(Task::try_from(task.clone()).unwrap_err(), Error::missing("id"));

    task.id = "task1".into();
    task.spec = Some(wire::TaskSpec::default());
    assert_eq!(Task::try_from(task).unwrap_err(), Error::missing("spec.container"));

    let refused = service_refusal(|_, task| {
        let limits = wire::Resources { nano_cpus: -1, ..Default::default() };
        task.resources.as_mut().unwrap().limits = Some(limits);
    });
    assert_eq!(refused, r#"task.resources.limits.nano_cpus has the value "-1", expected 0 or more"#);

    let refused = network_refusal(|ipam| drop(ipam.configs[0].reserved.insert("router".into(), "x".into())));
    assert_eq!(refused, r#"ipam.configs[0].reserved.router has the value "x", expected an IP address"#);

    let cluster = wire::Cluster {
        id: "cluster1".into(),
        spec: Some(Default::default()),
        default_address_pool: vec!["10.0.0.0/8".into(), "ten".into()],
        ..Default::default()
    };
    assert_eq!(Cluster::try_from(cluster).unwrap_err().field(), "default_address_pool[1]");
}

#[test]
fn what_is_not_supported_is_refused_and_not_dropped() {
    let refused =
        service_refusal(|spec, _| spec.endpoint.as_mut().unwrap().ports.push(wire::PortConfig::default()));
    assert_eq!(refused, "endpoint.ports: published ports are not supported by this version");

    let refused = service_refusal(|_, task| task.resources.as_mut().unwrap().swap_bytes = Some(-1));
    assert_eq!(refused, "task.resources.swap_bytes: limits of swap are not supported by this version");

    let refused = network_refusal(|ipam| {
        let options = BTreeMap::from([("mode".into(), "dhcp".into())]);
        ipam.driver = Some(wire::Driver { options, ..Default::default() });
    });
    assert_eq!(
        refused,
        "ipam.driver.options: options of the address driver are not supported by this version"
    );

    let external = wire::ExternalCa { url: "https://ca".into(), ..Default::default() };
    let refused = |external| {
        let ca = wire::CaConfig { external_cas: vec![external], ..Default::default() };
        CaConfig::try_from(ca).unwrap_err().to_string()
    };
    let other = wire::ExternalCa { protocol: 1, ..external.clone() };
    assert!(refused(other).starts_with("external_cas[0].protocol has the value \"1\""));
    let options = [("profile".to_owned(), "x".to_owned())].into();
    let optioned = wire::ExternalCa { options, ..external };
    assert!(refused(optioned).starts_with("external_cas[0].options has the value \"profile\""));
}

#[test]
fn an_unknown_enum_value_is_refused() {
    let mut node = wire::NodeSpec { availability: 17, ..Default::default() };
    let error = NodeSpec::try_from(node.clone()).unwrap_err();
    assert_eq!(error.field(), "availability");
    node.availability = 2;
    assert_eq!(NodeSpec::try_from(node).unwrap().availability, Availability::Drain);
}

#[test]
fn a_network_identifier_beyond_24_bits_is_refused() {
    let options = BTreeMap::from([(VXLAN_ID_LIST.to_owned(), "16777216".to_owned())]);
    let network = wire::Network {
        id: "net1".into(),
        spec: Some(wire::NetworkSpec::default()),
        driver_state: Some(wire::Driver { name: "overlay".into(), options }),
        ..Default::default()
    };
    assert_eq!(Network::try_from(network).unwrap_err().field(), "driver_state.options.vxlanid_list");
}

#[test]
fn a_subnet_is_of_the_family_that_was_named() {
    let refused =
        network_refusal(|ipam| ipam.configs[0].family = wire::ipam_config::AddressFamily::Ipv6.into());
    assert_eq!(refused, r#"ipam.configs[0].family has the value "6", expected that of the subnet, or none"#);
}

#[test]
fn durations_that_nobody_can_reckon_with_are_refused() {
    let read = |seconds, nanos| duration("delay", Some(prost_types::Duration { seconds, nanos }));
    assert_eq!(duration("delay", None), Ok(None));
    assert_eq!(read(1, 500_000_000), Ok(Some(Duration::from_millis(1500))));
    for (seconds, nanos) in [(-1, 0), (0, -1), (i64::MIN, 0), (i64::MAX, 0), (0, 1_000_000_000)] {
        let refused = read(seconds, nanos).unwrap_err().to_string();
        assert!(refused.ends_with("expected 0 s to 10,000 years"), "{refused}");
    }
    let refused = service_refusal(|_, task| {
        let grace = prost_types::Duration { seconds: i64::MIN, nanos: 0 };
        let container = wire::ContainerSpec { stop_grace_period: Some(grace), ..Default::default() };
        task.runtime = Some(wire::task_spec::Runtime::Container(container));
    });
    assert!(refused.starts_with("task.container.stop_grace_period"), "{refused}");
}
