//! The control loops, each as a planner over a real state machine, and all together with made-up workers.

mod allocator;

mod orchestrator;

mod restart;
mod scheduler;

mod support;
mod update;
