//! One pass over the kernel: what it covers, and what follows once it is done.
//!
//! What is confirmed to managers, and told to those who wait, is what held when the pass began: whatever came in meanwhile
//! is the next one's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use netdriver::{Incarnation, NetworkKey, Subject};
use proto::model::{NetworkId, TaskId};
use tokio::time::Instant;

use super::Actor;
use crate::network::confirm::Confirmed;
use crate::network::encryption::Held;
use crate::network::kernel::Outcome;
use crate::network::state::Dirty;
use crate::network::wish::{network_key, sandbox_key};
use crate::network::{Book, Error};

/// So many changes of an audit are told in the log.
const MENDED_SHOWN: usize = 5;

/// One pass over the kernel, with what held when it began.
pub(super) struct Pass {
    dirty: Dirty,
    /// Nothing should be left to do.
    audit: bool,
    making: BTreeSet<TaskId>,
    removing: BTreeSet<TaskId>,
    fresh: BTreeMap<NetworkId, Book>,
    /// What holds of encrypted networks once it is done.
    confirmable: BTreeMap<NetworkId, Held>,
    clearing: bool,
    confirms: Confirmed,
}

impl Actor {
    pub(super) fn begin_pass(&mut self, auditing: bool) -> Option<(Pass, BoxFuture<'static, Outcome>)> {
        let audit = auditing && self.dirty.is_empty();
        self.dirty.all |= auditing;
        let dirty = self.dirty.take(&self.state);
        if dirty.is_empty() {
            return None;
        }
        let covers = |task: &&TaskId| dirty.all || dirty.tasks.contains(*task);
        let networks = self.state.networks().into_keys();
        let fresh = networks.filter(|id| dirty.all || dirty.networks.contains(*id));
        let fresh = fresh.filter(|id| self.state.directory.is_fresh(id));
        let fresh =
            fresh.filter_map(|id| Some((id.clone(), self.state.directory.book(id)?.clone()))).collect();
        let (kernel, desired, scope) = (self.kernel.clone(), self.state.desired(), dirty.scope());
        let covered =
            self.state.networks().into_keys().filter(|id| dirty.all || dirty.networks.contains(*id));
        let confirmable = covered.filter_map(|id| {
            let told = self.state.directory.encryption(id)?;
            Some((id.clone(), self.state.parts.confirmable(id, told)?))
        });
        let confirms =
            self.confirmations.begin(&self.state.directory, |id| dirty.all || dirty.networks.contains(id));
        let pass = Pass {
            audit: audit && dirty.all,
            making: self.state.tasks().filter(covers).cloned().collect(),
            removing: self.detaching.keys().filter(covers).cloned().collect(),
            fresh,
            confirmable: confirmable.collect(),
            clearing: dirty.all && self.clearing.is_some(),
            confirms,
            dirty,
        };
        Some((pass, Box::pin(async move { kernel.ensure(&desired, scope).await })))
    }

    pub(super) fn finish(&mut self, mut pass: Pass, outcome: &Outcome) {
        let failed = |id: &NetworkId| concerns_network(outcome, &network_key(id));
        self.confirmations.finish(std::mem::take(&mut pass.confirms), &self.state.directory, failed);
        if pass.audit {
            self.finish_audit(outcome);
        }
        for task in &pass.making {
            self.finish_making(task, outcome);
        }
        for task in &pass.removing {
            if let Some(reply) = self.detaching.remove(task) {
                let _ = reply.send(sandbox_result(task, outcome));
            }
        }
        for (network, book) in std::mem::take(&mut pass.fresh) {
            self.finish_network(network, book, outcome);
        }
        if pass.clearing
            && let Some(reply) = self.clearing.take()
        {
            let failed = outcome.errors.first().map(|(subject, text)| format!("{subject}: {text}"));
            let _ = reply.send(failed.map_or(Ok(()), |text| Err(Error::Kernel(text))));
        }
        self.confirm(&pass, outcome);
        self.repeat_later(&pass, outcome);
        self.answer();
    }

    fn finish_audit(&mut self, outcome: &Outcome) {
        let mended: Vec<String> = outcome.changes.iter().map(ToString::to_string).collect();
        if !mended.is_empty() {
            let first = mended.iter().take(MENDED_SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
            tracing::warn!(
                changes = mended.len(),
                first,
                "mended the node's network, which others had changed"
            );
            self.mended.fetch_add(mended.len() as u64, Ordering::Relaxed);
        }
        let failed = outcome.errors.first().map(|(subject, text)| format!("{subject}: {text}"));
        let result = failed.map_or(Ok(mended), |text| Err(Error::Kernel(text)));
        self.auditing.drain(..).for_each(|reply| drop(reply.send(result.clone())));
    }

    fn finish_network(&mut self, network: NetworkId, book: Book, outcome: &Outcome) {
        let failed = concerns_network(outcome, &network_key(&network));
        // The first time even so: names of a network that is half there are better than none.
        if !failed || !self.reachable.contains_key(&network) {
            self.reachable.insert(network.clone(), book);
            self.tell(&network);
        }
        if self.state.is_used(&network) {
            self.applied.insert(network);
        }
    }

    fn confirm(&mut self, pass: &Pass, outcome: &Outcome) {
        let failed = |id: &NetworkId| concerns_network(outcome, &network_key(id));
        for (network, held) in pass.confirmable.iter().filter(|(network, _)| !failed(network)) {
            self.state.parts.confirm(network, held.clone());
        }
        let used: Vec<NetworkId> = self.state.networks().into_keys().cloned().collect();
        for network in used.iter().filter(|id| outcome.lost.contains(&network_key(id))) {
            self.state.parts.draw_again(network, Incarnation(rand::random()));
            self.dirty.networks.insert(network.clone());
        }
    }

    fn finish_making(&mut self, task: &TaskId, outcome: &Outcome) {
        match sandbox_result(task, outcome) {
            // It was detached or asked for again while the pass ran: then the next pass counts.
            _ if self.detaching.contains_key(task) || self.dirty.tasks.contains(task) => {}
            Ok(()) => {
                self.made.insert(task.clone());
            }
            Err(error) => {
                if let Some((_, reply)) = self.attaching.remove(task) {
                    let _ = reply.send(Err(error));
                }
            }
        }
    }

    /// What failed for a network or the node is tried again after a while.
    fn repeat_later(&mut self, pass: &Pass, outcome: &Outcome) {
        let mut failed = Dirty::default();
        let covered = pass.dirty.networks.iter().chain(self.state.networks().into_keys());
        let covered: BTreeSet<_> = covered.cloned().collect();
        for (subject, error) in &outcome.errors {
            tracing::warn!(%subject, error, "cannot bring the node's network about");
            match subject {
                Subject::Host | Subject::Gateway => failed.all |= self.settled,
                Subject::Network(key) => {
                    failed.networks.extend(covered.iter().filter(|id| network_key(id) == *key).cloned());
                }
                Subject::Sandbox(_) => {}
            }
        }
        if failed.is_empty() {
            self.backoff.reset();
            return;
        }
        let (_, mut waiting) = self.retry.take().unwrap_or_else(|| (Instant::now(), Dirty::default()));
        waiting.all |= failed.all;
        waiting.networks.append(&mut failed.networks);
        self.retry = Some((Instant::now() + self.backoff.delay(rand::random()), waiting));
    }
}

fn concerns_network(outcome: &Outcome, key: &NetworkKey) -> bool {
    let concerns = |subject: &Subject| match subject {
        Subject::Network(failed) => failed == key,
        Subject::Host => true,
        Subject::Gateway | Subject::Sandbox(_) => false,
    };
    outcome.errors.iter().any(|(subject, _)| concerns(subject))
}

fn sandbox_result(task: &TaskId, outcome: &Outcome) -> Result<(), Error> {
    let key = sandbox_key(task);
    let concerns = |subject: &Subject| matches!(subject, Subject::Sandbox(k) if *k == key);
    match outcome.errors.iter().find(|(subject, _)| concerns(subject)) {
        Some((_, text)) => Err(Error::Kernel(text.clone())),
        None => Ok(()),
    }
}
