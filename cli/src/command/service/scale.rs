//! `service scale`.

use anyhow::{Result, bail};
use clap::Args;
use proto::model::Service;
use proto::wire;
use proto::wire::service_spec::Mode;

use crate::client::{Answer as _, Client};
use crate::{progress, resolve};

#[derive(Debug, Args)]
pub struct Scale {
    /// Do not wait for the tasks to run
    #[arg(short, long)]
    detach: bool,
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = target)]
    services: Vec<(String, String)>,
}

impl Scale {
    pub async fn run(self, client: &Client) -> Result<()> {
        // All are checked before the first is changed.
        let mut targets = Vec::new();
        for (name, replicas) in &self.services {
            let Ok(replicas) = replicas.parse() else {
                bail!("{name}={replicas}: the replicas must be a number, 0 or more");
            };
            targets.push((resolve::find::<Service>(client, name).await?, name, replicas));
        }
        for (service, name, replicas) in &targets {
            scale(client, service, *replicas).await?;
            println!("{name} scaled to {replicas}");
        }
        if !self.detach {
            for (service, ..) in &targets {
                progress::follow(client, service.id.as_str(), false).await?;
            }
        }
        Ok(())
    }
}

fn target(text: &str) -> Result<(String, String), String> {
    let (name, replicas) =
        text.split_once('=').ok_or_else(|| format!("{text:?}: expected <service>=<replicas>"))?;
    Ok((name.into(), replicas.into()))
}

async fn scale(client: &Client, service: &Service, replicas: u64) -> Result<()> {
    let mut spec = wire::ServiceSpec::from(service.spec.as_ref());
    match &mut spec.mode {
        Some(Mode::Replicated(replicated)) => replicated.replicas = replicas,
        _ => bail!("service {} is global: it has one task a node and cannot be scaled", service.name()),
    }
    let request = wire::UpdateServiceRequest {
        service_id: service.id.to_string(),
        service_version: Some(wire::Version { index: service.meta.version }),
        spec: Some(spec),
        rollback: 0,
    };
    client.control().update_service(request).await.answer()?;
    Ok(())
}
