//! Managers that are locked: what they keep on disk is useless without the unlock key.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::fs;
use std::path::Path;

use e2e::{Host, Lab, PATIENCE, wait};

const LOCKED: &str = "Swarm is encrypted and needs to be unlocked";

fn state(host: &Host) -> String {
    let info = host.ctl_json(&["info"]).remove(0);
    info["Swarm"]["LocalNodeState"].as_str().unwrap().to_owned()
}

fn key_file(host: &Host) -> String {
    fs::read_to_string(host.data_root().join("certificates/swarm-node.key")).unwrap()
}

/// The files of the swarm's, without images and the containers' own.
fn on_disk(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        match entry.file_type().unwrap() {
            kind if kind.is_file() => bytes.extend(fs::read(entry.path()).unwrap_or_default()),
            kind if kind.is_dir() && !["containerd", "containers"].iter().any(|other| name == *other) => {
                bytes.extend(on_disk(&entry.path()));
            }
            _ => {}
        }
    }
    bytes
}

fn holds(disk: &[u8], secret: &[u8]) -> bool {
    disk.windows(secret.len()).any(|window| window == secret)
}

/// Whether keys are sealed, and nothing waits for another data key.
fn wait_sealed(host: &Host, sealed: bool) {
    wait(&format!("the keys of {} to be sealed: {sealed}", host.name()), PATIENCE, || {
        let (key, data) = (key_file(host), fs::read(host.data_root().join("raft/data-key")).unwrap());
        // One data key in one envelope, or in clear: see raft-store/src/key/file.rs.
        let length = if sealed { 16 + 5 + 24 + 32 + 16 } else { 32 };
        let settled = key.contains("SEALED") == sealed && data.len() == length;
        if settled { Ok(()) } else { Err(format!("{} bytes of data key, {key}", data.len())) }
    });
}

fn restart_locked(host: &Host) {
    host.terminate();
    host.start();
    assert_eq!(state(host), "locked");
}

fn unlock(host: &Host, key: &str) {
    host.ctl_told(key, &["swarm", "unlock"]).ok();
    assert_eq!(state(host), "active");
    wait(&format!("{} to serve", host.name()), PATIENCE, || {
        let answer = host.ctl(&["node", "ls"]);
        if answer.succeeded() { Ok(()) } else { Err(answer) }
    });
}

fn unlock_key(host: &Host) -> String {
    host.ctl(&["swarm", "unlock-key", "-q"]).ok()
}

#[test]
fn locked_managers_serve_nothing_until_they_are_unlocked() {
    let lab = Lab::swarm("locked managers", 3, 0);
    let (h1, h2, h3) = (lab.host(1), lab.host(2), lab.host(3));
    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 3);
    let on_h3 = lab.enter(tasks.iter().find(|task| task.node == "h3").unwrap()).pid;
    let stolen = [key_file(h3).into_bytes(), fs::read(h3.data_root().join("raft/data-key")).unwrap()];
    let tls_key = key_file(h3).lines().nth(1).unwrap().to_owned();
    assert!(holds(&on_disk(&h3.data_root()), tls_key.as_bytes()), "the search finds what is there");

    let said = h1.ctl(&["swarm", "update", "--autolock"]).ok();
    let first = unlock_key(h2);
    assert!(first.starts_with("SWMKEY-1-") && said.contains(&first), "{said}");
    [h1, h2, h3].iter().for_each(|host| wait_sealed(host, true));
    let tokens = ["worker", "manager"].map(|role| h1.ctl(&["swarm", "join-token", "-q", role]).ok());
    let disk = on_disk(&h3.data_root());
    let secrets = [tls_key.as_bytes(), &stolen[1], first.as_bytes(), b"BEGIN PRIVATE KEY"];
    for secret in secrets.into_iter().chain(tokens.iter().map(|token| token.as_bytes())) {
        assert!(!holds(&disk, secret), "{} is on disk", String::from_utf8_lossy(secret));
    }

    // Locked: it tells so, and touches nothing.
    restart_locked(h3);
    for refused in [&["node", "ls"][..], &["service", "ls"], &["swarm", "unlock-key"], &["network", "audit"]]
    {
        assert!(h3.ctl(refused).refused().contains(LOCKED), "{refused:?}");
    }
    assert!(h3.ctl(&["swarm", "leave"]).refused().contains(LOCKED));
    assert!(!h3.sh("nc -z -w 1 127.0.0.1 2377").succeeded(), "a locked manager listens");
    let wrong = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8";
    let refused = h3.ctl_told(wrong, &["swarm", "unlock"]).refused();
    assert!(refused.contains("sealed with another unlock key"), "{refused}");
    let refused = h3.ctl_told("sesame", &["swarm", "unlock"]).refused();
    assert!(refused.contains("must look like SWMKEY-1-"), "{refused}");
    h1.create_network("meanwhile", "10.0.10.0/24");
    unlock(h3, &first);
    assert!(h3.networks().iter().any(|network| network.name == "meanwhile"));
    assert!(e2e::resident_kib(on_h3).is_some(), "the task on h3 was touched");
    assert!(h3.ctl_told(&first, &["swarm", "unlock"]).refused().contains("not locked"));

    // Rotated while one of them is down: that one needs the old key once more.
    h3.kill();
    h2.ctl(&["swarm", "unlock-key", "--rotate"]).ok();
    let second = unlock_key(h1);
    assert_ne!(first, second);
    h3.start();
    assert!(h3.ctl_told(&second, &["swarm", "unlock"]).refused().contains("another unlock key"));
    unlock(h3, &first);
    wait("h3 to seal with the new key", PATIENCE, || {
        let version = |host| key_file(host).lines().next().unwrap().to_owned();
        if version(h3) == version(h1) { Ok(()) } else { Err(format!("{} {}", version(h3), version(h1))) }
    });
    [h1, h2, h3].iter().for_each(|host| wait_sealed(host, true));
    restart_locked(h3);
    assert!(h3.ctl_told(&first, &["swarm", "unlock"]).refused().contains("another unlock key"));
    unlock(h3, &second);

    // A worker starts by itself; a manager again does not.
    h1.ctl(&["node", "demote", "h3"]).ok();
    wait("the seal of h3 to go", PATIENCE, || {
        let key = key_file(h3);
        if key.contains("SEALED") || h3.data_root().join("raft").exists() { Err(key) } else { Ok(()) }
    });
    h3.terminate();
    h3.start();
    assert_eq!(state(h3), "active");
    h1.ctl(&["node", "promote", "h3"]).ok();
    wait("h3 to have sealed what it has", PATIENCE, || {
        let sealed = h3.data_root().join("raft/data-key").exists() && key_file(h3).contains("SEALED");
        if sealed { Ok(()) } else { Err(key_file(h3)) }
    });
    wait_sealed(h3, true);
    restart_locked(h3);
    unlock(h3, &second);

    h1.ctl(&["swarm", "update", "--autolock=false"]).ok();
    assert!(h1.ctl(&["swarm", "unlock-key"]).refused().contains("no unlock key is set"));
    [h1, h2, h3].iter().for_each(|host| wait_sealed(host, false));
    h3.terminate();
    h3.start();
    assert_eq!(state(h3), "active");
    assert!(e2e::resident_kib(on_h3).is_some(), "the task on h3 was touched");
    for host in [h1, h2, h3] {
        let log = host.logged();
        for secret in [&first, &second, &tls_key].into_iter().chain(&tokens) {
            assert!(!log.contains(secret.as_str()), "{secret} is in the log of {}", host.name());
        }
    }
}

#[test]
fn a_swarm_can_begin_locked_and_be_left_without_its_key() {
    let lab = Lab::new("a swarm begins locked", 1);
    let h1 = lab.host(1);
    h1.start();
    assert!(h1.ctl(&["swarm", "unlock"]).refused().contains("not part of a swarm"));
    let said = h1.ctl(&["swarm", "init", "--autolock", "--advertise-addr", &h1.addr().to_string()]).ok();
    let key = unlock_key(h1);
    assert!(said.contains(&key), "{said}");
    wait_sealed(h1, true);
    h1.create_network("net", "10.0.9.0/24");
    let task = lab.enter(&h1.create_web(&lab, "web", "net", 1)[0]).pid;
    restart_locked(h1);
    unlock(h1, &key);
    assert_eq!(h1.networks().iter().filter(|network| network.name == "net").count(), 1);
    restart_locked(h1);
    assert!(e2e::resident_kib(task).is_some(), "the task was touched");
    h1.ctl(&["swarm", "leave", "--force"]).ok();
    assert!(e2e::resident_kib(task).is_none(), "the task outlives its swarm");
    assert_eq!(state(h1), "inactive");
    h1.ctl(&["swarm", "init", "--advertise-addr", &h1.addr().to_string()]).ok();
    assert!(h1.ctl(&["swarm", "unlock-key", "--rotate"]).refused().contains("autolock is not turned on"));
}

/// Whichever file was replaced last when the manager died: one of the two keys opens all of them.
#[test]
fn a_manager_that_dies_while_it_seals_is_opened_by_one_key() {
    let lab = Lab::swarm("dies while it seals", 2, 0);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let changes: [&[&str]; 3] = [
        &["swarm", "update", "--autolock"],
        &["swarm", "unlock-key", "--rotate"],
        &["swarm", "update", "--autolock=false"],
    ];
    // Before the first file nothing has changed, and after the last one all has.
    for step in 2..=3 {
        for change in changes {
            let asked = h1.ctl(&["swarm", "unlock-key", "-q"]);
            let before = asked.succeeded().then(|| asked.ok());
            h2.terminate();
            h2.launch_dying(&format!("seal:@{step}"));
            h2.wait_ready();
            if let Some(key) = &before {
                unlock(h2, key);
            }
            wait("both managers to take part", PATIENCE, || {
                let nodes = h1.nodes();
                let part = nodes
                    .iter()
                    .filter(|node| ["Leader", "Reachable"].contains(&node.manager_status.as_str()));
                if part.count() == 2 { Ok(()) } else { Err(format!("{nodes:#?}")) }
            });
            // Without the other one this manager cannot answer everything, but it has what was committed.
            h1.ctl(change);
            h2.wait_exit();
            let asked = h1.ctl(&["swarm", "unlock-key", "-q"]);
            let after = asked.succeeded().then(|| asked.ok());
            assert_ne!(before, after);
            h2.start();
            if state(h2) == "locked" {
                let keys = before.iter().chain(&after);
                let opened = keys.filter(|key| h2.ctl_told(key, &["swarm", "unlock"]).succeeded()).count();
                assert_eq!(opened, 1, "{change:?} at step {step}");
            }
            assert_eq!(state(h2), "active", "{change:?} at step {step}");
            wait_sealed(h2, after.is_some());
            wait_sealed(h1, after.is_some());
        }
    }
}

#[test]
fn a_snapshot_of_a_locked_swarm_is_restored_locked() {
    let lab = Lab::new("a locked swarm is restored", 2);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.start();
    h1.init(&["--autolock"]);
    let key = unlock_key(h1);
    let file = lab.folder().join("snapshot").display().to_string();
    h1.ctl(&["swarm", "snapshot", "save", &file]).ok();
    restart_locked(h1);
    let refused =
        h1.ctl(&["swarm", "init", "--force-new-cluster", "--advertise-addr", "192.168.77.11"]).refused();
    assert!(refused.contains(LOCKED), "{refused}");
    h1.kill();

    h2.start();
    h2.ctl(&["swarm", "snapshot", "restore", "--advertise-addr", "192.168.77.12", &file]).ok();
    assert_eq!(unlock_key(h2), key);
    wait_sealed(h2, true);
    restart_locked(h2);
    unlock(h2, &key);
    // h1 is still locked, and never was part of the swarm that was restored.
    h1.start();
    h1.ctl(&["swarm", "leave", "--force"]).ok();
}
