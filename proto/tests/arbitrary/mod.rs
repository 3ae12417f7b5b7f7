//! Arbitrary objects of the model: all that may be kept and sent.

mod cluster;
mod keyring;
mod network;
mod node;
mod part;
mod service;
mod task;

pub use cluster::cluster;
pub use keyring::keyring;
pub use network::network;
pub use node::node;
pub use service::service;
pub use task::task;
