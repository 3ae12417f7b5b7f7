//! Keeps the directory in the local database, beside the actor's work.
//!
//! One write at a time, some time after a change; what `memory` says. A write that fails is logged, and everything is
//! written anew after the next change, for nobody knows what is held then.

use std::collections::BTreeMap;
use std::error::Error;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::model::NetworkId;
use tokio::time::{Instant, sleep_until};

use super::directory::{Directory, Remembered};
use super::memory::{Memory, PERIOD, Write};

type Written = Result<(), Box<dyn Error + Send + Sync>>;

pub struct Keeper {
    write: Box<dyn Fn(Vec<Write>) -> BoxFuture<'static, Written> + Send + Sync>,
    remembered: BTreeMap<NetworkId, Remembered>,
    held: Memory,
    /// What is held once this has ended well.
    writing: Option<(BoxFuture<'static, Written>, Memory)>,
    due: Option<Instant>,
    retired: bool,
}

impl Keeper {
    /// With the entries that the database holds, of which those of `needed` networks are remembered; the others go.
    pub fn new<F, E>(
        entries: &[(String, Vec<u8>)],
        needed: impl Fn(&NetworkId) -> bool,
        write: impl Fn(Vec<Write>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Error + Send + Sync + 'static,
    {
        let held = Memory::read(entries.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
        let remembered = held.networks().filter(|(network, _)| needed(network));
        let remembered = remembered.map(|(network, all)| (network.clone(), all.clone())).collect();
        let write = move |writes| write(writes).map(|written| written.map_err(Into::into)).boxed();
        let due = (!entries.is_empty()).then(Instant::now);
        Self { write: Box::new(write), remembered, held, writing: None, due, retired: false }
    }

    /// Keeps nothing.
    pub fn none() -> Self {
        Self::new(&[], |_| false, |_| std::future::ready(Ok::<_, std::convert::Infallible>(())))
    }

    /// What was there at the start.
    pub(super) fn take_remembered(&mut self) -> BTreeMap<NetworkId, Remembered> {
        std::mem::take(&mut self.remembered)
    }

    /// Everything is being forgotten, by others: nothing more is written.
    pub(super) fn retire(&mut self) {
        self.retired = true;
        self.due = None;
    }

    pub(super) fn changed(&mut self) {
        if self.retired {
            return;
        }
        self.due.get_or_insert_with(|| Instant::now() + PERIOD);
    }

    /// Returns when it is time to [`keep`](Self::keep). May be dropped and called again.
    pub(super) async fn due(&mut self) {
        if let Some((writing, _)) = &mut self.writing {
            let written = writing.await;
            self.finish(written);
        }
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Begins to write what the directory has and the database has not.
    pub(super) fn keep(&mut self, directory: &Directory) {
        self.due = None;
        if self.retired {
            return;
        }
        let (writes, next) = self.held.plan(directory);
        if !writes.is_empty() {
            self.writing = Some(((self.write)(writes), next));
        }
    }

    /// Writes what is left.
    pub(super) async fn end(&mut self, directory: &Directory) {
        for _ in 0..2 {
            if let Some((writing, _)) = &mut self.writing {
                let written = writing.await;
                self.finish(written);
            }
            self.keep(directory);
        }
    }

    fn finish(&mut self, written: Written) {
        let Some((_, next)) = self.writing.take() else { return };
        match written {
            Ok(()) => self.held = next,
            Err(error) => {
                tracing::error!(%error, "cannot keep the directory in the local database");
                self.held = Memory::default();
            }
        }
    }
}
