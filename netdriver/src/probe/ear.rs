//! Hears which packets of a probe pass a node: in the task's namespace, at the VXLAN device, at the device below.
//!
//! Packet sockets hear what comes in before the packet filter has it, and what goes out after that. The kernel keeps what
//! was heard until it is asked for; each socket keeps only what its pattern lets through.

use std::fs::File;
use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

use super::packet::{Outer, Pattern, SNAP};
use crate::desired::{NetworkKey, SandboxKey};
use crate::error::Error;
use crate::model::Place;
use crate::site::Sites;
use crate::{Netdriver, name, netns};

/// `ETH_P_ALL` of linux/if_ether.h: also what goes out.
const ALL: u16 = 3;

/// By what the packets of a probe are told.
#[derive(Debug, Clone)]
pub struct Trail {
    pub sandbox: SandboxKey,
    pub network: NetworkKey,
    /// ICMP identifier.
    pub token: u16,
    pub ipv6: bool,
    /// Bytes of a full packet.
    pub full_bytes: usize,
    /// None if both ends are on this node.
    pub tunnel: Option<Tunnel>,
}

#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Address family of the tunnel ends.
    pub ipv6: bool,
    pub port: u16,
    pub vni: u32,
    /// Of an encrypted network: the associations of requests, and those of replies.
    pub spis: Option<(Vec<u32>, Vec<u32>)>,
}

/// Which packets passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passage {
    pub request: bool,
    pub full_request: bool,
    pub reply: bool,
    pub full_reply: bool,
}

/// What was heard, from the task outwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    pub task: Passage,
    pub tunnel: Passage,
    pub underlay: Passage,
}

/// Hears until it is dropped. It keeps the task's namespace alive, so it must not live long.
#[derive(Debug)]
pub struct Ears {
    ears: Vec<Ear>,
    full_bytes: usize,
}

#[derive(Debug)]
struct Ear {
    stage: Stage,
    socket: Socket,
    pattern: Pattern,
    /// What packets are of which that cannot be seen.
    request: bool,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Task,
    Tunnel,
    Underlay,
}

impl Netdriver {
    /// Begins to hear packets of a probe.
    pub async fn listen(&self, trail: &Trail) -> Result<Ears, Error> {
        let mut sites = self.sites().await;
        let echo = Pattern::echo(trail.token, trail.ipv6);
        let inside = Place::Sandbox(trail.sandbox.clone());
        let mut ears = vec![open(&mut sites, &inside, Stage::Task, echo.clone(), true).await?];
        if let Some(tunnel) = &trail.tunnel {
            let network = Place::Network(trail.network.clone());
            let site = sites.enter(&network).await?;
            let device = match site {
                Some(site) => site.index(name::VXLAN).await.map_err(Error::read(network.to_string()))?,
                None => None,
            };
            if let Some(device) = device {
                ears.push(open(&mut sites, &network, Stage::Tunnel, echo.on(device), true).await?);
            }
            for (pattern, request) in below(trail, tunnel) {
                ears.push(open(&mut sites, &Place::Host, Stage::Underlay, pattern, request).await?);
            }
        }
        Ok(Ears { ears, full_bytes: trail.full_bytes })
    }
}

fn below(trail: &Trail, tunnel: &Tunnel) -> Vec<(Pattern, bool)> {
    let outer = Outer { ipv6: tunnel.ipv6, port: tunnel.port, vni: tunnel.vni };
    let Some((requests, replies)) = &tunnel.spis else {
        return vec![(Pattern::tunnelled(trail.token, trail.ipv6, outer), true)];
    };
    let of = |spis: &[u32], request| {
        spis.iter().map(move |spi| (Pattern::encrypted(*spi, outer), request)).collect()
    };
    let both: [Vec<_>; 2] = [of(requests, true), of(replies, false)];
    both.concat()
}

async fn open(
    sites: &mut Sites<'_>,
    place: &Place,
    stage: Stage,
    pattern: Pattern,
    request: bool,
) -> Result<Ear, Error> {
    let path = sites.path(place);
    let failed = |cause| Error::file("listening in namespace", path.clone(), cause);
    let missing = || failed(io::Error::from(io::ErrorKind::NotFound));
    let site = sites.enter(place).await?.ok_or_else(missing)?;
    let socket = hearing(site.file.as_ref(), &pattern).await.map_err(failed)?;
    Ok(Ear { stage, socket, pattern, request })
}

async fn hearing(namespace: Option<&File>, pattern: &Pattern) -> io::Result<Socket> {
    let program = pattern.program();
    let open = move || {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ALL.to_be()))))?;
        // What came in between is told by `Pattern::read`.
        socket.attach_filter(&program)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    netns::within(namespace, open).await?
}

impl Ears {
    /// What was heard until now.
    pub fn hear(self) -> Heard {
        let mut heard = Heard::default();
        for ear in self.ears {
            let mut buffer = [0; SNAP];
            while let Ok(length) = (&ear.socket).read(&mut buffer) {
                let Some(passed) = ear.pattern.read(&buffer[..length]) else { continue };
                let passage = match ear.stage {
                    Stage::Task => &mut heard.task,
                    Stage::Tunnel => &mut heard.tunnel,
                    Stage::Underlay => &mut heard.underlay,
                };
                let full = passed.bytes >= self.full_bytes;
                match (passed.request.unwrap_or(ear.request), full) {
                    (true, true) => passage.full_request = true,
                    (true, false) => passage.request = true,
                    (false, true) => passage.full_reply = true,
                    (false, false) => passage.reply = true,
                }
            }
        }
        heard
    }
}
