//! Settings of a service that have a syntax of their own: mounts, networks, placement.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use proto::wire;
use proto::wire::mount::{TmpfsOptions, Type};

/// `type=bind,source=/a,target=/b,readonly` and so on, as `--mount` has it.
pub fn mount(text: &str) -> Result<wire::Mount, String> {
    let mut mount = wire::Mount { r#type: Type::Volume.into(), ..Default::default() };
    let mut tmpfs = TmpfsOptions::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key {
            "type" => mount.r#type = mount_type(value)?.into(),
            "source" | "src" => mount.source = value.into(),
            "target" | "dst" | "destination" => mount.target = value.into(),
            "readonly" | "ro" => mount.readonly = flag(key, value)?,
            "bind-propagation" => {
                let propagation = propagation(value)?.into();
                mount.bind_options = Some(wire::mount::BindOptions { propagation, ..Default::default() });
            }
            "tmpfs-size" => tmpfs.size_bytes = i64::try_from(crate::units::bytes(value)?).unwrap_or(i64::MAX),
            "tmpfs-mode" => {
                tmpfs.mode = u32::from_str_radix(value, 8)
                    .map_err(|_| format!("tmpfs-mode={value}: expected an octal mode such as 1777"))?;
            }
            _ => return Err(unknown_mount_key(key)),
        }
    }
    if mount.target.is_empty() {
        return Err(format!("{text:?} has no target: where shall it appear in the container?"));
    }
    if mount.r#type == i32::from(Type::Tmpfs) {
        mount.tmpfs_options = Some(tmpfs);
    }
    Ok(mount)
}

fn unknown_mount_key(key: &str) -> String {
    format!(
        "unknown key {key:?}: expected type, source, target, readonly, bind-propagation, tmpfs-size or tmpfs-mode"
    )
}

fn mount_type(value: &str) -> Result<Type, String> {
    match value {
        "bind" => Ok(Type::Bind),
        "volume" => Ok(Type::Volume),
        "tmpfs" => Ok(Type::Tmpfs),
        _ => Err(format!("type={value}: expected bind, volume or tmpfs")),
    }
}

fn propagation(value: &str) -> Result<wire::mount::bind_options::Propagation, String> {
    use wire::mount::bind_options::Propagation;
    match value {
        "rprivate" => Ok(Propagation::Rprivate),
        "private" => Ok(Propagation::Private),
        "rshared" => Ok(Propagation::Rshared),
        "shared" => Ok(Propagation::Shared),
        "rslave" => Ok(Propagation::Rslave),
        "slave" => Ok(Propagation::Slave),
        _ => Err(format!(
            "bind-propagation={value}: expected rprivate, private, rshared, shared, rslave or slave"
        )),
    }
}

fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{key}={value}: expected true or false")),
    }
}

/// A name, or `name=…,alias=…,ip=…,ip6=…,driver-opt=<key>=<value>`.
pub fn network(text: &str) -> Result<wire::NetworkAttachmentConfig, String> {
    if !text.contains('=') {
        return Ok(wire::NetworkAttachmentConfig { target: text.into(), ..Default::default() });
    }
    let mut attachment = wire::NetworkAttachmentConfig::default();
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("name", value)) => attachment.target = value.into(),
            Some(("alias", value)) => attachment.aliases.push(value.into()),
            Some(("ip", value)) => attachment.addresses.push(address::<Ipv4Addr>("ip", value, "IPv4")?),
            Some(("ip6", value)) => attachment.addresses.push(address::<Ipv6Addr>("ip6", value, "IPv6")?),
            Some(("driver-opt", value)) => {
                let (key, value) =
                    crate::units::pair(value).map_err(|error| format!("driver-opt={error}"))?;
                attachment.driver_attachment_opts.insert(key, value);
            }
            _ => {
                return Err(format!(
                    "{field:?}: expected name=<network>, alias=<name>, ip=<address>, ip6=<address> or \
                     driver-opt=<key>=<value>"
                ));
            }
        }
    }
    if attachment.target.is_empty() {
        return Err(format!("{text:?} does not name a network: expected name=<network>,…"));
    }
    Ok(attachment)
}

fn address<A: FromStr + Display>(key: &str, value: &str, family: &str) -> Result<String, String> {
    let address: A = value.parse().map_err(|_| format!("{key}={value}: expected an {family} address"))?;
    Ok(address.to_string())
}

/// `spread=node.labels.zone`.
pub fn preference(text: &str) -> Result<wire::PlacementPreference, String> {
    match text.split_once('=') {
        Some(("spread", descriptor)) if !descriptor.is_empty() => {
            let spread = wire::SpreadOver { spread_descriptor: descriptor.into() };
            Ok(wire::PlacementPreference {
                preference: Some(wire::placement_preference::Preference::Spread(spread)),
            })
        }
        _ => Err(format!("{text:?}: expected spread=<label>, such as spread=node.labels.zone")),
    }
}

/// `name=soft[:hard]`.
pub fn ulimit(text: &str) -> Result<wire::container_spec::Ulimit, String> {
    let invalid = || format!("{text:?}: expected <name>=<soft>[:<hard>], such as nofile=1024:2048");
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let soft = soft.parse().map_err(|_| invalid())?;
    let hard = hard.parse().map_err(|_| invalid())?;
    Ok(wire::container_spec::Ulimit { name: name.into(), soft, hard })
}

/// `host:address` as Docker's `--host`, in the order of `/etc/hosts`.
pub fn extra_host(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((host, address)) if address.parse::<std::net::IpAddr>().is_ok() => {
            Ok(format!("{address} {host}"))
        }
        _ => Err(format!("{text:?}: expected <host>:<IP address>")),
    }
}

/// `KEY=value`, or `KEY` alone for the value that this command's own environment has.
pub fn environment(text: &str) -> Result<String, String> {
    let (key, _) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("{text:?}: expected KEY=value"));
    }
    if text.contains('=') {
        return Ok(text.into());
    }
    Ok(std::env::var(key).map_or_else(|_| text.into(), |value| format!("{key}={value}")))
}

/// Splits a command line as a shell does, with quotes and backslashes but nothing else.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("{text:?}: a quote is not closed"));
    }
    words.extend(word);
    Ok(words)
}

/// Credentials for the registry of `image` from the client's own configuration (`~/.docker/config.json`), in the form
/// in which they travel: base64 of a JSON object.
pub fn registry_auth(image: &str, config: &serde_json::Value) -> Option<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    let registry = registry_of(image);
    let auths = config.get("auths")?;
    let entry = [registry.clone(), format!("https://{registry}"), format!("https://{registry}/v1/")]
        .iter()
        .find_map(|key| auths.get(key))?;
    let decoded = String::from_utf8(STANDARD.decode(entry.get("auth")?.as_str()?).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    let auth = serde_json::json!({
        "username": username, "password": password, "serveraddress": registry,
    });
    Some(URL_SAFE.encode(auth.to_string()))
}

fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host.into(),
        _ => "index.docker.io".into(),
    }
}

/// Takes the lines `KEY=value` of an environment file; empty ones and comments are passed over.
pub fn environment_file(text: &str) -> Result<Vec<String>, String> {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(environment).collect()
}

/// Changes a list of `KEY=value`: `added` replace those with the same key, `removed` are keys.
pub fn change_environment(list: &mut Vec<String>, added: &[String], removed: &[String]) {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let gone: Vec<String> = removed.iter().cloned().chain(added.iter().map(|entry| key(entry))).collect();
    list.retain(|entry| !gone.contains(&key(entry)));
    list.extend_from_slice(added);
}

/// Changes labels.
pub fn change_map(map: &mut BTreeMap<String, String>, added: &[(String, String)], removed: &[String]) {
    removed.iter().for_each(|key| drop(map.remove(key)));
    map.extend(added.iter().cloned());
}

/// Changes a list of plain values.
pub fn change_list(list: &mut Vec<String>, added: &[String], removed: &[String]) {
    list.retain(|entry| !removed.contains(entry));
    let new: Vec<String> = added.iter().filter(|entry| !list.contains(entry)).cloned().collect();
    list.extend(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_key_value_lists() {
        let bind = mount("type=bind,src=/data,dst=/var/data,ro").unwrap();
        assert_eq!((bind.r#type(), bind.source.as_str(), bind.readonly), (Type::Bind, "/data", true));
        let tmpfs = mount("type=tmpfs,target=/tmp,tmpfs-size=64m,tmpfs-mode=1770").unwrap();
        assert_eq!(tmpfs.tmpfs_options.unwrap().mode, 0o1770);
        for wrong in ["type=bind,source=/a", "type=nfs,target=/a", "target=/a,foo=1"] {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_have_a_short_and_a_long_form() {
        assert_eq!(network("front").unwrap().target, "front");
        assert_eq!(network("name=front,alias=web,alias=www").unwrap().aliases, ["web", "www"]);
        assert!(network("alias=web").is_err());
        let full = network("name=front,ip=10.0.9.7,ip6=FD00::7,driver-opt=a=1,driver-opt=b=x=y").unwrap();
        assert_eq!(full.addresses, ["10.0.9.7", "fd00::7"]);
        assert_eq!(full.driver_attachment_opts["b"], "x=y");
        for (wrong, says) in [
            ("name=front,ip=fd00::7", "ip=fd00::7: expected an IPv4 address"),
            ("name=front,ip6=10.0.9.7", "ip6=10.0.9.7: expected an IPv6 address"),
            ("name=front,ip=10.0.9", "ip=10.0.9: expected an IPv4 address"),
            ("name=front,driver-opt=", "driver-opt=\"\" has no key"),
            ("name=front,mac=1", "\"mac=1\": expected name=<network>"),
        ] {
            let refused = network(wrong).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn command_lines_are_split_at_spaces_outside_of_quotes() {
        assert_eq!(words(r#"sh -c "echo 'a b' \"c\"" ''"#).unwrap(), ["sh", "-c", r#"echo 'a b' "c""#, ""]);
        assert!(words("'open").is_err());
    }

    #[test]
    fn environment_changes_by_key() {
        let mut list = vec!["A=1".into(), "B=2".into(), "C=3".into()];
        change_environment(&mut list, &["A=9".into()], &["B".into()]);
        assert_eq!(list, ["C=3", "A=9"]);
        assert_eq!(environment_file("# x\nA=1\n\nB=2").unwrap(), ["A=1", "B=2"]);
    }

    #[test]
    fn registry_credentials_come_from_dockers_configuration() {
        let config = serde_json::json!({"auths": {"reg.example:5000": {"auth": "dXNlcjpwdw=="}}});
        assert!(registry_auth("reg.example:5000/app:1", &config).is_some());
        assert!(registry_auth("nginx", &config).is_none());
    }
}
