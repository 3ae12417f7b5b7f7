//! The documents of an image: index, manifest and configuration, as far as they are needed to run it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::runtime::{HealthCheck, HealthSettings};

pub(super) const MANIFEST_TYPES: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// What a name or a digest leads to.
#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default)]
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(default)]
    pub config: Option<ImageConfig>,
    pub rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct RootFs {
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// How the image wants to be run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    pub user: Option<String>,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub stop_signal: Option<String>,
    pub volumes: Option<BTreeMap<PathBuf, serde_json::Value>>,
    pub healthcheck: Option<ImageHealth>,
    /// For health checks that are a line for a shell.
    pub shell: Option<Vec<String>>,
}

/// Docker's addition to the configuration. Times are in nanoseconds; what is not above zero is not said.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageHealth {
    test: Option<Vec<String>>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

impl ImageConfig {
    /// What comes of a container's own settings and the image's.
    pub(crate) fn health_check(&self, own: &HealthSettings) -> Option<HealthCheck> {
        let image = self.healthcheck.clone().unwrap_or_default();
        own.settle(&image.into(), self.shell.as_deref())
    }
}

impl From<ImageHealth> for HealthSettings {
    fn from(image: ImageHealth) -> Self {
        let time = |nanos| Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
        Self {
            test: image.test.unwrap_or_default(),
            interval: time(image.interval),
            timeout: time(image.timeout),
            start_period: time(image.start_period),
            start_interval: time(image.start_interval),
            retries: u32::try_from(image.retries).unwrap_or(0),
        }
    }
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Either {
            #[serde(rename = "schemaVersion", default)]
            schema_version: u32,
            manifests: Option<Vec<Descriptor>>,
        }
        let unreadable = |error: serde_json::Error| format!("manifest is unreadable: {error}");
        let either: Either = serde_json::from_slice(bytes).map_err(unreadable)?;
        match either {
            Either { manifests: Some(manifests), .. } => Ok(Self::Index(manifests)),
            Either { schema_version: 2, .. } => {
                serde_json::from_slice(bytes).map(Self::Manifest).map_err(unreadable)
            }
            Either { schema_version, .. } => {
                Err(format!("manifest schema {schema_version} is not supported"))
            }
        }
    }
}

/// The entry of an index that runs here. An entry without a platform runs anywhere.
pub(super) fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let (_, architecture) = platform();
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_none_or(|platform| {
            platform.os == "linux"
                && platform.architecture == architecture
                && runs(platform.variant.as_deref())
        })
    };
    manifests.iter().filter(fits).min_by_key(|descriptor| descriptor.platform.is_none())
}

/// Variants are for old ARM (`v8` is all of arm64) and new AMD (`v2` and up need newer processors).
fn runs(variant: Option<&str>) -> bool {
    matches!(variant, None | Some("" | "v8" | "v1"))
}

/// Operating system and architecture of this node, as images name them.
pub(super) fn platform() -> (&'static str, &'static str) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    ("linux", architecture)
}

pub(super) fn digest(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

pub(super) fn digest_text(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Names of the snapshots that the layers become, lowest first: each name tells all layers under it
/// (OCI image specification, "Layer ChainID").
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff in diff_ids {
        let id = match chain.last() {
            Some(parent) => digest(format!("{parent} {diff}").as_bytes()),
            None => diff.clone(),
        };
        chain.push(id);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
        let variant = variant.map(str::to_owned);
        let platform = Some(Platform { os: os.into(), architecture: architecture.into(), variant });
        Descriptor { digest: format!("{os}-{architecture}"), platform, ..Descriptor::default() }
    }

    #[test]
    fn chooses_this_platform() {
        let (_, here) = platform();
        let index = [
            entry("windows", here, None),
            entry("linux", "s390x", None),
            entry("linux", here, Some("v3")),
            Descriptor::default(),
            entry("linux", here, None),
        ];
        assert_eq!(choose(&index).unwrap().digest, format!("linux-{here}"));
        assert_eq!(choose(&index[..2]), None);
        assert_eq!(choose(&index[..4]), Some(&Descriptor::default()));
    }

    #[test]
    fn chain_id_of_two_layers() {
        let chain = chain_ids(&["sha256:a".into(), "sha256:b".into()]);
        assert_eq!(chain, ["sha256:a".to_owned(), digest(b"sha256:a sha256:b")]);
    }

    #[test]
    fn the_health_check_of_an_image_is_read() {
        let config = r#"{"Healthcheck": {"Test": ["CMD-SHELL", "x"], "Interval": 2000000000, "Timeout": -1},
                         "Shell": ["/bin/ash", "-c"]}"#;
        let config: ImageConfig = serde_json::from_str(config).unwrap();
        let check = config.health_check(&HealthSettings::default()).unwrap();
        assert_eq!(check.command, ["/bin/ash", "-c", "x"]);
        assert_eq!((check.interval, check.timeout), (Duration::from_secs(2), Duration::from_secs(30)));
        let none = HealthSettings { test: vec!["NONE".into()], ..HealthSettings::default() };
        assert_eq!(config.health_check(&none), None);
        assert_eq!(ImageConfig::default().health_check(&HealthSettings::default()), None);
    }

    #[test]
    fn tells_index_from_manifest() {
        assert!(matches!(Document::parse(br#"{"schemaVersion":2,"manifests":[]}"#), Ok(Document::Index(_))));
        let error = Document::parse(br#"{"schemaVersion":1}"#).unwrap_err();
        assert_eq!(error, "manifest schema 1 is not supported");
        assert!(Document::parse(b"<html>").is_err());
    }
}
