//! Registries on the lab's bridge that serve the test images: one over plain HTTP, and on demand one that is stricter.
//!
//! The images are written straight into their storage: a push would need a client, and would measure nothing of ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::command::{inside, run, run_inside, start_logged};
use crate::image::{self, Blob, Image};
use crate::wait::wait;

pub(crate) const ADDRESS: &str = "192.168.77.1:5000";
const STRICT_ADDRESS: &str = "192.168.77.1:5001";

/// The only user of a registry that asks for one, and the password with its bcrypt hash.
pub const USER: &str = "user";
pub const PASSWORD: &str = "secret";
const HASH: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

#[derive(Debug)]
pub struct Registry {
    server: Child,
    netns: String,
    address: &'static str,
    ca: Option<PathBuf>,
}

/// What a registry asks of its clients.
#[derive(Debug, Clone, Copy, Default)]
pub struct Strictness {
    /// TLS, with a certificate that only its own CA vouches for.
    pub tls: bool,
    /// The password of [`USER`].
    pub password: bool,
}

impl Registry {
    /// Starts it in the namespace `netns`, with its files in `folder`; `ready` must be called before use.
    pub(crate) fn start(netns: &str, folder: &Path, log: &Path) -> Self {
        prepare(folder).unwrap_or_else(|error| panic!("cannot make a registry: {error}"));
        Self::serve(netns, ADDRESS, folder, Strictness::default(), log)
    }

    /// Starts one with what the first has in `folder`, and waits for it.
    pub(crate) fn strict(netns: &str, folder: &Path, strictness: Strictness, log: &Path) -> Self {
        let registry = Self::serve(netns, STRICT_ADDRESS, folder, strictness, log);
        registry.ready();
        registry
    }

    fn serve(netns: &str, address: &'static str, folder: &Path, strictness: Strictness, log: &Path) -> Self {
        let config = configure(address, folder, strictness);
        let config = config.unwrap_or_else(|error| panic!("cannot configure a registry: {error}"));
        let mut command = inside(netns, "docker-registry");
        command.arg("serve").arg(config);
        let server = start_logged(&mut command, log);
        let ca = strictness.tls.then(|| folder.join("cert.pem"));
        Self { server, netns: netns.to_owned(), address, ca }
    }

    pub(crate) fn ready(&self) {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/v2/", self.address);
        wait("the registry", Duration::from_secs(20), || {
            // Whatever it answers, it answers.
            let answer = run_inside(&self.netns, "curl", &["-sSk", &url]);
            if answer.succeeded() { Ok(()) } else { Err(answer) }
        });
    }

    pub fn address(&self) -> &str {
        self.address
    }

    /// The reference of `name` here.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The certificate of who vouches for it.
    ///
    /// # Panics
    ///
    /// When it has no TLS.
    #[track_caller]
    pub fn ca(&self) -> &Path {
        self.ca.as_deref().unwrap_or_else(|| panic!("the registry {} has no TLS", self.address))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn prepare(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let layer = image::layer(folder);
    for version in image::VERSIONS {
        publish(folder, "web", version, &image::web(&layer, version))?;
    }
    publish(folder, "web", "latest", &image::web(&layer, "1"))
}

/// Adds `web` with `bytes` more that do not compress, as `name:latest`.
pub(crate) fn publish_large(folder: &Path, name: &str, bytes: usize) -> io::Result<()> {
    let scratch = folder.join(name);
    fs::create_dir_all(&scratch)?;
    let layer = image::large_layer(&scratch, bytes);
    publish(folder, name, "latest", &image::web(&layer, "1"))
}

/// Adds `web` with a health check, as `checked:latest`.
pub(crate) fn publish_checked(folder: &Path) -> io::Result<()> {
    let scratch = folder.join("checked");
    fs::create_dir_all(&scratch)?;
    publish(folder, "checked", "latest", &image::checked(&image::layer(&scratch)))
}

/// Adds versions of `web` that have `program` too, as `name`.
pub(crate) fn publish_program(folder: &Path, name: &str, program: &Path) -> io::Result<()> {
    let scratch = folder.join(name);
    fs::create_dir_all(&scratch)?;
    let layer = image::layer_with_program(&scratch, program);
    let mut versions = image::VERSIONS.iter();
    versions.try_for_each(|version| publish(folder, name, version, &image::web(&layer, version)))
}

fn configure(address: &str, folder: &Path, strictness: Strictness) -> io::Result<PathBuf> {
    let shown = folder.display();
    let mut text = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {shown}/storage}}}}\n"
    );
    let mut http = format!("addr: '{address}'");
    if strictness.tls {
        certify(address, folder);
        http += &format!(", tls: {{certificate: {shown}/cert.pem, key: {shown}/key.pem}}");
    }
    text += &format!("http: {{{http}}}\n");
    if strictness.password {
        fs::write(folder.join("passwords"), format!("{USER}:{HASH}\n"))?;
        text += &format!("auth: {{htpasswd: {{realm: lab, path: {shown}/passwords}}}}\n");
    }
    let config = folder.join(format!("{address}.yml"));
    fs::write(&config, text)?;
    Ok(config)
}

/// Makes a key and a certificate that vouches for itself.
fn certify(address: &str, folder: &Path) {
    let host = address.split(':').next().unwrap_or_default();
    let script = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lab \
         -addext subjectAltName=IP:{host} -addext basicConstraints=critical,CA:FALSE \
         -keyout {0}/key.pem -out {0}/cert.pem",
        folder.display()
    );
    run("sh", &["-ec", &script]).ok();
}

/// Writes `image` as `name:tag` in the layout of the registry's filesystem driver.
fn publish(folder: &Path, name: &str, tag: &str, image: &Image) -> io::Result<()> {
    let root = folder.join("storage/docker/registry/v2");
    let repository = root.join("repositories").join(name);
    for blob in [&image.index, &image.manifest, &image.config, &image.layer] {
        write_blob(&root, blob)?;
    }
    for blob in [&image.config, &image.layer] {
        write_link(&repository.join("_layers"), blob)?;
    }
    for manifest in [&image.index, &image.manifest] {
        write_link(&repository.join("_manifests/revisions"), manifest)?;
    }
    let tags = repository.join("_manifests/tags").join(tag);
    write_link(&tags.join("index"), &image.index)?;
    fs::create_dir_all(tags.join("current"))?;
    fs::write(tags.join("current/link"), &image.index.digest)
}

fn write_blob(root: &Path, blob: &Blob) -> io::Result<()> {
    let hex = blob.digest.trim_start_matches("sha256:");
    let folder = root.join("blobs/sha256").join(&hex[..2]).join(hex);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("data"), &blob.data)
}

fn write_link(folder: &Path, blob: &Blob) -> io::Result<()> {
    let folder = folder.join("sha256").join(blob.digest.trim_start_matches("sha256:"));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("link"), &blob.digest)
}
