//! `network audit`.

use anyhow::Result;
use clap::Args;
use proto::local::AuditNetworkRequest;
use serde_json::json;

use crate::client::{Answer as _, Client};
use crate::format::LinesFormat;

#[derive(Debug, Args)]
pub struct Audit {
    #[command(flatten)]
    format: LinesFormat,
}

impl Audit {
    pub async fn run(self, client: &Client) -> Result<()> {
        let audit = client.node().audit_network(AuditNetworkRequest {}).await.answer()?;
        let value = json!({ "Mended": audit.mended, "NetworkMended": audit.network_mended });
        let lines = match audit.mended.is_empty() {
            true => vec!["this node's network is as it should be".to_owned()],
            false => audit.mended.iter().map(|change| format!("mended: {change}")).collect(),
        };
        self.format.print(&lines, &value)
    }
}
