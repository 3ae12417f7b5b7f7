//! Owns the node's network: takes requests, brings the kernel along, answers.
//!
//! One pass over the kernel at a time; whatever comes in meanwhile is done together in the next one, so that many
//! tasks that start at once cost few passes. A pass that failed for a network is repeated after a while; one that
//! failed for a task's sandbox is answered, since the task's runner decides what then. What a pass covers and what follows
//! from it is in `pass`.

mod pass;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::future::BoxFuture;
use netdriver::{Incarnation, Services};
use proto::model::{NetworkId, NodeId, TaskId};
use proto::network::{self as wire, NetworkUpdate, WatchResponse};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::confirm::{Confirmations, Confirmed};
use super::encryption::KeysReport;
use super::keeper::Keeper;
use super::kernel::{Kernel, Outcome};
use super::state::{Dirty, State, Underlay};
use super::wish::{Place, Wish};
use super::{Book, DirectoryError, Error};
use crate::backoff::Backoff;
use crate::dns::{Books, tellable};
use pass::Pass;

/// How often the whole node is looked at.
const AUDIT: Duration = Duration::from_secs(60);
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

type Reply = oneshot::Sender<Result<(), Error>>;
/// What had to be mended, a line each.
type AuditReply = oneshot::Sender<Result<Vec<String>, Error>>;

pub(super) enum Request {
    Keep(TaskId, Wish),
    Attach(TaskId, Wish, Reply),
    Detach(TaskId, Wish, Reply),
    Begin(Underlay),
    /// What a new stream can go on from.
    Known(oneshot::Sender<(u64, Vec<wire::Known>)>),
    Update(WatchResponse, oneshot::Sender<Result<(), DirectoryError>>),
    /// What is known of a task, and of the network if it is on it; none if there is no such task.
    Know(TaskId, Option<NetworkId>, oneshot::Sender<Option<Known>>),
    Settle,
    Audit(AuditReply),
    Clear(Reply),
}

/// What the node goes by for one task.
#[derive(Debug, Clone)]
pub struct Known {
    pub wish: Wish,
    pub underlay: Option<Underlay>,
    /// Of the network that was asked about.
    pub told: Option<Told>,
}

/// What the managers told of a network.
#[derive(Debug, Clone)]
pub struct Told {
    pub index: u64,
    pub book: Book,
    pub services: Services,
}

pub(super) struct Actor {
    kernel: Arc<dyn Kernel>,
    state: State,
    /// What resolvers tell.
    books: Books,
    /// What of each network the kernel's tables have.
    reachable: BTreeMap<NetworkId, Book>,
    keeper: Keeper,
    dirty: Dirty,
    settled: bool,
    mended: Arc<AtomicU64>,
    confirmations: Confirmations,
    reporting: watch::Sender<BTreeMap<NetworkId, KeysReport>>,
    /// Networks that were brought to what the present directory stream says.
    applied: BTreeSet<NetworkId>,
    /// Tasks whose sandbox exists.
    made: BTreeSet<TaskId>,
    attaching: BTreeMap<TaskId, (Wish, Reply)>,
    detaching: BTreeMap<TaskId, Reply>,
    clearing: Option<Reply>,
    /// Who wants the node to be looked at, once nothing else is to be done.
    auditing: Vec<AuditReply>,
    backoff: Backoff,
    retry: Option<(Instant, Dirty)>,
}

impl Actor {
    pub fn new(
        kernel: Arc<dyn Kernel>,
        own: NodeId,
        underlay: Option<Underlay>,
        books: Books,
        mended: Arc<AtomicU64>,
        reporting: watch::Sender<BTreeMap<NetworkId, KeysReport>>,
        mut keeper: Keeper,
    ) -> Self {
        let mut state = State::new(own, underlay);
        let mut reachable = BTreeMap::new();
        for (network, remembered) in keeper.take_remembered() {
            // The kernel is as the earlier process left it, which had what was written.
            books.tell(&network, remembered.book.clone());
            reachable.insert(network.clone(), remembered.book.clone());
            state.directory.remember(network, remembered);
        }
        Self {
            kernel,
            state,
            books,
            reachable,
            keeper,
            dirty: Dirty::default(),
            settled: false,
            mended,
            confirmations: Confirmations::default(),
            reporting,
            applied: BTreeSet::new(),
            made: BTreeSet::new(),
            attaching: BTreeMap::new(),
            detaching: BTreeMap::new(),
            clearing: None,
            auditing: Vec::new(),
            backoff: RETRY,
            retry: None,
        }
    }

    pub fn confirmed(&self) -> watch::Receiver<Confirmed> {
        self.confirmations.watch()
    }

    pub async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>, stop: CancellationToken) {
        let mut audit = interval_at(Instant::now() + AUDIT, AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut auditing = false;
        let mut work: Option<(Pass, BoxFuture<'static, Outcome>)> = None;
        loop {
            while let Ok(request) = requests.try_recv() {
                self.take(request);
            }
            self.report();
            if work.is_none() {
                let audit = std::mem::take(&mut auditing) || self.may_audit();
                work = self.begin_pass(audit);
            }
            let retry_at = self.retry.as_ref().map(|(at, _)| *at);
            tokio::select! {
                () = stop.cancelled() => break,
                request = requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => break,
                },
                (pass, outcome) = finished(&mut work) => self.finish(pass, &outcome),
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => self.retry(),
                _ = audit.tick(), if self.settled => auditing = true,
                () = self.keeper.due() => self.keeper.keep(&self.state.directory),
            }
        }
        self.keeper.end(&self.state.directory).await;
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Keep(task, wish) => {
                self.made.insert(task.clone());
                self.take_part(&wish);
                self.state.insert(task, wish);
            }
            Request::Attach(task, wish, reply) => self.attach(task, wish, reply),
            Request::Detach(task, wish, reply) => self.detach(task, &wish, reply),
            Request::Begin(underlay) => self.begin_stream(underlay),
            Request::Known(reply) => _ = reply.send(self.state.directory.known()),
            Request::Update(told, reply) => {
                let _ = reply.send(self.hear(told));
                self.answer();
            }
            Request::Know(task, network, reply) => {
                // Whoever asked may have given up.
                let _ = reply.send(self.known(&task, network.as_ref()));
            }
            Request::Settle => {
                self.settled = true;
                self.dirty.all = true;
            }
            Request::Audit(reply) => self.auditing.push(reply),
            Request::Clear(reply) => {
                self.state.clear();
                self.keeper.retire();
                self.dirty.all = true;
                self.clearing = Some(reply);
            }
        }
    }

    fn known(&self, task: &TaskId, network: Option<&NetworkId>) -> Option<Known> {
        let (wish, directory) = (self.state.wish(task)?.clone(), &self.state.directory);
        let told = network.and_then(|id| {
            let (index, book) = (directory.index(id)?, directory.book(id)?.clone());
            Some(Told { index, book, services: directory.services(id) })
        });
        Some(Known { wish, underlay: self.state.underlay, told })
    }

    fn attach(&mut self, task: TaskId, wish: Wish, reply: Reply) {
        self.take_part(&wish);
        self.state.insert(task.clone(), wish.clone());
        self.made.remove(&task);
        let stale = wish.networks().filter(|id| !self.applied.contains(*id)).cloned();
        self.dirty.networks.extend(stale);
        self.dirty.tasks.insert(task.clone());
        self.attaching.insert(task, (wish, reply));
    }

    fn detach(&mut self, task: TaskId, wish: &Wish, reply: Reply) {
        self.state.remove(&task);
        self.made.remove(&task);
        self.attaching.remove(&task);
        let unused: Vec<&NetworkId> = wish.networks().filter(|id| !self.state.is_used(id)).collect();
        for network in unused {
            self.applied.remove(network);
            self.state.parts.end(network);
            self.dirty.networks.insert(network.clone());
        }
        self.dirty.tasks.insert(task.clone());
        self.detaching.insert(task, reply);
    }

    fn begin_stream(&mut self, underlay: Underlay) {
        self.state.directory.begin();
        self.applied.clear();
        if self.state.underlay.replace(underlay) != Some(underlay) {
            self.dirty.networks.extend(self.state.networks().into_keys().cloned());
        }
    }

    fn hear(&mut self, told: WatchResponse) -> Result<(), DirectoryError> {
        let taken = told.updates.into_iter().try_for_each(|update| self.update(update));
        match &taken {
            Ok(()) => self.state.directory.reach(told.moment),
            Err(_) => self.state.directory.distrust(),
        }
        self.keeper.changed();
        taken
    }

    fn update(&mut self, update: NetworkUpdate) -> Result<(), DirectoryError> {
        let confirm = update.confirm;
        let network = self.state.directory.apply(update)?;
        if confirm {
            self.confirmations.ask(network.clone());
        }
        self.tell(&network);
        if self.state.is_used(&network) {
            if let Some(told) = self.state.directory.encryption(&network) {
                self.state.parts.hear(&network, told);
            }
            self.dirty.networks.insert(network);
        } else {
            // Nothing here works by it.
            let confirms = self.confirmations.begin(&self.state.directory, |id| *id == network);
            self.confirmations.finish(confirms, &self.state.directory, |_| false);
        }
        Ok(())
    }

    /// Lets the resolvers tell what is known of the network and can be reached.
    fn tell(&mut self, network: &NetworkId) {
        let Some(book) = self.state.directory.book(network) else {
            self.reachable.remove(network);
            return self.books.forget(network);
        };
        if let Some(reachable) = self.reachable.get(network) {
            self.books.tell(network, tellable(book, reachable));
        }
    }

    /// Begins to take part in the encrypted ones among the networks, in each that is not in use yet.
    fn take_part(&mut self, wish: &Wish) {
        let state = &mut self.state;
        for network in wish.places.iter().map(|place| &place.network).filter(|network| network.encrypted) {
            state.parts.begin(&network.id, Incarnation(rand::random()));
            if let Some(told) = state.directory.encryption(&network.id) {
                state.parts.hear(&network.id, told);
            }
        }
    }

    /// Tells what is to be reported of encrypted networks.
    fn report(&self) {
        let reports = self.state.parts.reports();
        self.reporting.send_if_modified(|reported| {
            let changed = *reported != reports;
            *reported = reports;
            changed
        });
    }

    /// Whether an audit that was asked for can begin: what is yet to be done would count as mended.
    fn may_audit(&mut self) -> bool {
        if self.auditing.is_empty() || !self.settled {
            return false;
        }
        self.retry();
        if self.dirty.is_empty() && !self.state.is_complete() {
            self.auditing.drain(..).for_each(|reply| drop(reply.send(Err(Error::Untold))));
        }
        self.dirty.is_empty() && !self.auditing.is_empty()
    }

    fn retry(&mut self) {
        if let Some((_, mut waiting)) = self.retry.take() {
            self.dirty.all |= waiting.all;
            self.dirty.networks.append(&mut waiting.networks);
        }
    }

    /// Tells those whose sandbox is complete.
    fn answer(&mut self) {
        let (made, applied, state) = (&self.made, &self.applied, &self.state);
        let complete = |task: &TaskId, wish: &Wish| {
            let told = |id| applied.contains(id) && state.directory.is_fresh(id);
            let announced = |place: &Place| state.is_announced(&place.network);
            made.contains(task) && wish.networks().all(told) && wish.places.iter().all(announced)
        };
        for (_, (_, reply)) in self.attaching.extract_if(.., |task, (wish, _)| complete(task, wish)) {
            let _ = reply.send(Ok(()));
        }
    }
}

async fn finished(work: &mut Option<(Pass, BoxFuture<'static, Outcome>)>) -> (Pass, Outcome) {
    let Some((_, running)) = work else { return std::future::pending().await };
    let outcome = running.await;
    let (pass, _) = work.take().expect("it was there a moment ago");
    (pass, outcome)
}
