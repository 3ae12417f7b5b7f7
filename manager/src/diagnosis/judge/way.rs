//! What is there on the way, before anything is sent: tables, devices, routes and keys.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proto::network::{Association, Device, Facts, Table, TraceStep};

use super::step::Step;
use super::{End, Evidence, MENDS, Name, Service, Side};

const BRIDGE: &str = "br0";
const UNTOLD: &str =
    "trace again; if it stays, look whether the node has a manager (`swarmctl node ls`, its log)";

pub fn name(node: &str, name: &Name) -> TraceStep {
    let (mut step, asked) = (Step::new("name"), &name.asked);
    let resolved = match &name.answer {
        Ok(resolved) => resolved,
        Err(why) => return step.unknown(format!("{node} did not say: {why}")),
    };
    let addresses = resolved.addresses.join(", ");
    let forwarded = match resolved.forwarded_to.as_slice() {
        _ if resolved.known => String::new(),
        [] => ", no network of the task knows it, and nobody else is asked".into(),
        servers => format!(", no network of the task knows it: asked {}", servers.join(", ")),
    };
    let shown = if addresses.is_empty() { &resolved.code } else { &addresses };
    step.saw(node, format!("{asked} → {}{forwarded}", if shown.is_empty() { "no reply" } else { shown }));
    let found: BTreeSet<IpAddr> = resolved.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    if resolved.code.is_empty() {
        step.wrong(
            format!("the task's name server (127.0.0.11 on {node}) does not reply"),
            format!("look into the log of swarmd on {node}; {MENDS}"),
        );
    } else if found.is_empty() {
        let code = &resolved.code;
        let remedy = "names that tasks can ask for are listed in docs/dns.md; only those of their own networks are known";
        step.wrong(format!("{asked} has no address for the task: {code}{forwarded}"), remedy);
    } else if !name.expected.is_empty() && !name.expected.iter().any(|address| found.contains(address)) {
        let expected: Vec<String> = name.expected.iter().map(ToString::to_string).collect();
        step.wrong(format!("{asked} is told as {addresses}, and is {}", expected.join(", ")), UNTOLD);
    }
    step.done()
}

pub fn service(evidence: &Evidence, service: &Service) -> TraceStep {
    let (mut step, node) = (Step::new("service"), &evidence.source.node);
    let facts = match &evidence.near {
        Ok(facts) => facts,
        Err(_) => return step.unknown(format!("{node} did not answer")),
    };
    let (vip, task) = (service.virtual_ip, &evidence.source.name);
    let has: BTreeSet<IpAddr> = addresses(&facts.backends);
    let told: BTreeSet<IpAddr> = addresses(&facts.told_backends);
    let wanted: BTreeSet<IpAddr> = service.ready.keys().copied().collect();
    let altered = |what: String| (what, format!("table `inet swarmd` of {task} on {node}: {MENDS}"));
    let name_of = |address: &IpAddr| match service.ready.get(address) {
        Some(name) => format!("{address} ({name})"),
        None => format!("{address} (nobody who is ready)"),
    };
    let list = |addresses: &BTreeSet<IpAddr>| addresses.iter().map(name_of).collect::<Vec<_>>().join(", ");
    let shown = match facts.table() {
        Table::Present if has.is_empty() => format!("{vip} → refused: nobody is behind it"),
        Table::Present => format!("{vip} → {}", list(&has)),
        Table::Absent => "no table of service addresses".into(),
        Table::Strange => "a table of service addresses that is not as swarmd makes it".into(),
        Table::Without | Table::NotAsked => format!("{vip} is not in the table"),
    };
    step.saw(node, shown);
    let fault = match facts.table() {
        Table::Absent => Some(altered(format!("{task} on {node} has no table of service addresses"))),
        Table::Strange => {
            Some(altered(format!("the table of service addresses of {task} on {node} was altered")))
        }
        _ if told != wanted => {
            let what = if told.is_subset(&wanted) { "was not told yet of" } else { "still goes by" };
            let those = told.symmetric_difference(&wanted).copied().collect();
            Some((format!("{node} {what} {} behind {vip}", list(&those)), UNTOLD.into()))
        }
        Table::Without | Table::NotAsked => {
            Some(altered(format!("the service addresses of {task} on {node} do not have {vip}")))
        }
        Table::Present => {
            let (missing, more) = (&wanted - &has, &has - &wanted);
            let which = if missing.is_empty() { ("has", more) } else { ("lacks", missing) };
            (!which.1.is_empty()).then(|| {
                altered(format!(
                    "the table of service addresses of {task} on {node} {} {} behind {vip}",
                    which.0,
                    list(&which.1)
                ))
            })
        }
    };
    if let Some((fault, remedy)) = fault {
        step.wrong(fault, remedy);
    }
    step.done()
}

fn addresses(texts: &[String]) -> BTreeSet<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

pub fn nodes(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("nodes");
    for (end, answer) in [(&evidence.source, &evidence.near), (&evidence.destination, &evidence.far)] {
        match answer {
            Ok(facts) => step.saw(&end.node, format!("answers; told up to index {}", facts.index)),
            Err(why) => step.saw(&end.node, why).wrong(
                format!("node {} does not answer for {}: {why}", end.node, end.name),
                format!(
                    "is swarmd running on {}, and does it reach a manager (`swarmctl node ls`)?",
                    end.node
                ),
            ),
        };
    }
    step.done()
}

pub fn directory(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("directory");
    for Side { own, other, facts } in evidence.sides() {
        let Some(told) = &facts.told else {
            step.saw(&own.node, format!("does not know {}", other.name));
            step.wrong(format!("{} was not told of {} ({})", own.node, other.name, other.address), UNTOLD);
            continue;
        };
        step.saw(
            &own.node,
            format!("{} is {}, {}, behind {}", other.name, told.address, mac(&told.mac), told.vtep),
        );
        let vtep = other.vtep.map(|vtep| vtep.to_string()).unwrap_or_default();
        if told.address != other.address.to_string() || told.vtep != vtep || told.mac != other.mac {
            let fault = format!(
                "{} was told another place of {} than it has: it is behind {vtep}",
                own.node, other.name
            );
            step.wrong(fault, UNTOLD);
        }
    }
    seen_or(step, evidence)
}

pub fn interface(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("interface");
    for side in evidence.sides() {
        let Side { own, facts, .. } = side;
        step.saw(&own.node, interface_text(side));
        for (what, device) in devices(facts) {
            let whose = format!("{what} of {} on {}", own.name, own.node);
            match device {
                None => _ = step.wrong(format!("{whose} is missing"), MENDS),
                Some(device) if !device.up => {
                    step.wrong(format!("{whose}, {}, is down", device.name), MENDS);
                }
                Some(_) => {}
            }
        }
        let unplugged = facts.port.as_ref().filter(|port| port.master != BRIDGE);
        if let Some(port) = unplugged {
            step.wrong(
                format!(
                    "the port {} of {} on {} is not in the network's bridge",
                    port.name, own.name, own.node
                ),
                MENDS,
            );
        }
        if !facts.addressed {
            let fault = format!(
                "the interface of {} on {} lacks the task's address {}",
                own.name, own.node, own.address
            );
            step.wrong(fault, MENDS);
        }
        if !facts.stationed {
            let fault = format!(
                "the bridge on {} does not lead {} to the port of {}",
                own.node,
                mac(&own.mac),
                own.name
            );
            step.wrong(fault, MENDS);
        }
    }
    seen_or(step, evidence)
}

fn devices(facts: &Facts) -> [(&'static str, Option<&Device>); 3] {
    [
        ("the interface", facts.interface.as_ref()),
        ("the port", facts.port.as_ref()),
        ("the bridge", facts.bridge.as_ref()),
    ]
}

fn interface_text(Side { own, facts, .. }: Side<'_>) -> String {
    let state = |device: &Device| format!("{} {}", device.name, if device.up { "up" } else { "DOWN" });
    let there = devices(facts).into_iter().filter_map(|(_, device)| device).map(state).collect::<Vec<_>>();
    let mtu = facts.interface.as_ref().map(|device| format!(", {} bytes", device.mtu)).unwrap_or_default();
    format!("{} has {}{mtu}", own.name, if there.is_empty() { "nothing".into() } else { there.join(" – ") })
}

pub fn neighbour(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("neighbour");
    for Side { own, other, facts } in evidence.sides() {
        let (node, address, wanted) = (&own.node, other.address, mac(&other.mac));
        if facts.neighbour.is_empty() {
            step.saw(node, format!("{address} is unknown"));
            let fault = format!(
                "{node} has no neighbour (ARP) entry for {address} ({} on {})",
                other.name, other.node
            );
            step.wrong(fault, format!("device vx0 of network {}: {MENDS}", evidence.network));
            continue;
        }
        step.saw(node, format!("{address} is {}", mac(&facts.neighbour)));
        if facts.neighbour != other.mac {
            let fault = format!("{node} has another neighbour (ARP) entry for {address} than {wanted}");
            step.wrong(fault, format!("device vx0 of network {}: {MENDS}", evidence.network));
        }
    }
    seen_or(step, evidence)
}

pub fn forwarding(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("forwarding");
    for Side { own, other, facts } in evidence.sides() {
        let (node, mac) = (&own.node, mac(&other.mac));
        let vtep = other.vtep.map(|vtep| vtep.to_string()).unwrap_or_default();
        let remedy = || format!("device vx0 of network {}: {MENDS}", evidence.network);
        if facts.forwarding.is_empty() {
            step.saw(node, format!("{mac} → nowhere"));
            let fault = format!(
                "{node} has no forwarding (FDB) entry for {mac} ({} on {}, {vtep})",
                other.name, other.node
            );
            step.wrong(fault, remedy());
            continue;
        }
        step.saw(node, format!("{mac} → {}", facts.forwarding));
        if facts.forwarding != vtep {
            let to = &facts.forwarding;
            step.wrong(
                format!("{node} forwards {mac} ({}) to {to}, and it is behind {vtep}", other.name),
                remedy(),
            );
        }
    }
    seen_or(step, evidence)
}

pub fn tunnel(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("tunnel");
    for Side { own, facts, .. } in evidence.sides() {
        let node = &own.node;
        let Some(device) = &facts.tunnel else {
            step.saw(node, "no VXLAN device");
            step.wrong(format!("{node} has no VXLAN device for network {}", evidence.network), MENDS);
            continue;
        };
        let state = if device.up { "up" } else { "DOWN" };
        let (vni, port, local) = (facts.vni, facts.udp_port, &facts.local);
        step.saw(node, format!("{} {state}, VNI {vni}, UDP {port}, from {local}", device.name));
        if !device.up {
            step.wrong(
                format!("the VXLAN device {} of network {} on {node} is down", device.name, evidence.network),
                MENDS,
            );
        }
        if device.master != BRIDGE {
            step.wrong(
                format!("the VXLAN device {} on {node} is not in the network's bridge", device.name),
                MENDS,
            );
        }
        if vni != evidence.vni || port != evidence.udp_port {
            let fault = format!(
                "{node} tunnels with VNI {vni} on UDP {port}, and the network has VNI {} on UDP {}",
                evidence.vni, evidence.udp_port
            );
            step.wrong(fault, MENDS);
        }
        if own.vtep.is_some_and(|vtep| vtep.to_string() != *local) {
            let vtep = own.vtep.map(|vtep| vtep.to_string()).unwrap_or_default();
            let remedy =
                format!("its address has changed: restart swarmd on {node}, or give it --data-path-addr");
            step.wrong(format!("{node} tunnels from {local}, and the others are told {vtep}"), remedy);
        }
    }
    seen_or(step, evidence)
}

pub fn underlay(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("underlay");
    for Side { own, other, facts } in evidence.sides() {
        let (node, vtep) = (&own.node, other.vtep.map(|vtep| vtep.to_string()).unwrap_or_default());
        let Some(route) = &facts.underlay else { continue };
        if !route.error.is_empty() {
            step.saw(node, format!("{vtep}: {}", route.error));
            let fault = format!("{node} has no way to {vtep} ({}): {}", other.node, route.error);
            step.wrong(fault, format!("mend the host's own network on {node}: `ip route get {vtep}`"));
            continue;
        }
        let via = if route.via.is_empty() { String::new() } else { format!(" via {}", route.via) };
        step.saw(node, format!("{vtep} by {}{via}, {} bytes", route.device, route.mtu));
    }
    seen_or(step, evidence)
}

pub fn key(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("key");
    let (source, destination) = (&evidence.source, &evidence.destination);
    let (near, far) = (evidence.near.as_ref().ok(), evidence.far.as_ref().ok());
    let mut direction = |from: &End, sender: Option<&Facts>, to: &End, receiver: Option<&Facts>| {
        let (Some(sender), network) = (sender, &evidence.network) else { return };
        let keys = sender.keys.clone().unwrap_or_default();
        let rotate =
            format!("draw new keys: `swarmctl network rotate-key {network}`, or restart swarmd on the node");
        let spi = keys.sending;
        if spi == 0 {
            step.saw(&from.node, format!("no policy towards {}", to.node));
            step.wrong(format!("{} has no key to send with to {}, so it drops", from.node, to.node), rotate);
            return;
        }
        let find = |associations: &[Association], outgoing| {
            associations.iter().find(|found| found.outgoing == outgoing && found.spi == spi).cloned()
        };
        let Some(own) = find(&keys.associations, true) else {
            step.saw(&from.node, format!("sends through 0x{spi:08x}, which is not there"));
            step.wrong(
                format!("{} lacks the association 0x{spi:08x} by which it sends to {}", from.node, to.node),
                rotate,
            );
            return;
        };
        step.saw(
            &from.node,
            format!("sends to {} through 0x{spi:08x}, key {}", to.node, hex(&own.fingerprint)),
        );
        let Some(receiver) = receiver else { return };
        let keys = receiver.keys.clone().unwrap_or_default();
        match find(&keys.associations, false) {
            None => {
                step.saw(&to.node, format!("cannot receive 0x{spi:08x}"));
                let fault = format!(
                    "{} lacks the association 0x{spi:08x} by which {} sends to it",
                    to.node, from.node
                );
                step.wrong(fault, rotate);
            }
            Some(other) => {
                step.saw(&to.node, format!("receives 0x{spi:08x}, key {}", hex(&other.fingerprint)));
                if other.fingerprint != own.fingerprint {
                    let fault = format!(
                        "{} and {} have different keys for 0x{spi:08x}: packets are sent that cannot be read",
                        from.node, to.node
                    );
                    step.wrong(fault, rotate);
                }
            }
        }
    };
    direction(source, near, destination, far);
    direction(destination, far, source, near);
    seen_or(step, evidence)
}

fn seen_or(step: Step, evidence: &Evidence) -> TraceStep {
    match evidence.sides().is_empty() {
        true => step.unknown("no node answered"),
        false => step.done(),
    }
}

pub fn mac(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
