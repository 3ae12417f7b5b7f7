//! A snapshot on its way to a manager goes on where its connection broke.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Manager, bounded, eventually, files, objects, set_snapshots};
use proto::model::{Annotations, Node, NodeSpec};
use raft_store::{Store, Transaction};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const NODES: usize = 40;
const LABEL_BYTES: usize = 400 << 10;

/// A connection that has carried less is none that carries a snapshot.
const FEW_BYTES: u64 = 256 << 10;

/// What passes from the leader to the other manager.
struct Passed {
    bytes: AtomicU64,
    /// When so much has passed, the connection breaks and this grows by as much.
    breaks_at: AtomicU64,
    breaks: AtomicU64,
}

impl Passed {
    fn breaks(&self, bytes: u64, of_connection: u64, every: u64) -> bool {
        let passed = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let breaks = of_connection > FEW_BYTES && passed > self.breaks_at.load(Ordering::Relaxed);
        if breaks {
            self.breaks_at.store(passed + every, Ordering::Relaxed);
            self.breaks.fetch_add(1, Ordering::Relaxed);
        }
        breaks
    }
}

/// Stands between the leader and `to`.
async fn proxy(listener: TcpListener, to: String, passed: Arc<Passed>, every: u64) {
    let mut connections = JoinSet::new();
    while let Ok((from, _)) = listener.accept().await {
        let to = TcpStream::connect(&to).await.unwrap();
        connections.spawn(carry(from, to, passed.clone(), every));
    }
}

async fn carry(from: TcpStream, to: TcpStream, passed: Arc<Passed>, every: u64) {
    let ((mut leader, mut answers), (mut back, mut member)) = (from.into_split(), to.into_split());
    let there = async {
        let (mut buffer, mut carried) = (vec![0; 64 << 10], 0);
        while let Ok(read @ 1..) = leader.read(&mut buffer).await {
            if member.write_all(&buffer[..read]).await.is_err() {
                return;
            }
            carried += read as u64;
            if passed.breaks(read as u64, carried, every) {
                return;
            }
        }
    };
    let here = async { drop(tokio::io::copy(&mut back, &mut answers).await) };
    tokio::select! {
        () = there => {}
        () = here => {}
    }
}

async fn create_large_node(store: &Store, number: usize) {
    let create = |tx: &mut Transaction| {
        let labels = [("large".to_owned(), "x".repeat(LABEL_BYTES))].into();
        let annotations = Annotations { labels, ..Annotations::default() };
        let spec = NodeSpec { annotations, ..NodeSpec::default() };
        tx.create(Node { spec, ..objects::node(&format!("node{number}")) });
        Ok::<_, Infallible>(())
    };
    bounded("an update", store.update(create)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_on_where_its_connection_broke() {
    let dir = tempfile::tempdir().unwrap();
    let first = Manager::start(dir.path(), "a").await;
    first.store.bootstrap(vec![objects::cluster().into()]).await.unwrap();
    for number in 0..NODES {
        create_large_node(&first.store, number).await;
    }
    // One snapshot of all, with no log behind it, and no other one while it is sent.
    set_snapshots(&first.store, 1, 0, 0).await;
    let snapshot = eventually("a snapshot", || files(dir.path(), "a", "snapshot-0").pop()).await;
    set_snapshots(&first.store, 1_000_000, 0, 0).await;
    let all = std::fs::metadata(snapshot).unwrap().len();
    assert!(all > (NODES * LABEL_BYTES) as u64);

    let late = Manager::start(dir.path(), "b").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let every = all * 3 / 10;
    let (bytes, breaks_at) = (AtomicU64::new(0), AtomicU64::new(every));
    let passed = Arc::new(Passed { bytes, breaks_at, breaks: AtomicU64::new(0) });
    let mut between = JoinSet::new();
    between.spawn(proxy(listener, late.addr.clone(), passed.clone(), every));
    let membership = first.store.membership();
    bounded("it joins", membership.add("b".into(), addr)).await.unwrap();
    eventually("all nodes", || (late.store.view().nodes().count() == NODES).then_some(())).await;

    let (bytes, breaks) = (passed.bytes.load(Ordering::Relaxed), passed.breaks.load(Ordering::Relaxed));
    println!("{bytes} bytes for a snapshot of {all}, over {} connections", breaks + 1);
    // From the start again each time it would never come to its end.
    assert!(breaks >= 3 && bytes < all * 3 / 2, "{bytes} bytes for a snapshot of {all}, {breaks} breaks");
    eventually("nothing unfinished", || {
        files(dir.path(), "b", "snapshot-").iter().all(|path| path.extension().is_none()).then_some(())
    })
    .await;
    late.stop().await;
}
