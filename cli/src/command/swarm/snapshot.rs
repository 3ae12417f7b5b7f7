//! `swarm snapshot …`: the whole state of a swarm as a file.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use futures_util::Stream;
use proto::local::{
    InspectSnapshotRequest, InspectSnapshotResponse, RestoreSnapshotRequest, SaveSnapshotRequest,
};
use proto::wire::node_spec;
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::Availability;
use super::addresses::Addresses;
use crate::client::{Answer as _, Client, explain};
use crate::format::LinesFormat;
use crate::units;

/// Bytes of a part of the file, as it is sent.
const PART_BYTES: usize = 256 << 10;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the state of the swarm, as the manager on this node has it, to a file
    Save(Save),
    /// Make a swarm of what a file holds, with this node as its only manager
    Restore(Restore),
    /// Show what a file holds
    Inspect(Inspect),
}

impl Command {
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Save(command) => command.run(client).await,
            Self::Restore(command) => command.run(client).await,
            Self::Inspect(command) => command.run(client).await,
        }
    }
}

#[derive(Debug, Args)]
struct Passphrase {
    /// File whose first line is the passphrase of the snapshot; - is standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    fn read(&self) -> Result<String> {
        let Some(path) = &self.passphrase_file else { return Ok(String::new()) };
        let text = if path == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(path)
        };
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            _ => bail!("--passphrase-file {}: its first line is empty", path.display()),
        }
    }
}

#[derive(Debug, Args)]
pub struct Save {
    #[command(flatten)]
    passphrase: Passphrase,
    /// Replace the file if it exists
    #[arg(short, long)]
    force: bool,
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Save {
    async fn run(self, client: &Client) -> Result<()> {
        let passphrase = self.passphrase.read()?;
        let sealed = !passphrase.is_empty();
        if self.file.exists() && !self.force {
            bail!("{} exists: name another file, or replace it with --force", self.file.display());
        }
        let mut parts = client.node().save_snapshot(SaveSnapshotRequest { passphrase }).await.answer()?;
        let name = self.file.file_name().with_context(|| format!("{}: no file", self.file.display()))?;
        let mut unfinished = name.to_owned();
        unfinished.push(".unfinished");
        let unfinished = self.file.with_file_name(unfinished);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let failed = || format!("cannot write {}", unfinished.display());
        let mut out = options.open(&unfinished).with_context(failed)?;
        let written = async {
            while let Some(part) = parts.message().await.map_err(explain)? {
                out.write_all(&part.data).with_context(failed)?;
            }
            out.sync_all().with_context(failed)?;
            std::fs::rename(&unfinished, &self.file).with_context(failed)
        };
        if let Err(error) = written.await {
            let _ = std::fs::remove_file(&unfinished);
            return Err(error);
        }
        if !sealed && std::io::stderr().is_terminal() {
            eprintln!(
                "The snapshot is not sealed: whoever reads the file has the swarm's root CA and all its secrets."
            );
        }
        println!("{}", self.file.display());
        Ok(())
    }
}

#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    passphrase: Passphrase,
    #[command(flatten)]
    format: LinesFormat,
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    async fn run(self, client: &Client) -> Result<()> {
        let first = InspectSnapshotRequest { passphrase: self.passphrase.read()?, data: Vec::new() };
        let next = |data| InspectSnapshotRequest { data, ..InspectSnapshotRequest::default() };
        let parts = parts(self.file, first, next).await?;
        let found = client.node().inspect_snapshot(parts).await.answer()?;
        self.format.print(&lines(&found), &object(&found))
    }
}

#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    passphrase: Passphrase,
    #[command(flatten)]
    addresses: Addresses,
    /// Whether this node runs tasks
    #[arg(long, value_enum, default_value_t)]
    availability: Availability,
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Restore {
    async fn run(self, client: &Client) -> Result<()> {
        let first = RestoreSnapshotRequest {
            passphrase: self.passphrase.read()?,
            data: Vec::new(),
            advertise_addr: self.addresses.advertise,
            listen_addr: self.addresses.listen,
            data_path_addr: self.addresses.data_path,
            availability: node_spec::Availability::from(self.availability).into(),
        };
        let next = |data| RestoreSnapshotRequest { data, ..RestoreSnapshotRequest::default() };
        let parts = parts(self.file, first, next).await?;
        let node_id = client.node().restore_snapshot(parts).await.answer()?.node_id;
        println!("Swarm restored: current node ({node_id}) is now its only manager.");
        Ok(())
    }
}

/// `first`, then the file in parts. A file that cannot be read any further ends the stream early; the daemon then says
/// that the snapshot is cut short.
async fn parts<T>(
    path: PathBuf,
    first: T,
    next: impl Fn(Vec<u8>) -> T + Clone,
) -> Result<impl Stream<Item = T>> {
    let file = File::open(&path).await.with_context(|| format!("cannot read {}", path.display()))?;
    let rest = futures_util::stream::unfold(file, move |mut file| {
        let next = next.clone();
        async move {
            let mut data = vec![0; PART_BYTES];
            let read = file.read(&mut data).await.ok().filter(|read| *read > 0)?;
            data.truncate(read);
            Some((next(data), file))
        }
    });
    Ok(futures_util::StreamExt::chain(futures_util::stream::iter([first]), rest))
}

fn taken_at(found: &InspectSnapshotResponse) -> String {
    let time = found.taken_at.and_then(|time| std::time::SystemTime::try_from(time).ok());
    time.map(units::timestamp).unwrap_or_default()
}

fn lines(found: &InspectSnapshotResponse) -> Vec<String> {
    let sealed = if found.sealed { "with a passphrase" } else { "no" };
    vec![
        format!("Cluster ID: {}", found.cluster_id),
        format!("Taken: {}", taken_at(found)),
        format!("Sealed: {sealed}"),
        format!("Index: {}", found.index),
        format!("Managers: {}", found.managers),
        format!("Nodes: {}", found.nodes),
        format!("Services: {}", found.services),
        format!("Tasks: {}", found.tasks),
        format!("Networks: {}", found.networks),
    ]
}

fn object(found: &InspectSnapshotResponse) -> Value {
    json!({
        "ClusterID": found.cluster_id,
        "TakenAt": taken_at(found),
        "Sealed": found.sealed,
        "Index": found.index,
        "Managers": found.managers,
        "Nodes": found.nodes,
        "Services": found.services,
        "Tasks": found.tasks,
        "Networks": found.networks,
    })
}
