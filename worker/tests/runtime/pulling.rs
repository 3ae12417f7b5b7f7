//! Images from registries and archives.

use std::io::{Cursor, Write};
use std::time::{Duration, Instant};

use flate2::write::GzEncoder;
use serde_json::json;
use tokio::sync::watch;
use worker::runtime::{Error, PullPhase, PullProgress, RegistryAuth, Runtime, Verdict};

use crate::image::{self, Image};
use crate::node::{Node, soon};
use crate::registry::{self, Registry};

#[tokio::test(flavor = "multi_thread")]
async fn by_tag_and_by_digest() {
    let node = Node::start_with(|config| config.insecure_registries = vec!["127.0.0.0/8".into()]).await;
    let mut registry = Registry::start(node.place.root.join("registry")).await;
    assert!(registry::answers_http(&registry.host));
    let image = Image::with_marker(json!({"Cmd": ["/bin/sh", "-c", "/bin/cat /etc/marker"]}), "one\n");
    registry.push("app:v1", &image).await;
    let name = format!("{}/app:v1", registry.host);

    // Many at once share one download.
    let progress = watch::Sender::default();
    let pulls = (0..5).map(|_| node.runtime().pull(&name, None, &progress));
    for pulled in soon(futures_util::future::join_all(pulls)).await {
        assert_eq!(pulled.unwrap().digest, image.digest());
    }
    let told: PullProgress = progress.borrow().clone();
    assert_eq!((told.phase, told.layers, told.layers_done), (PullPhase::Done, 2, 2));
    let bytes: usize = image.layers.iter().map(Vec::len).sum();
    assert_eq!((told.done_bytes, told.total_bytes), (bytes as u64, bytes as u64));
    let mut config = node.script("pulled", "");
    (config.image, config.args) = (name.clone(), Vec::new());
    assert_eq!(node.stdout_of(&config).await, "one\n");

    // The tag moves on.
    let newer = Image::with_marker(json!({}), "newer\n");
    registry.push("app:v1", &newer).await;
    assert_eq!(node.pull(&name).await.unwrap().digest, newer.digest());
    let by_digest = format!("{}/app@{}", registry.host, image.digest());
    assert_eq!(node.pull(&by_digest).await.unwrap().reference, by_digest);

    // Without the registry: what is here will do, the digest at once.
    registry.stop();
    assert_eq!(node.pull(&by_digest).await.unwrap().digest, image.digest());
    assert_eq!(node.pull(&name).await.unwrap().digest, newer.digest());
    let error = node.pull(&format!("{}/app:v2", registry.host)).await.unwrap_err();
    assert!(error.report().starts_with(&format!("cannot reach registry {}: ", registry.host)), "{error}");

    let names: Vec<_> =
        node.runtime().images().await.unwrap().into_iter().map(|image| image.reference).collect();
    assert_eq!(names, [name.as_str(), &by_digest, "docker.io/test/plain:v1"]);
    node.runtime().remove_image(&name).await.unwrap();
    assert!(matches!(node.runtime().remove_image(&name).await, Err(Error::NoSuchImage { .. })));
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_refuses() {
    let node = Node::start_with(|config| config.insecure_registries = vec!["127.0.0.1/32".into()]).await;
    let registry = Registry::start_with(node.place.root.join("registry"), false, true).await;
    registry.push("app:v1", &image::plain()).await;
    let pull = async |name: &str, auth: Option<RegistryAuth>| {
        let name = format!("{}/{name}", registry.host);
        soon(node.runtime().pull(&name, auth.as_ref(), &watch::Sender::default())).await.map_err(|error| {
            assert_eq!(error.verdict(), Verdict::Reject, "{error:?}");
            error.report().replace(&registry.host, "HOST")
        })
    };
    let good = || Some(RegistryAuth::basic("user", "secret"));
    let denied = "access to image HOST/app:v1 denied: it does not exist, or it needs other credentials \
                  (--with-registry-auth)";
    assert_eq!(pull("app:v1", None).await.unwrap_err(), denied);
    assert_eq!(pull("app:v1", Some(RegistryAuth::basic("user", "wrong"))).await.unwrap_err(), denied);
    assert_eq!(pull("app:v1", good()).await.unwrap().digest, image::plain().digest());
    assert_eq!(pull("app:nope", good()).await.unwrap_err(), "No such image: HOST/app:nope");
    assert_eq!(pull("nope:v1", good()).await.unwrap_err(), "No such image: HOST/nope:v1");
    let absent = format!("app@sha256:{}", "0".repeat(64));
    assert_eq!(pull(&absent, good()).await.unwrap_err(), format!("No such image: HOST/{absent}"));
    let error = node.pull("UPPER").await.unwrap_err();
    assert!(error.report().starts_with("invalid image reference \"UPPER\": "), "{error}");
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_plain_http() {
    let mut node = Node::start().await;
    let plain = Registry::start(node.place.root.join("plain")).await;
    let secure = Registry::start_with(node.place.root.join("secure"), true, false).await;
    for registry in [&plain, &secure] {
        registry.push("app:v1", &image::plain()).await;
    }
    let host = &plain.host;
    let error = node.pull(&format!("{host}/app:v1")).await.unwrap_err();
    assert_eq!(
        error.report(),
        format!("registry {host} speaks plain HTTP: allow it with --insecure-registry {host}")
    );
    let name = format!("{}/app:v1", secure.host);
    let error = node.pull(&name).await.unwrap_err();
    let ca = node.config.certs_dir.join(&secure.host).join("ca.crt");
    let remedy = format!("its CA may be put into {}", ca.display());
    assert!(error.report().ends_with(&remedy), "{}", error.report());

    // With its CA, at once.
    std::fs::create_dir_all(ca.parent().unwrap()).unwrap();
    std::fs::copy(secure.directory.join("cert.pem"), &ca).unwrap();
    node.pull(&name).await.unwrap();
    node.runtime().remove_image(&name).await.unwrap();

    // As an insecure one.
    node.runtime().shutdown().await;
    std::fs::remove_file(&ca).unwrap();
    node.config.insecure_registries = vec![secure.host.clone()];
    node.runtime = Some(worker::runtime::containerd::Containerd::start(node.config.clone()).await.unwrap());
    node.pull(&name).await.unwrap();
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_never_answers_is_given_up() {
    let node = Node::start().await;
    let (host, _listener) = registry::silent();
    let begun = Instant::now();
    let error = node.pull(&format!("{host}/app:v1")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));

    // With a local image it is asked once, and not for long.
    let name = format!("{host}/local:v1");
    let archive = image::plain().oci_archive(&name);
    node.runtime().load_image(Box::new(Cursor::new(archive))).await.unwrap();
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(node.pull(&name).await.unwrap().digest, image::plain().digest());
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives() {
    let node = Node::start().await;
    let load = async |archive: Vec<u8>| soon(node.runtime().load_image(Box::new(Cursor::new(archive)))).await;
    let image = Image::with_marker(json!({"Entrypoint": ["/bin/cat", "/etc/marker"]}), "docker\n");
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&image.docker_archive("saved")).unwrap();
    assert_eq!(load(encoder.finish().unwrap()).await.unwrap(), ["docker.io/library/saved:latest"]);
    let mut config = node.script("saved", "");
    (config.image, config.args) = ("saved".into(), Vec::new());
    assert_eq!(node.stdout_of(&config).await, "docker\n");

    for (archive, message) in [
        (image.oci_archive("latest"), "no image in it has a name; save it by name"),
        (b"nonsense".repeat(1000), "it is no tar file"),
        (tar::Builder::new(Vec::new()).into_inner().unwrap(), "it has neither index.json nor manifest.json"),
        (image.oci_archive("x:y")[..20_000].to_vec(), "it has neither index.json nor manifest.json"),
    ] {
        let error = load(archive).await.unwrap_err();
        assert!(
            error.report().starts_with(&format!("image archive is not usable: {message}")),
            "{}",
            error.report()
        );
        assert_eq!(error.verdict(), Verdict::Reject);
    }
    assert_eq!(std::fs::read_dir(node.config.data_root.join("tmp")).unwrap().count(), 1);
    node.runtime().shutdown().await;
}
