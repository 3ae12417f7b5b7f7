//! What stands between the worker and `netdriver`, so that tests can put something else there.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use async_trait::async_trait;
use ipnet::IpNet;
use netdriver::{
    Action, Corrupted, Desired, Ears, Netdriver, NetworkKey, Probe, Probed, ResolverSockets, SandboxKey,
    Scope, Sight, Subject, Trail, View,
};
use tokio::net::{TcpSocket, UdpSocket};

/// What came of one pass.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub changes: Vec<Action>,
    /// Whom each failure concerns, and its causes in one line.
    pub errors: Vec<(Subject, String)>,
    /// Networks of which associations were lost: they need another incarnation of this node.
    pub lost: BTreeSet<NetworkKey>,
}

/// The kernel's networking; each method is that of [`Netdriver`] with the same name.
#[async_trait]
pub trait Kernel: Send + Sync + 'static {
    async fn ensure(&self, desired: &Desired, scope: Scope) -> Outcome;

    fn sandbox_path(&self, key: &SandboxKey) -> PathBuf;

    async fn resolver_sockets(&self, key: &SandboxKey) -> io::Result<ResolverSockets>;

    async fn udp_towards(&self, key: &SandboxKey, remote: SocketAddr) -> io::Result<UdpSocket>;

    async fn tcp_towards(&self, key: &SandboxKey, remote: SocketAddr) -> io::Result<TcpSocket>;

    /// Destinations of the node's own routes; see [`Netdriver::routes`]. None if they cannot be read.
    async fn routes(&self) -> BTreeSet<IpNet>;

    /// The host's device that has an address, and its MTU. None if there is none, or it cannot be told.
    async fn underlay(&self, _: IpAddr) -> Option<(String, u32)> {
        None
    }

    /// Packets with a wrong checksum that reached the tasks; see [`Netdriver::corrupted`].
    async fn corrupted(&self) -> Corrupted {
        Corrupted::new()
    }

    /// What the kernel lacks for encrypted networks; empty if it lacks nothing.
    fn lacks_for_encryption(&self) -> String {
        String::new()
    }

    async fn look(&self, _: &View) -> Result<Sight, String> {
        Err(NO_DIAGNOSIS.to_owned())
    }

    async fn listen(&self, _: &Trail) -> Result<Ears, String> {
        Err(NO_DIAGNOSIS.to_owned())
    }

    async fn probe(&self, _: &Probe) -> Result<Probed, String> {
        Err(NO_DIAGNOSIS.to_owned())
    }
}

const NO_DIAGNOSIS: &str = "this node's networking cannot be looked at";

#[async_trait]
impl Kernel for Netdriver {
    async fn ensure(&self, desired: &Desired, scope: Scope) -> Outcome {
        let report = Self::ensure(self, desired, scope).await;
        let errors = report.errors.iter().map(|(subject, error)| (subject.clone(), one_line(error)));
        let lost = report.errors.iter().filter(|(_, error)| error.needs_incarnation());
        let lost = lost.filter_map(|(subject, _)| match subject {
            Subject::Network(key) => Some(key.clone()),
            _ => None,
        });
        Outcome { errors: errors.collect(), lost: lost.collect(), changes: report.changes }
    }

    fn sandbox_path(&self, key: &SandboxKey) -> PathBuf {
        Self::sandbox_path(self, key)
    }

    async fn resolver_sockets(&self, key: &SandboxKey) -> io::Result<ResolverSockets> {
        Self::resolver_sockets(self, key).await
    }

    async fn udp_towards(&self, key: &SandboxKey, remote: SocketAddr) -> io::Result<UdpSocket> {
        Self::udp_towards(self, key, remote).await
    }

    async fn tcp_towards(&self, key: &SandboxKey, remote: SocketAddr) -> io::Result<TcpSocket> {
        Self::tcp_towards(self, key, remote).await
    }

    async fn routes(&self) -> BTreeSet<IpNet> {
        let routes = Self::routes(self).await;
        routes.unwrap_or_else(|error| {
            tracing::warn!(error = one_line(&error), "the managers are not told of this node's routes");
            BTreeSet::new()
        })
    }

    async fn underlay(&self, local: IpAddr) -> Option<(String, u32)> {
        Self::underlay(self, local).await.ok()
    }

    async fn corrupted(&self) -> Corrupted {
        Self::corrupted(self).await.unwrap_or_else(|error| {
            tracing::warn!(error = one_line(&error), "wrong checksums are not noticed");
            Corrupted::new()
        })
    }

    fn lacks_for_encryption(&self) -> String {
        Self::lacks_for_encryption(self).to_string()
    }

    async fn look(&self, view: &View) -> Result<Sight, String> {
        Self::look(self, view).await.map_err(|error| one_line(&error))
    }

    async fn listen(&self, trail: &Trail) -> Result<Ears, String> {
        Self::listen(self, trail).await.map_err(|error| one_line(&error))
    }

    async fn probe(&self, probe: &Probe) -> Result<Probed, String> {
        Ok(Self::probe(self, probe).await)
    }
}

fn one_line(error: &netdriver::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}
