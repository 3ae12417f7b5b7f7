//! Runs the tasks that managers assign to this node.
//!
//! `supervisor` keeps one runner a task, `runner` drives it, `step` decides what comes next. What a container is
//! made of follows from `container` and `mounts`; whether it works is found out by `probing` and judged by `health`.

mod adopt;
mod assigned;
mod container;
mod health;
mod mounts;
mod prepare;
mod probing;
mod runner;
#[cfg(test)]
pub(crate) mod samples;
mod step;
mod supervisor;
mod unsupported;

pub use runner::Shared;
pub use supervisor::{Instruction, Roster, Supervisor};
