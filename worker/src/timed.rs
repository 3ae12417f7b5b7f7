//! How long the stages of a task's way to running take, for whoever reads the log at level debug.

use tokio::time::Instant;

/// Does `work` and logs how long that took.
pub(crate) async fn timed<T>(task: &str, stage: &'static str, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = work.await;
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    tracing::debug!(task, stage, took_ms = format_args!("{took_ms:.1}"), "stage is done");
    done
}
