//! How a container is named and how it finds names: host name, `/etc/hosts`, `/etc/resolv.conf`.
//!
//! What is not one word would become another line or another setting in the files of the task.

use std::net::IpAddr;

use proto::model::template;
use proto::wire::ContainerSpec;

use crate::api::limits;
use crate::error::Error;

/// Of a host name (RFC 1123).
const LONGEST_HOSTNAME: usize = 253;
/// What the C library reads, resolv.conf(5).
const MOST_SEARCHED: usize = 32;

pub fn check(field: &str, container: &ContainerSpec) -> Result<(), Error> {
    hostname(&format!("{field}.hostname"), &container.hostname)?;
    hosts(&format!("{field}.hosts"), &container.hosts)?;
    let Some(dns) = &container.dns_config else { return Ok(()) };
    let at = |name: &str| format!("{field}.dns_config.{name}");
    limits::count(&at("nameservers"), dns.nameservers.len())?;
    let no_address = dns.nameservers.iter().find(|server| server.parse::<IpAddr>().is_err());
    if let Some(server) = no_address {
        return Err(Error::invalid(at("nameservers"), server, "an IP address is needed"));
    }
    if dns.search.len() > MOST_SEARCHED {
        let given = format!("({} domains)", dns.search.len());
        return Err(Error::invalid(at("search"), given, format!("at most {MOST_SEARCHED} are searched")));
    }
    words(&at("search"), &dns.search, "a domain such as example.com, or . for none, is needed")?;
    limits::count(&at("options"), dns.options.len())?;
    words(&at("options"), &dns.options, "an option of resolv.conf such as ndots:1 is needed")
}

/// Placeholders such as `{{.Task.Slot}}` are filled in for each task.
fn hostname(field: &str, hostname: &str) -> Result<(), Error> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let filled = template::outline(field, hostname)
        .map_err(|error| Error::invalid(field, hostname, error.remedy()))?;
    if filled.is_empty() || (filled.len() <= LONGEST_HOSTNAME && filled.split('.').all(is_label)) {
        return Ok(());
    }
    Err(Error::invalid(field, hostname, "a host name of letters, digits, - and . is needed"))
}

fn hosts(field: &str, hosts: &[String]) -> Result<(), Error> {
    limits::count(field, hosts.len())?;
    let is_line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().is_some_and(|word| word.parse::<IpAddr>().is_ok());
        address && words.next().is_some() && !line.chars().any(char::is_control)
    };
    match hosts.iter().find(|line| !is_line(line)) {
        Some(line) => Err(Error::invalid(
            field,
            line.escape_debug(),
            "an IP address and names are needed, in this order",
        )),
        None => Ok(()),
    }
}

fn words(field: &str, texts: &[String], needed: &str) -> Result<(), Error> {
    let is_word =
        |text: &str| !text.is_empty() && text.len() <= 255 && text.chars().all(|c| c.is_ascii_graphic());
    match texts.iter().find(|text| !is_word(text)) {
        Some(text) => Err(Error::invalid(field, text.escape_debug(), needed)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proto::wire::container_spec::DnsConfig;

    use super::*;

    fn checked(change: impl FnOnce(&mut ContainerSpec)) -> Result<(), String> {
        let mut container = ContainerSpec::default();
        change(&mut container);
        check("c", &container).map_err(|error| error.to_string())
    }

    #[test]
    fn what_files_can_hold_passes() {
        for name in
            ["", "box", "a.b-c.d", "web-{{.Task.Slot}}", "{{ .Node.Hostname }}.{{.Service.Labels.zone}}"]
        {
            checked(|c| c.hostname = name.into()).unwrap();
        }
        checked(|c| {
            c.hosts = vec!["10.0.0.1 db db.local".into(), "fd00::1 six".into()];
            c.dns_config = Some(DnsConfig {
                nameservers: vec!["192.0.2.1".into(), "fd00::53".into()],
                search: vec!["example.com".into(), ".".into()],
                options: vec!["ndots:1".into(), "rotate".into()],
            });
        })
        .unwrap();
    }

    #[test]
    fn what_they_cannot_is_refused_by_name() {
        let dns = |change: fn(&mut DnsConfig)| {
            checked(|c| change(c.dns_config.get_or_insert_default())).unwrap_err()
        };
        for (field, refused) in [
            ("hostname", checked(|c| c.hostname = "a b".into()).unwrap_err()),
            ("hostname", checked(|c| c.hostname = "-a".into()).unwrap_err()),
            ("hostname", checked(|c| c.hostname = "{{.Nope}}".into()).unwrap_err()),
            ("hostname", checked(|c| c.hostname = "{{.Task.Slot".into()).unwrap_err()),
            ("hosts", checked(|c| c.hosts = vec!["db 10.0.0.1".into()]).unwrap_err()),
            ("hosts", checked(|c| c.hosts = vec!["10.0.0.1".into()]).unwrap_err()),
            ("hosts", checked(|c| c.hosts = vec!["10.0.0.1 a\n10.0.0.2 b".into()]).unwrap_err()),
            ("dns_config.nameservers", dns(|dns| dns.nameservers = vec!["ns1".into()])),
            ("dns_config.search", dns(|dns| dns.search = vec!["a b".into()])),
            ("dns_config.search", dns(|dns| dns.search = vec!["a".into(); 33])),
            ("dns_config.options", dns(|dns| dns.options = vec!["rotate\nnameserver 6.6.6.6".into()])),
        ] {
            assert!(
                refused.starts_with(&format!("c.{field} ")) && !refused.contains('\n'),
                "{field}: {refused}"
            );
        }
    }
}
