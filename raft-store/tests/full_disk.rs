//! A leader whose disk is full leads no more, says why, keeps what it has, and goes on when there is space.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Manager, bounded, create_node, eventually, group, leader};

/// A small file system of its own.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Self {
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&at).status();
        assert!(mounted.unwrap().success(), "cannot mount: this test needs root");
        Self(at)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// All but so much.
    fn fill(&self, left: usize) {
        std::fs::write(self.filler(), vec![0; (1 << 20) - left]).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn nodes(manager: &Manager) -> usize {
    manager.store.view().nodes().count()
}

async fn restart(dir: &Path, manager: Manager) -> Manager {
    let (name, addr) = (manager.name.clone(), manager.addr.clone());
    manager.kill().await;
    Manager::start_with(dir, &name, &addr, |_| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_full_disk_gives_way_and_comes_back_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::mount(dir.path().join("a"));
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    assert_eq!(leader(&managers).await, 0);
    small.fill(64 << 10);
    let mut written = 0;
    let full = managers[0].store.clone();
    let mut failing = tokio::task::JoinSet::new();
    failing.spawn(async move { full.failed().await });
    let reason = loop {
        if let Some(reason) = failing.try_join_next() {
            break reason.unwrap();
        }
        create_node(&managers[1].store, &format!("node{written}")).await;
        written += 1;
        assert!(written < 5000, "the disk has not become full");
    };
    assert!(reason.contains("No space left on device") && reason.contains("log-"), "{reason}");
    assert!(!managers[0].leads(), "it leads and cannot write");
    eventually("another leader", || managers[1..].iter().any(Manager::leads).then_some(())).await;
    create_node(&managers[1].store, "without-it").await;

    // Still full: what it has is there, and it fails again as soon as it must write.
    let a = restart(dir.path(), managers.remove(0)).await;
    let reason = bounded("it fails again", a.store.failed()).await;
    assert!(reason.contains("No space left on device"), "{reason}");
    std::fs::remove_file(small.filler()).unwrap();
    let a = restart(dir.path(), a).await;
    create_node(&a.store, "with-it").await;
    eventually("everything on the one that was full", || (nodes(&a) == written + 2).then_some(())).await;
    a.kill().await;
}
