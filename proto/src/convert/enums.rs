//! Enums: every value of the protocol that we know, and an error for any other.

use super::Error;
use crate::model::{
    Availability, EndpointMode, FailureAction, HealthState, IssuanceState, Membership, NodeState,
    Reachability, RestartCondition, Role, TaskState, UpdateOrder, UpdateState,
};
use crate::{health, wire};

/// Reads an enum field of the wire.
pub(super) fn enum_in<W, M>(field: &str, value: i32) -> Result<M, Error>
where
    W: TryFrom<i32> + Into<M>,
{
    W::try_from(value).map(Into::into).map_err(|_| Error::invalid(field, value, "a value of the protocol"))
}

macro_rules! same {
    ($model:ty, $wire:ty, { $($variant:ident = $wire_variant:ident),+ $(,)? }) => {
        impl From<$wire> for $model {
            fn from(value: $wire) -> Self {
                match value { $(<$wire>::$wire_variant => Self::$variant),+ }
            }
        }

        impl From<$model> for $wire {
            fn from(value: $model) -> Self {
                match value { $(<$model>::$variant => Self::$wire_variant),+ }
            }
        }
    };
}

same!(TaskState, wire::TaskState, {
    New = New, Pending = Pending, Assigned = Assigned, Accepted = Accepted, Preparing = Preparing,
    Ready = Ready, Starting = Starting, Running = Running, Complete = Complete, Shutdown = Shutdown,
    Failed = Failed, Rejected = Rejected, Remove = Remove, Orphaned = Orphaned,
});
same!(HealthState, health::health::State, {
    Starting = Starting, Healthy = Healthy, Unhealthy = Unhealthy,
});
same!(Role, wire::NodeRole, { Worker = Worker, Manager = Manager });
same!(Membership, wire::node_spec::Membership, { Pending = Pending, Accepted = Accepted });
same!(Availability, wire::node_spec::Availability, { Active = Active, Pause = Pause, Drain = Drain });
same!(NodeState, wire::node_status::State, {
    Unknown = Unknown, Down = Down, Ready = Ready, Disconnected = Disconnected,
});
same!(Reachability, wire::raft_member_status::Reachability, {
    Unknown = Unknown, Unreachable = Unreachable, Reachable = Reachable,
});
same!(IssuanceState, wire::issuance_status::State, {
    Unknown = Unknown, Renew = Renew, Pending = Pending, Issued = Issued, Failed = Failed, Rotate = Rotate,
});
same!(RestartCondition, wire::restart_policy::RestartCondition, {
    None = None, OnFailure = OnFailure, Any = Any,
});
same!(FailureAction, wire::update_config::FailureAction, {
    Pause = Pause, Continue = Continue, Rollback = Rollback,
});
same!(UpdateOrder, wire::update_config::UpdateOrder, { StopFirst = StopFirst, StartFirst = StartFirst });
same!(UpdateState, wire::update_status::UpdateState, {
    Unknown = Unknown, Updating = Updating, Paused = Paused, Completed = Completed,
    RollbackStarted = RollbackStarted, RollbackPaused = RollbackPaused,
    RollbackCompleted = RollbackCompleted,
});
same!(EndpointMode, wire::endpoint_spec::ResolutionMode, { Vip = Vip, DnsRoundRobin = Dnsrr });
