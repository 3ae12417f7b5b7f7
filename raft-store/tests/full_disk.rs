//! A leader whose disk is full hands over at once, says why, keeps what it has, and goes on when there is space.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Manager, bounded, create_node, eventually, group, leader, objects, set_snapshots};
use raft_store::{Options, Timing};

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

    /// All but so much of an empty one.
    fn fill(&self, left: usize) {
        std::fs::write(self.filler(), vec![0; (1 << 20) - left]).unwrap();
    }

    /// All but so much of what is left.
    fn fill_but(&self, left: usize) {
        let filled = std::fs::write(self.filler(), vec![0; 1 << 20]);
        assert!(filled.is_err(), "it holds more than it should");
        let filler = std::fs::File::options().write(true).open(self.filler()).unwrap();
        filler.set_len(filler.metadata().unwrap().len() - left as u64).unwrap();
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

/// Nobody would notice for longer than a write may take here that a leader is silent.
const ELECTION: Duration = Duration::from_secs(6);
const WRITE: Duration = Duration::from_secs(3);

fn patient(options: &mut Options) {
    options.timing = Timing { election_min: ELECTION, election_max: 2 * ELECTION, ..Timing::default() };
}

/// `a` leads and has little space.
async fn with_little_space(dir: &Path) -> (Small, Vec<Manager>) {
    let small = Small::mount(dir.join("a"));
    let mut managers: Vec<Manager> = Vec::new();
    for name in ["a", "b", "c"] {
        let manager = Manager::start_with(dir, name, "127.0.0.1:0", patient).await;
        match managers.first() {
            None => manager.store.bootstrap(vec![objects::cluster().into()]).await.unwrap(),
            Some(first) => {
                let membership = first.store.membership();
                bounded("it joins", membership.add(name.into(), manager.addr.clone())).await.unwrap();
            }
        }
        managers.push(manager);
    }
    assert_eq!(leader(&managers).await, 0);
    (small, managers)
}

/// Writes through another one until `a` has failed, and tells how long the longest write took.
async fn write_until_it_fails(managers: &[Manager]) -> Duration {
    let full = managers[0].store.clone();
    let mut failing = tokio::task::JoinSet::new();
    failing.spawn(async move { full.failed().await });
    let mut longest = Duration::ZERO;
    for number in 0..5000 {
        let begun = Instant::now();
        create_node(&managers[1].store, &format!("node{number}")).await;
        longest = longest.max(begun.elapsed());
        if let Some(reason) = failing.try_join_next() {
            let reason = reason.unwrap();
            assert!(reason.contains("No space left on device"), "{reason}");
            // Whoever leads now has all of it.
            create_node(&managers[2].store, "without-it").await;
            let all = || (nodes(&managers[2]) == number + 2).then_some(());
            eventually("everything that was acknowledged", all).await;
            return longest.max(begun.elapsed());
        }
    }
    panic!("the disk has not become full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_write_its_log_hands_over_before_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (small, managers) = with_little_space(dir.path()).await;
    small.fill(64 << 10);
    let longest = write_until_it_fails(&managers).await;
    println!("the longest write took {longest:?}");
    assert!(longest < WRITE, "{longest:?}: nobody was told that the leader stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_write_a_snapshot_hands_over_before_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (small, managers) = with_little_space(dir.path()).await;
    for number in 0..100 {
        create_node(&managers[1].store, &format!("before{number}")).await;
    }
    small.fill_but(8 << 10);
    set_snapshots(&managers[1].store, 1, 0, 0).await;
    let failed = bounded("it fails", managers[0].store.failed());
    let reason = failed.await;
    assert!(reason.contains("No space left on device"), "{reason}");
    let begun = Instant::now();
    create_node(&managers[2].store, "without-it").await;
    assert!(begun.elapsed() < WRITE, "{:?}: nobody was told that the leader stops", begun.elapsed());
}
