//! Small images made of busybox, as archives.

use std::collections::BTreeMap;
use std::io::Cursor;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const APPLETS: [&str; 24] = [
    "sh", "sleep", "cat", "echo", "id", "pwd", "hostname", "grep", "head", "seq", "touch", "mount", "ls",
    "tail", "tr", "env", "true", "false", "kill", "wc", "mkdir", "stat", "df", "printf",
];

pub struct Image {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Image {
    /// Two layers; `config` is what stands in the image's `config`.
    pub fn new(config: Value) -> Self {
        Self::with_marker(config, "two")
    }

    /// As [`new`](Self::new), with other content in the second layer.
    pub fn with_marker(config: Value, marker: &str) -> Self {
        let layers = vec![base(), second(marker)];
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": layers.iter().map(|layer| descriptor(LAYER, layer)).collect::<Vec<_>>(),
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// An OCI layout with the image under `name`.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let mut top = descriptor(MANIFEST, &self.manifest);
        top["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [top]});
        let mut files = BTreeMap::from([
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ]);
        for blob in self.layers.iter().chain([&self.config, &self.manifest]) {
            files.insert(format!("blobs/{}", digest(blob).replace(':', "/")), blob.clone());
        }
        tar(files)
    }

    /// What `docker save` writes.
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let paths = ["a/layer.tar", "b/layer.tar"];
        let table = json!([{"Config": "config.json", "RepoTags": [name], "Layers": paths}]);
        let mut files = BTreeMap::from([
            ("config.json".to_owned(), self.config.clone()),
            ("manifest.json".to_owned(), table.to_string().into_bytes()),
        ]);
        for (path, layer) in paths.iter().zip(&self.layers) {
            files.insert((*path).to_owned(), layer.clone());
        }
        tar(files)
    }
}

/// The image that most tests use.
pub fn plain() -> Image {
    Image::new(json!({
        "Env": ["PATH=/bin", "FROM=image"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo default"],
        "StopSignal": "SIGUSR1",
    }))
}

pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

fn base() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut builder = tar::Builder::new(Vec::new());
    for directory in ["bin/", "etc/", "tmp/", "proc/", "sys/", "dev/", "www/"] {
        append(&mut builder, directory, tar::EntryType::Directory, 0o755, b"");
    }
    append(&mut builder, "bin/busybox", tar::EntryType::Regular, 0o755, &busybox);
    append(
        &mut builder,
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:/bin/sh\n",
    );
    append(
        &mut builder,
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:\nwww:x:102:\nssl:x:33:web\n",
    );
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    builder.into_inner().unwrap()
}

fn second(marker: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "etc/marker", tar::EntryType::Regular, 0o644, marker.as_bytes());
    append(&mut builder, "www/index.html", tar::EntryType::Regular, 0o644, b"hello\n");
    builder.into_inner().unwrap()
}

fn tar(files: BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        append(&mut builder, &path, tar::EntryType::Regular, 0o644, &data);
    }
    builder.into_inner().unwrap()
}

fn append(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    builder.append_data(&mut header, path, Cursor::new(data)).unwrap();
}
