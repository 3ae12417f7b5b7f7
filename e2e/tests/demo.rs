//! The demo that the README promises runs to its end and leaves nothing.

use std::process::Command;

#[test]
fn the_demo_shows_pings_and_pages_and_cleans_up() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).output().unwrap();
    let (shown, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}{errors}");
    assert!(shown.contains("0% packet loss") && shown.contains("version=1"), "{shown}");
}
