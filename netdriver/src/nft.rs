//! nftables, by `nft` as a program: a script is one transaction. Each run costs 5 ms of processor time, and one that
//! removes something a grace period of the kernel, 5 to 30 ms. So it is used for what changes with the node; what
//! changes with a task goes over netlink (`nfnetlink`).

use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::error::Error;
use crate::netns;

/// Runs a script in the namespace: all of it or nothing.
pub async fn run(namespace: Option<&File>, script: String) -> Result<(), Error> {
    let output = nft(namespace, vec!["-f", "-"], script).await?;
    if output.status.success() { Ok(()) } else { Err(Error::Nft(complaint(&output))) }
}

/// The text of a table as `nft` prints it; `None` if there is no such table.
pub async fn list(
    namespace: Option<&File>,
    family: &'static str,
    table: &'static str,
) -> Result<Option<String>, Error> {
    let output = nft(namespace, vec!["list", "table", family, table], String::new()).await?;
    let complaint = complaint(&output);
    match output.status.success() {
        true => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        false if complaint.contains("No such file or directory") => Ok(None),
        false => Err(Error::Nft(complaint)),
    }
}

async fn nft(namespace: Option<&File>, arguments: Vec<&'static str>, input: String) -> Result<Output, Error> {
    let work = move || -> io::Result<Output> {
        let mut command = Command::new("nft");
        // Its complaints are read, so they must be in English.
        command
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // The child inherits the thread's namespace.
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let result = netns::within(namespace, work).await.and_then(|output| output);
    result.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Nft("the program was not found; install nftables".to_owned()),
        _ => Error::Nft(error.to_string()),
    })
}

/// The first line says what is wrong; the rest points at it.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().next().unwrap_or("failed without a word").to_owned()
}
