//! Notices that tasks get packets with wrong checksums, which the kernel drops without a word.
//!
//! Where many come, something below the overlays reckons checksums wrongly; a few are the noise of any network.

use std::sync::Arc;
use std::time::Duration;

use netdriver::Corrupted;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Kernel;

const PERIOD: Duration = Duration::from_secs(30);
/// In one period; fewer are not told.
const MANY: u64 = 20;

/// Keeps `told` what is to be told, until `stop`.
pub(super) async fn watch(
    kernel: Arc<dyn Kernel>,
    told: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let mut before = Corrupted::new();
    while stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
        let now = kernel.corrupted().await;
        let problem = problem(more(&before, &now));
        if let Some(problem) = &problem {
            tracing::warn!("{problem}");
        }
        told.send_if_modified(|told| std::mem::replace(told, problem.clone()) != problem);
        before = now;
    }
}

fn more(before: &Corrupted, now: &Corrupted) -> u64 {
    now.iter().map(|(sandbox, count)| count - before.get(sandbox).copied().unwrap_or(0).min(*count)).sum()
}

fn problem(count: u64) -> Option<String> {
    (count >= MANY).then(|| {
        format!(
            "{count} packets with wrong checksums came to tasks of this node within {PERIOD:?}: some network cards and \
             hypervisors reckon checksums within tunnels wrongly; run swarmd on the nodes that send them with \
             --vxlan-checksum-offload=off"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrupted(counts: &[(&str, u64)]) -> Corrupted {
        counts.iter().map(|(sandbox, count)| ((*sandbox).into(), *count)).collect()
    }

    #[test]
    fn only_what_is_new_and_much_is_told() {
        let (before, now) = (corrupted(&[("a", 100), ("gone", 5)]), corrupted(&[("a", 115), ("new", 5)]));
        assert_eq!(more(&before, &now), 20);
        assert_eq!(more(&now, &now), 0);
        assert!(problem(20).unwrap().contains("--vxlan-checksum-offload=off") && problem(19).is_none());
    }
}
