//! Compiles the `.proto` files without needing `protoc`.

const FILES: [&str; 12] = [
    "types.proto",
    "specs.proto",
    "objects.proto",
    "control.proto",
    "dispatcher.proto",
    "ca.proto",
    "logbroker.proto",
    "raft.proto",
    "swarm/network.proto",
    "swarm/store.proto",
    "swarm/raft.proto",
    "swarm/node.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // What replication passes on without looking into it is not copied.
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".swarm.store.v1.Entry")
        .bytes(".swarm.raft.v1")
        .include_file("protocols.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
