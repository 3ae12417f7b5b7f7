//! What became of the packets that were sent.
//!
//! Each is heard, or not, at up to six places on its way out and again on its way back; the first place where it is
//! missing tells where it was lost.

use std::net::{IpAddr, SocketAddr};

use proto::network::connection::State;
use proto::network::{Echo, HeardOf, Passage, Probed, TraceStep};

use super::step::Step;
use super::{Evidence, MENDS, Service};

/// Where the node listens in a task's namespace for its resolver.
const RESOLVER: [u8; 4] = [127, 0, 0, 11];

/// Which size of echo.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Full,
}

pub fn small(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("probe");
    let probed = match probed(evidence) {
        Ok(probed) => probed,
        Err(why) => return step.unknown(why),
    };
    let echo = probed.small.clone().unwrap_or_default();
    let connected = is_connected(probed);
    if echo.answered {
        step.saw("", format!("84 bytes, answered within {}", time(&echo)));
        return step.done();
    }
    if connected && heard_at_task(evidence, Size::Small) {
        step.saw("", "arrives; the task answers no echo, but its port");
        return step.done();
    }
    step.saw("", "84 bytes, no answer");
    let (fault, remedy) = lost(evidence, probed, &echo, Size::Small);
    step.wrong(fault, remedy);
    step.done()
}

pub fn full(evidence: &Evidence) -> TraceStep {
    let mut step = Step::new("mtu");
    let probed = match probed(evidence) {
        Ok(probed) => probed,
        Err(why) => return step.unknown(why),
    };
    let device = evidence.near.as_ref().ok().and_then(|facts| facts.interface.as_ref());
    let bytes = device.map(|device| device.mtu).unwrap_or_default();
    let echo = probed.full.clone().unwrap_or_default();
    let fits = tight(evidence);
    if echo.answered {
        let note = fits.map(|(text, _)| format!("; {text}, so it goes in fragments")).unwrap_or_default();
        step.saw("", format!("{bytes} bytes, answered within {}{note}", time(&echo)));
        return step.done();
    }
    if !probed.small.as_ref().is_some_and(|small| small.answered) {
        return step.unknown("small packets are lost already, or not answered");
    }
    let largest = probed.largest;
    step.saw("", format!("{bytes} bytes, no answer; {largest} bytes are answered"));
    let set = format!(
        "`swarmctl network create --opt com.docker.network.driver.mtu={largest} …` for such a network"
    );
    match fits {
        Some((text, node)) => {
            step.wrong(
                format!("full packets ({bytes} bytes) are lost: {text}"),
                format!("raise the MTU on {node}, or {set}"),
            );
        }
        None => {
            step.wrong(
                format!("full packets ({bytes} bytes) are lost {}, those of {largest} bytes arrive: the underlay takes less than its devices say", direction(evidence)),
                format!("raise the MTU on the way, or {set}"),
            );
        }
    }
    step.done()
}

/// On which way a full packet is lost.
fn direction(evidence: &Evidence) -> String {
    let (here, there) = (&evidence.source.node, &evidence.destination.node);
    match &evidence.heard {
        _ if evidence.is_local() => format!("on {here}"),
        Some(Ok(_)) if heard_at_task(evidence, Size::Full) => {
            format!("on the way back from {there} to {here}")
        }
        Some(Ok(_)) => format!("on the way from {here} to {there}"),
        _ => format!("between {here} and {there}"),
    }
}

/// A device below the tunnel into which a full packet does not fit, and whose it is.
fn tight(evidence: &Evidence) -> Option<(String, String)> {
    evidence.sides().into_iter().find_map(|side| {
        let (route, interface) = (side.facts.underlay.as_ref()?, side.facts.interface.as_ref()?);
        let is_tight = route.error.is_empty() && route.inner_bytes < interface.mtu;
        let text = || {
            let (device, mtu, node) = (&route.device, route.mtu, &side.own.node);
            format!(
                "{device} of {node} has an MTU of {mtu} bytes, which takes packets of {} bytes",
                route.inner_bytes
            )
        };
        is_tight.then(|| (text(), side.own.node.clone()))
    })
}

pub fn port(evidence: &Evidence, port: u16) -> TraceStep {
    let mut step = Step::new("port");
    let probed = match probed(evidence) {
        Ok(probed) => probed,
        Err(why) => return step.unknown(why),
    };
    let (end, address) = (&evidence.destination, SocketAddr::from((evidence.destination.address, port)));
    let connection = probed.connection.clone().unwrap_or_default();
    match connection.state() {
        State::Connected => _ = step.saw("", format!("TCP {address}: connected")),
        State::Refused => {
            step.saw("", format!("TCP {address}: refused"));
            let fault =
                format!("nobody listens on TCP port {port} of {} on {} ({address})", end.name, end.node);
            step.wrong(fault, listens(evidence, port));
        }
        State::Silent => {
            step.saw("", format!("TCP {address}: no answer"));
            let remedy = "does a packet filter in the task, or on the way, drop the connection?";
            step.wrong(format!("TCP port {port} of {} on {} does not answer", end.name, end.node), remedy);
        }
        State::Failed => {
            let error = &connection.error;
            step.saw("", format!("TCP {address}: {error}"));
            step.wrong(format!("cannot connect to {address} ({} on {}): {error}", end.name, end.node), MENDS);
        }
    }
    step.done()
}

/// What the task listens on instead.
fn listens(evidence: &Evidence, port: u16) -> String {
    let facts = match &evidence.far {
        Ok(facts) => facts,
        Err(_) => return "start what is to listen there".into(),
    };
    let sockets = facts.listening.iter().filter_map(|text| text.parse::<SocketAddr>().ok());
    let sockets: Vec<SocketAddr> = sockets.filter(|socket| socket.ip() != IpAddr::from(RESOLVER)).collect();
    if let Some(own) = sockets.iter().find(|socket| socket.port() == port && socket.ip().is_loopback()) {
        return format!("it listens on {own} only: let it listen on 0.0.0.0 or the task's address");
    }
    let list: Vec<String> = sockets.iter().map(ToString::to_string).collect();
    match list.as_slice() {
        [] => "the task listens on no TCP port: has its program started?".into(),
        list => format!("the task listens on {}", list.join(", ")),
    }
}

pub fn virtual_address(evidence: &Evidence, service: &Service) -> TraceStep {
    let mut step = Step::new("virtual address");
    let probed = match probed(evidence) {
        Ok(probed) => probed,
        Err(why) => return step.unknown(why),
    };
    let vip = service.virtual_ip;
    let echo = probed.virtual_echo.clone().unwrap_or_default();
    let connection = probed.virtual_connection.as_ref().map(|connection| connection.state());
    let direct = probed.small.as_ref().is_some_and(|small| small.answered);
    match (connection, echo.answered) {
        (Some(State::Connected), _) => _ = step.saw("", format!("TCP through {vip}: connected")),
        (None, true) => _ = step.saw("", format!("answered through {vip} within {}", time(&echo))),
        (None, false) if !direct => return step.unknown("its backend is not reached directly either"),
        (Some(_), _) if !is_connected(probed) => {
            return step.unknown("its backend is not reached directly either");
        }
        (how, _) => {
            let what = if how.is_some() { "a connection" } else { "an echo" };
            step.saw("", format!("{what} through {vip}: no answer"));
            let fault = format!("{what} to {vip} does not arrive, though the backend is reached directly");
            let remedy = format!(
                "another backend may be ill; or rules of others in the namespace of {} on {}: `nft list ruleset` there",
                evidence.source.name, evidence.source.node
            );
            step.wrong(fault, remedy);
        }
    }
    step.done()
}

fn probed(evidence: &Evidence) -> Result<&Probed, String> {
    match &evidence.probed {
        Some(Ok(probed)) => Ok(probed),
        Some(Err(why)) => Err(format!("{} could not send: {why}", evidence.source.node)),
        None => Err("nothing was sent".into()),
    }
}

fn is_connected(probed: &Probed) -> bool {
    probed.connection.as_ref().is_some_and(|connection| connection.state() == State::Connected)
}

fn time(echo: &Echo) -> String {
    format!("{}.{:02} ms", echo.micros / 1000, echo.micros % 1000 / 10)
}

fn heard_at_task(evidence: &Evidence, size: Size) -> bool {
    let heard = evidence.heard.as_ref().and_then(|heard| heard.as_ref().ok());
    heard.is_some_and(|heard| request(heard.task.as_ref(), size))
}

fn request(passage: Option<&Passage>, size: Size) -> bool {
    passage.is_some_and(|passage| match size {
        Size::Small => passage.request,
        Size::Full => passage.full_request,
    })
}

fn reply(passage: Option<&Passage>, size: Size) -> bool {
    passage.is_some_and(|passage| match size {
        Size::Small => passage.reply,
        Size::Full => passage.full_reply,
    })
}

/// Where it was lost, and what can be done.
fn lost(evidence: &Evidence, probed: &Probed, echo: &Echo, size: Size) -> (String, String) {
    let (source, destination) = (&evidence.source, &evidence.destination);
    let here = &source.node;
    let near = probed.heard.unwrap_or_default();
    let rules = |task: &str, node: &str| {
        format!("rules in the namespace of {task} on {node}: `nft list ruleset` there")
    };
    if !request(near.task.as_ref(), size) {
        let why = if echo.error.is_empty() { "it was dropped there".to_owned() } else { echo.error.clone() };
        let fault = format!("the packet did not leave {} on {here}: {why}", source.name);
        return (fault, rules(&source.name, here));
    }
    if evidence.is_local() {
        return lost_on_one_node(evidence, &near, size);
    }
    let far = match &evidence.heard {
        Some(Ok(heard)) => Some(heard),
        _ => None,
    };
    lost_between(evidence, &near, far, size).unwrap_or_else(|| {
        let fault = format!(
            "the answer of {} came back to {} on {here} and was not let in",
            destination.name, source.name
        );
        (fault, rules(&source.name, here))
    })
}

fn lost_on_one_node(evidence: &Evidence, near: &HeardOf, size: Size) -> (String, String) {
    let (source, destination, node) = (&evidence.source, &evidence.destination, &evidence.source.node);
    let rules = |task: &str| format!("rules in the namespace of {task} on {node}: `nft list ruleset` there");
    if !heard_at_task(evidence, size) {
        let fault = format!(
            "the packet left {} and did not reach {} on the same node {node}",
            source.name, destination.name
        );
        return (fault, format!("bridge br0 of network {}: {MENDS}", evidence.network));
    }
    if !reply(near.task.as_ref(), size) {
        let fault = format!("the packet reached {} on {node}, which did not answer", destination.name);
        return (fault, rules(&destination.name));
    }
    (format!("the answer came back to {} on {node} and was not let in", source.name), rules(&source.name))
}

/// The first place where it is missing, of those between two nodes.
fn lost_between(
    evidence: &Evidence,
    near: &HeardOf,
    far: Option<&HeardOf>,
    size: Size,
) -> Option<(String, String)> {
    let (source, destination) = (&evidence.source, &evidence.destination);
    let (here, there) = (&source.node, &destination.node);
    let address = |vtep: Option<IpAddr>| vtep.map(|vtep| vtep.to_string()).unwrap_or_default();
    let (from, to) = (address(source.vtep), address(destination.vtep));
    let what = match evidence.encrypted {
        true => "ESP (IP protocol 50)".to_owned(),
        false => format!("UDP {}", evidence.udp_port),
    };
    let bridge = |node: &str| format!("bridge br0 of network {} on {node}: {MENDS}", evidence.network);
    let inside = |task: &str, node: &str| {
        format!("rules in the namespace of {task} on {node}: `nft list ruleset` there")
    };
    let sends_not = |node: &str, to: &str| {
        let fault = format!("{node} does not send it: its own packet filter drops {what} to {to}");
        (fault, format!("let {what} out on {node}: `nft list ruleset`"))
    };
    let on_the_way = |left: &str, from: &str, arrives: &str, to: &str| {
        let fault = format!(
            "it left {left} ({from}) and never arrived at {arrives} ({to}): {what} is dropped on the way"
        );
        (
            fault,
            format!("let {what} pass from {from} to {to}: firewalls and security groups between the nodes"),
        )
    };
    let dropped_in = |node: &str, from: &str| {
        let fault = format!(
            "it arrived at {node} and not at its VXLAN device: {node}'s packet filter drops {what} from {from}"
        );
        (fault, format!("let {what} in from {from} on {node}: `nft list ruleset`"))
    };

    if !request(near.tunnel.as_ref(), size) {
        let fault = format!("it left {} and did not reach the VXLAN device on {here}", source.name);
        return Some((fault, bridge(here)));
    }
    if !request(near.underlay.as_ref(), size) {
        return Some(sends_not(here, &to));
    }
    let Some(far) = far else {
        let fault = format!(
            "it left {here} ({from}); whether it arrived at {there} ({to}) is not known, since that node does not say"
        );
        return Some((fault, format!("let {what} pass between {from} and {to}")));
    };
    if !request(far.task.as_ref(), size) && !request(far.tunnel.as_ref(), size) {
        return Some(match request(far.underlay.as_ref(), size) {
            false => on_the_way(here, &from, there, &to),
            true => dropped_in(there, &from),
        });
    }
    if !request(far.task.as_ref(), size) {
        let fault = format!("it reached the VXLAN device on {there} and not {}", destination.name);
        return Some((fault, bridge(there)));
    }
    if !reply(far.task.as_ref(), size) {
        let fault = format!("it reached {} on {there}, which did not answer", destination.name);
        return Some((fault, inside(&destination.name, there)));
    }
    if !reply(far.tunnel.as_ref(), size) {
        let fault =
            format!("the answer left {} and did not reach the VXLAN device on {there}", destination.name);
        return Some((fault, bridge(there)));
    }
    if !reply(far.underlay.as_ref(), size) {
        return Some(sends_not(there, &from));
    }
    if !reply(near.underlay.as_ref(), size) && !reply(near.tunnel.as_ref(), size) {
        let (fault, remedy) = on_the_way(there, &to, here, &from);
        return Some((format!("the answer is lost: {fault}"), remedy));
    }
    if !reply(near.tunnel.as_ref(), size) {
        let (fault, remedy) = dropped_in(here, &to);
        return Some((format!("the answer is lost: {fault}"), remedy));
    }
    if !reply(near.task.as_ref(), size) {
        let fault = format!("the answer reached the VXLAN device on {here} and not {}", source.name);
        return Some((fault, bridge(here)));
    }
    None
}
