//! What each kind of network wants in the kernel: desired state in, wanted namespaces out. Pure.

pub mod encryption;
pub mod gateway;
pub mod overlay;
pub mod sandbox;
