//! `swarm ca`: shows the root certificate, or replaces it and follows that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use proto::model::{Cluster, Node};
use proto::wire::{CaConfig, ClusterSpec, UpdateClusterRequest, Version};

use crate::client::{Answer as _, Client};
use crate::{resolve, units};

/// How often the managers are asked.
const PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct Ca {
    /// Replace the root certificate by a new one, or by that of --ca-cert
    #[arg(long)]
    rotate: bool,
    /// Certificate of the new root (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["rotate", "ca_key"])]
    ca_cert: Option<PathBuf>,
    /// Its key (PKCS#8 PEM, on the curve P-256)
    #[arg(long, value_name = "FILE", requires_all = ["rotate", "ca_cert"])]
    ca_key: Option<PathBuf>,
    /// Validity of node certificates from now on
    #[arg(long, value_name = "DURATION", value_parser = units::duration, requires = "rotate")]
    cert_expiry: Option<Duration>,
    /// Do not wait until all nodes have certificates of the new root
    #[arg(short, long)]
    detach: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Ca {
    pub async fn run(self, client: &Client) -> Result<()> {
        let cluster = resolve::cluster(client).await?;
        if !self.rotate {
            return print(&cluster);
        }
        self.begin(client, &cluster).await?;
        if self.detach { Ok(()) } else { follow(client, self.quiet).await }
    }

    async fn begin(&self, client: &Client, cluster: &Cluster) -> Result<()> {
        let mut spec = ClusterSpec::from(&cluster.spec);
        let mut ca = spec.ca_config.take().unwrap_or_default();
        if let Some(expiry) = self.cert_expiry {
            ca.node_cert_expiry = expiry.try_into().ok();
        }
        spec.ca_config = Some(match (&self.ca_cert, &self.ca_key) {
            (Some(cert), Some(key)) => {
                CaConfig { signing_ca_cert: read(cert)?, signing_ca_key: read(key)?, ..ca }
            }
            _ => CaConfig { force_rotate: ca.force_rotate + 1, ..ca },
        });
        let request = UpdateClusterRequest {
            cluster_id: cluster.id.to_string(),
            cluster_version: Some(Version { index: cluster.meta.version }),
            spec: Some(spec),
            rotation: None,
        };
        client.control().update_cluster(request).await.answer().map(drop)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The root that the swarm has, or shall have.
fn desired(cluster: &Cluster) -> &[u8] {
    cluster.root_ca.rotation.as_ref().map_or(&cluster.root_ca.cert, |rotation| &rotation.cert)
}

fn print(cluster: &Cluster) -> Result<()> {
    println!("{}", String::from_utf8_lossy(desired(cluster)).trim());
    Ok(())
}

/// Where the rotation is.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    total: usize,
    /// Have told that the new root has issued their certificates.
    renewed: usize,
    /// Trust the new root alone.
    trusting: usize,
    done: bool,
}

impl Progress {
    fn of(cluster: &Cluster, nodes: &[Node]) -> Self {
        let told = || nodes.iter().filter_map(|node| node.description.as_ref()?.tls.as_ref());
        let total = nodes.len();
        let Some(rotation) = &cluster.root_ca.rotation else {
            let trusting = told().filter(|tls| tls.trust_root == cluster.root_ca.cert).count();
            return Self { total, renewed: total, trusting, done: trusting == total };
        };
        // A certificate holds its key as it is told.
        let next = der(&rotation.cert);
        let is_next = |key: &[u8]| !key.is_empty() && next.windows(key.len()).any(|part| part == key);
        let renewed = told().filter(|tls| is_next(&tls.issuer_public_key)).count();
        Self { total, renewed, trusting: 0, done: false }
    }

    fn line(&self) -> String {
        let Self { total, renewed, trusting, .. } = self;
        format!(
            "rotated TLS certificates: {renewed}/{total} nodes, rotated CA certificates: {trusting}/{total} nodes"
        )
    }
}

/// What is in a block of PEM; nothing if that is none.
fn der(pem: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(pem);
    let digits: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(digits).unwrap_or_default()
}

/// Leaving early changes nothing of what the managers do.
async fn follow(client: &Client, quiet: bool) -> Result<()> {
    let mut last = String::new();
    loop {
        let cluster = resolve::cluster(client).await?;
        let progress = Progress::of(&cluster, &resolve::nodes(client).await?);
        if !quiet && progress.line() != last {
            last = progress.line();
            eprintln!("{last}");
        }
        if progress.done {
            return if quiet { Ok(()) } else { print(&cluster) };
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_pem_is_read() {
        assert_eq!(der(b"-----BEGIN X-----\nAQID\n-----END X-----\n"), [1, 2, 3]);
        assert!(der(b"text").is_empty() || der(b"?").is_empty());
    }
}
