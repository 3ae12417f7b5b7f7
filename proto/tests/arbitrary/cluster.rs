use proptest::option;
use proptest::prelude::*;
use proto::model::*;

use super::part::{amount, annotations, driver, duration, few, id, meta, net, text};

prop_compose! {
    pub fn cluster()(
        id in id(),
        meta in meta(),
        spec in spec(),
        root_ca in root_ca(),
        unlock_key in option::of(few(any::<u8>())),
        default_address_pools in few(net()),
        subnet_size: u8,
        vxlan_port: u16,
    ) -> Cluster {
        let unlock_key = unlock_key.map(Sensitive::new);
        Cluster { id, meta, spec, root_ca, unlock_key, default_address_pools, subnet_size, vxlan_port }
    }
}

prop_compose! {
    fn spec()(
        annotations in annotations(),
        task_history_retention_limit in amount(),
        raft in raft(),
        (heartbeat_period, node_cert_expiry) in (duration(), duration()),
        default_log_driver in option::of(driver()),
        (auto_lock_managers, force_rotate) in any::<(bool, u64)>(),
        external in few((text(), few(any::<u8>())).prop_map(|(url, root)| ExternalCa { url, root })),
    ) -> ClusterSpec {
        ClusterSpec {
            annotations,
            orchestration: OrchestrationConfig { task_history_retention_limit },
            raft,
            dispatcher: DispatcherConfig { heartbeat_period },
            ca: CaConfig { node_cert_expiry, external, force_rotate },
            default_log_driver,
            auto_lock_managers,
        }
    }
}

prop_compose! {
    fn raft()(
        snapshot_interval: u64,
        keep_old_snapshots: u64,
        log_entries_for_slow_followers: u64,
        heartbeat_tick: u32,
        election_tick: u32,
    ) -> RaftConfig {
        RaftConfig {
            snapshot_interval,
            keep_old_snapshots,
            log_entries_for_slow_followers,
            heartbeat_tick,
            election_tick,
        }
    }
}

prop_compose! {
    fn root_ca()(
        key: Vec<u8>,
        cert: Vec<u8>,
        cert_digest in text(),
        worker in text(),
        manager in text(),
        rotation in option::of((few(any::<u8>()), few(any::<u8>()), few(any::<u8>()))),
        last_forced_rotation: u64,
    ) -> RootCa {
        let join_tokens = JoinTokens { worker: Sensitive::new(worker), manager: Sensitive::new(manager) };
        let rotation = rotation.map(|(cert, key, cross_signed)| RootRotation {
            cert,
            key: Sensitive::new(key),
            cross_signed,
        });
        RootCa { key: Sensitive::new(key), cert, cert_digest, join_tokens, rotation, last_forced_rotation }
    }
}
