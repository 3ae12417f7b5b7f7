//! Changes to how tasks find names: `/etc/hosts` and the resolver.

use std::net::IpAddr;

use clap::Args;
use proto::wire::ContainerSpec;

use crate::settings;

#[derive(Debug, Args)]
pub struct Names {
    /// Add an entry of /etc/hosts: <host>:<address>
    #[arg(long, value_name = "HOST", value_parser = settings::extra_host)]
    host_add: Vec<String>,
    /// Remove an entry of /etc/hosts: <host>:<address>
    #[arg(long, value_name = "HOST", value_parser = settings::extra_host)]
    host_rm: Vec<String>,
    /// Add a name server
    #[arg(long, value_name = "ADDR")]
    dns_add: Vec<IpAddr>,
    /// Remove a name server
    #[arg(long, value_name = "ADDR")]
    dns_rm: Vec<IpAddr>,
    /// Add a search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_add: Vec<String>,
    /// Remove a search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_rm: Vec<String>,
    /// Add or change a resolver option
    #[arg(long, value_name = "OPTION")]
    dns_option_add: Vec<String>,
    /// Remove a resolver option
    #[arg(long, value_name = "OPTION")]
    dns_option_rm: Vec<String>,
}

impl Names {
    pub fn change(&self, container: &mut ContainerSpec) {
        settings::change_list(&mut container.hosts, &self.host_add, &self.host_rm);
        let lists = [&self.dns_search_add, &self.dns_search_rm, &self.dns_option_add, &self.dns_option_rm];
        if self.dns_add.is_empty() && self.dns_rm.is_empty() && lists.iter().all(|list| list.is_empty()) {
            // Not even an empty entry where there was none: it would replace all tasks.
            return;
        }
        let dns = container.dns_config.get_or_insert_default();
        settings::change_list(&mut dns.nameservers, &texts(&self.dns_add), &texts(&self.dns_rm));
        settings::change_list(&mut dns.search, &self.dns_search_add, &self.dns_search_rm);
        // `ndots:2` takes the place of `ndots:1`.
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        dns.options.retain(|option| !self.dns_option_add.iter().any(|added| name(added) == name(option)));
        settings::change_list(&mut dns.options, &self.dns_option_add, &self.dns_option_rm);
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        names: Names,
    }

    fn change(container: &mut ContainerSpec, arguments: &[&str]) {
        Command::try_parse_from(["update"].iter().chain(arguments)).unwrap().names.change(container);
    }

    #[test]
    fn entries_are_added_once_changed_and_removed() {
        let mut container = ContainerSpec::default();
        change(&mut container, &[]);
        assert_eq!(container, ContainerSpec::default());
        let more = ["--host-add", "db:10.0.0.1", "--dns-add", "192.0.2.1", "--dns-search-add", "a.b"];
        change(&mut container, &[&more[..], &["--dns-option-add", "ndots:1"]].concat());
        change(&mut container, &more);
        change(&mut container, &["--dns-option-add", "ndots:2", "--dns-option-add", "rotate"]);
        let dns = container.dns_config.clone().unwrap();
        assert_eq!((container.hosts.len(), dns.nameservers.len(), dns.search.len()), (1, 1, 1));
        assert_eq!(dns.options, ["ndots:2", "rotate"]);
        let less = ["--host-rm", "db:10.0.0.1", "--dns-rm", "192.0.2.1", "--dns-search-rm", "a.b"];
        change(
            &mut container,
            &[&less[..], &["--dns-option-rm", "rotate", "--dns-option-rm", "ndots:2"]].concat(),
        );
        let dns = container.dns_config.unwrap();
        assert!(container.hosts.is_empty() && dns == Default::default(), "{dns:?}");
    }
}
