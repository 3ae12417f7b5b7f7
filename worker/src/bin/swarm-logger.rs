//! Keeps the output of one container: started by containerd's shim, ends with the container.
//!
//! The shim gives the container's pipes as descriptors 3 and 4 and waits for a byte on 5. Settings come as
//! arguments `key value`, made by the shim out of the query of the `binary://` address.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use nix::sys::signal::{SigSet, Signal};
use worker::logs::LogSource;
use worker::logs::writer::{Limits, Writer, pump};

const STDOUT: &str = "/proc/self/fd/3";
const STDERR: &str = "/proc/self/fd/4";
const READY: &str = "/proc/self/fd/5";
/// Two of them read pipes: the default is far more than they need.
const STACK_BYTES: usize = 128 << 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("swarm-logger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // The shim sends SIGTERM when the container is removed; the end of the pipes comes first, and what is in them
    // is still to be written.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]).thread_block()?;
    let (directory, limits) = settings(std::env::args().skip(1))?;
    let writer = Mutex::new(Writer::open(&directory, limits)?);
    // Opened anew by name: taking over a descriptor by number is for unsafe code only.
    let (stdout, stderr) = (File::open(STDOUT)?, File::open(STDERR)?);
    File::options().write(true).open(READY)?.write_all(b"1")?;
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
        builder.spawn_scoped(scope, || pump(LogSource::Stderr, stderr, &writer))?;
        pump(LogSource::Stdout, stdout, &writer);
        Ok(())
    })
}

fn settings(mut arguments: impl Iterator<Item = String>) -> io::Result<(PathBuf, Limits)> {
    let (mut directory, mut limits) = (None, Limits::default());
    while let (Some(key), Some(value)) = (arguments.next(), arguments.next()) {
        let number = || value.parse::<u64>().map_err(|_| invalid(&format!("{key} {value:?} is no number")));
        match key.as_str() {
            "dir" => directory = Some(PathBuf::from(&value)),
            "max-size" => limits.max_bytes = number()?,
            "max-file" => limits.max_files = usize::try_from(number()?).unwrap_or(1).max(1),
            _ => return Err(invalid(&format!("unknown setting {key}"))),
        }
    }
    Ok((directory.ok_or_else(|| invalid("dir is missing"))?, limits))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.to_owned())
}
