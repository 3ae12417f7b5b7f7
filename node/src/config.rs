//! What a node is told when it starts: flags, and a TOML file with the same names.
//!
//! A flag wins over the file, the file over the default. Nothing here is global: two daemons with different roots
//! share no path.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use serde::Deserialize;

const DATA_ROOT: &str = "/var/lib/swarmd";
const EXEC_ROOT: &str = "/run/swarmd";
const CGROUP_PARENT: &str = "/swarmd";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} is not valid: {reason}")]
    Parse { path: PathBuf, reason: String },
    #[error("--host {value:?}: expected unix://<absolute path>")]
    Host { value: String },
    #[error("--{flag} {value:?}: expected an absolute path")]
    Relative { flag: &'static str, value: PathBuf },
    #[error("cannot tell the host name; set --hostname")]
    Hostname(#[source] nix::Error),
}

/// The swarm daemon: runs on every node of a swarm.
#[derive(Debug, Default, Parser, Deserialize)]
#[command(name = "swarmd", version)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    /// TOML file with the same settings, named as the flags are
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Directory of what must survive a restart [default: /var/lib/swarmd]
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,

    /// Directory of what lives while the machine runs: namespaces, sockets [default: /run/swarmd]
    #[arg(long, value_name = "DIR")]
    exec_root: Option<PathBuf>,

    /// Socket for clients on this machine [default: unix://<exec-root>/swarmd.sock]
    #[arg(short = 'H', long, value_name = "unix://PATH")]
    host: Option<String>,

    /// Socket of a running containerd; without it swarmd runs its own
    #[arg(long, value_name = "SOCKET")]
    containerd: Option<PathBuf>,

    /// OCI runtime program [default: runc]
    #[arg(long, value_name = "PROGRAM")]
    oci_runtime: Option<PathBuf>,

    /// Registry (host[:port]) that may be spoken to in plain HTTP; may be given several times
    #[arg(long, value_name = "REGISTRY")]
    #[serde(default)]
    insecure_registry: Vec<String>,

    /// Name under which the node is listed [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// cgroup below which those of the tasks are made [default: /swarmd]
    #[arg(long, value_name = "CGROUP")]
    cgroup_parent: Option<String>,

    /// Whether network cards may reckon the checksums of packets within VXLAN tunnels [default: on]
    #[arg(long, value_name = "on|off")]
    vxlan_checksum_offload: Option<Switch>,

    /// What is logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,

    /// How it is logged [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    #[default]
    On,
    Off,
}

/// All settings, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    pub socket: PathBuf,
    pub containerd: Option<PathBuf>,
    pub oci_runtime: Option<PathBuf>,
    pub insecure_registries: Vec<String>,
    pub hostname: String,
    pub cgroup_parent: String,
    pub vxlan_checksum_offload: Switch,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
}

impl Options {
    /// Reads the file that `--config` names, if any, and decides each setting.
    pub fn settle(self) -> Result<Settings, Error> {
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let exec_root = self.exec_root.or(file.exec_root).unwrap_or_else(|| EXEC_ROOT.into());
        let host =
            self.host.or(file.host).unwrap_or_else(|| format!("unix://{}/swarmd.sock", exec_root.display()));
        let hostname = self.hostname.or(file.hostname);
        let mut insecure_registries = self.insecure_registry;
        insecure_registries.extend(file.insecure_registry);
        Ok(Settings {
            data_root: absolute(
                "data-root",
                self.data_root.or(file.data_root).unwrap_or_else(|| DATA_ROOT.into()),
            )?,
            exec_root: absolute("exec-root", exec_root)?,
            socket: socket(&host)?,
            containerd: self.containerd.or(file.containerd),
            oci_runtime: self.oci_runtime.or(file.oci_runtime),
            insecure_registries,
            hostname: hostname.map_or_else(machine_name, Ok)?,
            cgroup_parent: self.cgroup_parent.or(file.cgroup_parent).unwrap_or_else(|| CGROUP_PARENT.into()),
            vxlan_checksum_offload: self
                .vxlan_checksum_offload
                .or(file.vxlan_checksum_offload)
                .unwrap_or_default(),
            log_level: self.log_level.or(file.log_level).unwrap_or_default(),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
        })
    }
}

fn read(path: &Path) -> Result<Options, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    toml::from_str(&text)
        .map_err(|error| Error::Parse { path: path.into(), reason: one_line(error.message()) })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn absolute(flag: &'static str, value: PathBuf) -> Result<PathBuf, Error> {
    if value.is_absolute() { Ok(value) } else { Err(Error::Relative { flag, value }) }
}

fn socket(host: &str) -> Result<PathBuf, Error> {
    let path = host.strip_prefix("unix://").map(PathBuf::from).filter(|path| path.is_absolute());
    path.ok_or_else(|| Error::Host { value: host.into() })
}

fn machine_name() -> Result<String, Error> {
    let name = nix::unistd::gethostname().map_err(Error::Hostname)?;
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(args: &[&str]) -> Result<Settings, Error> {
        Options::try_parse_from([&["swarmd"], args].concat()).unwrap().settle()
    }

    #[test]
    fn the_socket_follows_the_exec_root() {
        let settings = settle(&["--exec-root", "/run/other"]).unwrap();
        assert_eq!(settings.socket, Path::new("/run/other/swarmd.sock"));
        assert_eq!(settings.data_root, Path::new("/var/lib/swarmd"));
    }

    #[test]
    fn a_flag_wins_over_the_file_and_lists_are_joined() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("swarmd.toml");
        std::fs::write(
            &file,
            "hostname = \"from-file\"\nvxlan-checksum-offload = \"off\"\nlog-level = \"debug\"\ninsecure-registry = [\"b:5000\"]\n",
        )
        .unwrap();
        let file = file.to_str().unwrap();
        let settings =
            settle(&["--config", file, "--hostname", "from-flag", "--insecure-registry", "a:5000"]).unwrap();
        assert_eq!(settings.hostname, "from-flag");
        assert_eq!(settings.log_level, LogLevel::Debug);
        assert_eq!(settings.vxlan_checksum_offload, Switch::Off);
        assert_eq!(settle(&[]).unwrap().vxlan_checksum_offload, Switch::On);
        assert_eq!(settings.insecure_registries, ["a:5000", "b:5000"]);
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("swarmd.toml");
        std::fs::write(&file, "data-rot = \"/x\"\n").unwrap();
        let error = settle(&["--config", file.to_str().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("data-rot"), "{error}");
    }

    #[test]
    fn only_unix_sockets_are_served() {
        assert!(matches!(settle(&["-H", "tcp://0.0.0.0:2375"]), Err(Error::Host { .. })));
        assert!(matches!(settle(&["--data-root", "relative"]), Err(Error::Relative { .. })));
    }
}
