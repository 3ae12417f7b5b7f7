//! `version`: of this program and of the daemon.

use anyhow::Result;
use clap::Args;
use proto::local::InfoRequest;

use crate::client::{Answer as _, Client};
use crate::format::InspectFormat;

#[derive(Debug, Args)]
pub struct Version {
    #[command(flatten)]
    format: InspectFormat,
}

impl Version {
    pub async fn run(self, host: &str) -> Result<()> {
        let client = env!("CARGO_PKG_VERSION");
        let server = Client::connect(host).await?.node().info(InfoRequest {}).await.answer()?;
        self.format.print(&[serde_json::json!({
            "Client": { "Version": client },
            "Server": { "Version": server.version, "Containerd": server.containerd_version,
                        "Os": server.os, "Arch": server.architecture, "KernelVersion": server.kernel_version },
        })])
    }
}
