//! The manager: services that nodes and operators call, and the loops that bring the swarm to what was asked for.

pub mod allocator;
pub mod leader;
pub mod orchestrator;
pub mod reconcile;
pub mod rolemanager;
pub mod scheduler;
