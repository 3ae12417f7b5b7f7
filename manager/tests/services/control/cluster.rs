//! The settings of the swarm and its tokens.

use proto::wire;
use proto::wire::ca_client::CaClient;
use tonic::Code;

use super::*;
use crate::fixtures::{CLUSTER, node, node_id, put};

async fn get_cluster(control: &mut Control) -> wire::Cluster {
    let request = wire::GetClusterRequest { cluster_id: CLUSTER.into() };
    control.get_cluster(request).await.unwrap().into_inner().cluster.unwrap()
}

#[tokio::test]
async fn the_cluster_keeps_its_key_and_rotates_its_tokens() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let before = get_cluster(&mut control).await;
    let root = before.root_ca.clone().unwrap();
    assert!(root.ca_key.is_empty() && !root.ca_cert.is_empty());
    let update = |rotation, spec| wire::UpdateClusterRequest {
        cluster_id: CLUSTER.into(),
        cluster_version: before.meta.as_ref().unwrap().version,
        spec: Some(spec),
        rotation: Some(rotation),
    };
    let rotation = wire::KeyRotation { worker_join_token: true, ..Default::default() };
    let spec = before.spec.clone().unwrap();
    let after =
        control.update_cluster(update(rotation, spec.clone())).await.unwrap().into_inner().cluster.unwrap();
    let (old, new) = (root.join_tokens.unwrap(), after.root_ca.unwrap().join_tokens.unwrap());
    assert_ne!(old.worker, new.worker);
    assert_eq!(old.manager, new.manager);
    assert_eq!(old.worker[..59], new.worker[..59], "the digest is the root's");
    assert!(!swarm.store.view().cluster().unwrap().root_ca.key.expose().is_empty());

    let index = swarm.store.view().index();
    let late = control.update_cluster(update(rotation, spec)).await;
    refused(&swarm, index, late, Code::Aborted, "update out of sequence");
    swarm.stop().await;
}

#[tokio::test]
async fn there_is_an_unlock_key_while_managers_are_locked() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let unlock_key = async || {
        let mut ca = CaClient::new(swarm.local());
        ca.get_unlock_key(wire::GetUnlockKeyRequest {}).await.unwrap().into_inner().unlock_key
    };
    let mut update = async |auto_lock_managers, rotate| {
        let now = get_cluster(&mut control).await;
        assert!(now.unlock_keys.is_empty(), "it is not shown with the cluster");
        let encryption_config = Some(wire::EncryptionConfig { auto_lock_managers });
        control
            .update_cluster(wire::UpdateClusterRequest {
                cluster_id: CLUSTER.into(),
                cluster_version: now.meta.unwrap().version,
                spec: Some(wire::ClusterSpec { encryption_config, ..now.spec.unwrap() }),
                rotation: Some(wire::KeyRotation { manager_unlock_key: rotate, ..Default::default() }),
            })
            .await
    };
    assert!(unlock_key().await.is_empty());
    let refused = update(false, true).await.unwrap_err();
    assert!(refused.message().contains("autolock is not turned on"), "{refused}");
    update(true, false).await.unwrap();
    let first = unlock_key().await;
    assert_eq!(first.len(), 32);
    update(true, false).await.unwrap();
    assert_eq!(unlock_key().await, first, "another change keeps it");
    update(true, true).await.unwrap();
    assert!(unlock_key().await != first && unlock_key().await.len() == 32);
    update(false, false).await.unwrap();
    assert!(unlock_key().await.is_empty());

    put(&swarm.store, [node(1)]).await;
    let asked = CaClient::new(swarm.worker(&node_id(1))).get_unlock_key(wire::GetUnlockKeyRequest {}).await;
    assert_eq!(asked.unwrap_err().code(), Code::PermissionDenied);
    swarm.stop().await;
}

#[tokio::test]
async fn bad_settings_are_refused() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let before = get_cluster(&mut control).await;
    let index = swarm.store.view().index();
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let with = |change: &dyn Fn(&mut wire::ClusterSpec)| {
        let mut spec = before.spec.clone().unwrap();
        change(&mut spec);
        spec
    };
    for (spec, says) in [
        (
            with(&|s| s.dispatcher = Some(wire::DispatcherConfig { heartbeat_period: seconds(0) })),
            "spec.dispatcher.heartbeat_period has the value \"0ns\"",
        ),
        (
            with(&|s| {
                s.ca_config = Some(wire::CaConfig { node_cert_expiry: seconds(60), ..Default::default() });
            }),
            "spec.ca_config.node_cert_expiry",
        ),
        (
            with(&|s| {
                s.orchestration = Some(wire::OrchestrationConfig { task_history_retention_limit: -1 });
            }),
            "task_history_retention_limit",
        ),
        (
            with(&|s| s.raft.as_mut().unwrap().snapshot_interval = 0),
            "spec.raft.snapshot_interval has the value \"0\": 1 to 1000000 are allowed",
        ),
        (
            with(&|s| s.raft.as_mut().unwrap().keep_old_snapshots = 101),
            "spec.raft.keep_old_snapshots has the value \"101\": 0 to 100 are allowed",
        ),
        (
            with(&|s| s.raft.as_mut().unwrap().log_entries_for_slow_followers = 1 << 40),
            "spec.raft.log_entries_for_slow_followers",
        ),
    ] {
        let request = wire::UpdateClusterRequest {
            cluster_id: CLUSTER.into(),
            cluster_version: before.meta.as_ref().unwrap().version,
            spec: Some(spec),
            rotation: None,
        };
        let status = control.update_cluster(request).await.unwrap_err();
        assert!(status.message().contains(says), "{status}");
        assert_eq!(swarm.store.view().index(), index);
    }
    swarm.stop().await;
}
