//! Wire to model and back: the one place where untyped input becomes typed.
//!
//! Incoming messages are checked once, here; an error names the field by its path. Nothing is filled in that
//! the sender left out, except defaults that the protocol itself gives (an enum's zero, an empty list, a
//! policy's delay), and nothing that a user may ask for is dropped: what there is not yet is refused.
//!
//! Invariant: what the model writes, it reads back as the same.

mod cluster;
mod enums;
mod error;
mod health;
mod keyring;
mod network;
mod node;
mod scalar;
mod service;
mod spec;
mod task;

pub use error::{Error, Within};
pub use scalar::duration;
