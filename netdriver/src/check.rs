//! What this machine lacks of what the driver needs: tried out by the driver's own requests, in a namespace that is gone
//! afterwards, so that what is tried is what will be done.

use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use crate::desired::{Service, Services};
use crate::driver::gateway::Gateway;
use crate::link::{self, Target};
use crate::model::{Kind, Link, Vxlan};
use crate::netlink::{Mode, Netlink, Refusal};
use crate::steering::{Steering, settle};
use crate::{Netdriver, netns, nft};

const NO_TASK: &str = "no task can have a network";

/// Something that does not work on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    what: &'static str,
    reason: String,
    consequence: &'static str,
    /// Without it no task runs.
    pub fatal: bool,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not available ({}): {}", self.what, self.reason, self.consequence)
    }
}

impl Netdriver {
    /// What does not work here, worst first.
    pub async fn check(&self) -> Vec<Lack> {
        let mut lacks = Vec::new();
        let mut note = |what, result: Result<(), String>, consequence, fatal| {
            lacks.extend(result.err().map(|reason| Lack { what, reason, consequence, fatal }));
        };
        match netns::scratch().await {
            Err(error) => note("network namespaces are", Err(error.to_string()), NO_TASK, true),
            Ok(scratch) => {
                for (what, request, consequence, fatal) in devices(&scratch) {
                    note(what, attempt(&scratch, request).await, consequence, fatal);
                }
                let rules = Gateway::of(&self.config).wanted().rules.unwrap_or_default();
                let ruled = nft::run(Some(&scratch), rules).await.map_err(|error| error.to_string());
                note("nftables with NAT and connection tracking is", ruled, NO_TASK, true);
                note("NAT by nftables maps is", steer(&scratch, V4, false).await, NO_TASK, true);
                let consequence = "service addresses of IPv6 networks do not work";
                note("NAT of IPv6 by nftables maps is", steer(&scratch, V6, false).await, consequence, false);
                let consequence =
                    "connections to tasks that are gone cannot be cut, so services cannot change";
                note(
                    "connection tracking over netlink is",
                    steer(&scratch, V4, true).await,
                    consequence,
                    false,
                );
            }
        }
        let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        let ipv6 =
            ipv6.then_some(()).ok_or_else(|| "the kernel has it not, or it is switched off".to_owned());
        note("IPv6 is", ipv6, "networks with IPv6 do not work", false);
        let lacks_for_encryption = self.lacks.is_empty().then_some(()).ok_or_else(|| self.lacks.to_string());
        note("encryption is", lacks_for_encryption, "no task of an encrypted network runs here", false);
        lacks.sort_by_key(|lack| !lack.fatal);
        lacks
    }
}

type Request = netlink_packet_route::RouteNetlinkMessage;

fn devices(scratch: &File) -> [(&'static str, Request, &'static str, bool); 3] {
    let bare = Link::bare(Kind::Veth(None));
    let far = Target { name: "far", link: &bare, namespace: scratch.as_fd() };
    let vxlan = Vxlan { vni: 1, port: 4789, local: None, learning: false, proxy: true };
    [
        ("bridge devices are", link::bridge("bridge", &bare), NO_TASK, true),
        ("veth devices are", link::veth("near", &bare, None, &far), NO_TASK, true),
        (
            "VXLAN devices are",
            link::vxlan("tunnel", &bare, &vxlan, None, scratch.as_fd()),
            "overlay networks do not work, and tasks on them are rejected",
            false,
        ),
    ]
}

async fn attempt(scratch: &File, request: Request) -> Result<(), String> {
    let netlink = Netlink::open(Some(scratch)).await.map_err(|error| error.to_string())?;
    netlink.apply(request, Mode::Create).await.map_err(|refusal| refusal.to_string())
}

/// A virtual address and backends, of the networks for documentation.
const V4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const V6: [&str; 3] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];

/// Brings a service about as in a task's namespace. `change`: and takes a backend from it, or fails for another reason.
async fn steer(scratch: &File, addresses: [&'static str; 3], change: bool) -> Result<(), String> {
    let work = move || {
        let mut known = None;
        let made = settle(&wanted(addresses, 3), &mut known);
        if !change {
            return made.map(drop);
        }
        // What keeps a service from being made is told apart.
        if made.is_err() { Ok(()) } else { settle(&wanted(addresses, 2), &mut known).map(drop) }
    };
    let settled: Result<Result<(), Refusal>, _> = netns::within(Some(scratch), work).await;
    settled.map_err(|error| error.to_string())?.map_err(|refusal| refusal.to_string())
}

fn wanted(addresses: [&str; 3], count: usize) -> Steering {
    let addresses: Vec<IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let backends = addresses.iter().take(count).skip(1).copied().collect();
    let service = Arc::new(Service { backends, ..Service::default() });
    let services: Services = addresses.first().map(|address| (*address, service)).into_iter().collect();
    Steering { resolver: true, services: std::iter::once(services).collect() }
}
