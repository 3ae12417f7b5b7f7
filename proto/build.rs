//! Compiles the `.proto` files without needing `protoc`.

const FILES: [&str; 11] = [
    "types.proto",
    "specs.proto",
    "objects.proto",
    "control.proto",
    "dispatcher.proto",
    "ca.proto",
    "logbroker.proto",
    "raft.proto",
    "swarm/network.proto",
    "swarm/raft.proto",
    "swarm/node.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().btree_map(".").include_file("protocols.rs").compile_fds(descriptors)?;
    Ok(())
}
