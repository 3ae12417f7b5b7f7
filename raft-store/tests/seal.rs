//! A group whose members seal what they keep.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/mark.rs"]
mod mark;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use common::{Manager, create_node, group, has_node};
use mark::Mark;
use proto::model::{Cluster, JoinTokens, RootCa, Sensitive};
use raft_store::{Options, Seal, Store, Transaction};

/// All bytes below the directory.
fn on_disk(dir: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.flat_map(|file| std::fs::read(file).unwrap()).collect()
}

/// With the unlock key comes a new data key, and what the old one opened goes, while writes go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_replica_is_useless_without_its_seal_and_with_its_old_key() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    let secrets = RootCa {
        key: Sensitive::new(b"the key of the root certificate".to_vec()),
        join_tokens: JoinTokens {
            worker: Sensitive::new("the token of workers".into()),
            manager: Sensitive::new("the token of managers".into()),
        },
        ..RootCa::default()
    };
    let write = |tx: &mut Transaction| {
        let cluster = Cluster::clone(tx.cluster().unwrap());
        tx.update(Cluster { root_ca: secrets.clone(), ..cluster });
        Ok::<_, Infallible>(())
    };
    managers[0].store.update(write).await.unwrap();
    for i in 0..50 {
        create_node(&managers[0].store, &format!("before-{i}")).await;
    }
    let (follower, place) = (&managers[1], dir.path().join("b"));
    let stolen = std::fs::read(place.join("data-key")).unwrap();
    let seal = || Some(Arc::new(Mark(1)) as Arc<dyn Seal>);
    for manager in &managers {
        manager.store.seal_also(seal()).await.unwrap();
        manager.store.seal_only(seal()).await.unwrap();
    }
    let mut written = 0;
    while managers.iter().any(|manager| manager.store.is_rekeying()) {
        create_node(&managers[2].store, &format!("during-{written}")).await;
        written += 1;
        assert!(written < 5000, "the old data key is still needed");
    }
    create_node(&managers[0].store, "after").await;
    has_node(&follower.store, "after").await;

    // Neither in clear nor with the key of a stolen copy.
    let disk = on_disk(&place);
    for secret in [secrets.key.expose().as_slice(), secrets.join_tokens.worker.expose().as_bytes(), &stolen] {
        assert!(!secret.is_empty() && !disk.windows(secret.len()).any(|window| window == secret));
    }
    let addr = managers[1].addr.clone();
    let mut managers = managers;
    managers.remove(1).stop().await;
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(&place).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let open = async |seal| {
        let dial = Arc::new(common::Tcp("b".into()));
        let mut options = Options::new(copy.path().into(), "b".into(), addr.clone(), dial);
        options.seal = seal;
        Store::open(options).await.map(drop).map_err(|error| error.to_string())
    };
    assert!(open(None).await.unwrap_err().contains("is sealed"));
    assert!(open(Some(Arc::new(Mark(2)) as Arc<dyn Seal>)).await.unwrap_err().contains("is sealed"));
    std::fs::write(copy.path().join("data-key"), &stolen).unwrap();
    let error = open(None).await.unwrap_err();
    assert!(error.contains("damaged") || error.contains("another data key"), "{error}");

    let again = Manager::start_with(dir.path(), "b", &addr, |options| options.seal = seal()).await;
    has_node(&again.store, "before-0").await;
    has_node(&again.store, "after").await;
}
