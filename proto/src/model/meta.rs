//! What every object has.

use std::collections::BTreeMap;
use std::time::SystemTime;

/// Written by the store alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Index of the Raft entry that last changed the object; 0 before the first commit.
    pub version: u64,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
}

impl Default for Meta {
    fn default() -> Self {
        Self { version: 0, created_at: SystemTime::UNIX_EPOCH, updated_at: SystemTime::UNIX_EPOCH }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// A driver by name, with options that only the driver understands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    pub name: String,
    pub options: BTreeMap<String, String>,
}
