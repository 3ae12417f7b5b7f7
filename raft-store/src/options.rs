//! How a store is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::model::NodeId;

use crate::Clock;
use crate::key::Seal;
use crate::log;
use crate::transport::Dial;

/// All members of a group have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    /// A follower that hears nothing for `election_max` and then a random time between the two calls an election.
    pub election_min: Duration,
    pub election_max: Duration,
}

impl Default for Timing {
    /// A leader that dies is replaced in less than a second, in the median.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(500),
        }
    }
}

impl Timing {
    /// A member, or a quorum, that was not heard for so long is taken for unreachable.
    pub(crate) fn patience(&self) -> Duration {
        self.election_max * 2
    }
}

pub struct Options {
    /// Holds everything that the store keeps, and nothing else. Made if missing.
    pub dir: PathBuf,
    pub node_id: NodeId,
    /// host:port on which the other managers reach this one.
    pub addr: String,
    pub dial: Arc<dyn Dial>,
    pub clock: Clock,
    pub timing: Timing,
    /// Seals the data key on disk, if it is to be sealed.
    pub seal: Option<Arc<dyn Seal>>,
    /// A file of the log that is longer is followed by another one.
    pub segment_bytes: u64,
    pub(crate) cached_bytes: usize,
}

impl Options {
    pub fn new(dir: PathBuf, node_id: NodeId, addr: String, dial: Arc<dyn Dial>) -> Self {
        Self {
            dir,
            node_id,
            addr,
            dial,
            clock: Arc::new(SystemTime::now),
            timing: Timing::default(),
            seal: None,
            segment_bytes: log::Limits::default().segment_bytes,
            cached_bytes: log::Limits::default().cached_bytes,
        }
    }
}
