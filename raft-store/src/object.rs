//! The objects of the store as one type, for what treats them all alike.

use std::fmt;
use std::sync::Arc;

use proto::model::{
    Cluster, ClusterId, Keyring, KeyringId, Meta, Network, NetworkId, Node, NodeId, Service, ServiceId, Task,
    TaskId,
};

/// What kind of object an id or a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Node,
    Service,
    Task,
    Network,
    Cluster,
    Keyring,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Service => "service",
            Self::Task => "task",
            Self::Network => "network",
            Self::Cluster => "cluster",
            Self::Keyring => "keyring",
        })
    }
}

/// Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Node(Arc<Node>),
    Service(Arc<Service>),
    Task(Arc<Task>),
    Network(Arc<Network>),
    Cluster(Arc<Cluster>),
    Keyring(Arc<Keyring>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    Node(NodeId),
    Service(ServiceId),
    Task(TaskId),
    Network(NetworkId),
    Cluster(ClusterId),
    Keyring(KeyringId),
}

impl Object {
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Node(node) => ObjectId::Node(node.id.clone()),
            Self::Service(service) => ObjectId::Service(service.id.clone()),
            Self::Task(task) => ObjectId::Task(task.id.clone()),
            Self::Network(network) => ObjectId::Network(network.id.clone()),
            Self::Cluster(cluster) => ObjectId::Cluster(cluster.id.clone()),
            Self::Keyring(keyring) => ObjectId::Keyring(keyring.id.clone()),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Service(_) => Kind::Service,
            Self::Task(_) => Kind::Task,
            Self::Network(_) => Kind::Network,
            Self::Cluster(_) => Kind::Cluster,
            Self::Keyring(_) => Kind::Keyring,
        }
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Self::Node(node) => &node.meta,
            Self::Service(service) => &service.meta,
            Self::Task(task) => &task.meta,
            Self::Network(network) => &network.meta,
            Self::Cluster(cluster) => &cluster.meta,
            Self::Keyring(keyring) => &keyring.meta,
        }
    }

    /// The same object with other meta data: the state machine's stamp.
    pub(crate) fn with_meta(mut self, meta: Meta) -> Self {
        match &mut self {
            Self::Node(node) => Arc::make_mut(node).meta = meta,
            Self::Service(service) => Arc::make_mut(service).meta = meta,
            Self::Task(task) => Arc::make_mut(task).meta = meta,
            Self::Network(network) => Arc::make_mut(network).meta = meta,
            Self::Cluster(cluster) => Arc::make_mut(cluster).meta = meta,
            Self::Keyring(keyring) => Arc::make_mut(keyring).meta = meta,
        }
        self
    }

    pub fn as_node(&self) -> Option<&Arc<Node>> {
        if let Self::Node(node) = self { Some(node) } else { None }
    }

    pub fn as_service(&self) -> Option<&Arc<Service>> {
        if let Self::Service(service) = self { Some(service) } else { None }
    }

    pub fn as_task(&self) -> Option<&Arc<Task>> {
        if let Self::Task(task) = self { Some(task) } else { None }
    }

    pub fn as_network(&self) -> Option<&Arc<Network>> {
        if let Self::Network(network) = self { Some(network) } else { None }
    }

    pub fn as_cluster(&self) -> Option<&Arc<Cluster>> {
        if let Self::Cluster(cluster) = self { Some(cluster) } else { None }
    }

    pub fn as_keyring(&self) -> Option<&Arc<Keyring>> {
        if let Self::Keyring(keyring) = self { Some(keyring) } else { None }
    }
}

impl ObjectId {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Service(_) => Kind::Service,
            Self::Task(_) => Kind::Task,
            Self::Network(_) => Kind::Network,
            Self::Cluster(_) => Kind::Cluster,
            Self::Keyring(_) => Kind::Keyring,
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Node(id) => id.as_str(),
            Self::Service(id) => id.as_str(),
            Self::Task(id) => id.as_str(),
            Self::Network(id) => id.as_str(),
            Self::Cluster(id) => id.as_str(),
            Self::Keyring(id) => id.as_str(),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.as_str())
    }
}

macro_rules! conversions {
    ($($kind:ident($id:ident)),+ $(,)?) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        }

        impl From<Arc<$kind>> for Object {
            fn from(object: Arc<$kind>) -> Self {
                Self::$kind(object)
            }
        }

        impl From<$id> for ObjectId {
            fn from(id: $id) -> Self {
                Self::$kind(id)
            }
        }

        impl From<&$id> for ObjectId {
            fn from(id: &$id) -> Self {
                Self::$kind(id.clone())
            }
        }
    )+};
}

conversions! {
    Node(NodeId),
    Service(ServiceId),
    Task(TaskId),
    Network(NetworkId),
    Cluster(ClusterId),
    Keyring(KeyringId),
}

impl From<&ObjectId> for ObjectId {
    fn from(id: &ObjectId) -> Self {
        id.clone()
    }
}
