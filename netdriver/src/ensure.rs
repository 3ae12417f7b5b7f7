//! The order of the work of one `ensure`, and which of it runs at once.
//!
//! Sandboxes that nobody wants go first and networks that nobody wants last, so that nothing is taken from under a
//! task; networks come before the sandboxes that are attached to them.

mod encryption;
mod gateway;
mod network;
mod sandbox;
mod steering;

pub use encryption::Shield;
pub use gateway::Legs;
pub(crate) use network::underlay;

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use crate::desired::{Desired, NetworkKey, SandboxKey, Scope};
use crate::error::Error;
use crate::model::{Place, World};
use crate::plan::{Action, plan};
use crate::report::{Report, Subject};
use crate::site::{self, Sites};
use crate::{Netdriver, apply, name};

/// Networks or sandboxes worked on at once by one call. Each has a few descriptors open meanwhile.
const AT_ONCE: usize = 16;

struct Covered {
    networks: BTreeSet<NetworkKey>,
    sandboxes: BTreeSet<SandboxKey>,
    /// Whether the whole node is covered, so that leftovers can be told.
    all: bool,
}

pub async fn ensure(node: &Netdriver, desired: &Desired, scope: Scope) -> Report {
    let mut report = Report::default();
    let covered = match cover(node, desired, scope) {
        Ok(covered) => covered,
        Err(error) => {
            report.errors.push((Subject::Host, error));
            return report;
        }
    };
    let unwanted = covered.sandboxes.iter().filter(|key| !desired.sandboxes.contains_key(key));
    gather(&mut report, unwanted.map(|key| node.remove_sandbox(key).boxed())).await;

    let networks = covered.networks.iter().filter_map(|key| Some((key, desired.networks.get(key)?)));
    gather(
        &mut report,
        networks.map(|(key, overlay)| node.ensure_network(key, overlay, covered.all).boxed()),
    )
    .await;

    let sandboxes = covered.sandboxes.iter().filter_map(|key| Some((key, desired.sandboxes.get(key)?)));
    gather(&mut report, sandboxes.map(|(key, sandbox)| node.ensure_sandbox(key, sandbox, desired).boxed()))
        .await;

    let attached = desired.sandboxes.iter().filter_map(|(key, sandbox)| {
        let mut networks = sandbox.attachments.iter().map(|attachment| &attachment.network);
        let network = networks.find(|network| covered.networks.contains(network))?;
        (!covered.sandboxes.contains(key)).then_some((key, sandbox, network))
    });
    gather(
        &mut report,
        attached.map(|(key, sandbox, network)| node.ensure_services(key, sandbox, network, desired).boxed()),
    )
    .await;

    let unwanted = covered.networks.iter().filter(|key| !desired.networks.contains_key(key));
    gather(&mut report, unwanted.map(|key| node.remove_network(key).boxed())).await;

    if covered.all {
        let unclear = report.errors.iter().any(|(subject, _)| matches!(subject, Subject::Network(_)));
        report.absorb(node.sweep_encryption(desired, unclear).await);
        report.absorb(node.sweep_gateway(desired).await);
    }
    report
}

fn cover(node: &Netdriver, desired: &Desired, scope: Scope) -> Result<Covered, Error> {
    let (mut networks, mut sandboxes) = match scope {
        Scope::Only { networks, sandboxes } => return Ok(Covered { networks, sandboxes, all: false }),
        Scope::All => (BTreeSet::new(), BTreeSet::new()),
    };
    networks.extend(desired.networks.keys().cloned());
    sandboxes.extend(desired.sandboxes.keys().cloned());
    for place in site::list(&node.config.netns_dir)? {
        match place {
            Place::Network(key) => _ = networks.insert(key),
            Place::Sandbox(key) => _ = sandboxes.insert(key),
            Place::Host => {}
        }
    }
    Ok(Covered { networks, sandboxes, all: true })
}

/// Takes boxes in a list, since the compiler cannot see that a stream over borrowing closures may change threads.
async fn gather<'a>(report: &mut Report, work: impl Iterator<Item = BoxFuture<'a, Report>>) {
    let work: Vec<_> = work.collect();
    let mut reports = stream::iter(work).buffer_unordered(AT_ONCE);
    while let Some(next) = reports.next().await {
        report.absorb(next);
    }
}

fn check_key(field: &'static str, key: &str) -> Result<(), Error> {
    if name::is_key(key) {
        return Ok(());
    }
    let allowed = "1 to 64 characters of a-z A-Z 0-9 . _ - are allowed, the first no dot";
    Err(Error::Invalid { field, value: key.to_owned(), allowed })
}

/// Plans and applies one unit of work.
async fn carry_out(sites: &mut Sites<'_>, wanted: &World, found: &World) -> (Vec<Action>, Vec<Error>) {
    let outcome = apply::apply(sites, plan(wanted, found)).await;
    (outcome.done, outcome.errors)
}

/// The report of one unit of work.
fn report(subject: &Subject, (changes, errors): (Vec<Action>, Vec<Error>)) -> Report {
    let errors = errors.into_iter().map(|error| (subject.clone(), error)).collect();
    Report { changes, errors }
}

fn failure(subject: &Subject, error: Error) -> Report {
    report(subject, (Vec::new(), vec![error]))
}
