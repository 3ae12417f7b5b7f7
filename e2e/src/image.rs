//! The test images, made from the machine's static busybox, as files of an OCI image.
//!
//! `web` serves HTTP on port 80: `/` answers with the container's hostname, the image's version and the client's
//! address. Two versions share one layer, so that an update has something to update to. The image's index lists a
//! foreign platform first, which must not be taken.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::command::run;

/// The versions, and with them the tags, of `web`.
pub(crate) const VERSIONS: [&str; 2] = ["1", "2"];

/// A process 1 has no default handler for signals, so the script ends the server itself.
const SERVE: &str = "#!/bin/sh
trap 'kill $!; exit 0' TERM INT
echo \"serving as $(hostname)\"
echo 'this goes to standard error' >&2
httpd -f -p ${PORT:-80} -h /www & wait
";

const PAGE: &str = "#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
client=${REMOTE_ADDR#[} && client=${client#::ffff:} && client=${client%]}
echo \"hostname=$(hostname) version=$VERSION client=$client\"
";

pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) data: Vec<u8>,
}

impl Blob {
    fn new(data: Vec<u8>) -> Self {
        Self { digest: digest(&data), data }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.data.len() })
    }
}

pub(crate) struct Layer {
    blob: Blob,
    /// Digest of the uncompressed archive.
    diff_id: String,
}

/// An image as a registry keeps it.
pub(crate) struct Image {
    pub(crate) index: Blob,
    pub(crate) manifest: Blob,
    pub(crate) config: Blob,
    pub(crate) layer: Blob,
}

fn digest(data: &[u8]) -> String {
    let hash = Sha256::digest(data);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Makes the one layer, with `scratch` as working folder.
pub(crate) fn layer(scratch: &Path) -> Layer {
    large_layer(scratch, 0)
}

/// The layer with `ballast` bytes more that do not compress.
pub(crate) fn large_layer(scratch: &Path, ballast: usize) -> Layer {
    layer_with(scratch, |root| {
        if ballast > 0 {
            let file = root.join("ballast").display().to_string();
            run("sh", &["-ec", &format!("head -c {ballast} /dev/urandom >{file}")]).ok();
        }
    })
}

/// The layer with one of the machine's programs in `/bin`, and the libraries that it is linked with.
pub(crate) fn layer_with_program(scratch: &Path, program: &Path) -> Layer {
    layer_with(scratch, |root| {
        let script = format!(
            "cp {program} {root}/bin/
             ldd {program} | grep -o '/[^ ]*' | while read -r library; do
                 mkdir -p \"{root}$(dirname \"$library\")\"
                 cp -L \"$library\" \"{root}$library\"
             done",
            program = program.display(),
            root = root.display()
        );
        run("sh", &["-ec", &script]).ok();
    })
}

fn layer_with(scratch: &Path, add: impl FnOnce(&Path)) -> Layer {
    let root = scratch.join("rootfs");
    fill(&root).unwrap_or_else(|error| panic!("cannot make an image in {}: {error}", root.display()));
    add(&root);

    let archive = scratch.join("layer.tar");
    let (archive, root) = (archive.display().to_string(), root.display().to_string());
    run("tar", &["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-C", &root, "-cf", &archive, "."])
        .ok();
    let diff_id = digest(&read(&archive));
    run("gzip", &["-1n", &archive]).ok();
    Layer { blob: Blob::new(read(&format!("{archive}.gz"))), diff_id }
}

fn read(path: &str) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

fn fill(root: &Path) -> std::io::Result<()> {
    for folder in ["bin", "etc", "tmp", "www/cgi-bin", "home/web", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;

    let busybox = run("sh", &["-c", "command -v busybox"]).ok();
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in run("busybox", &["--list"]).ok().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }

    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n")?;
    write_program(&root.join("bin/serve"), SERVE)?;
    write_program(&root.join("www/cgi-bin/index.cgi"), PAGE)
}

fn write_program(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// One version of `web` on top of the layer.
pub(crate) fn web(layer: &Layer, version: &str) -> Image {
    image(layer, web_config(version))
}

/// `web` with a health check that looks for a file, twice in a second.
pub(crate) fn checked(layer: &Layer) -> Image {
    let mut config = web_config("1");
    config["Healthcheck"] = json!({ "Test": ["CMD-SHELL", "test -e /tmp/ok"], "Interval": 500_000_000 });
    image(layer, config)
}

fn web_config(version: &str) -> Value {
    json!({
        "Cmd": ["/bin/serve"],
        "Env": ["PATH=/bin", format!("VERSION={version}")],
        "ExposedPorts": { "80/tcp": {} },
        "WorkingDir": "/",
    })
}

fn image(layer: &Layer, config: Value) -> Image {
    let config = Blob::json(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
    }));
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.blob.descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
    }));
    let index = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [foreign(), native(&manifest)],
    }));
    let layer = Blob { digest: layer.blob.digest.clone(), data: layer.blob.data.clone() };
    Image { index, manifest, config, layer }
}

/// Writes `image` as an archive in the OCI layout (image-spec, image-layout.md) under the name `reference`.
pub(crate) fn archive(image: &Image, reference: &str, scratch: &Path) -> PathBuf {
    let file = scratch.join("image.tar");
    lay_out(image, reference, &scratch.join("layout"))
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", file.display()));
    run(
        "tar",
        &["-C", &scratch.join("layout").display().to_string(), "-cf", &file.display().to_string(), "."],
    )
    .ok();
    file
}

fn lay_out(image: &Image, reference: &str, layout: &Path) -> std::io::Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    for blob in [&image.manifest, &image.config, &image.layer] {
        fs::write(blobs.join(blob.digest.trim_start_matches("sha256:")), &blob.data)?;
    }
    let mut entry = native(&image.manifest);
    entry["annotations"] = json!({ "io.containerd.image.name": reference });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
}

fn native(manifest: &Blob) -> Value {
    let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    entry
}

fn foreign() -> Value {
    json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(b"no such manifest"),
        "size": 500,
        "platform": { "architecture": "s390x", "os": "linux" },
    })
}

/// The machine's architecture in the words of OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
