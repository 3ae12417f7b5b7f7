//! `service update`.

use anyhow::{Result, bail};
use clap::Args;
use proto::model::{Network, Service};
use proto::wire;
use proto::wire::update_service_request::Rollback;

use super::names::Names;
use super::options::{Options, container};
use crate::client::{Answer as _, Client};
use crate::{progress, resolve, settings, units};

#[derive(Debug, Args)]
pub struct Update {
    /// Image
    #[arg(long)]
    image: Option<String>,
    /// Arguments for the image's program
    #[arg(long, value_name = "COMMAND", value_parser = settings::words)]
    args: Option<std::vec::Vec<String>>,
    /// Replace the tasks although nothing else changes
    #[arg(long)]
    force: bool,
    /// Return to the settings before the last update
    #[arg(long)]
    rollback: bool,
    #[command(flatten)]
    options: Options,
    /// Attach to a network: a name, or name=<network>,alias=<name>
    #[arg(long, value_name = "NETWORK", value_parser = settings::network)]
    network_add: Vec<wire::NetworkAttachmentConfig>,
    /// Detach from a network
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// Add or change an environment variable
    #[arg(long, value_name = "KEY=VALUE", value_parser = settings::environment)]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// Add or change a label of the service
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    label_add: Vec<(String, String)>,
    /// Remove a label of the service
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Add or change a label of the containers
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    container_label_add: Vec<(String, String)>,
    /// Remove a label of the containers
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// Add a mount, or replace the one with the same target
    #[arg(long, value_name = "MOUNT", value_parser = settings::mount)]
    mount_add: Vec<wire::Mount>,
    /// Remove a mount by its target
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    /// Add a constraint
    #[arg(long, value_name = "EXPRESSION")]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long, value_name = "EXPRESSION")]
    constraint_rm: Vec<String>,
    #[command(flatten)]
    names: Names,
    /// Do not wait for the update
    #[arg(short, long)]
    detach: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "SERVICE")]
    service: String,
}

impl Update {
    pub async fn run(self, client: &Client) -> Result<()> {
        let service: Service = resolve::find(client, &self.service).await?;
        let mut spec = wire::ServiceSpec::from(service.spec.as_ref());
        if self.rollback {
            if service.previous_spec.is_none() {
                bail!("--rollback: service {} has not been updated before", self.service);
            }
        } else {
            self.change(client, &mut spec).await?;
        }
        let rollback = if self.rollback { Rollback::Previous } else { Rollback::None };
        let request = wire::UpdateServiceRequest {
            service_id: service.id.to_string(),
            service_version: Some(wire::Version { index: service.meta.version }),
            spec: Some(spec),
            rollback: rollback.into(),
        };
        client.control().update_service(request).await.answer()?;
        println!("{}", self.service);
        if self.detach { Ok(()) } else { progress::follow(client, service.id.as_str(), self.quiet).await }
    }

    async fn change(&self, client: &Client, spec: &mut wire::ServiceSpec) -> Result<()> {
        let annotations = spec.annotations.get_or_insert_default();
        settings::change_map(&mut annotations.labels, &self.label_add, &self.label_rm);
        let task = spec.task.get_or_insert_default();
        if self.force {
            task.force_update += 1;
        }
        let placement = task.placement.get_or_insert_default();
        settings::change_list(&mut placement.constraints, &self.constraint_add, &self.constraint_rm);
        self.change_networks(client, &mut task.networks).await?;
        self.change_container(container(task));
        self.options.apply(spec)
    }

    async fn change_networks(
        &self,
        client: &Client,
        networks: &mut Vec<wire::NetworkAttachmentConfig>,
    ) -> Result<()> {
        for name in &self.network_rm {
            let network: Network = resolve::find(client, name).await?;
            let before = networks.len();
            networks.retain(|attachment| attachment.target != network.id.as_str());
            if networks.len() == before {
                bail!("--network-rm {name}: the service is not attached to it");
            }
        }
        for added in &self.network_add {
            let network: Network = resolve::find(client, &added.target).await?;
            networks.retain(|attachment| attachment.target != network.id.as_str());
            networks.push(wire::NetworkAttachmentConfig { target: network.id.to_string(), ..added.clone() });
        }
        Ok(())
    }

    fn change_container(&self, container: &mut wire::ContainerSpec) {
        if let Some(image) = &self.image {
            container.image.clone_from(image);
        }
        if let Some(args) = &self.args {
            container.args.clone_from(args);
        }
        settings::change_environment(&mut container.env, &self.env_add, &self.env_rm);
        settings::change_map(&mut container.labels, &self.container_label_add, &self.container_label_rm);
        let replaced = |mount: &wire::Mount| {
            self.mount_rm.contains(&mount.target)
                || self.mount_add.iter().any(|added| added.target == mount.target)
        };
        container.mounts.retain(|mount| !replaced(mount));
        container.mounts.extend(self.mount_add.iter().cloned());
        self.names.change(container);
    }
}
