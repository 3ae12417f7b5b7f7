//! Faults made by hand, each of which `network trace` names. That of a wrong key is in `encryption.rs`.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use e2e::{Host, Lab, PATIENCE, TaskRow, wait};
use serde_json::Value;

/// A lab with a client on h1 and a server on h2.
struct Bench {
    lab: Lab,
    network: String,
    client: TaskRow,
    web: TaskRow,
}

impl Bench {
    fn new(story: &str) -> Self {
        let lab = Lab::swarm(story, 1, 1);
        let h1 = lab.host(1);
        let network = h1.create_network("net", "10.0.9.0/24");
        for (name, host) in [("client", "h1"), ("web", "h2")] {
            let place = format!("node.hostname=={host}");
            let create = ["service", "create", "--detach", "--network", "net", "--name", name];
            h1.ctl(&[&create[..], &["--constraint", &place, &lab.web()]].concat()).ok();
        }
        let [client, web] = ["client", "web"].map(|name| h1.wait_running(name, 1).remove(0));
        Self { lab, network, client, web }
    }

    /// Runs a script in the namespace of the network on a host.
    fn on_network(&self, host: usize, script: &str) -> String {
        self.inside(host, &format!("n-{}", self.network), script)
    }

    fn in_task(&self, host: usize, task: &TaskRow, script: &str) -> String {
        self.inside(host, &format!("s-{}", task.id), script)
    }

    fn inside(&self, host: usize, namespace: &str, script: &str) -> String {
        let host = self.lab.host(host);
        let path = host.exec_root().join("netns").join(namespace);
        host.sh(&format!("nsenter --net={} sh -ec '{script}'", path.display())).ok()
    }

    /// While `fault` holds, the trace names the step, in these words.
    #[track_caller]
    fn names(&self, destination: &str, step: &str, words: &[&str]) {
        assert_names(self.lab.host(1), "client", destination, step, words);
    }

    /// The network is well, if need be after a moment.
    #[track_caller]
    fn is_well(&self) {
        wait("the trace to find nothing wrong", PATIENCE, || {
            let output = self.lab.host(1).ctl(&["network", "trace", "client", "web:80"]);
            if output.succeeded() { Ok(()) } else { Err(output) }
        });
    }
}

fn wrong(traced: &Value) -> Option<&Value> {
    traced["Steps"].as_array()?.iter().find(|step| step["State"] == "wrong")
}

#[track_caller]
fn assert_names(host: &Host, source: &str, destination: &str, step: &str, words: &[&str]) {
    let output = host.ctl(&["network", "trace", "--format", "json", source, destination]);
    let shown = output.to_string();
    assert!(!output.succeeded(), "nothing is wrong: {shown}");
    let traced: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let wrong = wrong(&traced).unwrap_or_else(|| panic!("no step is wrong: {shown}"));
    assert_eq!(wrong["Name"], step, "{shown}");
    let told = format!("{} {}", wrong["Fault"].as_str().unwrap(), wrong["Remedy"].as_str().unwrap());
    for word in words {
        assert!(told.contains(word), "{word:?} is not in {told:?}");
        assert!(output.stderr.contains(wrong["Fault"].as_str().unwrap()), "{shown}");
    }
}

fn drop_in(chain: &str, rule: &str) -> String {
    format!(
        "nft \"add table inet fault; add chain inet fault f {{ type filter hook {chain} priority 0; }}; add rule inet fault f {rule} drop\""
    )
}

const MENDED: &str = "nft delete table inet fault";

#[test]
fn what_drops_packets_is_named() {
    let bench = Bench::new("what drops packets");
    let (h1, h2) = (bench.lab.host(1), bench.lab.host(2));
    bench.is_well();
    let shown = h1.ctl(&["network", "trace", "client", "web:80"]).ok();
    assert!(shown.ends_with("All is well."), "{shown}");

    // A packet filter on either node, and one between them, in either direction.
    let (from, to) = (h1.addr().to_string(), h2.addr().to_string());
    h2.sh(&drop_in("input", "udp dport 4789")).ok();
    bench.names("web", "probe", &["it arrived at h2", "h2's packet filter drops UDP 4789", &from]);
    h2.sh(MENDED).ok();
    h1.sh(&drop_in("output", "udp dport 4789")).ok();
    bench.names("web", "probe", &["h1 does not send it", "UDP 4789", &to]);
    h1.sh(MENDED).ok();
    for (host, words) in [("h2", "it left h1"), ("h1", "the answer is lost: it left h2")] {
        let rule = format!("add rule bridge fault f oifname {host} udp dport 4789 drop");
        let chain = "add chain bridge fault f { type filter hook forward priority 0; }";
        bench.lab.between(&format!("nft 'add table bridge fault; {chain}; {rule}'")).ok();
        bench.names("web:80", "probe", &[words, "never arrived", "UDP 4789 is dropped on the way"]);
        bench.lab.between("nft delete table bridge fault").ok();
    }

    // The underlay takes less than its devices say.
    bench.lab.between("ip link set h2 mtu 1400").ok();
    bench.names(
        "web:80",
        "mtu",
        &["full packets (1450 bytes) are lost", "those of 1352 bytes arrive", "driver.mtu=1352"],
    );
    bench.lab.between("ip link set h2 mtu 1500").ok();

    // The task's own rules.
    bench.in_task(2, &bench.web, &drop_in("input", "ip saddr 10.0.9.0/24"));
    bench.names("web:80", "probe", &["it reached web.1 on h2, which did not answer"]);
    bench.in_task(2, &bench.web, MENDED);
    bench.in_task(2, &bench.web, &drop_in("input", "ip protocol icmp"));
    bench.is_well();
    bench.in_task(2, &bench.web, MENDED);

    // Nobody listens.
    bench.names("web:81", "port", &["nobody listens on TCP port 81 of web.1 on h2", "the task listens on"]);

    // The node is gone, before and after the managers know.
    h2.cut();
    bench.names("web", "nodes", &["node h2 does not answer for web.1", "within 5 s"]);
    h1.wait_status("h2", "Down", PATIENCE);
    bench.names("web", "destination", &["no task of web is ready"]);
    h2.heal();
    h1.wait_status("h2", "Ready", PATIENCE);
}

#[test]
fn what_was_altered_on_a_node_is_named() {
    let bench = Bench::new("what was altered");
    bench.lab.damage();
    let h1 = bench.lab.host(1);
    let (client, web) = (bench.client.address("10.0.9."), bench.web.address("10.0.9."));
    bench.is_well();

    let mac = |address: std::net::Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    };
    let vtep = bench.lab.host(2).addr();
    bench.on_network(1, &format!("bridge fdb del {} dev vx0 dst {vtep} self", mac(web)));
    bench.names("web:80", "forwarding", &["h1 has no forwarding (FDB) entry", &mac(web), "web.1"]);
    bench.on_network(1, &format!("bridge fdb add {} dev vx0 dst {vtep} self permanent", mac(web)));

    bench.on_network(2, &format!("ip neigh del {client} dev vx0"));
    bench.names(
        "web:80",
        "neighbour",
        &["h2 has no neighbour (ARP) entry", &client.to_string(), "client.1 on h1"],
    );
    let again = |address| format!("ip neigh add {address} lladdr {} dev vx0 nud permanent", mac(address));
    bench.on_network(2, &again(client));

    bench.in_task(1, &bench.client, "nft add rule inet swarmd ip_output counter comment fault");
    bench.names("web:80", "service", &["the table of service addresses of client.1 on h1 was altered"]);
    let rule = "nft -a list chain inet swarmd ip_output | sed -n \"s/.*fault.*handle //p\"";
    bench.in_task(1, &bench.client, &format!("nft delete rule inet swarmd ip_output handle $({rule})"));

    let backend = "inet swarmd ip_backends | grep -o \"[0-9.]* \\. [0-9x]* : [0-9.]*\" | grep";
    let backend = bench.in_task(1, &bench.client, &format!("nft list map {backend} \" {web}$\""));
    let key = backend.split(" : ").next().unwrap();
    let becomes = |address: &str| {
        let map = "element inet swarmd ip_backends";
        let change = format!("delete {map} {{ {key} }}; add {map} {{ {key} : {address} }}");
        bench.in_task(1, &bench.client, &format!("nft \"{change}\""));
    };
    becomes("10.0.9.250");
    bench.names("web:80", "service", &["client.1 on h1 lacks", &web.to_string(), "web.1"]);
    becomes(&web.to_string());

    let port = bench.on_network(2, "ip -o link show type veth | sed \"s/^[0-9]*: //; s/@.*//\"");
    bench.on_network(2, &format!("ip link set {port} down"));
    bench.names("web:80", "interface", &["the port of web.1 on h2", &port, "is down"]);
    bench.on_network(2, &format!("ip link set {port} up"));
    bench.in_task(1, &bench.client, "ip link set eth0 down");
    bench.names("web:80", "interface", &["the interface of client.1 on h1, eth0, is down"]);
    bench.in_task(1, &bench.client, "ip link set eth0 up");
    bench.on_network(1, "ip link set vx0 down");
    bench.names("web:80", "tunnel", &["the VXLAN device vx0 of network net on h1 is down"]);
    // The kernel forgets the neighbours of a device that goes down.
    bench.on_network(1, &format!("ip link set vx0 up; {}", again(web)));
    bench.is_well();

    // What is no fault of the network's.
    h1.create_network("other", "10.0.8.0/24");
    h1.create_web(&bench.lab, "db", "other", 1);
    bench.names("db", "network", &["client.1 is on net and db on other", "--network-add other client"]);
    bench.names("nobody", "name", &["nobody has no address"]);
    bench.names("10.0.9.99", "network", &["nobody has 10.0.9.99"]);
    let missing = bench.lab.image("missing:1");
    h1.ctl(&["service", "create", "--detach", "--network", "net", "--name", "sick", &missing]).ok();
    h1.wait_tasks("a task that was refused", PATIENCE, "sick", |tasks| {
        tasks.iter().any(|task| !task.error.is_empty()).then_some(())
    });
    bench.names("sick:80", "destination", &["no task of sick is ready", "missing"]);

    // Words that mean nothing.
    for (source, destination, words) in [
        ("nobody", "web", "task or service \"nobody\" was not found"),
        ("client", "web:x", "a port is a number from 1 to 65535"),
    ] {
        let refused = h1.ctl(&["network", "trace", source, destination]).refused();
        assert!(refused.contains(words), "{refused}");
    }

    // All that is known of the network.
    let shown = h1.ctl(&["network", "inspect", "--verbose", "net"]).ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let service = &shown[0]["Services"]["web"];
    assert_eq!((&service["EndpointMode"], &service["Tasks"][0]["Node"]), (&"vip".into(), &"h2".into()));
    assert_eq!(service["Tasks"][0]["EndpointIP"], web.to_string());
    assert_eq!(service["Tasks"][0]["State"], "Running");
    let peer = shown[0]["Peers"].as_array().unwrap().iter().find(|peer| peer["Hostname"] == "h2").unwrap();
    assert_eq!(
        (peer["IP"].as_str().unwrap(), peer["Tasks"].as_array().unwrap().len()),
        (&*vtep.to_string(), 1)
    );
}

#[test]
fn any_manager_answers_for_either_address_family() {
    let lab = Lab::swarm("any manager answers", 3, 0);
    let [h1, h2, h3] = [1, 2, 3].map(|number| lab.host(number));
    lab.damage();
    h1.ctl(&["network", "create", "--driver", "overlay", "--ipv6", "net"]).ok();
    for (name, host) in [("client", "h1"), ("web", "h3")] {
        let place = format!("node.hostname=={host}");
        let create = ["service", "create", "--detach", "--network", "net", "--name", name];
        h1.ctl(&[&create[..], &["--constraint", &place, &lab.web()]].concat()).ok();
    }
    let [client, web] = ["client", "web"].map(|name| h1.wait_running(name, 1).remove(0));
    let address = h1.inspect("task", &web.id)["NetworksAttachments"][0]["Addresses"][1].clone();
    let address = address.as_str().unwrap().split('/').next().unwrap().to_owned();
    // h2 has neither task.
    for destination in ["web:80".to_owned(), web.name, format!("[{address}]:80")] {
        wait(&format!("the trace to {destination} to find nothing wrong"), PATIENCE, || {
            let output = h2.ctl(&["network", "trace", &client.name, &destination]);
            if output.succeeded() { Ok(()) } else { Err(output) }
        });
    }

    let namespaces = h1.namespaces().into_iter();
    let mut networks =
        namespaces.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("n-"));
    let network = networks.next().unwrap();
    h1.sh(&format!("nsenter --net={} ip neigh del {address} dev vx0", network.display())).ok();
    let to = format!("[{address}]:80");
    assert_names(h3, "client", &to, "neighbour", &["h1 has no neighbour", &address, "web.1 on h3"]);
    assert_names(h2, "client", &to, "neighbour", &["h1 has no neighbour", &address, "web.1 on h3"]);
}
