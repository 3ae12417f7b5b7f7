//! A registry on the lab's bridge that serves the test images over plain HTTP.
//!
//! The images are written straight into its storage: a push would need a client, and would measure nothing of ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::command::{inside, run_inside, start_logged};
use crate::image::{self, Blob, Image};
use crate::wait::wait;

pub(crate) const ADDRESS: &str = "192.168.77.1:5000";

#[derive(Debug)]
pub(crate) struct Registry {
    server: Child,
    netns: String,
}

impl Registry {
    /// Starts it in the namespace `netns`, with its files in `folder`; `ready` must be called before use.
    pub(crate) fn start(netns: &str, folder: &Path, log: &Path) -> Self {
        let config = prepare(folder).unwrap_or_else(|error| panic!("cannot make a registry: {error}"));
        let mut command = inside(netns, "docker-registry");
        command.arg("serve").arg(config);
        let server = start_logged(&mut command, log);
        Self { server, netns: netns.to_owned() }
    }

    pub(crate) fn ready(&self) {
        let url = format!("http://{ADDRESS}/v2/");
        wait("the registry", Duration::from_secs(20), || {
            let answer = run_inside(&self.netns, "curl", &["-sSf", &url]);
            if answer.succeeded() { Ok(()) } else { Err(answer) }
        });
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn prepare(folder: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let layer = image::layer(folder);
    let storage = folder.join("storage");
    for version in image::VERSIONS {
        publish(&storage, "web", version, &image::web(&layer, version))?;
    }
    publish(&storage, "web", "latest", &image::web(&layer, "1"))?;

    let config = folder.join("config.yml");
    let root = storage.display();
    let text = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: '{ADDRESS}'}}\n"
    );
    fs::write(&config, text)?;
    Ok(config)
}

/// Writes `image` as `name:tag` in the layout of the registry's filesystem driver.
fn publish(storage: &Path, name: &str, tag: &str, image: &Image) -> io::Result<()> {
    let root = storage.join("docker/registry/v2");
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
