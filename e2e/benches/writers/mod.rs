//! Clients that write: one object at a time, each with a payload of the same size, to whichever side.
//!
//! An object is a service without replicas, a key of etcd or one of Docker's configs: the service is the largest of
//! them, and the only one that control loops look at. All sides are spoken to over the unix socket of each member,
//! without TLS, by HTTP/2 (gRPC) or, as Docker has it, HTTP/1.1.

#![allow(dead_code, reason = "no bench uses all of it")]

mod engine;
mod etcd;
mod swarmd;

use e2e::etcd::Etcd;
use e2e::peer::Peer;
use e2e::{Host, Lab, busy_ticks};
use tonic::transport::{Channel, Endpoint};

/// Of a label, a value or a config.
const PAYLOAD_BYTES: usize = 256;

/// One side of a contest.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: &'static str,
    speaks: Protocol,
    /// Of each member.
    pub sockets: Vec<String>,
    pids: Vec<i32>,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Control,
    KeyValue,
    Engine,
}

impl Group {
    pub fn of_swarmd(lab: &Lab) -> Self {
        Self::of_hosts(lab.hosts())
    }

    /// Managers of one swarm.
    pub fn of_hosts(hosts: &[Host]) -> Self {
        let socket = |host: &Host| host.socket().trim_start_matches("unix://").to_owned();
        let sockets = hosts.iter().map(socket).collect();
        let pids = hosts.iter().map(Host::pid).collect();
        Self { name: "swarmd", speaks: Protocol::Control, sockets, pids }
    }

    pub fn of_etcd(etcd: &Etcd<'_>) -> Self {
        Self { name: "etcd", speaks: Protocol::KeyValue, sockets: etcd.sockets(), pids: etcd.pids() }
    }

    pub fn of_docker(peer: &Peer<'_>) -> Self {
        let sockets = peer.daemons().iter().map(|daemon| daemon.socket_path()).collect();
        let pids = peer.daemons().iter().map(|daemon| daemon.pid()).collect();
        Self { name: "docker", speaks: Protocol::Engine, sockets, pids }
    }

    /// Processor time of all members so far.
    pub fn busy_seconds(&self) -> f64 {
        self.pids.iter().filter_map(|pid| busy_ticks(*pid)).sum::<u64>() as f64 / 100.0
    }

    /// Which member of etcd leads, from 0; none of the others does.
    pub async fn etcd_leader(&self) -> Option<usize> {
        for number in 0..self.sockets.len() {
            if let Ok(Connection::Etcd(mut client)) = self.connect(number).await
                && client.leads().await == Ok(true)
            {
                return Some(number);
            }
        }
        None
    }

    /// How many bytes etcd sends if it is asked for a snapshot.
    pub async fn snapshot_bytes(&self) -> usize {
        match self.connect(0).await {
            Ok(Connection::Etcd(mut client)) => client.snapshot_bytes().await.unwrap_or_default(),
            _ => 0,
        }
    }

    /// A client's own connection to member `number`, from 0.
    pub async fn connect(&self, number: usize) -> Result<Connection, String> {
        let socket = &self.sockets[number];
        Ok(match self.speaks {
            Protocol::Control => Connection::Swarmd(swarmd::Client::new(channel(socket).await?)),
            Protocol::KeyValue => Connection::Etcd(etcd::Client::new(channel(socket).await?)),
            Protocol::Engine => Connection::Docker(engine::Client::connect(socket).await?),
        })
    }
}

async fn channel(socket: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::try_from(format!("unix://{socket}")).map_err(|error| error.to_string())?;
    endpoint.connect().await.map_err(|error| format!("cannot connect to {socket}: {error:?}"))
}

#[derive(Debug)]
pub enum Connection {
    Swarmd(swarmd::Client),
    Etcd(etcd::Client),
    Docker(engine::Client),
}

impl Connection {
    /// Creates an object that does not exist yet. The error is what the member said.
    pub async fn create(&mut self, name: &str) -> Result<(), String> {
        match self {
            Self::Swarmd(client) => client.create_service(name).await,
            Self::Etcd(client) => client.put(name).await,
            Self::Docker(client) => client.create_config(name).await,
        }
    }
}

/// Text that differs from name to name.
fn payload(name: &str) -> String {
    name.chars().chain(std::iter::once('-')).cycle().take(PAYLOAD_BYTES).collect()
}
