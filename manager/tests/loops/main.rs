//! The control loops, each as a planner over a real state machine, and all together with made-up workers.

#![allow(clippy::unwrap_used, reason = "tests")]

mod addresses;
mod allocator;
mod chain;
mod driver;
mod orchestrator;
mod properties;
mod restart;
mod rolemanager;
mod scheduler;
mod size;
mod support;
mod update;
