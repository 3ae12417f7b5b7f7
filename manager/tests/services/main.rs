//! A manager's services over real gRPC, on a store in memory. Who calls is told by a header instead of a certificate.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "the server's task is awaited by `Swarm::stop`")]

mod access;
mod consistency;
mod control;
mod diagnosis;
mod directory;
#[path = "../../src/fixtures.rs"]
mod fixtures;
mod logs;
mod membership;
mod session;
mod story;
mod swarm;
