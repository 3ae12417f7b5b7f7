//! This manager as a member of the group: starts Raft, proposes, tells who leads, stops.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Config, SnapshotPolicy};
use prost::bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::change_set::Proposal;
use crate::codec;
use crate::compaction::Compaction;
use crate::forward::Forwarding;
use crate::giving_way::GivingWay;
use crate::host::{random, task};
use crate::key::{self, DataKey};
use crate::leadership::{self, LeaderHeard, Leadership, Observer};
use crate::log::{self, Log};
use crate::membership::{self, Member};
use crate::options::{Options, Timing};
use crate::read::Reads;
use crate::refound;
use crate::rekey::Rekey;
use crate::replica::Replica;
use crate::snapshot::{self, Snapshots};
use crate::state_machine::Outcome;
use crate::transport::{Heard, Incoming, Lane, Network, Peers};
use crate::types::{Address, Command, Metrics, Raft};
use crate::update::{self, Failure, MAX_ENTRY_BYTES};
use crate::watch::Feed;
use crate::{RaftId, disk};

/// How long a proposal may wait for its answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a proposal waits where nobody leads. An election takes less; a manager that was cut off sees none.
const LEADERLESS: Duration = Duration::from_secs(2);

/// Before a proposal is sent again.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("data directory")]
    Disk(#[from] disk::Error),
    #[error(transparent)]
    Key(#[from] key::Error),
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error("{0}")]
    Raft(String),
}

pub(crate) struct Replicated {
    pub(crate) raft: Raft,
    pub(crate) raft_id: RaftId,
    pub(crate) address: Address,
    pub(crate) peers: Arc<Peers>,
    forwarding: Forwarding,
    pub(crate) snapshots: Snapshots,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) leadership_changed: Arc<Notify>,
    pub(crate) leader_heard: Arc<LeaderHeard>,
    pub(crate) members: watch::Receiver<Vec<Member>>,
    /// Why Raft has stopped by itself.
    pub(crate) failed: watch::Receiver<Option<String>>,
    pub(crate) heard: Heard,
    pub(crate) incoming: Arc<Incoming>,
    pub(crate) reads: Reads,
    /// One change of the membership at a time.
    pub(crate) changes: Semaphore,
    pub(crate) timing: Timing,
    pub(crate) key: DataKey,
    pub(crate) rekeying: Arc<Notify>,
    tasks: TaskTracker,
    stop: CancellationToken,
    #[cfg(test)]
    pub(crate) log: Log,
}

/// How one attempt to have a proposal committed ended.
pub(crate) enum Attempt {
    Answered(Outcome),
    /// Certain: nothing was done. Perhaps somebody else leads.
    Refused(Option<(RaftId, Address)>),
    /// It may be committed or may be yet.
    Unknown,
    Stopped,
}

impl Replicated {
    pub(crate) async fn open(options: &Options, feed: Arc<Feed>) -> Result<Self, Error> {
        let dir = &options.dir;
        refound::clear_up(dir)?;
        disk::create_dir(dir)?;
        let key = DataKey::load(&dir.join("data-key"), options.seal.clone())?;
        let snapshots = Snapshots::new(dir, key.clone())?;
        let limits = log::Limits { segment_bytes: options.segment_bytes, cached_bytes: options.cached_bytes };
        let log = Log::open(dir, key.clone(), random(), limits)?;
        let raft_id = log.raft_id();
        let replica = Replica::new(feed, snapshots.clone(), &log)?;
        let peers = Arc::new(Peers::new(options.dial.clone()));
        #[cfg(test)]
        let log_to_look_at = log.clone();
        let (ours, log_to_send) = (snapshots.clone(), log.clone());
        let network = Network { me: raft_id, peers: peers.clone(), snapshots: ours, log: log_to_send };
        let (files, rekeying) = ((log.clone(), replica.clone()), Arc::new(Notify::new()));
        let raft = Raft::new(raft_id, Arc::new(config(options)?), network, log, replica).await;
        let raft = raft.map_err(|error| Error::Raft(error.to_string()))?;
        let alone = raft.metrics().borrow_watched().membership_config.voter_ids().eq([raft_id]);
        if alone {
            // Nobody else could lead: it need not listen whether somebody does. An error means that Raft has stopped.
            let _ = raft.trigger().elect(false).await;
        }

        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let leader_heard = Arc::new(LeaderHeard::default());
        let observer = Observer::new(&raft, raft_id, peers.clone(), leader_heard.clone(), &options.timing);
        let (leadership, members, failed) = observer.receivers();
        let leadership_changed = observer.changed();
        tasks.spawn(observer.run(stop.clone()));
        let (log, replica) = files;
        let patience = options.timing.patience();
        let giving_way = GivingWay { raft: raft.clone(), raft_id, log: log.clone(), patience };
        tasks.spawn(task(giving_way.run(stop.clone())));
        let incoming = Arc::new(Incoming::default());
        let compaction = Compaction::new(&raft, replica.clone(), incoming.clone());
        tasks.spawn(task(compaction.run(stop.clone())));
        let begun = rekeying.clone();
        let rekey =
            Rekey { raft: raft.clone(), key: key.clone(), log, replica, incoming: incoming.clone(), begun };
        tasks.spawn(rekey.run(stop.clone()));
        Ok(Self {
            raft,
            raft_id,
            address: Address { node_id: options.node_id.to_string(), addr: options.addr.clone() },
            peers,
            forwarding: Forwarding::default(),
            snapshots,
            leadership,
            leadership_changed,
            leader_heard,
            members,
            failed,
            heard: Heard::default(),
            incoming,
            reads: Reads::default(),
            changes: Semaphore::new(1),
            timing: options.timing.clone(),
            key,
            rekeying,
            tasks,
            stop,
            #[cfg(test)]
            log: log_to_look_at,
        })
    }

    /// Makes a group of this manager alone, unless that was done before.
    pub(crate) async fn initialize(&self) -> Result<(), Error> {
        let alone = std::collections::BTreeMap::from([(self.raft_id, self.address.clone())]);
        let initialized = self.raft.is_initialized().await.map_err(|error| Error::Raft(error.to_string()))?;
        if !initialized {
            self.raft.initialize(alone).await.map_err(|error| Error::Raft(error.to_string()))?;
        }
        let mut leadership = self.leadership.clone();
        let leads = leadership.wait_for(|leadership| leadership.leading.is_some());
        match tokio::time::timeout(DEADLINE, leads).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::Raft(format!("not elected within {} s", DEADLINE.as_secs()))),
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    pub(crate) fn members_now(&self) -> Vec<Member> {
        let (metrics, patience) = (self.metrics(), self.timing.patience());
        let leader = leadership::leadership(&metrics, self.raft_id, &self.leader_heard, patience).leader;
        membership::members(&metrics, self.raft_id, leader, patience)
    }

    pub(crate) fn address_of(&self, raft_id: RaftId) -> Option<Address> {
        self.raft.metrics().borrow_watched().membership_config.get_node(&raft_id).cloned()
    }

    /// Sends the proposal to whoever leads until there is an answer. That is safe: the state machine applies it once.
    pub(crate) async fn propose(&self, proposal: &Proposal) -> Result<Outcome, Failure> {
        let command = update::entry(proposal)?.0;
        let deadline = Instant::now() + DEADLINE;
        let mut sent = false;
        let mut hint = None;
        let mut given_up = deadline;
        while Instant::now() < deadline.min(given_up) {
            let mut changed = pin!(self.leadership_changed.notified());
            changed.as_mut().enable();
            if self.leadership.has_changed().is_err() {
                return Err(Failure::Stopped);
            }
            let leader = *self.leadership.borrow();
            given_up = match leader.leader {
                Some(_) => deadline,
                None => given_up.min(Instant::now() + LEADERLESS),
            };
            if proposal.term.is_some() && leader.leading != proposal.term {
                return if sent { Err(Failure::Unknown(DEADLINE)) } else { Ok(Outcome::Deposed) };
            }
            match self.attempt(&command, leader.leader, hint.take(), deadline).await {
                Attempt::Answered(Outcome::Forgotten { .. }) if sent => {
                    return Err(Failure::Unknown(DEADLINE));
                }
                Attempt::Answered(outcome) => return Ok(outcome),
                Attempt::Stopped => return Err(Failure::Stopped),
                Attempt::Unknown => sent = true,
                Attempt::Refused(leader) => hint = leader,
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep(PAUSE) => {}
            }
        }
        let waited = if Instant::now() < deadline { LEADERLESS } else { DEADLINE };
        Err(if sent { Failure::Unknown(waited) } else { Failure::NoQuorum(waited) })
    }

    async fn attempt(
        &self,
        command: &Bytes,
        leader: Option<RaftId>,
        hint: Option<(RaftId, Address)>,
        deadline: Instant,
    ) -> Attempt {
        let known = leader.and_then(|leader| Some((leader, self.address_of(leader)?)));
        let Some((leader, address)) = hint.or(known) else { return Attempt::Refused(None) };
        let attempt = async {
            if leader == self.raft_id {
                return self.attempt_here(command.clone()).await;
            }
            let client = self.peers.client(&address.addr, Lane::Control);
            self.forwarding.forward(&client, command.clone()).await
        };
        tokio::select! {
            biased;
            attempt = timeout_at(deadline, attempt) => attempt.unwrap_or(Attempt::Unknown),
            // One that hangs, or is cut off, would not answer.
            () = self.no_longer_leads(leader) => Attempt::Unknown,
        }
    }

    async fn attempt_here(&self, command: Bytes) -> Attempt {
        match Box::pin(self.raft.client_write(Command(command))).await {
            Ok(response) => Attempt::Answered(response.data),
            Err(RaftError::Fatal(_)) => Attempt::Stopped,
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Attempt::Refused(to.leader_id.zip(to.leader_node))
            }
            Err(RaftError::APIError(_)) => Attempt::Unknown,
        }
    }

    /// Waits until somebody else leads, or until nobody does any more.
    pub(crate) async fn no_longer_leads(&self, leader: RaftId) {
        let mut led = false;
        loop {
            let mut changed = pin!(self.leadership_changed.notified());
            changed.as_mut().enable();
            let over = self.leadership.has_changed().is_err();
            let now = self.leadership.borrow().leader;
            // At first, what a hint says may be newer than what is known here.
            led |= now == Some(leader);
            if over || now.is_some_and(|now| now != leader) || (led && now.is_none()) {
                return;
            }
            changed.await;
        }
    }

    /// None if this manager does not lead and has done nothing.
    pub(crate) async fn propose_for_another(&self, command: Bytes) -> Result<Option<Outcome>, Status> {
        if command.len() > MAX_ENTRY_BYTES {
            return Err(Status::invalid_argument("the change is too large"));
        }
        // What cannot be read would stop every replica when it is applied.
        codec::decode_proposal(&command)?;
        match self.attempt_here(command).await {
            Attempt::Answered(outcome) => Ok(Some(outcome)),
            Attempt::Refused(_) => Ok(None),
            Attempt::Unknown => Err(Status::aborted("the leader has changed")),
            Attempt::Stopped => Err(Status::unavailable("the manager stops")),
        }
    }

    /// Hands the leadership over and ends.
    pub(crate) async fn shutdown(&self) {
        let voters = self.members_now().iter().filter(|member| member.voter).count();
        if voters > 1 && self.leadership.borrow().leading.is_some() {
            match membership::lead::transfer(self).await {
                Ok(successor) => tracing::info!("handed the leadership to {successor:x}"),
                Err(error) => tracing::info!("stops while leading: {error}"),
            }
        }
        if self.raft.shutdown().await.is_err() {
            tracing::error!("Raft has panicked");
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Replicated {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn config(options: &Options) -> Result<Config, Error> {
    let timing = &options.timing;
    let config = Config {
        cluster_name: "swarm".into(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        enable_pre_vote: Some(true),
        // What it had sent, and others have committed, may not have reached its own disk: leading on in the same term
        // it would give those places to other entries.
        enable_leader_restore: Some(false),
        // `compaction` sees to both.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        install_snapshot_timeout: 600_000,
        backoff: "50ms 100ms 200ms ...500ms".into(),
        broadcast_submitted_on_append: Some(true),
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Raft(error.to_string()))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
