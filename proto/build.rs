//! Compiles the `.proto` files without needing `protoc`.

use std::error::Error;
use std::path::Path;

use protox::prost_reflect::{DescriptorPool, FieldDescriptor};

const FILES: [&str; 14] = [
    "types.proto",
    "specs.proto",
    "objects.proto",
    "control.proto",
    "dispatcher.proto",
    "ca.proto",
    "logbroker.proto",
    "raft.proto",
    "swarm/health.proto",
    "swarm/network.proto",
    "swarm/diagnosis.proto",
    "swarm/store.proto",
    "swarm/raft.proto",
    "swarm/node.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    // For the test that keeps numbers and names as they are.
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    // What replication passes on without looking into it is not copied.
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".swarm.store.v1.Entry")
        .bytes(".swarm.raft.v1")
        .skip_debug(with_secrets(&compiler.descriptor_pool()))
        .include_file("protocols.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Messages with a field that must not be shown. Their `Debug` is in `src/redacted.rs`; one that is missing
/// there does not compile.
fn with_secrets(pool: &DescriptorPool) -> Vec<String> {
    let messages = pool.all_messages().filter(|message| message.fields().any(|field| is_secret(&field)));
    messages.map(|message| format!(".{}", message.full_name())).collect()
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let mark = field.options().get_field_by_name("debug_redact").and_then(|mark| mark.as_bool());
    mark.unwrap_or(false)
}
