//! What may be asked of a service, apart from its networks, which only the store knows.

use std::net::IpAddr;
use std::time::Duration;

use proto::convert::Within;
use proto::model::{
    AttachmentConfig, Family, Mode, Placement, Preference, Resources, ServiceSpec, TaskSpec, UpdateConfig,
    UpdateOrder,
};
use proto::wire;

use super::{container, labels, service_name};
use crate::api::limits;
use crate::error::Error;
use crate::scheduler::constraint;

/// More tasks than any swarm can run; a bound for what a slip of the keyboard can ask for.
const MOST_REPLICAS: u64 = 1_000_000;
/// Docker's: a thousandth of a CPU.
const LEAST_NANO_CPUS: u64 = 1_000_000;
/// Docker's: less does not start a container.
const LEAST_MEMORY_BYTES: u64 = 4 << 20;
const LONGEST_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

pub fn check(spec: Option<wire::ServiceSpec>) -> Result<ServiceSpec, Error> {
    let spec = spec.ok_or_else(|| proto::convert::Error::missing("spec"))?;
    limits::spec_size("spec", &spec)?;
    let spec = ServiceSpec::try_from(spec).within("spec")?;
    service_name("spec.annotations.name", &spec.annotations.name)?;
    labels("spec.annotations", &spec.annotations)?;
    if let Mode::Replicated { replicas } = spec.mode
        && replicas > MOST_REPLICAS
    {
        let remedy = format!("at most {MOST_REPLICAS} are allowed");
        return Err(Error::invalid("spec.mode.replicated.replicas", replicas, remedy));
    }
    update_config("spec.update", &spec.update)?;
    if let Some(rollback) = &spec.rollback {
        update_config("spec.rollback", rollback)?;
    }
    task(&spec.task)?;
    chosen_addresses(&spec)?;
    Ok(spec)
}

/// An address can be one task's only, and only one at a time.
fn chosen_addresses(spec: &ServiceSpec) -> Result<(), Error> {
    let mut chosen = spec.task.networks.iter().enumerate().flat_map(|(i, config)| {
        config.addresses.iter().map(move |address| (format!("spec.task.networks[{i}].addresses"), address))
    });
    let Some((field, address)) = chosen.next() else { return Ok(()) };
    match spec.mode {
        Mode::Replicated { replicas: 0 | 1 } => {}
        Mode::Replicated { replicas } => {
            let remedy = format!("it can be the address of one task, not of {replicas}: use --replicas 1");
            return Err(Error::invalid(field, address, remedy));
        }
        Mode::Global => {
            let remedy = "it can be the address of one task, and a global service has one a node";
            return Err(Error::invalid(field, address, remedy));
        }
    }
    let updates =
        [("spec.update.order", Some(&spec.update)), ("spec.rollback.order", spec.rollback.as_ref())];
    for (field, config) in updates {
        if config.is_some_and(|config| config.order == UpdateOrder::StartFirst) {
            let remedy = format!("the task before has the address {address} until it stops: use stop-first");
            return Err(Error::invalid(field, "start-first", remedy));
        }
    }
    Ok(())
}

fn task(spec: &TaskSpec) -> Result<(), Error> {
    container::check("spec.task.container", &spec.container)?;
    resources("spec.task.resources.limits", spec.limits)?;
    resources("spec.task.resources.reservations", spec.reservations)?;
    time("spec.task.restart.delay", spec.restart.delay)?;
    time("spec.task.restart.window", spec.restart.window)?;
    placement("spec.task.placement", &spec.placement)?;
    attachments("spec.task.networks", &spec.networks)?;
    if let Some(driver) = &spec.log_driver {
        limits::map("spec.task.log_driver.options", &driver.options)?;
    }
    Ok(())
}

fn resources(field: &str, resources: Resources) -> Result<(), Error> {
    let Resources { nano_cpus, memory_bytes } = resources;
    if (1..LEAST_NANO_CPUS).contains(&nano_cpus) {
        let remedy = format!("0 (none) or at least {LEAST_NANO_CPUS} (0.001 CPU) is needed");
        return Err(Error::invalid(format!("{field}.nano_cpus"), nano_cpus, remedy));
    }
    if (1..LEAST_MEMORY_BYTES).contains(&memory_bytes) {
        let remedy = "0 (none) or at least 4 MiB is needed";
        return Err(Error::invalid(format!("{field}.memory_bytes"), memory_bytes, remedy));
    }
    Ok(())
}

fn update_config(field: &str, config: &UpdateConfig) -> Result<(), Error> {
    time(&format!("{field}.delay"), config.delay)?;
    time(&format!("{field}.monitor"), config.monitor)
}

fn time(field: &str, time: Duration) -> Result<(), Error> {
    if time <= LONGEST_TIME {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{}s", time.as_secs()), "at most a year is allowed"))
}

fn placement(field: &str, placement: &Placement) -> Result<(), Error> {
    limits::count(&format!("{field}.constraints"), placement.constraints.len())?;
    limits::count(&format!("{field}.preferences"), placement.preferences.len())?;
    limits::count(&format!("{field}.platforms"), placement.platforms.len())?;
    for (i, expression) in placement.constraints.iter().enumerate() {
        let field = format!("{field}.constraints[{i}]");
        constraint::parse(expression).map_err(|error| Error::Refused { field, reason: error.to_string() })?;
    }
    for (i, Preference::Spread(over)) in placement.preferences.iter().enumerate() {
        let label = ["node.labels.", "engine.labels."].iter().find_map(|kind| over.strip_prefix(kind));
        if label.is_none_or(str::is_empty) {
            let field = format!("{field}.preferences[{i}].spread");
            return Err(Error::invalid(field, over, "node.labels.<name> or engine.labels.<name> is needed"));
        }
    }
    Ok(())
}

fn attachments(field: &str, configs: &[AttachmentConfig]) -> Result<(), Error> {
    limits::count(field, configs.len())?;
    for (i, config) in configs.iter().enumerate() {
        let field = format!("{field}[{i}]");
        limits::count(&format!("{field}.aliases"), config.aliases.len())?;
        if let Some((name, value)) = config.options.first_key_value() {
            let remedy = "there is no such option; overlay knows none for a task's place on a network";
            return Err(Error::invalid(format!("{field}.driver_attachment_opts.{name}"), value, remedy));
        }
        for alias in &config.aliases {
            super::object_name(&format!("{field}.aliases"), alias)?;
        }
        addresses(&format!("{field}.addresses"), &config.addresses)?;
    }
    Ok(())
}

fn addresses(field: &str, addresses: &[String]) -> Result<(), Error> {
    let mut families = Vec::new();
    for text in addresses {
        let address: IpAddr =
            text.parse().map_err(|_| Error::invalid(field, text, "an IP address is needed"))?;
        let family = Family::of(address);
        if families.contains(&family) {
            let remedy = "a task has one address of each family on a network: name one";
            return Err(Error::invalid(field, text, remedy));
        }
        families.push(family);
    }
    Ok(())
}
