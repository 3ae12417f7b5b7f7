//! How fast. Prints; asserts nothing but that everything is there.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{create_node, group, leader};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn creates_a_second() {
    for names in [&["a"][..], &["a", "b", "c"]] {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let managers = group(dir.path(), names).await;
        let leading = leader(&managers).await;
        let follower = (leading + 1) % managers.len();
        for (whom, at) in [("leader", leading), ("follower", follower)] {
            for clients in [1usize, 32, 256] {
                let store = &managers[at].store;
                let started = Instant::now();
                let mut writers = tokio::task::JoinSet::new();
                let each = (256 / clients).max(4);
                for client in 0..clients {
                    let store = store.clone();
                    writers.spawn(async move {
                        let mut worst = Duration::ZERO;
                        for number in 0..each {
                            let started = Instant::now();
                            create_node(&store, &format!("{whom}-{clients}-{client}-{number}")).await;
                            worst = worst.max(started.elapsed());
                        }
                        worst
                    });
                }
                let worst = writers.join_all().await.into_iter().max().unwrap();
                let total = clients * each;
                let rate = total as f64 / started.elapsed().as_secs_f64();
                println!(
                    "{} managers, {clients} clients at the {whom}: {rate:.0}/s, worst {worst:?}",
                    names.len()
                );
            }
        }
    }
}
