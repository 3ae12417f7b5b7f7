//! A test bench for whole swarms: several hosts on one kernel, each a network namespace with a real `swarmd`.
//!
//! A [`Lab`] is a bridge, hosts on it and a registry; it removes every trace of itself when dropped. Tests read
//! as user stories: they type `swarmctl` commands on a [`Host`], [`wait`] for what a user would see, and look
//! into the kernel for the rest. The bench knows the programs by their flags and output alone, never their code.
//!
//! The bench panics where a step cannot be done: a step that fails is a story that fails.

mod audit;
pub mod bench;
mod capture;
pub mod clean;
mod command;
mod contender;
pub mod etcd;
pub mod guest;
mod host;
mod image;
pub mod iperf;
mod lab;
mod load;
pub mod names;
pub mod peer;
mod ping;
mod process;
pub mod rally;
pub mod registry;
mod rows;
mod swarm;
mod task;
mod trace;
pub mod underlay;
pub mod visit;
mod wait;
mod watch;

pub use capture::Capture;
pub use command::Output;
pub use contender::{Contender, Ours};
pub use host::Host;
pub use lab::Lab;
pub use load::{Load, Tally};
pub use names::{Answer, NameServer};
pub use ping::{Ping, PingReport};
pub use process::{busy_ticks, forget_peak, open_files, peak_kib, resident_kib, running_program};
pub use rows::{NetworkRow, NodeRow, ServiceRow, TaskRow};
pub use swarm::PATIENCE;
pub use task::Inside;
pub use wait::wait;
pub use watch::AddressWatch;
