//! The runtime on real parts: containerd, runc, a registry, control groups.
//!
//! Needs root and the Debian packages containerd, runc, docker-registry, busybox-static and iproute2. A missing one
//! fails the tests.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cost;
mod crash;
mod failures;
mod health;
mod image;
mod lifecycle;
mod node;
mod output;
mod pulling;
mod registry;
mod settings;
