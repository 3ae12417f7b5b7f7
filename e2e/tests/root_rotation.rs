//! Another root certificate, while everything goes on.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::fs;
use std::time::SystemTime;

use e2e::{Host, Lab, PATIENCE, wait};
use identity::{CertificateDir, RootCa};

fn root(host: &Host) -> String {
    host.ctl(&["swarm", "ca"]).ok()
}

/// Waits until the hosts trust `root` alone, and have certificates of it.
fn wait_root(hosts: &[&Host], root: &str) {
    for host in hosts {
        wait(&format!("{} to trust the new root", host.name()), PATIENCE, || {
            let (identity, trusted) = CertificateDir::new(&host.data_root()).load().unwrap().unwrap();
            let sound = trusted.verify(identity.certificate(), SystemTime::now());
            if trusted.pem().trim() == root && sound.is_ok() {
                Ok(())
            } else {
                Err(format!("{sound:?} {}", trusted.pem()))
            }
        });
    }
}

fn leader<'a>(lab: &'a Lab, asked: &Host) -> &'a Host {
    wait("a leader", PATIENCE, || {
        let nodes = asked.nodes();
        let leader = nodes.iter().find(|node| node.manager_status == "Leader");
        leader.map(|node| lab.host_named(&node.hostname)).ok_or_else(|| format!("{nodes:#?}"))
    })
}

#[test]
fn the_root_is_replaced_while_a_node_is_away_and_the_leader_dies() {
    let mut lab = Lab::swarm("the root is replaced", 3, 1);
    lab.add_host();
    let [h1, h2, h3, h4, h5] = [1, 2, 3, 4, 5].map(|number| lab.host(number));
    h1.create_network("net", "10.0.9.0/24");
    let pids: Vec<_> = h1.create_web(&lab, "web", "net", 3).iter().map(|task| lab.enter(task).pid).collect();
    let (first, old_token) = (root(h1), h1.token("worker"));
    assert!(first.starts_with("-----BEGIN CERTIFICATE-----"), "{first}");

    // It waits for the node that is away; who joins meanwhile is welcome.
    h4.kill();
    h2.ctl(&["swarm", "ca", "--rotate", "--detach"]).ok();
    let second = root(h3);
    assert_ne!(first, second);
    h5.start();
    h5.join(&old_token, h1).ok();
    h1.wait_nodes(4);
    assert_eq!(h1.token("worker"), old_token);

    // A root of one's own takes the place of that one, and the leader that of another.
    let given = RootCa::generate(SystemTime::now()).unwrap();
    let [cert, key] =
        ["cert", "key"].map(|name| lab.folder().join(format!("{name}.pem")).display().to_string());
    fs::write(&cert, given.certificate().pem()).unwrap();
    fs::write(&key, given.key().expose_pem()).unwrap();
    h3.ctl(&["swarm", "ca", "--rotate", "--ca-cert", &cert, "--ca-key", &key, "--detach"]).ok();
    let third = root(h1);
    assert_eq!(third, given.certificate().pem().trim());
    let lost = leader(&lab, h1);
    lost.kill();
    let asked = if lost.name() == "h1" { h2 } else { h1 };
    leader(&lab, asked);
    assert_eq!(root(asked), third);
    lost.start();
    h4.start();
    wait_root(&[h1, h2, h3, h4, h5], &third);
    asked.wait_nodes(5);
    assert!(pids.iter().all(|pid| e2e::resident_kib(*pid).is_some()), "a task was touched");

    // The old tokens are worth nothing, the new ones are.
    h5.ctl(&["swarm", "leave"]).ok();
    let refused = h5.join(&old_token, h1).refused();
    assert!(refused.contains("does not match fingerprint"), "{refused}");
    h5.join(&h1.token("worker"), h1).ok();
    h1.create_network("afterwards", "10.0.10.0/24");
}

#[test]
fn a_rotation_shows_its_progress_and_bad_roots_are_refused() {
    let lab = Lab::swarm("a rotation shows its progress", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let first = root(h1);
    let output = h1.ctl(&["swarm", "ca", "--rotate", "--cert-expiry", "720h"]);
    assert!(output.stderr.contains("rotated CA certificates: 2/2 nodes"), "{output}");
    let second = output.ok();
    assert!(second != first && second == root(h1));
    wait_root(&[h1, h2], &second);

    let file = |name: &str, text: &str| {
        let path = lab.folder().join(name).display().to_string();
        fs::write(&path, text).unwrap();
        path
    };
    let [one, other] = [(); 2].map(|()| RootCa::generate(SystemTime::now()).unwrap());
    let cert = file("cert.pem", one.certificate().pem());
    let rotate =
        |cert: &str, key: &str| h1.ctl(&["swarm", "ca", "--rotate", "--ca-cert", cert, "--ca-key", key]);
    let key = file("other-key.pem", other.key().expose_pem());
    assert!(rotate(&cert, &key).refused().contains("does not belong to the CA's private key"));
    let rubbish = file("rubbish.pem", "rubbish");
    assert!(rotate(&cert, &rubbish).refused().contains("not a P-256 private key"));
    assert!(rotate(&rubbish, &key).refused().contains("root certificate is missing"));
    let missing = rotate("/no/such/file", &key).refused();
    assert!(missing.contains("cannot read /no/such/file"), "{missing}");
    assert_eq!(root(h1), second, "nothing has changed");
}

#[test]
fn a_snapshot_that_was_saved_during_a_rotation_is_good_after_it() {
    let lab = Lab::swarm("a snapshot of a rotation", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h2.kill();
    h1.ctl(&["swarm", "ca", "--rotate", "--detach"]).ok();
    let next = root(h1);
    let file = lab.folder().join("snapshot").display().to_string();
    h1.ctl(&["swarm", "snapshot", "save", &file]).ok();
    h2.start();
    wait_root(&[h1, h2], &next);

    // For the node that trusts the next root alone, the restored manager shows a certificate of that.
    h1.ctl(&["swarm", "leave", "--force"]).ok();
    h1.ctl(&["swarm", "snapshot", "restore", "--advertise-addr", &h1.addr().to_string(), &file]).ok();
    h1.wait_status("h2", "Ready", PATIENCE);
    wait("the manager that was lost to be down", PATIENCE, || {
        let nodes = h1.nodes();
        let lost = nodes.iter().find(|node| node.hostname == "h1" && node.manager_status.is_empty());
        let lost = lost.ok_or_else(|| format!("{nodes:#?}"))?;
        let removed = h1.ctl(&["node", "rm", "--force", &lost.id]);
        if removed.succeeded() { Ok(()) } else { Err(removed.to_string()) }
    });
    wait_root(&[h1, h2], &next);
    h1.create_network("afterwards", "10.0.9.0/24");
}
