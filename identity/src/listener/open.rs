//! The connections of nodes, so that those of one that was removed can be closed.
//!
//! What a call may do is decided when it begins; a stream may last for days. So a node that is put out of the swarm has
//! its connections closed, whatever is under way on them.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use proto::model::NodeId;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// All connections of nodes to one listener; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Open(Arc<Mutex<HashMap<NodeId, Weak<Handle>>>>);

/// One for all connections of a node.
#[derive(Debug, Default)]
struct Handle(CancellationToken);

/// Held by a connection. Resolves when it must close.
pub(super) struct Hold {
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    _handle: Arc<Handle>,
}

impl Open {
    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, Weak<Handle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(&self, node: &NodeId) -> Hold {
        let mut nodes = self.nodes();
        let known = nodes.get(node).and_then(Weak::upgrade);
        let handle = known.unwrap_or_else(|| {
            nodes.retain(|_, handle| handle.strong_count() > 0);
            let handle = Arc::new(Handle::default());
            nodes.insert(node.clone(), Arc::downgrade(&handle));
            handle
        });
        Hold { closing: Box::pin(handle.0.clone().cancelled_owned()), _handle: handle }
    }

    /// Closes the connections of all nodes that are not to `stay`.
    pub fn close(&self, stay: impl Fn(&NodeId) -> bool) {
        self.nodes().retain(|node, handle| {
            let stays = stay(node);
            if !stays && let Some(handle) = handle.upgrade() {
                handle.0.cancel();
            }
            stays
        });
    }
}

impl Future for Hold {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.closing.as_mut().poll(cx)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}
