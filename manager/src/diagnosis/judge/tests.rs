use std::net::IpAddr;

use proto::network::connection::State as Tcp;
use proto::network::{Association, Connection, Device, Echo, Far, KeysSeen, Passage, Route, Table};

use super::*;

const ALL: Passage = Passage { request: true, full_request: true, reply: true, full_reply: true };

fn end(number: u8, task: &str, node: &str) -> End {
    End {
        task: format!("id-{task}"),
        name: task.into(),
        node_id: format!("id-{node}"),
        node: node.into(),
        address: IpAddr::from([10, 0, 9, number]),
        mac: [2, 0x42, 10, 0, 9, number],
        vtep: Some(IpAddr::from([192, 0, 2, number])),
    }
}

fn device(name: &str, master: &str) -> Option<Device> {
    Some(Device { name: name.into(), up: true, mtu: 1450, master: master.into() })
}

/// What a node that is well says of `own`, with `other` at the other end.
fn facts(own: &End, other: &End) -> Facts {
    let key = |outgoing, spi| Association { outgoing, spi, fingerprint: vec![spi as u8; 8] };
    let out = u32::from(own.mac[5]) * 1000;
    let back = u32::from(other.mac[5]) * 1000;
    Facts {
        index: 7,
        told: Some(Far {
            task_id: other.task.clone(),
            address: other.address.to_string(),
            mac: other.mac.to_vec(),
            vtep: other.vtep.unwrap().to_string(),
        }),
        told_backends: vec!["10.0.9.4".into()],
        interface: device("eth0", ""),
        port: device("v1", "br0"),
        bridge: device("br0", ""),
        tunnel: device("vx0", "br0"),
        vni: 4097,
        udp_port: 4789,
        local: own.vtep.unwrap().to_string(),
        addressed: true,
        stationed: true,
        neighbour: other.mac.to_vec(),
        forwarding: other.vtep.unwrap().to_string(),
        table: Table::Present.into(),
        backends: vec!["10.0.9.4".into()],
        underlay: Some(Route { device: "eth0".into(), mtu: 1500, inner_bytes: 1450, ..Route::default() }),
        keys: Some(KeysSeen { sending: out, associations: vec![key(true, out), key(false, back)] }),
        listening: vec!["127.0.0.11:61053".into(), "0.0.0.0:80".into()],
    }
}

fn heard(passage: Passage) -> HeardOf {
    HeardOf { task: Some(passage), tunnel: Some(passage), underlay: Some(passage) }
}

/// Two tasks on two nodes of an encrypted network, through a service, and nothing wrong.
fn well() -> Evidence {
    let (source, destination) = (end(3, "client.1", "h1"), end(4, "web.1", "h2"));
    let answered = || Some(Echo { answered: true, micros: 210, error: String::new() });
    let connected = || Some(Connection { state: Tcp::Connected.into(), error: String::new() });
    Evidence {
        near: Ok(facts(&source, &destination)),
        far: Ok(facts(&destination, &source)),
        network: "net".into(),
        vni: 4097,
        udp_port: 4789,
        encrypted: true,
        service: Some(Service {
            virtual_ip: IpAddr::from([10, 0, 9, 2]),
            ready: [(destination.address, destination.name.clone())].into(),
        }),
        port: Some(80),
        probed: Some(Ok(Probed {
            small: answered(),
            full: answered(),
            largest: 0,
            connection: connected(),
            virtual_echo: answered(),
            virtual_connection: connected(),
            heard: Some(heard(ALL)),
        })),
        heard: Some(Ok(heard(ALL))),
        source,
        destination,
    }
}

/// The first wrong step, with what is said of it.
fn verdict(change: impl FnOnce(&mut Evidence)) -> String {
    let mut evidence = well();
    change(&mut evidence);
    let steps = way(&evidence);
    first_wrong(&steps).map_or_else(String::new, |i| format!("{}: {}", steps[i].name, steps[i].fault))
}

fn near(evidence: &mut Evidence) -> &mut Facts {
    evidence.near.as_mut().unwrap()
}

fn far(evidence: &mut Evidence) -> &mut Facts {
    evidence.far.as_mut().unwrap()
}

fn probe(evidence: &mut Evidence) -> &mut Probed {
    evidence.probed.as_mut().unwrap().as_mut().unwrap()
}

#[test]
fn of_what_is_well_every_step_is() {
    let steps = way(&well());
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    let all = [
        "service",
        "nodes",
        "directory",
        "interface",
        "tunnel",
        "neighbour",
        "forwarding",
        "underlay",
        "key",
        "probe",
        "mtu",
        "port",
        "virtual address",
    ];
    assert_eq!(names, all);
    for step in &steps {
        assert_eq!(step.state(), proto::network::trace_step::State::Ok, "{step:?}");
    }
}

#[test]
fn of_two_tasks_on_one_node_no_tunnel_is_looked_at() {
    let mut evidence = well();
    evidence.destination.node_id = evidence.source.node_id.clone();
    evidence.destination.vtep = evidence.source.vtep;
    near(&mut evidence).told.as_mut().unwrap().vtep = "192.0.2.3".into();
    (near(&mut evidence).forwarding, near(&mut evidence).neighbour) = (String::new(), vec![]);
    let steps = way(&evidence);
    assert_eq!(first_wrong(&steps), None, "{steps:#?}");
    assert!(
        steps.iter().all(|step| !["neighbour", "forwarding", "tunnel", "key"].contains(&step.name.as_str()))
    );
}

#[test]
fn what_the_nodes_lack_is_named() {
    type Case = (fn(&mut Evidence), &'static str);
    let cases: [Case; 26] = [
        (
            |e| e.far = Err("it did not answer within 5 s".into()),
            "nodes: node h2 does not answer for web.1: it did not answer within 5 s",
        ),
        (|e| near(e).set_table(Table::Absent), "service: client.1 on h1 has no table of service addresses"),
        (
            |e| near(e).set_table(Table::Strange),
            "service: the table of service addresses of client.1 on h1 was altered",
        ),
        (
            |e| near(e).set_table(Table::Without),
            "service: the service addresses of client.1 on h1 do not have 10.0.9.2",
        ),
        (
            |e| near(e).backends.clear(),
            "service: the table of service addresses of client.1 on h1 lacks 10.0.9.4 (web.1) behind 10.0.9.2",
        ),
        (
            |e| near(e).backends.push("10.0.9.9".into()),
            "service: the table of service addresses of client.1 on h1 has 10.0.9.9 (nobody who is ready) behind 10.0.9.2",
        ),
        (
            |e| near(e).told_backends.clear(),
            "service: h1 was not told yet of 10.0.9.4 (web.1) behind 10.0.9.2",
        ),
        (|e| near(e).told = None, "directory: h1 was not told of web.1 (10.0.9.4)"),
        (
            |e| far(e).told.as_mut().unwrap().vtep = "192.0.2.9".into(),
            "directory: h2 was told another place of client.1 than it has: it is behind 192.0.2.3",
        ),
        (|e| far(e).interface = None, "interface: the interface of web.1 on h2 is missing"),
        (
            |e| near(e).interface.as_mut().unwrap().up = false,
            "interface: the interface of client.1 on h1, eth0, is down",
        ),
        (|e| far(e).port.as_mut().unwrap().up = false, "interface: the port of web.1 on h2, v1, is down"),
        (
            |e| far(e).port.as_mut().unwrap().master.clear(),
            "interface: the port v1 of web.1 on h2 is not in the network's bridge",
        ),
        (
            |e| far(e).addressed = false,
            "interface: the interface of web.1 on h2 lacks the task's address 10.0.9.4",
        ),
        (
            |e| far(e).stationed = false,
            "interface: the bridge on h2 does not lead 02:42:0a:00:09:04 to the port of web.1",
        ),
        (|e| near(e).tunnel = None, "tunnel: h1 has no VXLAN device for network net"),
        (
            |e| far(e).vni = 5000,
            "tunnel: h2 tunnels with VNI 5000 on UDP 4789, and the network has VNI 4097 on UDP 4789",
        ),
        (
            |e| far(e).local = "192.0.2.9".into(),
            "tunnel: h2 tunnels from 192.0.2.9, and the others are told 192.0.2.4",
        ),
        (
            |e| far(e).neighbour.clear(),
            "neighbour: h2 has no neighbour (ARP) entry for 10.0.9.3 (client.1 on h1)",
        ),
        (
            |e| near(e).neighbour = vec![2; 6],
            "neighbour: h1 has another neighbour (ARP) entry for 10.0.9.4 than 02:42:0a:00:09:04",
        ),
        (
            |e| near(e).forwarding.clear(),
            "forwarding: h1 has no forwarding (FDB) entry for 02:42:0a:00:09:04 (web.1 on h2, 192.0.2.4)",
        ),
        (
            |e| near(e).forwarding = "192.0.2.9".into(),
            "forwarding: h1 forwards 02:42:0a:00:09:04 (web.1) to 192.0.2.9, and it is behind 192.0.2.4",
        ),
        (
            |e| near(e).underlay.as_mut().unwrap().error = "Network is unreachable".into(),
            "underlay: h1 has no way to 192.0.2.4 (h2): Network is unreachable",
        ),
        (
            |e| near(e).keys.as_mut().unwrap().sending = 0,
            "key: h1 has no key to send with to h2, so it drops",
        ),
        (
            |e| far(e).keys.as_mut().unwrap().associations.truncate(1),
            "key: h2 lacks the association 0x00000bb8 by which h1 sends to it",
        ),
        (
            |e| far(e).keys.as_mut().unwrap().associations[1].fingerprint[0] ^= 1,
            "key: h1 and h2 have different keys for 0x00000bb8: packets are sent that cannot be read",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(verdict(change), expected);
    }
}

/// Packets are heard at so many of the twelve places, in the order in which they meet them.
fn lost_after(places: usize) -> impl FnOnce(&mut Evidence) {
    move |evidence| {
        let passage = |request: usize, reply: usize| {
            let (request, reply) = (request < places, reply < places);
            Some(Passage { request, reply, ..Passage::default() })
        };
        let near = HeardOf { task: passage(0, 11), tunnel: passage(1, 10), underlay: passage(2, 9) };
        let far = HeardOf { task: passage(5, 6), tunnel: passage(4, 7), underlay: passage(3, 8) };
        let probed = probe(evidence);
        (probed.small, probed.full) = (Some(Echo::default()), Some(Echo::default()));
        probed.connection = Some(Connection { state: Tcp::Silent.into(), error: String::new() });
        probed.heard = Some(near);
        evidence.heard = Some(Ok(far));
        evidence.encrypted = false;
    }
}

#[test]
fn where_a_packet_was_lost_is_named() {
    let expected = [
        "the packet did not leave client.1 on h1: it was dropped there",
        "it left client.1 and did not reach the VXLAN device on h1",
        "h1 does not send it: its own packet filter drops UDP 4789 to 192.0.2.4",
        "it left h1 (192.0.2.3) and never arrived at h2 (192.0.2.4): UDP 4789 is dropped on the way",
        "it arrived at h2 and not at its VXLAN device: h2's packet filter drops UDP 4789 from 192.0.2.3",
        "it reached the VXLAN device on h2 and not web.1",
        "it reached web.1 on h2, which did not answer",
        "the answer left web.1 and did not reach the VXLAN device on h2",
        "h2 does not send it: its own packet filter drops UDP 4789 to 192.0.2.3",
        "the answer is lost: it left h2 (192.0.2.4) and never arrived at h1 (192.0.2.3): UDP 4789 is dropped on the way",
        "the answer is lost: it arrived at h1 and not at its VXLAN device: h1's packet filter drops UDP 4789 from 192.0.2.4",
        "the answer reached the VXLAN device on h1 and not client.1",
        "the answer of web.1 came back to client.1 on h1 and was not let in",
    ];
    for (places, expected) in expected.iter().enumerate() {
        assert_eq!(verdict(lost_after(places)), format!("probe: {expected}"), "after {places} places");
    }
}

#[test]
fn a_task_whose_port_answers_need_not_answer_echoes() {
    let no_echo = |evidence: &mut Evidence| {
        probe(evidence).small = Some(Echo::default());
        probe(evidence).full = Some(Echo::default());
        probe(evidence).virtual_echo = Some(Echo::default());
    };
    assert_eq!(verdict(no_echo), "");
}

#[test]
fn full_packets_that_are_lost_tell_the_size_that_arrives() {
    let lost = |evidence: &mut Evidence| {
        probe(evidence).full = Some(Echo::default());
        probe(evidence).largest = 1352;
        evidence.heard = Some(Ok(heard(Passage { full_request: false, full_reply: false, ..ALL })));
    };
    assert_eq!(
        verdict(lost),
        "mtu: full packets (1450 bytes) are lost on the way from h1 to h2, those of 1352 bytes arrive: the underlay takes less than its devices say"
    );
    let known = |evidence: &mut Evidence| {
        lost(evidence);
        let route = far(evidence).underlay.as_mut().unwrap();
        (route.mtu, route.inner_bytes) = (1400, 1350);
    };
    assert_eq!(
        verdict(known),
        "mtu: full packets (1450 bytes) are lost: eth0 of h2 has an MTU of 1400 bytes, which takes packets of 1350 bytes"
    );
}

#[test]
fn a_port_on_which_nobody_listens_says_who_does() {
    let refused = |evidence: &mut Evidence| {
        probe(evidence).connection = Some(Connection { state: Tcp::Refused.into(), error: String::new() });
    };
    let remedy = |listening: &[&str]| {
        let mut evidence = well();
        refused(&mut evidence);
        far(&mut evidence).listening = listening.iter().map(|text| (*text).to_owned()).collect();
        let steps = way(&evidence);
        let wrong = &steps[first_wrong(&steps).unwrap()];
        assert_eq!(wrong.fault, "nobody listens on TCP port 80 of web.1 on h2 (10.0.9.4:80)");
        wrong.remedy.clone()
    };
    assert_eq!(remedy(&["127.0.0.11:61053"]), "the task listens on no TCP port: has its program started?");
    assert_eq!(remedy(&["127.0.0.11:61053", "0.0.0.0:8080"]), "the task listens on 0.0.0.0:8080");
    assert_eq!(
        remedy(&["127.0.0.1:80"]),
        "it listens on 127.0.0.1:80 only: let it listen on 0.0.0.0 or the task's address"
    );
}

#[test]
fn a_virtual_address_that_does_not_work_though_its_backend_does_is_named() {
    let fails = |evidence: &mut Evidence| {
        probe(evidence).virtual_connection =
            Some(Connection { state: Tcp::Silent.into(), error: String::new() });
    };
    assert_eq!(
        verdict(fails),
        "virtual address: a connection to 10.0.9.2 does not arrive, though the backend is reached directly"
    );
}

#[test]
fn names_are_judged_by_what_they_ought_to_mean() {
    let judged = |code: &str, addresses: &[&str]| {
        let answer = Ok(Resolved {
            code: code.into(),
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            known: !addresses.is_empty(),
            forwarded_to: vec!["192.0.2.53".into()],
        });
        let expected = vec![IpAddr::from([10, 0, 9, 2])];
        name("h1", &Name { asked: "web".into(), expected, answer }).fault
    };
    assert_eq!(judged("NOERROR", &["10.0.9.2"]), "");
    assert_eq!(judged("NOERROR", &["10.0.9.3"]), "web is told as 10.0.9.3, and is 10.0.9.2");
    assert_eq!(judged("", &[]), "the task's name server (127.0.0.11 on h1) does not reply");
    assert_eq!(
        judged("NXDOMAIN", &[]),
        "web has no address for the task: NXDOMAIN, no network of the task knows it: asked 192.0.2.53"
    );
}
