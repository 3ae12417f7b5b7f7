//! The network part of a worker, with one task on the network, in a namespace that stands for its host.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netdriver::{Config, Desired, Netdriver, ResolverSockets, SandboxKey, Scope, Subject};
use proto::network::directory_client::DirectoryClient;
use proto::wire;
use proto::wire::dispatcher_client::DispatcherClient;
use tokio::net::{TcpSocket, UdpSocket};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use worker::network::{Keeper, Kernel, Networks, Outcome, Underlay, Wish};

use crate::parts::serve;

/// The real kernel, and how much was done in it.
struct Counted {
    driver: Netdriver,
    entries: AtomicU64,
    passes: AtomicU64,
    /// In the passes over networks.
    spent: Mutex<Duration>,
}

#[async_trait::async_trait]
impl Kernel for Counted {
    async fn ensure(&self, desired: &Desired, scope: Scope) -> Outcome {
        let begun = Instant::now();
        let report = self.driver.ensure(desired, scope).await;
        *self.spent.lock().unwrap() += begun.elapsed();
        self.passes.fetch_add(1, Ordering::Relaxed);
        let is_entry = |change: &&netdriver::Action| {
            let text = change.to_string();
            [" put ", " remove 02:", " remove neighbour"].iter().any(|kind| text.contains(kind))
        };
        self.entries.fetch_add(report.changes.iter().filter(is_entry).count() as u64, Ordering::Relaxed);
        let errors =
            report.errors.iter().map(|(subject, error): &(Subject, _)| (subject.clone(), error.to_string()));
        Outcome { changes: report.changes, errors: errors.collect(), lost: BTreeSet::new() }
    }

    fn sandbox_path(&self, key: &SandboxKey) -> PathBuf {
        self.driver.sandbox_path(key)
    }

    async fn resolver_sockets(&self, key: &SandboxKey) -> io::Result<ResolverSockets> {
        self.driver.resolver_sockets(key).await
    }

    async fn udp_towards(&self, key: &SandboxKey, remote: SocketAddr) -> io::Result<UdpSocket> {
        self.driver.udp_towards(key, remote).await
    }

    async fn tcp_towards(&self, key: &SandboxKey, remote: SocketAddr) -> io::Result<TcpSocket> {
        self.driver.tcp_towards(key, remote).await
    }

    async fn routes(&self) -> BTreeSet<ipnet::IpNet> {
        BTreeSet::new()
    }
}

pub fn run() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let netns = std::env::var("NETNS").unwrap();
    let config = Config {
        host_netns: Some(netns.into()),
        gateway_bridge: "dirbench0".into(),
        ..Config::new(dir.path().join("netns"))
    };
    let driver = runtime.block_on(Netdriver::open(config)).unwrap();
    let kernel = Arc::new(Counted {
        driver,
        entries: AtomicU64::new(0),
        passes: AtomicU64::new(0),
        spent: Mutex::default(),
    });
    let stop = CancellationToken::new();
    let (networks, running) =
        Networks::new(kernel.clone(), "node0".into(), None, Keeper::none(), stop.clone());
    runtime.spawn(running);
    serve(|words| match words {
        ["attach"] => {
            runtime.block_on(attach(&runtime, &networks));
            "attached".into()
        }
        ["entries"] => kernel.entries.load(Ordering::Relaxed).to_string(),
        ["passes"] => kernel.passes.load(Ordering::Relaxed).to_string(),
        ["seconds"] => kernel.spent.lock().unwrap().as_secs_f64().to_string(),
        _ => panic!("{words:?}"),
    });
    // Leaves nothing.
    runtime.block_on(networks.clear()).unwrap();
    stop.cancel();
    let all = std::fs::read_dir(dir.path().join("netns")).unwrap().flatten().map(|entry| entry.path());
    for path in all.chain([dir.path().join("netns")]) {
        let _ = std::process::Command::new("umount").arg("-l").arg(path).output();
    }
}

async fn attach(runtime: &tokio::runtime::Runtime, networks: &Networks) {
    networks.begin(Underlay::parse("192.0.2.1 4789").unwrap());
    let manager = format!("http://{}", std::env::var("MANAGER").unwrap());
    let channel = Endpoint::from_shared(manager).unwrap().connect().await.unwrap();
    let mut dispatcher = DispatcherClient::new(channel.clone());
    let description = Some(wire::NodeDescription::default());
    let request = wire::SessionRequest { description, ..Default::default() };
    let mut session = dispatcher.session(request).await.unwrap().into_inner();
    let session_id = session.message().await.unwrap().unwrap().session_id;
    let mut directory = DirectoryClient::new(channel).max_decoding_message_size(64 << 20);
    let request = networks.watch_request(&session_id).await;
    let mut updates = directory.watch(request).await.unwrap().into_inner();
    let hearing = networks.clone();
    // What nobody hears ends with time.
    runtime.spawn(async move { while let Ok(Some(_)) = session.message().await {} });
    runtime.spawn(async move {
        while let Some(told) = updates.message().await.unwrap() {
            hearing.update(told).await.unwrap();
        }
    });
    let beats = session_id;
    runtime.spawn(async move {
        loop {
            let request = wire::HeartbeatRequest { session_id: beats.clone() };
            if dispatcher.heartbeat(request).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    networks.attach("own".into(), Wish::read(&own()).unwrap()).await.unwrap();
}

/// As the manager would assign it.
fn own() -> wire::Task {
    let config =
        wire::IpamConfig { subnet: "10.0.0.0/16".into(), gateway: "10.0.0.1".into(), ..Default::default() };
    let options = [("com.docker.network.driver.overlay.vxlanid_list".to_owned(), "4097".to_owned())].into();
    let network = wire::Network {
        id: "net1".into(),
        spec: Some(wire::NetworkSpec {
            annotations: Some(wire::Annotations { name: "net".into(), ..Default::default() }),
            ..Default::default()
        }),
        driver_state: Some(wire::Driver { name: "overlay".into(), options }),
        ipam: Some(wire::IpamOptions { configs: vec![config], ..Default::default() }),
        ..Default::default()
    };
    let attachment = wire::NetworkAttachment {
        network: Some(network),
        addresses: vec!["10.0.238.96/16".into()],
        ..Default::default()
    };
    wire::Task {
        id: "own".into(),
        service_id: "service0".into(),
        networks: vec![attachment],
        ..Default::default()
    }
}
