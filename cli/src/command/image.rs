//! `image load|ls`: the images on this node.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use proto::local::{ListImagesRequest, LoadImageRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::client::{Answer as _, Client};
use crate::format::ListFormat;
use crate::units;

/// How much of an archive travels in one message.
const PART_BYTES: usize = 256 << 10;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load an image from a tar archive or standard input
    Load(Load),
    /// List the images on this node
    #[command(visible_alias = "list")]
    Ls(Ls),
}

impl Command {
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Load(command) => command.run(client).await,
            Self::Ls(command) => command.run(client).await,
        }
    }
}

#[derive(Debug, Args)]
pub struct Load {
    /// Read from an archive file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
}

impl Load {
    async fn run(self, client: &Client) -> Result<()> {
        let archive: Box<dyn AsyncRead + Send + Unpin> = match &self.input {
            Some(path) => {
                let file = tokio::fs::File::open(path).await;
                Box::new(file.with_context(|| format!("cannot read {}", path.display()))?)
            }
            None if std::io::stdin().is_terminal() => {
                bail!("no archive: name one with --input or send one to standard input");
            }
            None => Box::new(tokio::io::stdin()),
        };
        let parts = futures_util::stream::unfold(archive, next_part);
        let answer = client.node().load_image(parts).await.answer()?;
        if !self.quiet {
            answer.names.iter().try_for_each(|name| writeln!(std::io::stdout(), "Loaded image: {name}"))?;
        }
        Ok(())
    }
}

/// A file that cannot be read any further ends the stream early; the daemon then says that the archive is cut short.
async fn next_part<R: AsyncRead + Unpin>(mut archive: R) -> Option<(LoadImageRequest, R)> {
    let mut data = vec![0; PART_BYTES];
    let read = archive.read(&mut data).await.ok().filter(|read| *read > 0)?;
    data.truncate(read);
    Some((LoadImageRequest { data }, archive))
}

#[derive(Debug, Args)]
pub struct Ls {
    #[command(flatten)]
    format: ListFormat,
}

impl Ls {
    async fn run(self, client: &Client) -> Result<()> {
        let answer = client.node().list_images(ListImagesRequest {}).await.answer()?;
        let now = SystemTime::now();
        let rows: Vec<Value> = answer.images.into_iter().map(|image| row(image, now)).collect();
        self.format.print(
            &[("DIGEST", "Digest"), ("IMAGE", "Name"), ("CREATED", "CreatedSince"), ("SIZE", "Size")],
            &rows,
        )
    }
}

fn row(image: proto::local::Image, now: SystemTime) -> Value {
    let created = image.created_at.and_then(|time| SystemTime::try_from(time).ok());
    json!({
        "Digest": image.digest,
        "Name": image.name,
        "CreatedSince": created.map(|created| units::ago(created, now)).unwrap_or_default(),
        "Size": units::size(u64::try_from(image.size_bytes).unwrap_or_default()),
    })
}
