//! Keeps one session with one manager, whichever answers.
//!
//! Decides which manager to ask and when to ask again. What a session brings goes to the supervisor of tasks and to
//! the network; what became of the tasks comes from `statuses`. Losing a session touches no task.

mod assignments;
pub mod db;
mod dial;
pub mod drains;
mod managers;
mod reporter;
mod session;
pub mod statuses;
mod view;
mod whereabouts;

use std::sync::Arc;
use std::time::Duration;

use proto::model::TlsInfo;
use proto::wire::SessionMessage;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use dial::Dial;
pub(crate) use session::{Error as SessionError, next};
pub use view::SessionView;
pub use whereabouts::Whereabouts;

use crate::backoff::Backoff;
use crate::description::Facts;
use crate::logpublish::LogPublisher;
use crate::network::{Networks, Underlay};
use crate::task::Instruction;
use db::{Change, Database};
use drains::Drains;
use managers::Managers;
use session::Session;
use statuses::Statuses;
pub(crate) use whereabouts::Finder;

/// The longest pause leaves time to register before three heartbeats of a short period are missed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(4));

/// What a session speaks for.
pub(crate) struct Parts {
    pub dial: Arc<dyn Dial>,
    pub facts: Arc<Facts>,
    pub finder: Finder,
    pub statuses: Statuses,
    pub instructions: mpsc::Sender<Instruction>,
    pub networks: Networks,
    pub drains: Drains,
    pub logs: LogPublisher,
    pub tls: watch::Receiver<TlsInfo>,
    pub database: Database,
}

pub(crate) struct Agent {
    parts: Parts,
    managers: Managers,
    view: watch::Sender<SessionView>,
}

impl Agent {
    pub fn new(
        parts: Parts,
        remembered: Vec<proto::wire::WeightedPeer>,
        configured: &[String],
        view: watch::Sender<SessionView>,
    ) -> Self {
        let managers = Managers::new(parts.facts.node_id.clone(), remembered, configured);
        view.send_modify(|view| view.managers = managers.addresses());
        Self { parts, managers, view }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.keep_session()).await;
        self.view.send_modify(|view| view.connected_to = None);
    }

    async fn keep_session(&mut self) {
        let mut backoff = RETRY;
        let mut dismissals = 0;
        loop {
            match self.managers.choose(rand::random()) {
                Some(addr) => {
                    let error = self.attempt(&addr, &mut backoff).await;
                    dismissals = if error.is_dismissal() { dismissals + 1 } else { 0 };
                    let error = report(&error);
                    tracing::warn!(manager = addr, error, "no session");
                    self.view.send_modify(|view| {
                        view.connected_to = None;
                        view.error = Some(format!("manager {addr}: {error}"));
                        // Each was asked once before one is asked again, so two rounds have one that is whole.
                        view.removed = dismissals >= 2 * self.managers.known().len().max(1);
                    });
                }
                None => tracing::warn!("no manager is known"),
            }
            tokio::time::sleep(backoff.delay(rand::random())).await;
        }
    }

    /// One session, and why it ended.
    async fn attempt(&mut self, addr: &str, backoff: &mut Backoff) -> SessionError {
        let Self { parts, managers, view } = self;
        let (session, first) = match Box::pin(Session::establish(parts, addr)).await {
            Ok(established) => established,
            Err(error) => return error,
        };
        backoff.reset();
        managers.answered(addr);
        tracing::info!(manager = addr, "session");
        // Lists of managers are written beside the session, which must not wait for the disk.
        let (lists, mut written) = watch::channel(None);
        let mut told = |message: SessionMessage| {
            show(view, addr, &message);
            if managers.replace(message.managers) {
                view.send_modify(|view| view.managers = managers.addresses());
                lists.send_replace(Some(managers.known().to_vec()));
            }
        };
        told(first);
        let remembering = async {
            while written.changed().await.is_ok() {
                let list = written.borrow_and_update().clone();
                parts.remember(list.into_iter().map(Change::Managers).collect()).await;
            }
        };
        tokio::select! {
            ended = Box::pin(session.serve(told)) => match ended {
                Err(error) => error,
                Ok(never) => match never {},
            },
            () = remembering => std::future::pending().await,
        }
    }
}

impl Parts {
    async fn remember(&self, changes: Vec<Change>) {
        if let Err(error) = self.database.write(changes).await {
            tracing::error!(%error, "cannot write the local database");
        }
    }

    async fn remember_underlay(&self, underlay: Underlay) {
        self.remember(vec![Change::Underlay(underlay.to_string())]).await;
    }
}

fn show(view: &watch::Sender<SessionView>, addr: &str, message: &SessionMessage) {
    let node = session::node(message);
    if let Err(error) = &node {
        tracing::warn!(error = report(error), "the manager's view of this node is not usable");
    }
    view.send_modify(|view| {
        view.node = node.ok().or(view.node.take());
        if !message.root_ca.is_empty() {
            view.root_ca.clone_from(&message.root_ca);
        }
        view.connected_to = Some(addr.to_owned());
        view.error = None;
    });
}

/// An error and its causes in one line.
fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
