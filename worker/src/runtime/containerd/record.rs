//! What is written beside a container in containerd, for the process that finds it later.
//!
//! An extension and not labels, because containerd bounds the size of a label.

use std::collections::BTreeMap;
use std::time::SystemTime;

use containerd_client::services::v1::Container;
use prost_types::Any;
use serde::{Deserialize, Serialize};

use crate::logs::timestamp;
use crate::runtime::{Exit, HealthCheck};

const EXTENSION: &str = "swarm.container";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub labels: BTreeMap<String, String>,
    /// The image's topmost snapshot, empty if it has none.
    pub snapshot: String,
    /// A signal's number.
    pub stop_signal: Option<u8>,
    pub tty: bool,
    pub health: Option<HealthCheck>,
    /// How it ended: kept here because the task, which knows it too, is removed then.
    pub exit: Option<RecordedExit>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RecordedExit {
    code: u32,
    oom: bool,
    at: String,
}

impl From<&Exit> for RecordedExit {
    fn from(exit: &Exit) -> Self {
        Self { code: exit.code, oom: exit.oom, at: timestamp::format(exit.at) }
    }
}

impl From<RecordedExit> for Exit {
    fn from(exit: RecordedExit) -> Self {
        let at = timestamp::parse(&exit.at).unwrap_or(SystemTime::UNIX_EPOCH);
        Self { code: exit.code, oom: exit.oom, at }
    }
}

impl Record {
    pub(super) fn extensions(&self) -> std::collections::HashMap<String, Any> {
        let value = serde_json::to_vec(self).expect("a record is plain JSON");
        let any = Any { type_url: EXTENSION.to_owned(), value };
        std::collections::HashMap::from([(EXTENSION.to_owned(), any)])
    }

    /// Empty for a container that was not made here.
    pub(super) fn of(container: &Container) -> Self {
        let found = container.extensions.get(EXTENSION);
        found.and_then(|any| serde_json::from_slice(&any.value).ok()).unwrap_or_default()
    }
}
