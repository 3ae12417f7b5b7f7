//! `version`: of this program and of the daemon.

use anyhow::Result;
use clap::Args;
use proto::local::InfoRequest;
use serde_json::{Value, json};

use crate::client::{Answer as _, Client};
use crate::format::LinesFormat;

#[derive(Debug, Args)]
pub struct Version {
    #[command(flatten)]
    format: LinesFormat,
}

impl Version {
    pub async fn run(self, host: &str) -> Result<()> {
        // What there is to tell of the client is told without a daemon, too.
        let (server, failure) = match daemon(host).await {
            Ok(server) => (server, Ok(())),
            Err(error) => (Value::Null, Err(error)),
        };
        let version = json!({ "Client": { "Version": env!("CARGO_PKG_VERSION") }, "Server": server });
        self.format.print(&lines(&version), &version)?;
        failure
    }
}

async fn daemon(host: &str) -> Result<Value> {
    let info = Client::connect(host).await?.node().info(InfoRequest {}).await.answer()?;
    Ok(json!({
        "Version": info.version, "Containerd": info.containerd_version,
        "Os": info.os, "Arch": info.architecture, "KernelVersion": info.kernel_version,
    }))
}

fn lines(version: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for part in ["Client", "Server"] {
        let Some(facts) = version[part].as_object() else { continue };
        lines.push(format!("{part}:"));
        lines.extend(
            facts.iter().map(|(name, value)| format!(" {name}: {}", value.as_str().unwrap_or_default())),
        );
    }
    lines
}
