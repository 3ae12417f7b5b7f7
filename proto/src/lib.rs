//! The wire protocol, the typed model of the objects, and their conversion.
//!
//! `wire`, `health`, `network`, `raft` and `local` are generated from `proto/*.proto` and are spoken between processes;
//! `store` is what managers keep on disk. Inside, code works on `model`. `convert` is the one place where the
//! two meet: what comes in is checked there, once, and refused with an error that names the field.
//!
//! Invariant: no secret appears in the `Debug` output of any of these types.

#[allow(clippy::all, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/protocols.rs"));
}

/// The SwarmKit protocol.
pub use generated::docker::swarmkit::v1 as wire;
/// Health checks of tasks, within the SwarmKit protocol.
pub use generated::swarm::health::v1 as health;
/// The network directory.
pub use generated::swarm::network::v1 as network;
/// The node's own API on its unix socket.
pub use generated::swarm::node::v1 as local;
/// Replication between managers.
pub use generated::swarm::raft::v1 as raft;
/// Log entries and snapshots.
pub use generated::swarm::store::v1 as store;

pub mod consistency;
pub mod convert;
pub mod model;
mod redacted;
