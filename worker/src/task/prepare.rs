//! Makes everything that a task needs before it starts: its network, and beside it image and container.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use proto::model::{TaskState, TaskStatus};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::assigned::Assigned;
use super::container;
use super::runner::Shared;
use super::step::Failure;
use crate::backoff::Backoff;
use crate::runtime::{self, ContainerConfig, PullPhase, PullProgress, RegistryAuth, Verdict};
use crate::timed::timed;

/// Attempts at a pull that may work in a moment. After these the task is rejected, and a new one tried elsewhere.
const PULLS: u32 = 5;
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
/// Least time between two reports of how far a pull is: each is a write to the managers' log.
const PROGRESS: Duration = Duration::from_secs(1);

/// A container that waits to be started.
pub(super) struct Prepared {
    /// To start it at once; none if it had to wait for its network, since others may go first meanwhile.
    pub permit: Option<OwnedSemaphorePermit>,
}

pub(super) async fn prepare(shared: &Shared, assigned: &Assigned) -> Result<Prepared, Failure> {
    let id = assigned.id().as_str();
    let netns = shared.networks.sandbox_path(assigned.id());
    let config = container::config(assigned, &shared.facts, netns);
    // What the spec asks for is checked before anything is fetched.
    let config = config.map_err(|error| Failure::rejected(error.to_string()))?;
    let attached = AtomicBool::new(false);
    let attaching = async {
        timed(id, "network", attach(shared, assigned)).await?;
        attached.store(true, Ordering::Relaxed);
        Ok(())
    };
    let making = async {
        let image = timed(id, "image", pull(shared, assigned)).await?;
        let permit = timed(id, "turn", permit(shared)).await;
        timed(id, "create", create(shared, &ContainerConfig { image, ..config })).await?;
        Ok(permit.filter(|_| attached.load(Ordering::Relaxed)))
    };
    let (permit, ()) = tokio::try_join!(making, attaching)?;
    failpoint::reached("task: prepared");
    Ok(Prepared { permit })
}

/// A place among those that start; none once the node stops.
pub(super) async fn permit(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    shared.starts.clone().acquire_owned().await.ok()
}

async fn attach(shared: &Shared, assigned: &Assigned) -> Result<(), Failure> {
    failpoint::reached("task: attach");
    let attached = shared.networks.attach(assigned.id().clone(), assigned.wish.clone()).await;
    failpoint::reached("task: attached");
    attached.map_err(|error| Failure::rejected(error.to_string()))
}

async fn pull(shared: &Shared, assigned: &Assigned) -> Result<String, Failure> {
    failpoint::reached("task: pull");
    let spec = &assigned.task.spec.container;
    let auth = spec.pull_options.as_ref().map_or("", |options| &options.registry_auth);
    let auth = RegistryAuth::parse(auth).map_err(|error| Failure::rejected(error.report()))?;
    let (progress, seen) = watch::channel(PullProgress::default());
    let pulling = pull_patiently(shared, &spec.image, auth.as_ref(), &progress);
    tokio::select! {
        pulled = pulling => pulled,
        never = report_progress(shared, assigned, seen) => match never {},
    }
}

async fn pull_patiently(
    shared: &Shared,
    image: &str,
    auth: Option<&RegistryAuth>,
    progress: &watch::Sender<PullProgress>,
) -> Result<String, Failure> {
    let mut backoff = RETRY;
    let mut left = PULLS;
    loop {
        let error = match shared.runtime.pull(image, auth, progress).await {
            Ok(resolved) => return Ok(resolved.reference),
            Err(error) => error,
        };
        left -= 1;
        match error.verdict() {
            Verdict::Retry if left > 0 => sleep(backoff.delay(rand::random())).await,
            Verdict::Fail => return Err(Failure::failed(error.report())),
            Verdict::Reject | Verdict::Retry => return Err(Failure::rejected(error.report())),
        }
    }
}

/// Tells now and then how far the pull is. A pull that is over within the first period is not told at all.
async fn report_progress(
    shared: &Shared,
    assigned: &Assigned,
    mut progress: watch::Receiver<PullProgress>,
) -> Infallible {
    let mut next = Instant::now() + PROGRESS;
    loop {
        sleep_until(next).await;
        if progress.changed().await.is_err() {
            return std::future::pending().await;
        }
        let shown = progress.borrow_and_update().clone();
        if shown.phase != PullPhase::Done {
            let message = format!("preparing: image {shown}");
            let status = TaskStatus::new(TaskState::Preparing, &message, SystemTime::now());
            shared.statuses.report(assigned.id(), status);
        }
        next = Instant::now() + PROGRESS;
    }
}

async fn create(shared: &Shared, config: &ContainerConfig) -> Result<(), Failure> {
    let mut backoff = RETRY;
    loop {
        let error = match shared.runtime.create(config).await {
            // It was made in an attempt whose answer was lost.
            Ok(()) | Err(runtime::Error::Exists { .. }) => return Ok(()),
            Err(error) => error,
        };
        match error.verdict() {
            Verdict::Retry => sleep(backoff.delay(rand::random())).await,
            Verdict::Reject => return Err(Failure::rejected(error.report())),
            Verdict::Fail => return Err(Failure::failed(error.report())),
        }
    }
}
