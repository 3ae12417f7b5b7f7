//! The swarm's own object.

use ipnet::IpNet;

use super::scalar::{
    amount, amount_out, annotations_in, annotations_out, duration, duration_out, each, id, meta_in, meta_out,
    narrow, parse, required,
};
use super::{Error, Within};
use crate::model::{
    CaConfig, Cluster, ClusterSpec, DispatcherConfig, ExternalCa, JoinTokens, OrchestrationConfig,
    RaftConfig, RootCa, RootRotation, Sensitive,
};
use crate::wire;
use crate::wire::external_ca::CaProtocol;

impl TryFrom<wire::Cluster> for Cluster {
    type Error = Error;

    fn try_from(cluster: wire::Cluster) -> Result<Self, Error> {
        let pools = each("default_address_pool", cluster.default_address_pool, |pool| {
            parse::<IpNet>("", &pool, "a subnet such as 10.0.0.0/8")
        })?;
        Ok(Self {
            id: id("id", cluster.id)?,
            meta: meta_in(cluster.meta)?,
            spec: required("spec", cluster.spec)?.try_into().within("spec")?,
            root_ca: cluster.root_ca.unwrap_or_default().into(),
            unlock_key: unlock_key(cluster.unlock_keys),
            default_address_pools: pools,
            subnet_size: narrow("subnet_size", cluster.subnet_size, "a mask length")?,
            vxlan_port: narrow("vxlan_udp_port", cluster.vxlan_udp_port, "a port")?,
        })
    }
}

impl From<&Cluster> for wire::Cluster {
    fn from(cluster: &Cluster) -> Self {
        Self {
            id: cluster.id.to_string(),
            meta: meta_out(&cluster.meta),
            spec: Some((&cluster.spec).into()),
            root_ca: Some((&cluster.root_ca).into()),
            unlock_keys: cluster.unlock_key.iter().map(unlock_key_out).collect(),
            default_address_pool: cluster.default_address_pools.iter().map(ToString::to_string).collect(),
            subnet_size: cluster.subnet_size.into(),
            vxlan_udp_port: cluster.vxlan_port.into(),
            ..Default::default()
        }
    }
}

/// SwarmKit's name for whom the key is for.
const LOCKED: &str = "swarm-manager";

fn unlock_key(keys: Vec<wire::EncryptionKey>) -> Option<Sensitive<Vec<u8>>> {
    keys.into_iter().find(|key| key.subsystem == LOCKED).map(|key| Sensitive::new(key.key))
}

fn unlock_key_out(key: &Sensitive<Vec<u8>>) -> wire::EncryptionKey {
    wire::EncryptionKey { subsystem: LOCKED.into(), key: key.expose().clone(), ..Default::default() }
}

impl TryFrom<wire::ClusterSpec> for ClusterSpec {
    type Error = Error;

    fn try_from(spec: wire::ClusterSpec) -> Result<Self, Error> {
        let orchestration = spec.orchestration.map(OrchestrationConfig::try_from).transpose();
        let dispatcher = spec.dispatcher.map(DispatcherConfig::try_from).transpose();
        let ca = spec.ca_config.map(CaConfig::try_from).transpose();
        Ok(Self {
            annotations: annotations_in(spec.annotations),
            orchestration: orchestration.within("orchestration")?.unwrap_or_default(),
            raft: spec.raft.map(RaftConfig::from).unwrap_or_default(),
            dispatcher: dispatcher.within("dispatcher")?.unwrap_or_default(),
            ca: ca.within("ca_config")?.unwrap_or_default(),
            default_log_driver: spec.task_defaults.and_then(|defaults| defaults.log_driver).map(Into::into),
            auto_lock_managers: spec.encryption_config.is_some_and(|config| config.auto_lock_managers),
        })
    }
}

impl From<&ClusterSpec> for wire::ClusterSpec {
    fn from(spec: &ClusterSpec) -> Self {
        let log_driver = spec.default_log_driver.as_ref().map(Into::into);
        Self {
            annotations: annotations_out(&spec.annotations),
            orchestration: Some(wire::OrchestrationConfig {
                task_history_retention_limit: amount_out(spec.orchestration.task_history_retention_limit),
            }),
            raft: Some(spec.raft.into()),
            dispatcher: Some(wire::DispatcherConfig {
                heartbeat_period: duration_out(spec.dispatcher.heartbeat_period),
            }),
            ca_config: Some(wire::CaConfig {
                node_cert_expiry: duration_out(spec.ca.node_cert_expiry),
                force_rotate: spec.ca.force_rotate,
                external_cas: spec.ca.external.iter().map(Into::into).collect(),
                ..Default::default()
            }),
            task_defaults: Some(wire::TaskDefaults { log_driver }),
            encryption_config: Some(wire::EncryptionConfig { auto_lock_managers: spec.auto_lock_managers }),
        }
    }
}

impl TryFrom<wire::OrchestrationConfig> for OrchestrationConfig {
    type Error = Error;

    fn try_from(config: wire::OrchestrationConfig) -> Result<Self, Error> {
        let limit = amount("task_history_retention_limit", config.task_history_retention_limit)?;
        Ok(Self { task_history_retention_limit: limit })
    }
}

impl TryFrom<wire::DispatcherConfig> for DispatcherConfig {
    type Error = Error;

    fn try_from(config: wire::DispatcherConfig) -> Result<Self, Error> {
        let period = duration("heartbeat_period", config.heartbeat_period)?;
        Ok(Self { heartbeat_period: period.unwrap_or(Self::default().heartbeat_period) })
    }
}

impl TryFrom<wire::CaConfig> for CaConfig {
    type Error = Error;

    fn try_from(config: wire::CaConfig) -> Result<Self, Error> {
        let external = each("external_cas", config.external_cas, ExternalCa::try_from)?;
        let expiry = duration("node_cert_expiry", config.node_cert_expiry)?;
        // A certificate to change to is acted upon once and is no setting.
        let node_cert_expiry = expiry.unwrap_or(Self::default().node_cert_expiry);
        Ok(Self { node_cert_expiry, external, force_rotate: config.force_rotate })
    }
}

impl TryFrom<wire::ExternalCa> for ExternalCa {
    type Error = Error;

    fn try_from(ca: wire::ExternalCa) -> Result<Self, Error> {
        if ca.protocol != i32::from(CaProtocol::Cfssl) {
            return Err(Error::invalid("protocol", ca.protocol, "cfssl"));
        }
        if let Some(option) = ca.options.keys().next() {
            return Err(Error::invalid("options", option, "no options"));
        }
        Ok(Self { url: ca.url, root: ca.ca_cert })
    }
}

impl From<&ExternalCa> for wire::ExternalCa {
    fn from(ca: &ExternalCa) -> Self {
        Self {
            protocol: CaProtocol::Cfssl.into(),
            url: ca.url.clone(),
            ca_cert: ca.root.clone(),
            ..Self::default()
        }
    }
}

impl From<wire::RaftConfig> for RaftConfig {
    fn from(config: wire::RaftConfig) -> Self {
        Self {
            snapshot_interval: config.snapshot_interval,
            keep_old_snapshots: config.keep_old_snapshots,
            log_entries_for_slow_followers: config.log_entries_for_slow_followers,
            heartbeat_tick: config.heartbeat_tick,
            election_tick: config.election_tick,
        }
    }
}

impl From<RaftConfig> for wire::RaftConfig {
    fn from(config: RaftConfig) -> Self {
        Self {
            snapshot_interval: config.snapshot_interval,
            keep_old_snapshots: config.keep_old_snapshots,
            log_entries_for_slow_followers: config.log_entries_for_slow_followers,
            heartbeat_tick: config.heartbeat_tick,
            election_tick: config.election_tick,
        }
    }
}

impl From<wire::RootCa> for RootCa {
    fn from(root: wire::RootCa) -> Self {
        let tokens = root.join_tokens.unwrap_or_default();
        Self {
            key: Sensitive::new(root.ca_key),
            cert: root.ca_cert,
            cert_digest: root.ca_cert_hash,
            join_tokens: JoinTokens {
                worker: Sensitive::new(tokens.worker),
                manager: Sensitive::new(tokens.manager),
            },
            rotation: root.root_rotation.map(Into::into),
            last_forced_rotation: root.last_forced_rotation,
        }
    }
}

impl From<wire::RootRotation> for RootRotation {
    fn from(rotation: wire::RootRotation) -> Self {
        Self {
            cert: rotation.ca_cert,
            key: Sensitive::new(rotation.ca_key),
            cross_signed: rotation.cross_signed_ca_cert,
        }
    }
}

impl From<&RootRotation> for wire::RootRotation {
    fn from(rotation: &RootRotation) -> Self {
        Self {
            ca_cert: rotation.cert.clone(),
            ca_key: rotation.key.expose().clone(),
            cross_signed_ca_cert: rotation.cross_signed.clone(),
        }
    }
}

impl From<&RootCa> for wire::RootCa {
    fn from(root: &RootCa) -> Self {
        Self {
            ca_key: root.key.expose().clone(),
            ca_cert: root.cert.clone(),
            ca_cert_hash: root.cert_digest.clone(),
            join_tokens: Some(wire::JoinTokens {
                worker: root.join_tokens.worker.expose().clone(),
                manager: root.join_tokens.manager.expose().clone(),
            }),
            root_rotation: root.rotation.as_ref().map(Into::into),
            last_forced_rotation: root.last_forced_rotation,
        }
    }
}
