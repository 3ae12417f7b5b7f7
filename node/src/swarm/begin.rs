//! How a node's part in a swarm begins: it makes one, joins one, or takes up the one it had.

use std::sync::Arc;
use std::time::SystemTime;

use identity::bootstrap::Join;
use identity::{Credentials, Dialer, JoinToken, RootCa, Subject, UnlockKey, issuance};
use manager::cluster::{FirstNode, Init, NetworkDefaults};
use proto::local::{InitRequest, JoinRequest};
use proto::model::{Availability, ClusterId, ClusterSpec, NodeId, Role};
use proto::wire::node_spec;

use super::{Context, Swarm, forget, remove_dir};
use crate::addr::{self, Listening};
use crate::error::Error;
use crate::gate::Serving;
use crate::manager_side::{ManagerSide, Place, ask_to_join, bind, open_store};
use crate::record::{self, Record};

impl Swarm {
    /// Makes a new swarm.
    pub async fn init(context: &Arc<Context>, request: InitRequest) -> Result<Self, Error> {
        let Listening { listen, advertise } =
            addr::listening(&request.listen_addr, &request.advertise_addr, None)?;
        let data_path = addr::data_path(&request.data_path_addr)?;
        let record = Record { listen, advertise, follows: false, data_path, managers: Vec::new() };
        let wishes = Wishes::read(request)?;
        let begun = found(context, record, wishes).await;
        undo_on_error(context, begun)
    }

    /// Joins the swarm of a manager that the request names.
    pub async fn join(context: &Arc<Context>, request: JoinRequest) -> Result<Self, Error> {
        let token: JoinToken = request.token.parse()?;
        let availability = availability(request.availability)?;
        let manager = addr::manager(request.remote_addrs.first().map_or("", String::as_str))?;
        let otherwise = match request.advertise_addr.as_str() {
            "" => Some(addr::towards(&manager)?),
            _ => None,
        };
        let Listening { listen, advertise } =
            addr::listening(&request.listen_addr, &request.advertise_addr, otherwise)?;
        let data_path = addr::data_path(&request.data_path_addr)?;
        let follows = request.advertise_addr.is_empty() && listen.ip().is_unspecified();
        let record = Record { listen, advertise, follows, data_path, managers: vec![manager.clone()] };
        let joining = Join { addr: manager, token, availability, source: None };
        let begun = enter(context, record, joining).await;
        undo_on_error(context, begun)
    }

    /// Takes up the swarm of which this node was part, if there is one.
    pub async fn resume(context: &Arc<Context>) -> Result<Option<Self>, Error> {
        let Some((identity, root)) = context.certificates.load()? else { return Ok(None) };
        let record = record::load(&context.settings.data_root)?;
        let path = record::path(&context.settings.data_root);
        let record = record.ok_or(Error::NoRecord { path })?;
        let credentials = Credentials::new(identity, root)?;
        let (manager, problem) = resume_manager(context, &record, &credentials).await?;
        Self::assemble(context, record, credentials, manager, problem).await.map(Some)
    }
}

/// What `swarm init` was asked for, checked.
struct Wishes {
    spec: ClusterSpec,
    network: NetworkDefaults,
    availability: Availability,
}

impl Wishes {
    fn read(request: InitRequest) -> Result<Self, Error> {
        let invalid =
            |field, error: &dyn std::error::Error| Error::Invalid { field, reason: error.to_string() };
        let mut spec = request.spec.unwrap_or_default();
        spec.annotations.get_or_insert_default().name = manager::cluster::DEFAULT_NAME.into();
        let spec = manager::api::validate_cluster(Some(spec))?;
        if !spec.ca.external.is_empty() {
            let reason = "a new swarm begins with a root of its own, for which no external CA can sign: change to its \
                          root afterwards";
            return Err(Error::Invalid { field: "spec.ca_config.external_cas", reason: reason.into() });
        }
        let mut network = NetworkDefaults::default();
        if !request.default_addr_pool.is_empty() {
            let pools = request.default_addr_pool.iter().map(|pool| pool_in(pool));
            network = network.with_pools(pools.collect::<Result<_, _>>()?);
        }
        if request.default_addr_pool_mask_length != 0 {
            network.subnet_size = u8::try_from(request.default_addr_pool_mask_length)
                .map_err(|error| invalid("--default-addr-pool-mask-length", &error))?;
        }
        if request.data_path_port != 0 {
            network.vxlan_port =
                u16::try_from(request.data_path_port).map_err(|error| invalid("--data-path-port", &error))?;
        }
        network.check()?;
        Ok(Self { spec, network, availability: availability(request.availability)? })
    }
}

fn pool_in<T: std::str::FromStr>(text: &str) -> Result<T, Error> {
    let reason = || format!("{text:?}: expected a subnet such as 10.20.0.0/16");
    text.parse().map_err(|_| Error::Invalid { field: "--default-addr-pool", reason: reason() })
}

/// Makes the root CA, the first certificate and the first entry of the store.
async fn found(context: &Arc<Context>, record: Record, wishes: Wishes) -> Result<Swarm, Error> {
    // Before anything is made: the likeliest reason to fail.
    let listener = bind(record.listen).await?;
    let now = SystemTime::now();
    let root_ca = RootCa::generate(now)?;
    let subject = Subject {
        node: NodeId::from_random(rand::random()),
        role: Role::Manager,
        cluster: ClusterId::from_random(rand::random()),
    };
    let identity = root_ca.issue(&subject, wishes.spec.ca.node_cert_expiry, now)?;
    let root = root_ca.certificate().clone();
    let credentials = Credentials::new(identity.clone(), root.clone())?;
    let unlock_key = wishes.spec.auto_lock_managers.then(UnlockKey::generate);
    context.certificates.seal(unlock_key.clone(), 0)?;
    let place = place(context, &record, &credentials);
    let store = open_store(&place).await?;
    let founded = async {
        let first = FirstNode {
            id: subject.node,
            availability: wishes.availability,
            raft_id: store.raft_id(),
            addr: record.advertise.to_string(),
            certificate: identity.certificate().pem().into(),
        };
        let (cluster, spec, network) = (subject.cluster, wishes.spec, wishes.network);
        let init = Init { cluster, spec, root_ca: &root_ca, unlock_key, network, node: first };
        store.bootstrap(manager::cluster::create(init)?).await?;
        record::save(&context.settings.data_root, &record)?;
        Ok(context.certificates.save(&identity, &root)?)
    };
    if let Err(error) = founded.await {
        store.shutdown().await;
        return Err(error);
    }
    let manager = ManagerSide::start(&place, store, listener, context.serving.clone());
    Swarm::assemble(context, record, credentials, Some(manager), None).await
}

/// The record first: with the certificate the node is part of the swarm, whatever interrupts it then.
async fn enter(context: &Arc<Context>, record: Record, joining: Join) -> Result<Swarm, Error> {
    record::save(&context.settings.data_root, &record)?;
    let joined = joining.run(&context.certificates, SystemTime::now()).await?;
    let role = joined.identity.subject().role;
    let credentials = Credentials::new(joined.identity, joined.root)?;
    let (manager, problem) = match role {
        Role::Worker => (None, None),
        Role::Manager => become_manager(context, &record, &credentials).await?,
    };
    Swarm::assemble(context, record, credentials, manager, problem).await
}

/// What the others refuse ends the attempt; what they could not do now is asked for again later.
async fn become_manager(
    context: &Arc<Context>,
    record: &Record,
    credentials: &Credentials,
) -> Result<(Option<ManagerSide>, Option<Error>), Error> {
    let manager = open_manager(context, record, credentials, &record.managers).await?;
    let dialer = Dialer::new(credentials.clone());
    match ask_to_join(&dialer, record.advertise, &record.managers).await {
        Ok(()) => Ok((Some(manager), None)),
        Err(error) if error.is_refusal() => {
            manager.stop(Serving::Nothing).await;
            Err(error)
        }
        Err(error) => Ok((Some(manager), Some(error))),
    }
}

/// A manager side that cannot be opened does not keep the worker from its work.
async fn resume_manager(
    context: &Arc<Context>,
    record: &Record,
    credentials: &Credentials,
) -> Result<(Option<ManagerSide>, Option<Error>), Error> {
    if credentials.current().identity().subject().role == Role::Worker {
        // Of a demotion that was interrupted.
        remove_dir(context.raft_dir())?;
        context.serving.send_replace(Serving::Nothing);
        return Ok((None, None));
    }
    match open_manager(context, record, credentials, &record.managers).await {
        Ok(manager) => Ok((Some(manager), None)),
        Err(error) => {
            let reason = crate::error::chain(&error);
            tracing::error!(error = reason, "the manager on this node does not run; it is tried again");
            context.serving.send_replace(Serving::Failing(reason));
            Ok((None, Some(error)))
        }
    }
}

pub(super) async fn open_manager(
    context: &Arc<Context>,
    record: &Record,
    credentials: &Credentials,
    others: &[String],
) -> Result<ManagerSide, Error> {
    let place = place(context, record, credentials);
    let listener = bind(record.listen).await?;
    if !context.raft_dir().exists() {
        learn_unlock_key(context, &place.dialer, record, others).await?;
    }
    let store = open_store(&place).await?;
    Ok(ManagerSide::start(&place, store, listener, context.serving.clone()))
}

/// So that nothing of a locked swarm is ever on this disk in clear. Who cannot be asked now need not: what is here is
/// sealed, anew, as soon as the replica tells.
async fn learn_unlock_key(
    context: &Context,
    dialer: &Dialer,
    record: &Record,
    others: &[String],
) -> Result<(), Error> {
    let own = record.advertise.to_string();
    for addr in others.iter().filter(|addr| **addr != own) {
        let Ok(channel) = dialer.channel(addr) else { continue };
        match issuance::unlock_key(channel).await {
            Ok((key, version)) => return Ok(context.certificates.seal(key, version)?),
            Err(error) => tracing::debug!(%addr, %error, "a manager told no unlock key"),
        }
    }
    Ok(())
}

pub(super) fn place<'a>(context: &'a Context, record: &Record, credentials: &Credentials) -> Place<'a> {
    Place {
        data_root: &context.settings.data_root,
        certificates: &context.certificates,
        node_id: credentials.current().identity().subject().node.clone(),
        advertise: record.advertise,
        credentials: credentials.clone(),
        dialer: Dialer::new(credentials.clone()),
    }
}

/// A beginning that failed leaves nothing behind.
pub(super) fn undo_on_error(context: &Context, begun: Result<Swarm, Error>) -> Result<Swarm, Error> {
    if begun.is_err()
        && let Err(error) = forget(context)
    {
        tracing::warn!(error = %crate::error::chain(&error), "cannot clean up after a failed start");
    }
    begun
}

pub(super) fn availability(value: i32) -> Result<Availability, Error> {
    let known = node_spec::Availability::try_from(value);
    known
        .map(Into::into)
        .map_err(|error| Error::Invalid { field: "--availability", reason: error.to_string() })
}
