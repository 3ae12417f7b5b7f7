//! The worker against managers, a runtime and a kernel that are made up: what it tells, what it makes, in what order.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod diagnosis;
mod drain;
mod encryption;
mod forwarding;
mod health;
mod kernel;
mod lab;
mod life;
mod manager;
mod names;
mod network;
mod question;
mod real_kernel;
mod restart;
mod sessions;
