//! The last look at a lab's swarm, after every story: no address and no network identifier is in use twice, and none
//! outside of its network; and no node had to mend its kernel.
//!
//! By what a manager shows to everybody. Objects are read one after the other while the swarm goes on, so what looks
//! wrong once is looked at again: what is wrong stays.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use crate::host::Host;

/// A manager that answers at all does so at once.
const BOUND: Duration = Duration::from_secs(5);
const LOOKS: usize = 3;

/// States in which a task has given its addresses back.
const ENDED: [&str; 6] = ["complete", "shutdown", "failed", "rejected", "remove", "orphaned"];

/// What is wrong in the swarm of the first host that can tell; nothing if there is none.
pub(crate) fn flaws(hosts: &[Host]) -> Vec<String> {
    let Some(manager) = hosts.iter().find(|host| host.runs() && read(host, &["network", "ls"]).is_some())
    else {
        return Vec::new();
    };
    let mut seen: Option<Vec<String>> = None;
    for _ in 0..LOOKS {
        let Some(swarm) = Swarm::read(manager) else { continue };
        let flaws = swarm.flaws();
        if flaws.is_empty() || seen.as_ref() == Some(&flaws) {
            return flaws;
        }
        seen = Some(flaws);
    }
    Vec::new()
}

/// What nodes find wrong in their own kernels, or have found since they started: nobody but they should have changed
/// anything there. A node that has something else to do, or waits for a manager, is not asked to the end.
pub(crate) fn mended(hosts: &[Host]) -> Vec<String> {
    let of = |host: &Host| {
        let output = host.ctl_within(BOUND, &["network", "audit", "--format", "json"]);
        let audit: Option<Value> = serde_json::from_str(&output.stdout).ok();
        let audit = audit.or_else(|| read(host, &["info"])?.into_iter().next())?;
        let count = audit["NetworkMended"].as_u64()?;
        (count > 0).then(|| format!("{} mended its network: {audit}\n{}", host.name(), mendings(host)))
    };
    hosts.iter().filter(|host| host.runs()).filter_map(of).collect()
}

fn mendings(host: &Host) -> String {
    let log = host.logged();
    log.lines().filter(|line| line.contains("mended the node's network")).collect::<Vec<_>>().join("\n")
}

/// Objects as `swarmctl` shows them.
#[derive(Debug, Default)]
struct Swarm {
    networks: Vec<Value>,
    services: Vec<Value>,
    /// Rows of the list: one answer, so true at one moment.
    tasks: Vec<Value>,
}

fn read(host: &Host, arguments: &[&str]) -> Option<Vec<Value>> {
    let output = host.ctl_within(BOUND, &[arguments, &["--format", "json"]].concat());
    let values = serde_json::Deserializer::from_str(&output.stdout).into_iter::<Value>();
    let values: Vec<Value> = values.collect::<Result<_, _>>().ok().filter(|_| output.succeeded())?;
    let flat = |value| if let Value::Array(list) = value { list } else { vec![value] };
    Some(values.into_iter().flat_map(flat).collect())
}

/// Each object in detail; none if one has gone meanwhile.
fn read_all(host: &Host, object: &str) -> Option<Vec<Value>> {
    let rows = read(host, &[object, "ls"])?;
    let ids: Vec<&str> = rows.iter().filter_map(|row| row["ID"].as_str()).collect();
    if ids.is_empty() { Some(Vec::new()) } else { read(host, &[&[object, "inspect"], &ids[..]].concat()) }
}

impl Swarm {
    fn read(manager: &Host) -> Option<Self> {
        Some(Self {
            networks: read_all(manager, "network")?,
            services: read_all(manager, "service")?,
            tasks: read(manager, &["task", "ls"])?,
        })
    }

    fn flaws(&self) -> Vec<String> {
        let mut flaws = Vec::new();
        let given: Vec<&Value> =
            self.networks.iter().filter(|network| network["ConfigOnly"] != true).collect();
        let subnets: Vec<IpNet> =
            given.iter().flat_map(|network| texts(&network["IPAM"]["Config"], "Subnet")).collect();
        for (position, subnet) in subnets.iter().enumerate() {
            let overlaps = |other: &&IpNet| subnet.contains(*other) || other.contains(subnet);
            flaws.extend(
                subnets[position + 1..].iter().filter(overlaps).map(|o| format!("{subnet} overlaps {o}")),
            );
        }
        let vnis = given.iter().filter_map(|network| {
            let options = network["Options"].as_object()?;
            let vni = options.iter().find(|(name, _)| name.ends_with("vxlanid_list"))?.1.as_str()?;
            Some((vni.to_owned(), name(network)))
        });
        flaws.extend(shared(vnis));
        let held: Vec<(IpNet, String)> = self.held(&given).collect();
        for (address, holder) in &held {
            let of = |subnet: &&IpNet| **subnet == address.trunc() && is_host(subnet, address.addr());
            if !subnets.iter().any(|subnet| of(&subnet)) {
                flaws.push(format!("{holder} has {address}, which is in no network"));
            }
        }
        flaws.extend(shared(held.into_iter().map(|(address, holder)| (address.addr().to_string(), holder))));
        flaws
    }

    /// Addresses with their masks, and who has them.
    fn held<'a>(&'a self, networks: &'a [&Value]) -> impl Iterator<Item = (IpNet, String)> + 'a {
        let live = self.tasks.iter().filter(|task| !ENDED.iter().any(|ended| task["State"] == *ended));
        let tasks = live.flat_map(|task| {
            let addresses = task["Addresses"].as_str().unwrap_or_default().split(", ");
            addresses.filter_map(|address| Some((address.parse().ok()?, format!("task {}", task["ID"]))))
        });
        let services = self.services.iter().flat_map(|service| {
            let vips = texts(&service["Endpoint"]["VirtualIPs"], "Addr");
            vips.into_iter().map(|vip: IpNet| (vip, format!("service {}", service["ID"])))
        });
        let gateways = networks.iter().flat_map(|network| {
            let configs = network["IPAM"]["Config"].as_array().into_iter().flatten();
            let gateway = |config: &Value| {
                let (subnet, gateway): (IpNet, IpAddr) =
                    (text(&config["Subnet"])?, text(&config["Gateway"])?);
                Some((
                    IpNet::new(gateway, subnet.prefix_len()).ok()?,
                    format!("gateway of {}", name(network)),
                ))
            };
            configs.filter_map(gateway).collect::<Vec<_>>()
        });
        tasks.chain(services).chain(gateways)
    }
}

fn is_host(subnet: &IpNet, address: IpAddr) -> bool {
    let roomy = subnet.max_prefix_len() - subnet.prefix_len() >= 2;
    let broadcast = address.is_ipv4() && address == subnet.broadcast();
    !roomy || (address != subnet.network() && !broadcast)
}

/// What several have that one alone may have.
fn shared(pairs: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (what, holder) in pairs {
        holders.entry(what).or_default().push(holder);
    }
    let shared = holders.into_iter().filter(|(_, holders)| holders.len() > 1);
    shared.map(|(what, holders)| format!("{what} is had by {}", holders.join(" and "))).collect()
}

fn name(network: &Value) -> String {
    format!("network {}", network["Name"])
}

fn text<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

/// A member of each object in a list, as far as it is there.
fn texts<T: std::str::FromStr>(list: &Value, member: &str) -> Vec<T> {
    list.as_array().into_iter().flatten().filter_map(|object| text(&object[member])).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn swarm() -> Swarm {
        let option = "com.docker.network.driver.overlay.vxlanid_list";
        let network = |name: &str, vni: &str, subnet: &str, gateway: &str| {
            let config = json!([{ "Subnet": subnet, "Gateway": gateway }]);
            json!({ "Name": name, "IPAM": { "Config": config }, "Options": { option: vni } })
        };
        let task = |id: &str, state: &str, addresses: &str| json!({ "ID": id, "State": state, "Addresses": addresses });
        Swarm {
            networks: vec![
                network("a", "4097", "10.0.1.0/24", "10.0.1.1"),
                network("b", "4098", "10.0.2.0/24", "10.0.2.1"),
            ],
            services: vec![json!({ "ID": "s", "Endpoint": { "VirtualIPs": [{ "Addr": "10.0.1.2/24" }] } })],
            tasks: vec![
                task("t1", "running", "10.0.1.3/24, 10.0.2.3/24"),
                task("t2", "failed", "10.0.1.3/24"),
                task("t3", "new", ""),
            ],
        }
    }

    fn found(change: impl FnOnce(&mut Swarm)) -> Vec<String> {
        let mut swarm = swarm();
        change(&mut swarm);
        swarm.flaws()
    }

    #[test]
    fn a_sound_swarm_has_no_flaw_and_each_other_its_own() {
        assert_eq!(found(|_| ()), [""; 0]);
        let twice = found(|swarm| swarm.tasks[1]["State"] = "running".into());
        assert_eq!(twice, ["10.0.1.3 is had by task \"t1\" and task \"t2\""]);
        let vip = found(|swarm| swarm.tasks[0]["Addresses"] = "10.0.1.2/24".into());
        assert_eq!(vip, ["10.0.1.2 is had by task \"t1\" and service \"s\""]);
        let outside = found(|swarm| swarm.tasks[0]["Addresses"] = "10.0.1.255/24, 10.0.3.3/24".into());
        assert_eq!(outside.len(), 2, "{outside:?}");
        let gateway = found(|swarm| swarm.tasks[0]["Addresses"] = "10.0.2.1/24".into());
        assert_eq!(gateway, ["10.0.2.1 is had by task \"t1\" and gateway of network \"b\""]);
        let option = "com.docker.network.driver.overlay.vxlanid_list";
        assert_eq!(found(|swarm| swarm.networks[1]["Options"][option] = "4097".into()).len(), 1);
        assert_eq!(
            found(|swarm| swarm.networks[1]["IPAM"]["Config"][0]["Subnet"] = "10.0.0.0/16".into()).len(),
            2
        );
    }
}
