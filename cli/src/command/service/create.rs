//! `service create`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, ValueEnum};
use proto::wire;
use proto::wire::service_spec::Mode;

use super::options::{Options, container};
use crate::client::Client;
use crate::once;
use crate::{progress, settings, units};

#[derive(Debug, Args)]
pub struct Create {
    /// Name of the service
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// replicated or global
    #[arg(long, value_enum, default_value_t)]
    mode: ServiceMode,
    #[command(flatten)]
    options: Options,
    /// Attach to a network: a name, or name=<network>,alias=<name>,ip=<address>,ip6=<address>,driver-opt=<key>=<value>
    #[arg(long, value_name = "NETWORK", value_parser = settings::network)]
    network: Vec<wire::NetworkAttachmentConfig>,
    /// Environment variable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = settings::environment)]
    env: Vec<String>,
    /// File of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Label of the service
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = units::pair)]
    label: Vec<(String, String)>,
    /// Label of the containers
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    container_label: Vec<(String, String)>,
    /// Mount: type=bind|volume|tmpfs,source=…,target=…
    #[arg(long, value_parser = settings::mount)]
    mount: Vec<wire::Mount>,
    /// Nodes that may run it, such as node.labels.zone==east
    #[arg(long, value_name = "EXPRESSION")]
    constraint: Vec<String>,
    /// How to spread it, such as spread=node.labels.zone
    #[arg(long, value_name = "PREFERENCE", value_parser = settings::preference)]
    placement_pref: Vec<wire::PlacementPreference>,
    /// Supplementary group
    #[arg(long)]
    group: Vec<String>,
    /// Entry of /etc/hosts: <host>:<address>
    #[arg(long, value_parser = settings::extra_host)]
    host: Vec<String>,
    /// Name server
    #[arg(long, value_name = "ADDR")]
    dns: Vec<std::net::IpAddr>,
    /// Search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Resolver option
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Kernel parameter
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    sysctl: Vec<(String, String)>,
    /// Resource limit: <name>=<soft>[:<hard>]
    #[arg(long, value_parser = settings::ulimit)]
    ulimit: Vec<wire::container_spec::Ulimit>,
    /// Do not wait for the tasks to run
    #[arg(short, long)]
    detach: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Arguments for the image's program
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ServiceMode {
    #[default]
    Replicated,
    Global,
}

impl Create {
    pub async fn run(self, client: &Client) -> Result<()> {
        let (detach, quiet) = (self.detach, self.quiet);
        let request = wire::CreateServiceRequest { spec: Some(self.spec()?) };
        let created =
            once::send(request, async |request| client.control().create_service(request).await).await?;
        let id = created.service.unwrap_or_default().id;
        println!("{id}");
        if detach { Ok(()) } else { progress::follow(client, &id, quiet).await }
    }

    fn spec(self) -> Result<wire::ServiceSpec> {
        let mut spec = wire::ServiceSpec {
            annotations: Some(wire::Annotations { name: self.name.clone(), labels: units::map(&self.label) }),
            mode: Some(match self.mode {
                ServiceMode::Replicated => Mode::Replicated(wire::ReplicatedService { replicas: 1 }),
                ServiceMode::Global => Mode::Global(wire::GlobalService {}),
            }),
            ..Default::default()
        };
        let options = self.options;
        let mut env = Vec::new();
        for path in &self.env_file {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("--env-file: cannot read {}", path.display()))?;
            env.extend(
                settings::environment_file(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?,
            );
        }
        settings::change_environment(&mut env, &self.env, &[]);
        let task = spec.task.get_or_insert_default();
        task.networks = self.network;
        let placement = task.placement.get_or_insert_default();
        placement.constraints = self.constraint;
        placement.preferences = self.placement_pref;
        let dns = wire::container_spec::DnsConfig {
            nameservers: self.dns.iter().map(ToString::to_string).collect(),
            search: self.dns_search,
            options: self.dns_option,
        };
        *container(task) = wire::ContainerSpec {
            image: self.image,
            args: self.args,
            env,
            labels: units::map(&self.container_label),
            mounts: self.mount,
            groups: self.group,
            hosts: self.host,
            dns_config: Some(dns),
            capability_add: self.cap_add,
            capability_drop: self.cap_drop,
            sysctls: units::map(&self.sysctl),
            ulimits: self.ulimit,
            ..Default::default()
        };
        options.apply(&mut spec)?;
        Ok(spec)
    }
}
