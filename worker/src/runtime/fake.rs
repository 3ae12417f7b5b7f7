//! A runtime without containers, for tests of what drives one: outcomes are scripted, calls are recorded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::io::AsyncRead;
use tokio::sync::watch;

use super::{
    ContainerConfig, ContainerState, Died, Error, Exit, HealthCheck, HealthSettings, ImageSummary, Probed,
    PullPhase, PullProgress, RegistryAuth, ResolvedImage, Runtime, Signal, Started, Status,
};
use crate::logs::{LogQuery, LogStream};

/// A method of [`Runtime`] that can be made to fail or to hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Pull,
    Create,
    Start,
    Wait,
    Kill,
    Stop,
    Probe,
    Remove,
    List,
}

/// What happens to a call instead of its success.
#[derive(Debug, Clone)]
pub enum Fault {
    Error(Error),
    /// The call does its work and then answers with this: the answer was lost.
    Lost(Error),
    /// The call never returns.
    Hang,
}

/// Containers that only exist as records.
///
/// A started container runs until [`exit`](Fake::exit), a signal that is not ignored, or
/// [`Runtime::remove`]. Faults are taken in the order in which they were put, one a call.
#[derive(Debug, Default)]
pub struct Fake {
    state: Mutex<State>,
    /// Counts changes, so that waiters look again.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    containers: BTreeMap<String, Container>,
    faults: BTreeMap<Call, VecDeque<Fault>>,
    calls: Vec<(Call, String)>,
    ignore_stop: bool,
    /// How health checks go, by container; those of others succeed.
    health: BTreeMap<String, Probed>,
    next_pid: u32,
}

#[derive(Debug, Clone)]
struct Container {
    config: ContainerConfig,
    status: Status,
}

impl Fake {
    pub fn new() -> Self {
        Self::default()
    }

    /// The next `call` that has no fault yet meets this one.
    pub fn fail(&self, call: Call, fault: Fault) {
        self.lock().faults.entry(call).or_default().push_back(fault);
    }

    /// Containers from now on ignore everything but SIGKILL.
    pub fn ignore_stop(&self) {
        self.lock().ignore_stop = true;
    }

    /// From now on a container's health check ends so.
    pub fn set_health(&self, id: &str, exit_code: u32, output: &str) {
        let probed = Probed { exit_code: Some(exit_code), output: output.to_owned() };
        self.lock().health.insert(id.to_owned(), probed);
    }

    /// Ends a running container.
    pub fn exit(&self, id: &str, code: u32) {
        if let Some(container) = self.lock().containers.get_mut(id) {
            container.status = Status::Exited(Exit { code, oom: false, at: SystemTime::now() });
        }
        self.announce();
    }

    /// Puts a container there as if a former process had left it.
    pub fn put(&self, config: ContainerConfig, status: Status) {
        self.lock().containers.insert(config.id.clone(), Container { config, status });
        self.announce();
    }

    pub fn config(&self, id: &str) -> Option<ContainerConfig> {
        self.lock().containers.get(id).map(|container| container.config.clone())
    }

    /// Calls so far with the id (or image) they were about, in order.
    pub fn calls(&self) -> Vec<(Call, String)> {
        self.lock().calls.clone()
    }

    /// Resolves once `call` was made about `subject`.
    pub async fn called(&self, call: Call, subject: &str) {
        self.until(|state| {
            state.calls.iter().any(|(made, about)| *made == call && about == subject).then_some(())
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn announce(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    async fn until<T>(&self, mut condition: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(found) = condition(&self.lock()) {
                return found;
            }
            changed.changed().await.expect("the sender lives as long as self");
        }
    }

    /// Records the call, meets its fault, does `work`.
    async fn act<T>(
        &self,
        call: Call,
        subject: &str,
        work: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let fault = {
            let mut state = self.lock();
            state.calls.push((call, subject.to_owned()));
            state.faults.get_mut(&call).and_then(VecDeque::pop_front)
        };
        self.announce();
        match fault {
            Some(Fault::Error(error)) => return Err(error),
            Some(Fault::Hang) => std::future::pending::<()>().await,
            Some(Fault::Lost(error)) => {
                let _ = work(&mut self.lock());
                self.announce();
                return Err(error);
            }
            None => {}
        }
        let outcome = work(&mut self.lock());
        self.announce();
        outcome
    }
}

impl State {
    fn get(&mut self, id: &str) -> Result<&mut Container, Error> {
        self.containers.get_mut(id).ok_or_else(|| Error::NoSuchContainer { id: id.to_owned() })
    }

    fn signal(&mut self, id: &str, signal: Signal) -> Result<(), Error> {
        let ignored = self.ignore_stop && signal != Signal::KILL;
        let container = self.get(id)?;
        if !matches!(container.status, Status::Running { .. }) {
            return Err(Error::NotRunning { id: id.to_owned() });
        }
        if !ignored {
            let code = 128 + u32::from(signal.number());
            container.status = Status::Exited(Exit { code, oom: false, at: SystemTime::now() });
        }
        Ok(())
    }
}

impl Container {
    fn state(&self) -> ContainerState {
        ContainerState {
            id: self.config.id.clone(),
            image: self.config.image.clone(),
            labels: self.config.labels.clone(),
            status: self.status.clone(),
        }
    }

    /// Images have none here.
    fn check(&self) -> Option<HealthCheck> {
        self.config.health.settle(&HealthSettings::default(), None)
    }

    fn exit(&self) -> Option<Exit> {
        match &self.status {
            Status::Exited(exit) => Some(exit.clone()),
            Status::Created | Status::Running { .. } => None,
        }
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn pull(
        &self,
        image: &str,
        _auth: Option<&RegistryAuth>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<ResolvedImage, Error> {
        let image = image.to_owned();
        let subject = image.clone();
        let digest = format!("sha256:{:064x}", image.len());
        let resolved = ResolvedImage { reference: image, digest };
        self.act(Call::Pull, &subject, |_| Ok(())).await?;
        progress.send_replace(PullProgress { phase: PullPhase::Done, ..PullProgress::default() });
        Ok(resolved)
    }

    async fn create(&self, config: &ContainerConfig) -> Result<(), Error> {
        self.act(Call::Create, &config.id, |state| {
            if state.containers.contains_key(&config.id) {
                return Err(Error::Exists { id: config.id.clone() });
            }
            let container = Container { config: config.clone(), status: Status::Created };
            state.containers.insert(config.id.clone(), container);
            Ok(())
        })
        .await
    }

    async fn start(&self, id: &str) -> Result<Started, Error> {
        self.act(Call::Start, id, |state| {
            state.next_pid += 1;
            let pid = state.next_pid;
            let container = state.get(id)?;
            let is_checked = container.check().is_some();
            match container.status {
                Status::Created => {
                    container.status = Status::Running { pid };
                    Ok(Started { pid, is_checked })
                }
                // The answer to an earlier attempt was lost.
                Status::Running { pid } => Ok(Started { pid, is_checked }),
                Status::Exited(_) => Err(Error::Exists { id: id.to_owned() }),
            }
        })
        .await
    }

    async fn watch(&self, id: &str, died: &Died<'_>) -> Result<Exit, Error> {
        self.act(Call::Wait, id, |state| state.get(id).map(|_| ())).await?;
        let ended = self.until(|state| match state.containers.get(id) {
            Some(container) => container.exit().map(Ok),
            None => Some(Err(Error::NoSuchContainer { id: id.to_owned() })),
        });
        let exit = ended.await?;
        died(&exit);
        Ok(exit)
    }

    async fn kill(&self, id: &str, signal: Signal) -> Result<(), Error> {
        self.act(Call::Kill, id, |state| state.signal(id, signal)).await
    }

    async fn stop(&self, id: &str, signal: Option<Signal>, grace: Duration) -> Result<(), Error> {
        let signal = signal.unwrap_or(Signal::TERM);
        let sent = self.act(Call::Stop, id, |state| state.signal(id, signal)).await;
        match sent {
            Err(Error::NotRunning { .. }) => return Ok(()),
            sent => sent?,
        }
        let ended = self.until(|state| match state.containers.get(id) {
            Some(container) => container.exit().map(|_| ()),
            None => Some(()),
        });
        if tokio::time::timeout(grace, ended).await.is_err() {
            let _ = self.lock().signal(id, Signal::KILL);
            self.announce();
        }
        Ok(())
    }

    async fn health_check(&self, id: &str) -> Result<Option<HealthCheck>, Error> {
        self.lock().get(id).map(|container| container.check())
    }

    async fn probe(&self, id: &str, _check: &HealthCheck) -> Result<Probed, Error> {
        self.act(Call::Probe, id, |state| {
            let healthy = Probed { exit_code: Some(0), output: String::new() };
            let probed = state.health.get(id).cloned().unwrap_or(healthy);
            match state.get(id)?.status {
                Status::Running { .. } => Ok(probed),
                _ => Err(Error::NotRunning { id: id.to_owned() }),
            }
        })
        .await
    }

    async fn remove(&self, id: &str) -> Result<(), Error> {
        self.act(Call::Remove, id, |state| {
            state.containers.remove(id);
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<ContainerState>, Error> {
        self.act(Call::List, "", |state| Ok(state.containers.values().map(Container::state).collect())).await
    }

    async fn inspect(&self, id: &str) -> Result<Option<ContainerState>, Error> {
        Ok(self.lock().containers.get(id).map(Container::state))
    }

    async fn load_image(&self, _archive: Box<dyn AsyncRead + Send + Unpin>) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    async fn images(&self) -> Result<Vec<ImageSummary>, Error> {
        Ok(Vec::new())
    }

    async fn remove_image(&self, _image: &str) -> Result<(), Error> {
        Ok(())
    }

    fn logs(&self, _id: &str, _query: LogQuery) -> LogStream {
        futures_util::stream::empty().boxed()
    }

    async fn remove_logs(&self, _id: &str) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn config(id: &str) -> ContainerConfig {
        ContainerConfig { id: id.to_owned(), ..ContainerConfig::default() }
    }

    #[tokio::test]
    async fn a_container_lives_as_scripted() {
        let fake = Arc::new(Fake::new());
        fake.create(&config("a")).await.unwrap();
        fake.start("a").await.unwrap();
        let exit = tokio::join!(fake.wait("a"), async {
            fake.called(Call::Wait, "a").await;
            fake.exit("a", 3);
        });
        assert_eq!(exit.0.unwrap().code, 3);
        assert!(matches!(fake.start("a").await, Err(Error::Exists { .. })));
        fake.remove("a").await.unwrap();
        assert_eq!(fake.list().await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn faults_come_in_order_and_stopping_kills_in_the_end() {
        let fake = Fake::new();
        let lost = Error::Unavailable { reason: "x".to_owned() };
        fake.fail(Call::Create, Fault::Error(lost.clone()));
        fake.fail(Call::Create, Fault::Lost(lost));
        for _ in 0..2 {
            assert!(matches!(fake.create(&config("a")).await, Err(Error::Unavailable { .. })));
        }
        assert!(matches!(fake.create(&config("a")).await, Err(Error::Exists { .. })));
        fake.start("a").await.unwrap();
        fake.ignore_stop();
        fake.stop("a", None, Duration::from_secs(10)).await.unwrap();
        assert_eq!(fake.wait("a").await.unwrap().code, 137);
        fake.fail(Call::Remove, Fault::Hang);
        let removal = tokio::time::timeout(Duration::from_secs(1), fake.remove("a"));
        assert!(removal.await.is_err());
    }
}
