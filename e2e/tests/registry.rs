//! Where images come from: registries that ask for something, and what a task tells while it waits for its image.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::fs;
use std::path::PathBuf;

use e2e::registry::{PASSWORD, Registry, Strictness, USER};
use e2e::{Host, Lab, PATIENCE, wait};

/// Creates a service without waiting for it.
fn create(host: &Host, name: &str, image: &str) {
    host.ctl(&["service", "create", "--detach", "--restart-condition", "none", "--name", name, image]).ok();
}

/// What the task of the service says of why it does not run.
fn complaint(host: &Host, service: &str) -> String {
    host.wait_tasks("an error", PATIENCE, service, |tasks| {
        tasks.iter().map(|task| task.error.clone()).find(|error| !error.is_empty())
    })
}

fn trust(host: &Host, registry: &Registry) {
    let folder = host.data_root().join("certs.d").join(registry.address());
    fs::create_dir_all(&folder).unwrap();
    fs::copy(registry.ca(), folder.join("ca.crt")).unwrap();
}

/// A client's configuration folder as `docker login` leaves it.
fn logged_in(lab: &Lab, registry: &Registry, password: &str) -> PathBuf {
    let encoded = format!("printf %s '{USER}:{password}' | base64 -w0");
    let auth = lab.host(1).sh(&encoded).ok();
    let folder = lab.folder().join(format!("docker-{password}"));
    fs::create_dir_all(&folder).unwrap();
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address());
    fs::write(folder.join("config.json"), config).unwrap();
    folder
}

fn digest_of(host: &Host, tag: &str) -> String {
    let accept = "Accept: application/vnd.oci.image.index.v1+json";
    let head = format!("curl -sSfI -H '{accept}' http://192.168.77.1:5000/v2/web/manifests/{tag}");
    let headers = host.sh(&head).ok();
    let digest = headers.lines().find_map(|line| line.strip_prefix("Docker-Content-Digest: "));
    digest.unwrap_or_else(|| panic!("no digest in {headers}")).trim().to_owned()
}

#[test]
fn a_registry_with_its_own_ca_is_trusted_once_the_node_has_the_ca() {
    let lab = Lab::swarm("a registry with its own ca", 1, 0);
    let h1 = lab.host(1);
    let registry = lab.strict_registry(Strictness { tls: true, password: false });
    let image = registry.image("web:1");

    create(h1, "untrusted", &image);
    let error = complaint(h1, "untrusted");
    let place = h1.data_root().join("certs.d").join(registry.address()).join("ca.crt");
    assert!(error.contains(&place.display().to_string()), "{error}");

    // The next task finds it; nothing is to be restarted.
    trust(h1, &registry);
    h1.ctl(&["service", "create", "--name", "trusted", &image]).ok();
    h1.wait_running("trusted", 1);
}

#[test]
fn plain_http_is_spoken_only_where_allowed() {
    let lab = Lab::swarm("plain http is spoken only where allowed", 1, 0);
    let h1 = lab.host(1);
    let registry = lab.strict_registry(Strictness::default());
    create(h1, "web", &registry.image("web:1"));
    let error = complaint(h1, "web");
    assert!(error.contains(&format!("--insecure-registry {}", registry.address())), "{error}");
}

#[test]
fn credentials_travel_with_the_service_and_are_shown_to_nobody() {
    let lab = Lab::swarm("credentials travel with the service", 1, 1);
    let h1 = lab.host(1);
    let registry = lab.strict_registry(Strictness { tls: true, password: true });
    lab.hosts().iter().for_each(|host| trust(host, &registry));
    let (good, bad) = (logged_in(&lab, &registry, PASSWORD), logged_in(&lab, &registry, "guess"));
    let image = registry.image("web:1");

    create(h1, "anonymous", &image);
    assert!(complaint(h1, "anonymous").contains("--with-registry-auth"));
    let service = ["service", "create", "--with-registry-auth"];
    let wrong = ["--detach", "--restart-condition", "none", "--name", "wrong", &image];
    h1.ctl_with_config(&bad, &[&service[..], &wrong].concat()).ok();
    assert!(complaint(h1, "wrong").contains("denied"));
    // By tag and by digest, on both nodes.
    let by_digest = registry.image(&format!("web@{}", digest_of(h1, "2")));
    for (name, image) in [("by-tag", &image), ("by-digest", &by_digest)] {
        let right = ["--replicas", "2", "--name", name, image];
        h1.ctl_with_config(&good, &[&service[..], &right].concat()).ok();
        let nodes: Vec<_> = h1.wait_running(name, 2).into_iter().map(|task| task.node).collect();
        assert!(nodes.contains(&"h1".into()) && nodes.contains(&"h2".into()), "{nodes:?}");
    }

    let encoded = h1.sh(&format!("printf %s '{USER}:{PASSWORD}' | base64 -w0")).ok();
    let travelling = h1.sh(&format!("printf %s '\"password\":\"{PASSWORD}\"' | base64 -w0")).ok();
    let shown = [h1.inspect("service", "by-tag").to_string(), h1.logged(), lab.host(2).logged()];
    // The middle of it, whatever stands before it and however it is padded.
    for secret in [encoded.as_str(), &format!("\"{PASSWORD}\""), &travelling[..16]] {
        assert!(shown.iter().all(|text| !text.contains(secret)), "{secret} is shown");
        let written: Vec<_> = lab.hosts().iter().flat_map(|host| host.files_with(secret)).collect();
        assert!(written.is_empty(), "{secret} is in {written:?}");
    }
}

#[test]
fn a_task_tells_how_far_its_image_has_come() {
    let lab = Lab::swarm("a task tells how far its image has come", 1, 0);
    let h1 = lab.host(1);
    let image = lab.large_image("large", 6 << 20);
    // Some seconds' worth at this rate.
    h1.throttle("16mbit");
    create(h1, "large", &image);
    let id = h1.wait_tasks("the task", PATIENCE, "large", |tasks| tasks.first().map(|task| task.id.clone()));
    let message = wait("progress", PATIENCE, || {
        let task = h1.inspect("task", &id);
        let message =
            task.pointer("/Status/Message").and_then(|message| message.as_str()).unwrap_or_default();
        if message.contains(" MB, ") { Ok(message.to_owned()) } else { Err(message.to_owned()) }
    });
    assert!(message.starts_with("preparing: image downloading "), "{message}");
    h1.wait_running("large", 1);
}
