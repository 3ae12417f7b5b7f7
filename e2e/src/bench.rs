//! What benchmarks share: medians, and a table with ratios.

use std::time::Instant;

/// Each figure is the median of this many.
pub const RUNS: usize = 5;

pub fn median(mut figures: Vec<f64>) -> f64 {
    assert!(!figures.is_empty(), "no figures");
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 }
}

/// The median of `RUNS` calls.
pub fn median_of(mut measure: impl FnMut() -> f64) -> f64 {
    median((0..RUNS).map(|_| measure()).collect())
}

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Seconds that all processors of the machine were busy since boot. Counts everything that a contender causes,
/// also in short-lived children; the machine must be otherwise idle.
pub fn busy_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = ticks.filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, then idle and iowait, then irq and softirq; Linux shows 100 ticks a second.
    let busy: u64 =
        ticks.iter().enumerate().filter(|(at, _)| matches!(at, 0..=2 | 5..=6)).map(|(_, ticks)| ticks).sum();
    busy as f64 / 100.0
}

/// Lines of `what | ours | theirs | ours / theirs`, printed as they come.
#[derive(Debug)]
pub struct Table;

impl Table {
    pub fn new(title: &str, theirs: &str) -> Self {
        Self::once(&format!("{title} (median of {RUNS})"), theirs)
    }

    /// Of figures that are not medians.
    pub fn once(title: &str, theirs: &str) -> Self {
        println!("\n{title}\n");
        println!("| {:<48} | {:>12} | {theirs:>12} | {:>6} |", "what", "swarmd", "ratio");
        println!("|{:-<50}|{:->14}|{:->14}|{:->8}|", "", ":", ":", ":");
        Self
    }

    pub fn compare(&self, what: &str, unit: &str, ours: f64, theirs: f64) {
        let (shown, peer) = (format!("{ours:.2} {unit}"), format!("{theirs:.2} {unit}"));
        println!("| {what:<48} | {shown:>12} | {peer:>12} | {:>6.2} |", ours / theirs);
    }

    /// A figure with nothing to compare with.
    pub fn alone(&self, what: &str, unit: &str, ours: f64) {
        let shown = format!("{ours:.2} {unit}");
        println!("| {what:<48} | {shown:>12} | {:>12} | {:>6} |", "", "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
