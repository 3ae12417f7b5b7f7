//! What was seen and told, in the words of the wire. Pure.

use netdriver::{
    Connected, Echoed, Far, Heard, Link, Passage, Probed, Sight, Table, View, mac_for, vxlan_of,
};
use proto::model::{NetworkId, TaskId};
use proto::network as wire;

use crate::network::{Endpoint, Known, Place, Told, network_key, sandbox_key};

/// Backends that are told of one service.
const MOST_BACKENDS: usize = 4096;

/// The task's place on the network, and the number of its interface.
pub fn place<'a>(known: &'a Known, network: &NetworkId) -> Result<(usize, &'a Place), String> {
    let mut places = known.wish.places.iter().enumerate();
    let found = places.find(|(_, place)| place.network.id == *network);
    found.ok_or_else(|| "it has the task, but not on that network".to_owned())
}

pub fn view(task: &TaskId, network: &NetworkId, known: &Known, look: &wire::Look) -> Result<View, String> {
    let (position, place) = place(known, network)?;
    let underlay = known.underlay.ok_or("it knows no tunnel end of its own yet")?;
    let addresses: Vec<_> = place.addresses.iter().map(|net| net.addr()).collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let address = |text: &str| text.parse().map_err(|_| format!("{text:?} is no address"));
    let far = look.far.as_ref().map(|far| {
        let mac = <[u8; 6]>::try_from(far.mac.as_slice()).map_err(|_| "a MAC has 6 bytes".to_owned())?;
        Ok::<_, String>(Far {
            address: address(&far.address)?,
            mac: netdriver::Mac(mac),
            vtep: address(&far.vtep)?,
        })
    });
    let virtual_ip = Some(&look.virtual_ip).filter(|text| !text.is_empty());
    Ok(View {
        sandbox: sandbox_key(task),
        position,
        network: network_key(network),
        vni: place.network.vni,
        encrypted: place.network.encrypted,
        local: underlay.local,
        mac: mac_for(*first.ok_or("the task has no address")?),
        addresses,
        virtual_ip: virtual_ip.map(|text| address(text)).transpose()?,
        far: far.transpose()?,
    })
}

pub fn facts(known: &Known, look: &wire::Look, view: &View, sight: &Sight) -> wire::Facts {
    let vxlan = sight.tunnel.as_ref().and_then(|(_, link)| vxlan_of(link));
    let (table, backends) = table(sight.table.as_ref());
    wire::Facts {
        index: known.told.as_ref().map(|told| told.index).unwrap_or_default(),
        told: known.told.as_ref().and_then(|told| told_of(told, look)),
        told_backends: known.told.as_ref().map(|told| told_backends(told, view)).unwrap_or_default(),
        interface: sight.interface.as_ref().map(device),
        port: sight.port.as_ref().map(device),
        bridge: sight.bridge.as_ref().map(device),
        tunnel: sight.tunnel.as_ref().map(device),
        vni: vxlan.map(|vxlan| vxlan.vni).unwrap_or_default(),
        udp_port: vxlan.map(|vxlan| vxlan.port.into()).unwrap_or_default(),
        local: vxlan.and_then(|vxlan| vxlan.local).map(|local| local.to_string()).unwrap_or_default(),
        addressed: sight.addressed,
        stationed: sight.stationed,
        neighbour: sight.neighbour.map(|mac| mac.0.to_vec()).unwrap_or_default(),
        forwarding: sight.forwarding.map(|vtep| vtep.to_string()).unwrap_or_default(),
        table: table.into(),
        backends,
        underlay: sight.underlay.as_ref().map(route),
        keys: sight.keys.as_ref().map(keys),
        listening: sight.listening.iter().map(ToString::to_string).collect(),
    }
}

fn told_of(told: &Told, look: &wire::Look) -> Option<wire::Far> {
    let far = look.far.as_ref()?;
    let endpoint: &Endpoint = told.book.endpoint(&far.task_id.as_str().into())?;
    let addresses = endpoint.peer.addresses.iter().map(ToString::to_string);
    let same = addresses.clone().find(|address| *address == far.address);
    Some(wire::Far {
        task_id: far.task_id.clone(),
        address: same.or_else(|| addresses.clone().next()).unwrap_or_default(),
        mac: endpoint.peer.mac.0.to_vec(),
        vtep: endpoint.peer.vtep.to_string(),
    })
}

fn told_backends(told: &Told, view: &View) -> Vec<String> {
    let service = view.virtual_ip.and_then(|address| told.services.get(&address));
    let backends = service.into_iter().flat_map(|service| &service.backends);
    backends.take(MOST_BACKENDS).map(ToString::to_string).collect()
}

fn table(seen: Option<&Table>) -> (wire::Table, Vec<String>) {
    match seen {
        None => (wire::Table::NotAsked, vec![]),
        Some(Table::Absent) => (wire::Table::Absent, vec![]),
        Some(Table::Strange) => (wire::Table::Strange, vec![]),
        Some(Table::Without) => (wire::Table::Without, vec![]),
        Some(Table::Backends(backends)) => {
            let backends = backends.iter().take(MOST_BACKENDS).map(ToString::to_string);
            (wire::Table::Present, backends.collect())
        }
    }
}

fn device((name, link): &(String, Link)) -> wire::Device {
    wire::Device {
        name: name.clone(),
        up: link.up,
        mtu: link.mtu.unwrap_or_default(),
        master: link.master.clone().unwrap_or_default(),
    }
}

fn route(route: &Result<netdriver::Underlay, String>) -> wire::Route {
    match route {
        Ok(route) => wire::Route {
            error: String::new(),
            device: route.device.clone(),
            mtu: route.mtu,
            via: route.via.map(|via| via.to_string()).unwrap_or_default(),
            source: route.source.map(|source| source.to_string()).unwrap_or_default(),
            inner_bytes: route.inner_bytes,
        },
        Err(error) => wire::Route { error: error.clone(), ..wire::Route::default() },
    }
}

fn keys(keys: &netdriver::Keys) -> wire::KeysSeen {
    let associations = keys.associations.iter().map(|seen| wire::Association {
        outgoing: seen.outgoing,
        spi: seen.spi,
        fingerprint: seen.fingerprint.to_vec(),
    });
    wire::KeysSeen { sending: keys.sending.unwrap_or_default(), associations: associations.collect() }
}

pub fn heard(heard: Heard) -> wire::HeardOf {
    let passage = |passage: Passage| wire::Passage {
        request: passage.request,
        full_request: passage.full_request,
        reply: passage.reply,
        full_reply: passage.full_reply,
    };
    wire::HeardOf {
        task: Some(passage(heard.task)),
        tunnel: Some(passage(heard.tunnel)),
        underlay: Some(passage(heard.underlay)),
    }
}

pub fn probed(probed: &Probed, heard_of: Heard) -> wire::Probed {
    wire::Probed {
        small: Some(echo(&probed.small)),
        full: Some(echo(&probed.full)),
        largest: probed.largest.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or_default(),
        connection: probed.connection.as_ref().map(connection),
        virtual_echo: probed.virtual_echo.as_ref().map(echo),
        virtual_connection: probed.virtual_connection.as_ref().map(connection),
        heard: Some(heard(heard_of)),
    }
}

fn echo(echoed: &Echoed) -> wire::Echo {
    match echoed {
        Echoed::Answered(after) => wire::Echo {
            answered: true,
            micros: u32::try_from(after.as_micros()).unwrap_or(u32::MAX),
            error: String::new(),
        },
        Echoed::Lost => wire::Echo::default(),
        Echoed::Unsendable(error) => wire::Echo { error: error.clone(), ..wire::Echo::default() },
    }
}

fn connection(connected: &Connected) -> wire::Connection {
    use wire::connection::State;
    let (state, error) = match connected {
        Connected::Yes => (State::Connected, String::new()),
        Connected::Refused => (State::Refused, String::new()),
        Connected::Silent => (State::Silent, String::new()),
        Connected::Failed(error) => (State::Failed, error.clone()),
    };
    wire::Connection { state: state.into(), error }
}
