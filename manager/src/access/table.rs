//! The table: each service, who may call it, and its calls.

use std::fmt;

use proto::model::Role;

/// A set of kinds of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callers(u8);

impl Callers {
    /// Through the unix socket, whose mode decides who may open it.
    pub const LOCAL: Self = Self(1);
    pub const MANAGER: Self = Self(1 << 1);
    pub const WORKER: Self = Self(1 << 2);
    /// Over TLS without a certificate.
    pub const ANONYMOUS: Self = Self(1 << 3);

    /// In the order in which refusals name them.
    const NAMES: [(Self, &'static str, &'static str); 4] = [
        (Self::MANAGER, "a manager", "managers"),
        (Self::WORKER, "a worker", "workers"),
        (Self::LOCAL, "a local client", "local clients"),
        (Self::ANONYMOUS, "a client without a certificate", "clients without a certificate"),
    ];

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn of(role: Role) -> Self {
        match role {
            Role::Worker => Self::WORKER,
            Role::Manager => Self::MANAGER,
        }
    }

    /// Of a set of one.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(one, ..)| *one == self).map_or("nobody", |(_, name, _)| name)
    }
}

impl fmt::Display for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(one, ..)| self.contains(*one));
        let names: Vec<_> = names.map(|(_, _, plural)| *plural).collect();
        f.write_str(&names.join(" and "))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub callers: Callers,
    /// Whether the caller must be a node that this manager's replica knows.
    pub known: bool,
}

const OPERATORS: Rule = rule_for(Callers::LOCAL.and(Callers::MANAGER));
const NODES: Rule = rule_for(Callers::WORKER.and(Callers::MANAGER));
const MANAGERS: Rule = rule_for(Callers::MANAGER);
const EVERYONE: Rule =
    rule_for(Callers::LOCAL.and(Callers::MANAGER).and(Callers::WORKER).and(Callers::ANONYMOUS));
const LOCALS: Rule = rule_for(Callers::LOCAL);
/// Replication is what fills the replica: a manager that is new, or was away while another joined, must hear the
/// leader before it can know the leader. Whom it obeys is decided by Raft's own membership. What others ask of the
/// leader is not replication: the leader knows every manager.
const REPLICATION: Rule = Rule { callers: Callers::MANAGER, known: false };

const fn rule_for(callers: Callers) -> Rule {
    Rule { callers, known: true }
}

type Service = (&'static str, Rule, &'static [&'static str]);

const TABLE: &[Service] = &[
    (
        "docker.swarmkit.v1.Control",
        OPERATORS,
        &[
            "GetNode",
            "ListNodes",
            "UpdateNode",
            "RemoveNode",
            "GetTask",
            "ListTasks",
            "RemoveTask",
            "GetService",
            "ListServices",
            "CreateService",
            "UpdateService",
            "RemoveService",
            "ListServiceStatuses",
            "GetNetwork",
            "ListNetworks",
            "CreateNetwork",
            "RemoveNetwork",
            "GetCluster",
            "ListClusters",
            "UpdateCluster",
        ],
    ),
    ("docker.swarmkit.v1.Logs", OPERATORS, &["SubscribeLogs"]),
    ("docker.swarmkit.v1.Dispatcher", NODES, &["Session", "Heartbeat", "UpdateTaskStatus", "Assignments"]),
    ("docker.swarmkit.v1.LogBroker", NODES, &["ListenSubscriptions", "PublishLogs"]),
    ("swarm.network.v1.Directory", NODES, &["Watch", "Confirm", "Drain", "ReportKeys"]),
    ("swarm.network.v1.Confirmations", MANAGERS, &["Tell"]),
    ("swarm.network.v1.Keys", OPERATORS, &["Rotate"]),
    ("swarm.network.v1.Diagnosis", OPERATORS, &["Trace"]),
    ("swarm.network.v1.Questions", NODES, &["Watch", "Answer"]),
    ("swarm.network.v1.Questions", MANAGERS, &["Relay"]),
    ("docker.swarmkit.v1.CA", EVERYONE, &["GetRootCACertificate"]),
    ("docker.swarmkit.v1.CA", OPERATORS, &["GetUnlockKey"]),
    ("docker.swarmkit.v1.NodeCA", EVERYONE, &["IssueNodeCertificate", "NodeCertificateStatus"]),
    ("docker.swarmkit.v1.RaftMembership", MANAGERS, &["Join", "Leave"]),
    ("swarm.raft.v1.Liveness", MANAGERS, &["Beat"]),
    (
        "swarm.raft.v1.Raft",
        REPLICATION,
        &["Identify", "Append", "Vote", "SnapshotProgress", "InstallSnapshot", "TransferLeader"],
    ),
    ("swarm.raft.v1.Raft", MANAGERS, &["Propose", "ChangeMembership", "ReadIndex", "Members"]),
    (
        "swarm.node.v1.Node",
        LOCALS,
        &[
            "Init",
            "Join",
            "Unlock",
            "Leave",
            "Info",
            "AuditNetwork",
            "LoadImage",
            "ListImages",
            "SaveSnapshot",
            "InspectSnapshot",
            "RestoreSnapshot",
        ],
    ),
];

/// The rule for a path `/<package>.<service>/<call>`; none: nobody may call it.
pub fn rule(path: &str) -> Option<Rule> {
    let (service, call) = path.strip_prefix('/')?.split_once('/')?;
    let mut entries = TABLE.iter().filter(|(name, ..)| *name == service);
    entries.find(|(_, _, calls)| calls.contains(&call)).map(|(_, rule, _)| *rule)
}

/// Every path of the table.
pub fn paths() -> impl Iterator<Item = String> {
    TABLE.iter().flat_map(|(service, _, calls)| calls.iter().map(move |call| format!("/{service}/{call}")))
}
