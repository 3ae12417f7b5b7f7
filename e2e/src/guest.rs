//! Stories that need another kernel than this machine's run in a guest (scripts/guest/run).

use std::path::Path;
use std::process::Command;

/// Runs the ignored stories of the test program that calls it, one after the other, in a guest, unless it runs in one.
///
/// # Panics
///
/// When one fails.
pub fn run_ignored() {
    run_self(&["--ignored", "--test-threads=1"]);
}

/// Runs the program that calls it in a guest with these arguments, unless it runs in one; whether it did.
///
/// # Panics
///
/// When it fails there.
pub fn run_self(arguments: &[&str]) -> bool {
    if std::env::var_os("IN_GUEST").is_some() {
        return false;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/guest/run");
    let own = std::env::current_exe().unwrap_or_else(|error| panic!("no path of this program: {error}"));
    let status = Command::new(&script)
        .args(["-m", "4G", "-t", "860", "--"])
        .arg(own)
        .args(arguments)
        .status()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    assert!(status.success(), "in the guest: {status}");
    true
}
