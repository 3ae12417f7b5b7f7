//! `swarm ca`: shows the root certificate, or replaces it and follows that.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use proto::model::{Cluster, Node};
use proto::wire::{ClusterSpec, UpdateClusterRequest, Version};

use super::external_ca::{self, ExternalCa, read};
use crate::client::{Answer as _, Client};
use crate::reading::Reading;
use crate::{resolve, units};

/// How often the managers are asked.
const PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct Ca {
    /// Replace the root certificate by a new one, or by that of --ca-cert
    #[arg(long)]
    rotate: bool,
    /// Certificate of the new root (PEM), whose key is in --ca-key, or with an --external-ca
    #[arg(long, value_name = "FILE", requires = "rotate")]
    ca_cert: Option<PathBuf>,
    /// Its key (PKCS#8 PEM, on the curve P-256)
    #[arg(long, value_name = "FILE", requires_all = ["rotate", "ca_cert"])]
    ca_key: Option<PathBuf>,
    /// Who signs in the name of the new root: protocol=cfssl,url=https://...[,cacert=FILE]; may be given several times
    /// [default of cacert: --ca-cert]
    #[arg(long, value_name = "SIGNER", requires = "rotate")]
    external_ca: Vec<ExternalCa>,
    /// Validity of node certificates from now on
    #[arg(long, value_name = "DURATION", value_parser = units::duration, requires = "rotate")]
    cert_expiry: Option<Duration>,
    /// Do not wait until all nodes have certificates of the new root
    #[arg(short, long)]
    detach: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    reading: Reading,
}

impl Ca {
    pub async fn run(self, client: &Client) -> Result<()> {
        let reader = client.reading_unless(self.rotate, self.reading);
        let cluster = resolve::cluster(&reader).await?;
        if !self.rotate {
            return print(&cluster);
        }
        if self.ca_cert.is_some() && self.ca_key.is_none() && self.external_ca.is_empty() {
            bail!("--ca-cert: its key must be given with --ca-key, or who has it with --external-ca");
        }
        self.begin(client, &cluster).await?;
        if self.detach {
            return Ok(());
        }
        follow(client, self.quiet).await?;
        if self.quiet { Ok(()) } else { print(&resolve::cluster(client).await?) }
    }

    async fn begin(&self, client: &Client, cluster: &Cluster) -> Result<()> {
        let mut spec = ClusterSpec::from(&cluster.spec);
        let mut ca = spec.ca_config.take().unwrap_or_default();
        if let Some(expiry) = self.cert_expiry {
            ca.node_cert_expiry = expiry.try_into().ok();
        }
        match &self.ca_cert {
            Some(cert) => ca.signing_ca_cert = read(cert)?,
            None => ca.force_rotate += 1,
        }
        ca.signing_ca_key = self.ca_key.as_deref().map_or_else(|| Ok(Vec::new()), read)?;
        if !self.external_ca.is_empty() {
            ca.external_cas = external_ca::read_all(&self.external_ca, &ca.signing_ca_cert)?;
        }
        spec.ca_config = Some(ca);
        change(client, cluster, spec).await
    }
}

/// Begins what `spec` says of the root.
pub async fn change(client: &Client, cluster: &Cluster, spec: ClusterSpec) -> Result<()> {
    let request = UpdateClusterRequest {
        cluster_id: cluster.id.to_string(),
        cluster_version: Some(Version { index: cluster.meta.version }),
        spec: Some(spec),
        rotation: None,
    };
    client.control().update_cluster(request).await.answer().map(drop)
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
pub async fn follow(client: &Client, quiet: bool) -> Result<()> {
    let mut last = String::new();
    loop {
        let cluster = resolve::cluster(client).await?;
        let progress = Progress::of(&cluster, &resolve::nodes(client).await?);
        if !quiet && progress.line() != last {
            last = progress.line();
            eprintln!("{last}");
        }
        if progress.done {
            return Ok(());
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
