//! Options of containerd's runc shim (`containerd.runc.v1.Options`): the fields that are set here.

use std::path::Path;

use prost::Message;
use prost_types::Any;

#[derive(Clone, PartialEq, Message)]
struct Options {
    /// The OCI runtime, by path.
    #[prost(string, tag = "6")]
    binary_name: String,
    /// Where the OCI runtime keeps its state.
    #[prost(string, tag = "7")]
    root: String,
}

pub(super) fn options(binary: &Path, root: &Path) -> Any {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let options = Options { binary_name: text(binary), root: text(root) };
    Any { type_url: "containerd.runc.v1.Options".to_owned(), value: options.encode_to_vec() }
}
