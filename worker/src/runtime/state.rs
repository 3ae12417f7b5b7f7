//! What is known of a container.

use std::collections::BTreeMap;
use std::time::SystemTime;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    pub id: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub status: Status,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Made, never started; also what is left after the machine was switched off.
    Created,
    Running {
        pid: u32,
    },
    Exited(Exit),
}

/// A container that runs. `pid` is that of its first process, in this node's process namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    pub pid: u32,
    /// It has a health check.
    pub is_checked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 128 plus the signal if one ended the process.
    pub code: u32,
    /// The kernel killed a process of the container for lack of memory.
    pub oom: bool,
    pub at: SystemTime,
}
