//! `node update`.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use proto::model;

use super::change;
use crate::client::Client;
use crate::command::swarm::Availability;
use crate::{settings, units};

#[derive(Debug, Args)]
pub struct Update {
    /// Whether the node runs tasks
    #[arg(long, value_enum)]
    availability: Option<Availability>,
    /// worker or manager
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// Add or change a label
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    label_add: Vec<(String, String)>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    #[arg(value_name = "NODE")]
    node: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Worker,
    Manager,
}

impl Update {
    pub async fn run(self, client: &Client) -> Result<()> {
        if self.availability.is_none()
            && self.role.is_none()
            && self.label_add.is_empty()
            && self.label_rm.is_empty()
        {
            bail!("nothing to change: name --availability, --role, --label-add or --label-rm");
        }
        change::spec(client, &self.node, |spec| self.apply(spec)).await?;
        println!("{}", self.node);
        Ok(())
    }

    fn apply(&self, spec: &mut model::NodeSpec) -> Result<bool> {
        if let Some(availability) = self.availability {
            spec.availability = proto::wire::node_spec::Availability::from(availability).into();
        }
        if let Some(role) = self.role {
            spec.desired_role = match role {
                Role::Worker => model::Role::Worker,
                Role::Manager => model::Role::Manager,
            };
        }
        let labels = &mut spec.annotations.labels;
        if let Some(missing) = self.label_rm.iter().find(|key| !labels.contains_key(*key)) {
            bail!("--label-rm {missing}: node {} has no such label", self.node);
        }
        settings::change_map(labels, &self.label_add, &self.label_rm);
        Ok(true)
    }
}
