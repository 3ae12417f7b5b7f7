//! `service ls`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use proto::model::{Mode, Service};
use proto::wire::ListServiceStatusesRequest;
use proto::wire::list_service_statuses_response::ServiceStatus;
use serde_json::{Value, json};

use crate::client::{Answer as _, Client};
use crate::format::ListFormat;
use crate::reading::Reading;
use crate::resolve::Named as _;

#[derive(Debug, Args)]
pub struct Ls {
    #[command(flatten)]
    format: ListFormat,
    #[command(flatten)]
    reading: Reading,
}

impl Ls {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &client.reading(self.reading);
        let mut services = Service::list(client, vec![], vec![]).await?;
        services.sort_by(|a, b| a.name().cmp(b.name()));
        let request = ListServiceStatusesRequest {
            services: services.iter().map(|service| service.id.to_string()).collect(),
        };
        let statuses = client.control().list_service_statuses(request).await.answer()?.statuses;
        let statuses: BTreeMap<String, ServiceStatus> =
            statuses.into_iter().map(|status| (status.service_id.clone(), status)).collect();
        let rows: Vec<Value> =
            services.iter().map(|service| row(service, statuses.get(service.id.as_str()))).collect();
        self.format.print(
            &[
                ("ID", "ID"),
                ("NAME", "Name"),
                ("MODE", "Mode"),
                ("REPLICAS", "Replicas"),
                ("IMAGE", "Image"),
                ("PORTS", "Ports"),
            ],
            &rows,
        )
    }
}

fn row(service: &Service, status: Option<&ServiceStatus>) -> Value {
    let (running, desired) = status.map_or((0, 0), |status| (status.running_tasks, status.desired_tasks));
    let mode = match service.spec.mode {
        Mode::Replicated { .. } => "replicated",
        Mode::Global => "global",
    };
    json!({
        "ID": service.id.as_str(),
        "Name": service.name(),
        "Mode": mode,
        "Replicas": format!("{running}/{desired}"),
        "Image": service.spec.task.container.image,
        "Ports": "",
    })
}
