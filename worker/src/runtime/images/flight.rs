//! One pull for all who want the same image at the same time.
//!
//! The pull belongs to none of them: whoever goes away does not take it from the others. When the last one has
//! gone it is given up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::runtime::{Error, PullProgress, RegistryAuth, ResolvedImage};

/// Who may share: the same image with the same credentials.
pub(super) type Key = (String, Option<RegistryAuth>);
type Outcome = Result<ResolvedImage, Error>;

#[derive(Default)]
pub(super) struct Flights {
    flying: Arc<Mutex<HashMap<Key, Arc<Flight>>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct Flight {
    progress: watch::Sender<PullProgress>,
    outcome: watch::Sender<Option<Outcome>>,
}

/// What the pull itself holds: where to tell its progress, and when to give up.
pub(super) struct Seat {
    flight: Arc<Flight>,
    stop: CancellationToken,
}

impl Seat {
    pub(super) fn progress(&self) -> &watch::Sender<PullProgress> {
        &self.flight.progress
    }

    /// Resolves when nobody waits any more, or at shutdown.
    pub(super) async fn given_up(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.flight.outcome.closed() => {}
        }
    }
}

impl Flights {
    /// Joins the pull of `key`, beginning it with `begin` if there is none.
    pub(super) async fn join<F>(
        &self,
        key: Key,
        progress: &watch::Sender<PullProgress>,
        begin: impl FnOnce(Seat) -> F,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let image = key.0.clone();
        let (mut outcome, mut heard) = self.board(key, begin);
        loop {
            if let Some(outcome) = outcome.borrow_and_update().as_ref() {
                progress.send_replace(heard.borrow_and_update().clone());
                return outcome.clone();
            }
            tokio::select! {
                changed = outcome.changed() => if changed.is_err() {
                    return Err(Error::Pull { image, reason: "it was broken off".to_owned(), retry: true });
                },
                Ok(()) = heard.changed() => {
                    progress.send_replace(heard.borrow_and_update().clone());
                }
            }
        }
    }

    fn board<F>(
        &self,
        key: Key,
        begin: impl FnOnce(Seat) -> F,
    ) -> (watch::Receiver<Option<Outcome>>, watch::Receiver<PullProgress>)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut flying = lock(&self.flying);
        // One that everybody has left is about to be given up: not one to join.
        let joinable = flying.get(&key).filter(|flight| flight.outcome.receiver_count() > 0);
        if let Some(flight) = joinable {
            return (flight.outcome.subscribe(), flight.progress.subscribe());
        }
        let flight = Arc::new(Flight::default());
        let receivers = (flight.outcome.subscribe(), flight.progress.subscribe());
        flying.insert(key.clone(), flight.clone());
        let work = begin(Seat { flight: flight.clone(), stop: self.stop.clone() });
        let landing = Landing { flying: self.flying.clone(), key, flight };
        self.tasks.spawn(async move {
            let outcome = work.await;
            landing.tell(outcome);
        });
        receivers
    }

    /// Gives up all pulls and waits for their end.
    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Takes the flight off the list at its end, also if the pull panics: then its waiters see it go without an
/// outcome.
struct Landing {
    flying: Arc<Mutex<HashMap<Key, Arc<Flight>>>>,
    key: Key,
    flight: Arc<Flight>,
}

impl Landing {
    fn tell(self, outcome: Outcome) {
        let flight = self.flight.clone();
        drop(self);
        flight.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flying = lock(&self.flying);
        if flying.get(&self.key).is_some_and(|current| Arc::ptr_eq(current, &self.flight)) {
            flying.remove(&self.key);
        }
    }
}

fn lock(flying: &Mutex<HashMap<Key, Arc<Flight>>>) -> MutexGuard<'_, HashMap<Key, Arc<Flight>>> {
    flying.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;
    use crate::runtime::PullPhase;

    fn key() -> Key {
        ("image".to_owned(), None)
    }

    fn image() -> ResolvedImage {
        ResolvedImage { reference: "image".to_owned(), digest: "d".to_owned() }
    }

    #[tokio::test]
    async fn many_waiters_one_pull() {
        let (flights, count, go) = (Flights::default(), AtomicUsize::new(0), Arc::new(Notify::new()));
        let join = || async {
            let progress = watch::Sender::default();
            let outcome = flights
                .join(key(), &progress, |seat| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let go = go.clone();
                    async move {
                        go.notified().await;
                        seat.progress().send_modify(|progress| progress.phase = PullPhase::Done);
                        Ok(image())
                    }
                })
                .await;
            let phase = progress.borrow().phase;
            (outcome.unwrap(), phase)
        };
        let ((first, phase), (second, _), ()) = tokio::join!(join(), join(), async { go.notify_one() });
        assert_eq!((first, second, phase), (image(), image(), PullPhase::Done));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_pull_that_panics_is_an_error_and_not_for_ever() {
        let (flights, progress) = (Flights::default(), watch::Sender::default());
        let broken = flights.join(key(), &progress, |_seat| async { panic!("a test of panics") });
        assert!(matches!(broken.await, Err(Error::Pull { retry: true, .. })));
        assert_eq!(flights.join(key(), &progress, |_seat| async { Ok(image()) }).await.unwrap(), image());
    }

    #[tokio::test]
    async fn the_last_to_leave_ends_it() {
        let (flights, ended) = (Flights::default(), Arc::new(Notify::new()));
        let progress = watch::Sender::default();
        let begin = |seat: Seat| {
            let ended = ended.clone();
            async move {
                seat.given_up().await;
                ended.notify_one();
                Err(Error::NoSuchImage { image: "image".to_owned() })
            }
        };
        let mut waiter = Box::pin(flights.join(key(), &progress, begin));
        assert!(futures_util::poll!(&mut waiter).is_pending());
        drop(waiter);
        ended.notified().await;
        flights.shutdown().await;
    }
}
