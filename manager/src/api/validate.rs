//! What may be asked for, as far as one message tells. Pure.

mod container;
mod health;
mod image;
mod mount;
mod name;
mod naming;
mod network;
mod service;

pub use name::{labels, object_name, service_name};
pub use network::{check as network, subnet};
pub use service::check as service;
