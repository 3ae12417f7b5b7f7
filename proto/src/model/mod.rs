//! The objects that managers keep, as types that cannot hold nonsense.
//!
//! Specs are what users ask for; the rest of an object is what managers decided and nodes reported.
//! Everything here is plain data: no I/O, no clock.

pub mod id;
pub mod template;

mod cluster;
mod health;
mod hosts;
mod keyring;
mod meta;
mod network;
mod node;
mod secret;
mod service;
mod signal;
mod state;
mod task;

pub use cluster::{
    CaConfig, Cluster, ClusterSpec, DispatcherConfig, ExternalCa, JoinTokens, OrchestrationConfig,
    RaftConfig, RootCa, RootRotation,
};
pub use health::{Health, HealthState, Probe};
pub use hosts::{Family, Hosts, Usage, number};
pub use id::{ClusterId, KeyringId, NetworkId, NodeId, ServiceId, TaskId};
pub use keyring::{INCARNATION_BYTES, Keyring, KeyringMember, NetworkKey, SECRET_BYTES};
pub use meta::{Annotations, Driver, Meta};
pub use network::{
    CONFIG_ONLY_DRIVER, ENCRYPTED, IpamConfig, Network, NetworkSpec, NetworkState, OVERLAY_DRIVER, Subnet,
    VXLAN_ID_LIST,
};
pub use node::{
    Availability, Certificate, ENCRYPTION_LABEL, EngineDescription, IssuanceState, ManagerStatus, Membership,
    Node, NodeDescription, NodeSpec, NodeState, NodeStatus, Platform, ROUTES_LABEL, Reachability, Role,
    TlsInfo, VTEP_LABEL,
};
pub use secret::Sensitive;
pub use service::{
    AttachmentConfig, Endpoint, EndpointMode, FailureAction, Mode, Placement, Preference, Resources,
    RestartCondition, RestartPolicy, Service, ServiceSpec, TaskSpec, UpdateConfig, UpdateOrder, UpdateState,
    UpdateStatus, VirtualIp,
};
pub use signal::{Signal, UnknownSignal};
pub use state::TaskState;
pub use task::{Attachment, ContainerStatus, Slot, Task, TaskStatus};
