//! The cluster object: settings and join tokens. The CA's key never leaves the managers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{JoinToken, RootCa, RootCertificate, RootDigest, UnlockKey, root_ca};
use proto::convert::Within;
use proto::model::{Cluster, ClusterSpec, RaftConfig, Sensitive};
use proto::wire::{
    self, GetClusterRequest, GetClusterResponse, KeyRotation, ListClustersRequest, ListClustersResponse,
    UpdateClusterRequest, UpdateClusterResponse,
};
use raft_store::Tables;
use tonic::Status;
use zeroize::Zeroizing;

use super::filter::common;
use super::{Control, limits, validate};
use crate::ca::change::{self, Next};
use crate::cluster::DEFAULT_NAME;
use crate::error::{Error, status};

/// Docker's.
const SHORTEST_CERTIFICATE: Duration = Duration::from_secs(3600);
/// Of the root, which every certificate must end before.
const LONGEST_CERTIFICATE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Docker's, of a root that is given.
const SHORTEST_ROOT: Duration = Duration::from_secs(365 * 24 * 3600);
/// A certificate, or a key, in PEM.
const LARGEST_ROOT: usize = 64 << 10;
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(3600);
const LONGEST_HISTORY: u64 = 10_000;
/// Of a log: each takes some memory, and a start reads them all.
const MOST_ENTRIES: u64 = 1_000_000;
/// The log goes back to the oldest of them.
const MOST_OLD_SNAPSHOTS: u64 = 100;

pub(super) async fn get(api: &Control, request: GetClusterRequest) -> Result<GetClusterResponse, Status> {
    let view = api.store.view();
    let cluster = find(&view, &request.cluster_id)?;
    Ok(GetClusterResponse { cluster: Some(shown(cluster)) })
}

pub(super) async fn list(
    api: &Control,
    request: ListClustersRequest,
) -> Result<ListClustersResponse, Status> {
    let view = api.store.view();
    let filters = request.filters.unwrap_or_default();
    let clusters = view.cluster().into_iter().filter(|cluster| {
        let annotations = &cluster.spec.annotations;
        common!(filters).admit(cluster.id.as_str(), &annotations.name, &annotations.labels)
    });
    Ok(ListClustersResponse { clusters: clusters.map(|cluster| shown(cluster)).collect() })
}

pub(super) async fn update(
    api: &Control,
    request: UpdateClusterRequest,
) -> Result<UpdateClusterResponse, Status> {
    let version = request.cluster_version.unwrap_or_default().index;
    let now = api.clock.now();
    let given = request.spec.as_ref().map(|spec| given_root(spec, now)).transpose()?.flatten();
    let spec = validate(request.spec)?;
    let rotation = request.rotation.unwrap_or_default();
    let current = |tables: &Tables| {
        let cluster = find(tables, &request.cluster_id)?;
        if cluster.meta.version != version {
            return Err(Error::OutOfSequence { kind: "cluster", id: cluster.id.to_string() });
        }
        Ok(Arc::clone(cluster))
    };
    let cluster = current(&api.store.view())?;
    if spec.annotations.name != cluster.spec.annotations.name {
        let remedy = format!("a cluster keeps its name, which is {:?}", cluster.spec.annotations.name);
        return Err(Error::invalid("spec.annotations.name", &spec.annotations.name, remedy).into());
    }
    let prepared = change::prepare(&cluster, spec, given, &api.signers, now).await?;
    let updated = api.store.update(|tx| {
        current(tx)?;
        let mut cluster = prepared.clone();
        rotate(&mut cluster, rotation)?;
        lock(&mut cluster, rotation)?;
        tx.update(cluster);
        Ok(())
    });
    updated.await.map_err(status)?;
    let view = api.store.view();
    Ok(UpdateClusterResponse { cluster: view.cluster().map(|cluster| shown(cluster)) })
}

/// Checks the settings, at `swarm init` too.
pub fn validate(spec: Option<wire::ClusterSpec>) -> Result<ClusterSpec, Error> {
    let spec = spec.ok_or_else(|| proto::convert::Error::missing("spec"))?;
    limits::spec_size("spec", &spec)?;
    let mut spec = ClusterSpec::try_from(spec).within("spec")?;
    if spec.annotations.name.is_empty() {
        spec.annotations.name = DEFAULT_NAME.into();
    }
    validate::object_name("spec.annotations.name", &spec.annotations.name)?;
    validate::labels("spec.annotations", &spec.annotations)?;
    let history = spec.orchestration.task_history_retention_limit;
    if history > LONGEST_HISTORY {
        let field = "spec.orchestration.task_history_retention_limit";
        return Err(Error::invalid(field, history, format!("at most {LONGEST_HISTORY} are allowed")));
    }
    let heartbeat = SHORTEST_HEARTBEAT..=LONGEST_HEARTBEAT;
    between("spec.dispatcher.heartbeat_period", spec.dispatcher.heartbeat_period, heartbeat)?;
    let certificate = SHORTEST_CERTIFICATE..=LONGEST_CERTIFICATE;
    between("spec.ca_config.node_cert_expiry", spec.ca.node_cert_expiry, certificate)?;
    raft("spec.raft", spec.raft)?;
    Ok(spec)
}

fn raft(field: &str, config: RaftConfig) -> Result<(), Error> {
    for (name, value, (least, most)) in [
        ("snapshot_interval", config.snapshot_interval, (1, MOST_ENTRIES)),
        ("keep_old_snapshots", config.keep_old_snapshots, (0, MOST_OLD_SNAPSHOTS)),
        ("log_entries_for_slow_followers", config.log_entries_for_slow_followers, (0, MOST_ENTRIES)),
        ("heartbeat_tick", config.heartbeat_tick.into(), (1, u32::MAX.into())),
    ] {
        if !(least..=most).contains(&value) {
            let remedy = format!("{least} to {most} are allowed");
            return Err(Error::invalid(format!("{field}.{name}"), value, remedy));
        }
    }
    if config.election_tick <= config.heartbeat_tick {
        let remedy = format!("more than heartbeat_tick, which is {}, is needed", config.heartbeat_tick);
        return Err(Error::invalid(format!("{field}.election_tick"), config.election_tick, remedy));
    }
    Ok(())
}

fn between(field: &str, value: Duration, allowed: std::ops::RangeInclusive<Duration>) -> Result<(), Error> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let remedy = format!("{:?} to {:?} are allowed", allowed.start(), allowed.end());
    Err(Error::invalid(field, format!("{value:?}"), remedy))
}

/// The root that the settings name, which is no setting itself. Without its key, only an external CA can sign in its
/// name.
fn given_root(spec: &wire::ClusterSpec, now: SystemTime) -> Result<Option<Next>, Error> {
    let Some(ca) = &spec.ca_config else { return Ok(None) };
    let field = |name: &str| format!("spec.ca_config.{name}");
    let refused = |name: &str, reason: String| Error::Refused { field: field(name), reason };
    match (ca.signing_ca_cert.is_empty(), ca.signing_ca_key.is_empty()) {
        (true, true) => return Ok(None),
        (false, _) => {}
        (true, false) => {
            return Err(refused("signing_ca_cert", "the certificate of the key must be given, too".into()));
        }
    }
    limits::size("spec.ca_config.signing_ca_cert", ca.signing_ca_cert.len(), LARGEST_ROOT)?;
    limits::size("spec.ca_config.signing_ca_key", ca.signing_ca_key.len(), LARGEST_ROOT)?;
    let text = |name: &str, pem: &[u8]| {
        String::from_utf8(pem.to_vec()).map(Zeroizing::new).map_err(|_| refused(name, "it is not PEM".into()))
    };
    let certificate = text("signing_ca_cert", &ca.signing_ca_cert)?;
    let key = text("signing_ca_key", &ca.signing_ca_key)?;
    let next = if key.is_empty() {
        RootCertificate::from_pem(&certificate).map(Next::External).map_err(root_ca::Error::Root)
    } else {
        RootCa::from_pem(&certificate, &key).map(Next::Own)
    };
    let next = next.map_err(|error| match error {
        root_ca::Error::Root(error) => refused("signing_ca_cert", error.to_string()),
        error => refused("signing_ca_key", error.to_string()),
    })?;
    if !next.certificate().is_valid_until(now + SHORTEST_ROOT) {
        let reason = "one certificate is needed, and it must be valid for another year at least";
        return Err(refused("signing_ca_cert", reason.into()));
    }
    Ok(Some(next))
}

fn rotate(cluster: &mut Cluster, rotation: KeyRotation) -> Result<(), Error> {
    let digest = RootDigest::of(&cluster.root_ca.cert);
    let fresh = || {
        let token = JoinToken::generate(digest).map_err(|error| Error::Internal(error.to_string()))?;
        Ok::<_, Error>(Sensitive::new(token.to_string()))
    };
    let tokens = &mut cluster.root_ca.join_tokens;
    if rotation.worker_join_token {
        tokens.worker = fresh()?;
    }
    if rotation.manager_join_token {
        tokens.manager = fresh()?;
    }
    Ok(())
}

/// An unlock key there is as long as managers are to be locked, and no longer.
fn lock(cluster: &mut Cluster, rotation: KeyRotation) -> Result<(), Error> {
    if !cluster.spec.auto_lock_managers {
        if rotation.manager_unlock_key {
            let remedy = "autolock is not turned on: `swarmctl swarm update --autolock` makes an unlock key";
            return Err(Error::Precondition(format!("there is no unlock key to rotate, as {remedy}")));
        }
        cluster.unlock_key = None;
    } else if cluster.unlock_key.is_none() || rotation.manager_unlock_key {
        let key = UnlockKey::generate();
        cluster.unlock_key = Some(Sensitive::new(key.expose_bytes().to_vec()));
    }
    Ok(())
}

/// Without what only managers may hold.
fn shown(cluster: &Cluster) -> wire::Cluster {
    let mut shown = wire::Cluster::from(cluster);
    shown.network_bootstrap_keys.clear();
    shown.unlock_keys.clear();
    if let Some(root) = &mut shown.root_ca {
        root.ca_key.clear();
        if let Some(rotation) = &mut root.root_rotation {
            rotation.ca_key.clear();
        }
    }
    shown
}

fn find<'a>(tables: &'a Tables, id: &str) -> Result<&'a Arc<Cluster>, Error> {
    let cluster = tables.cluster().filter(|cluster| cluster.id.as_str() == id);
    cluster.ok_or_else(|| Error::not_found("cluster", id))
}
