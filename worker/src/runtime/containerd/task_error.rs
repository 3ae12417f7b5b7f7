//! Makes one line out of what containerd, its shim and the OCI runtime say when a container does not start.

use tonic::Status;

use crate::runtime::Error;
use crate::runtime::client::{failed, lost};

/// What stands before the reason, the outermost first.
const PREFIXES: [&str; 10] = [
    "failed to create shim task: ",
    "failed to start shim: ",
    "OCI runtime create failed: ",
    "OCI runtime start failed: ",
    "OCI runtime exec failed: ",
    "exec failed: ",
    "runc create failed: ",
    "runc did not terminate successfully: ",
    "unable to start container process: ",
    "error during container init: ",
];
const SUFFIX: &str = ": unknown";

pub(super) fn not_started(status: Status) -> Error {
    if lost(&status) {
        return failed("start the container")(status);
    }
    Error::Start { reason: reason(status.message()) }
}

fn reason(message: &str) -> String {
    let mut text = message.trim();
    while let Some(shorter) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = shorter.trim_start();
    }
    let text = text.strip_suffix(SUFFIX).unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_the_reason() {
        let message = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
                       container process: exec: \"foo\": executable file not found in $PATH: unknown";
        assert_eq!(reason(message), r#"exec: "foo": executable file not found in $PATH"#);
        assert_eq!(reason("something\nelse"), "something else");
    }
}
