//! A kernel for tests: what exists is a record, and removals can be held up.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use netdriver::{Action, Change, Desired, NetworkKey, Place, ResolverSockets, SandboxKey, Scope, Subject};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::sync::watch;
use worker::network::{Kernel, Outcome};

#[derive(Default)]
pub struct FakeKernel {
    world: watch::Sender<Desired>,
    /// Removals of sandboxes wait while this holds.
    pub blocked: watch::Sender<bool>,
    /// Passes begun, by what they covered.
    pub passes: watch::Sender<Vec<Scope>>,
    /// The next pass fails for these.
    pub faults: Mutex<Vec<(Subject, String)>>,
    /// Where the resolver of a sandbox listens, in the test's own namespace.
    pub resolvers: watch::Sender<BTreeMap<SandboxKey, SocketAddr>>,
}

impl FakeKernel {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn world(&self) -> Desired {
        self.world.borrow().clone()
    }

    pub fn put(&self, world: Desired) {
        self.world.send_replace(world);
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Desired) -> bool) {
        super::lab::seen(&self.world, what, |world| holds(world).then_some(())).await;
    }

    fn bring(&self, desired: &Desired, networks: &[NetworkKey], sandboxes: &[SandboxKey]) {
        self.world.send_modify(|world| {
            for key in networks {
                match desired.networks.get(key) {
                    Some(overlay) => _ = world.networks.insert(key.clone(), overlay.clone()),
                    None => _ = world.networks.remove(key),
                }
            }
            for key in sandboxes {
                match desired.sandboxes.get(key) {
                    Some(sandbox) => _ = world.sandboxes.insert(key.clone(), sandbox.clone()),
                    None => _ = world.sandboxes.remove(key),
                }
            }
            let attachments = sandboxes.iter().filter_map(|key| desired.sandboxes.get(key));
            for attachment in attachments.flat_map(|sandbox| &sandbox.attachments) {
                let overlay = desired.networks[&attachment.network].clone();
                world.networks.entry(attachment.network.clone()).or_insert(overlay);
            }
        });
    }
}

#[async_trait::async_trait]
impl Kernel for FakeKernel {
    async fn ensure(&self, desired: &Desired, scope: Scope) -> Outcome {
        self.passes.send_modify(|passes| passes.push(scope.clone()));
        let before = self.world();
        let (networks, sandboxes) = match scope {
            Scope::Only { networks, sandboxes } => {
                (networks.into_iter().collect::<Vec<_>>(), sandboxes.into_iter().collect::<Vec<_>>())
            }
            Scope::All => (
                before.networks.keys().chain(desired.networks.keys()).cloned().collect(),
                before.sandboxes.keys().chain(desired.sandboxes.keys()).cloned().collect(),
            ),
        };
        if sandboxes.iter().any(|key| !desired.sandboxes.contains_key(key)) {
            let mut blocked = self.blocked.subscribe();
            blocked.wait_for(|blocked| !blocked).await.unwrap();
        }
        let errors = std::mem::take(&mut *self.faults.lock().unwrap());
        if errors.is_empty() {
            self.bring(desired, &networks, &sandboxes);
        }
        let change = Action { place: Place::Host, change: Change::RemoveRules };
        let changes = if self.world() == before { vec![] } else { vec![change] };
        Outcome { changes, errors, ..Outcome::default() }
    }

    fn sandbox_path(&self, key: &SandboxKey) -> PathBuf {
        format!("/netns/s-{key}").into()
    }

    async fn resolver_sockets(&self, key: &SandboxKey) -> io::Result<ResolverSockets> {
        // A port that is free for UDP may be in use for TCP.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            match TcpListener::bind(udp.local_addr()?).await {
                Ok(tcp) => break (udp, tcp),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        };
        self.resolvers.send_modify(|known| _ = known.insert(key.clone(), udp.local_addr().unwrap()));
        Ok(ResolverSockets { udp, tcp })
    }

    async fn udp_towards(&self, _: &SandboxKey, remote: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(remote).await?;
        Ok(socket)
    }

    async fn tcp_towards(&self, _: &SandboxKey, _: SocketAddr) -> io::Result<TcpSocket> {
        TcpSocket::new_v4()
    }

    async fn routes(&self) -> std::collections::BTreeSet<ipnet::IpNet> {
        std::collections::BTreeSet::from(["192.168.77.0/24".parse().unwrap()])
    }
}
