//! Encrypted networks: what a task waits for, what is reported, and that no key touches the disk.

use std::path::Path;

use proto::network::{Encryption, Member, NetworkKey};
use proto::wire::{self, TaskState};
use worker::runtime::fake::Call;

use super::lab::{self, Node, endpoint, task};
use super::manager::Manager;

const SECRET: [u8; 32] = *b"a secret that nobody may write..";

fn encrypted(id: &str, host: u8) -> wire::Task {
    let mut task = task(id, host);
    let spec = task.networks[0].network.as_mut().unwrap().spec.as_mut().unwrap();
    let options = [("encrypted".to_owned(), String::new())].into();
    spec.driver_config = Some(wire::Driver { name: "overlay".into(), options });
    task
}

fn told(epoch: u64) -> Encryption {
    let key = NetworkKey { generation: 1, secret: SECRET.to_vec() };
    let other = Member {
        node_id: "n2".into(),
        vtep: "192.0.2.2".into(),
        incarnation: vec![2; 16],
        ..Default::default()
    };
    Encryption { keys: vec![key], sending: 1, epoch, members: vec![other], ..Default::default() }
}

/// Files below `dir` that hold the secret, in bytes or in digits.
fn holding_secret(dir: &Path, found: &mut Vec<String>) {
    let digits: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            holding_secret(&entry.path(), found);
            continue;
        }
        let data = std::fs::read(entry.path()).unwrap();
        if [&SECRET[..], digits.as_bytes()]
            .iter()
            .any(|text| data.windows(text.len()).any(|part| part == *text))
        {
            found.push(entry.path().display().to_string());
        }
    }
}

#[tokio::test]
async fn a_task_waits_for_keys_and_until_the_others_are_told_of_this_node() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![encrypted("t1", 3)]);
    manager.endpoints(vec![endpoint("t9", "n2", "192.0.2.2", 4)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Preparing).await;
    lab::holds("made", || node.runtime.config("t1").is_some()).await;
    assert!(node.kernel.world().networks.is_empty(), "nothing is made in cleartext");
    assert!(node.runtime.calls().iter().all(|(call, _)| *call != Call::Start));

    manager.encryption(told(5));
    manager.reported("t1", TaskState::Running).await;
    let world = node.kernel.world();
    let overlay = world.networks.values().next().unwrap();
    let encryption = overlay.encryption.as_ref().unwrap();
    assert_eq!((encryption.sending, encryption.peers.len()), (1, 1), "itself is no peer");
    let reports = manager.told.keys_reports.borrow().clone();
    assert_eq!(reports[0].incarnation, encryption.incarnation.0);
    let confirmed = lab::seen(&manager.told.keys_reports, "confirmation", |reports| {
        reports.iter().find(|report| report.epoch == 5).cloned()
    });
    assert_eq!(confirmed.await.incarnation, encryption.incarnation.0);

    let mut found = Vec::new();
    holding_secret(node.dir.path(), &mut found);
    assert!(node.database().exists() && found.is_empty(), "{found:?}");
    worker.stop().await;
    holding_secret(node.dir.path(), &mut found);
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn each_start_and_each_return_to_a_network_draws_anew() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.encryption(told(1));
    let mut drawn = Vec::new();
    for _ in 0..2 {
        manager.assign(vec![encrypted("t1", 3)]);
        let worker = node.start(&[&manager]);
        manager.reported("t1", TaskState::Running).await;
        node.kernel
            .until("a network with keys", |world| {
                world.networks.values().any(|overlay| {
                    overlay.encryption.as_ref().is_some_and(|e| !drawn.contains(&e.incarnation))
                })
            })
            .await;
        drawn.extend(
            node.kernel.world().networks.values().map(|o| o.encryption.as_ref().unwrap().incarnation),
        );
        worker.stop().await;
    }
    let worker = node.start(&[&manager]);
    manager.assign(vec![]);
    node.kernel.until("no network", |world| world.networks.is_empty()).await;
    manager.assign(vec![encrypted("t2", 4)]);
    manager.reported("t2", TaskState::Running).await;
    let world = node.kernel.world();
    drawn.extend(world.networks.values().map(|overlay| overlay.encryption.as_ref().unwrap().incarnation));
    assert_eq!(drawn.len(), 3);
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), 3, "{drawn:?}");
    worker.stop().await;
}
