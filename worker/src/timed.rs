//! Tells, at level debug, how long each stage on a task's way to running takes.

use tokio::time::Instant;

/// Does `work`, a stage in the life of a task, container or image, and logs how long that took.
pub(crate) async fn timed<T>(of: &str, stage: &'static str, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = work.await;
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    tracing::debug!(of, stage, took_ms = format_args!("{took_ms:.1}"), "stage is done");
    done
}
