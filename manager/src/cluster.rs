//! The objects with which a swarm begins: the cluster and its first node.

use std::sync::Arc;
use std::time::SystemTime;

use identity::{
    JoinToken, NodeCertificate, NodeIdentity, PrivateKey, RootCa, RootCertificate, Signers, Subject,
    UnlockKey,
};
use ipnet::{IpNet, Ipv4Net};
use proto::model::{
    Availability, Certificate, Cluster, ClusterId, ClusterSpec, IssuanceState, JoinTokens, ManagerStatus,
    Membership, Node, NodeId, NodeSpec, NodeState, NodeStatus, Reachability, Role, RootCa as RootCaState,
    Sensitive,
};
use raft_store::{Object, RaftId, Tables, Transaction};

use crate::api::validate_subnet;
use crate::ca::signer::{self, Signer};
use crate::error::Error;

/// What a cluster is called unless it is named.
pub const DEFAULT_NAME: &str = "default";
/// RFC 7348, section 8.
pub const DEFAULT_VXLAN_PORT: u16 = 4789;
/// Docker's.
pub const DEFAULT_SUBNET_SIZE: u8 = 24;
/// Of IPv6 subnets (RFC 4291, section 2.5.1).
const V6_SUBNET_SIZE: u8 = 64;

/// What `swarm init` decides.
pub struct Init<'a> {
    pub cluster: ClusterId,
    /// See [`crate::api::validate_cluster`].
    pub spec: ClusterSpec,
    pub root_ca: &'a RootCa,
    /// If managers are to be locked.
    pub unlock_key: Option<UnlockKey>,
    pub network: NetworkDefaults,
    pub node: FirstNode,
}

/// From what networks get what they do not ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDefaults {
    /// Pools of which subnets are taken. Without one of IPv6 the swarm has a block of its own for these.
    pub pools: Vec<IpNet>,
    /// Of IPv4 subnets.
    pub subnet_size: u8,
    pub vxlan_port: u16,
}

pub struct FirstNode {
    pub id: NodeId,
    pub availability: Availability,
    pub raft_id: RaftId,
    /// host:port on which other nodes reach it.
    pub addr: String,
    /// PEM, as the root CA has signed it.
    pub certificate: Vec<u8>,
}

impl Default for NetworkDefaults {
    fn default() -> Self {
        Self {
            pools: vec![Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 0, 0, 0), 8).into()],
            subnet_size: DEFAULT_SUBNET_SIZE,
            vxlan_port: DEFAULT_VXLAN_PORT,
        }
    }
}

impl NetworkDefaults {
    /// With these pools; of a family of which there are none, with the default ones.
    #[must_use]
    pub fn with_pools(mut self, pools: Vec<IpNet>) -> Self {
        let has_v4 = pools.iter().any(|pool| pool.addr().is_ipv4());
        self.pools.retain(|_| !has_v4);
        self.pools.extend(pools);
        self
    }

    pub fn check(&self) -> Result<(), Error> {
        for (i, pool) in self.pools.iter().enumerate() {
            validate_subnet("default_addr_pool", *pool)?;
            let size = if pool.addr().is_ipv4() { self.subnet_size } else { V6_SUBNET_SIZE };
            if pool.prefix_len() > size {
                let remedy = format!("a subnet with a mask of {size} bits does not fit into it");
                return Err(Error::invalid("default_addr_pool", pool, remedy));
            }
            let overlaps = |other: &&IpNet| other.contains(pool) || pool.contains(*other);
            if let Some(other) = self.pools[..i].iter().find(overlaps) {
                return Err(Error::invalid("default_addr_pool", pool, format!("it overlaps {other}")));
            }
        }
        if !(8..=30).contains(&self.subnet_size) {
            let remedy = "8 to 30 bits are allowed";
            return Err(Error::invalid("default_addr_pool_mask_length", self.subnet_size, remedy));
        }
        // Docker's bounds: system ports and those that the kernel gives out are no choice.
        if !(1024..=49151).contains(&self.vxlan_port) {
            return Err(Error::invalid("data_path_port", self.vxlan_port, "1024 to 49151 are allowed"));
        }
        Ok(())
    }
}

/// The objects for `Store::bootstrap`, with fresh join tokens.
pub fn create(init: Init<'_>) -> Result<Vec<Object>, Error> {
    init.network.check()?;
    let digest = init.root_ca.certificate().digest();
    let token = || {
        let token = JoinToken::generate(digest).map_err(|error| Error::Internal(error.to_string()))?;
        Ok::<_, Error>(Sensitive::new(token.to_string()))
    };
    let root_ca = RootCaState {
        key: Sensitive::new(init.root_ca.key().expose_pem().as_bytes().to_vec()),
        cert: init.root_ca.certificate().pem().as_bytes().to_vec(),
        cert_digest: format!("sha256:{digest}"),
        join_tokens: JoinTokens { worker: token()?, manager: token()? },
        rotation: None,
        last_forced_rotation: init.spec.ca.force_rotate,
    };
    let cluster = Cluster {
        id: init.cluster,
        meta: Default::default(),
        spec: init.spec,
        root_ca,
        unlock_key: init.unlock_key.map(|key| Sensitive::new(key.expose_bytes().to_vec())),
        default_address_pools: init.network.pools,
        subnet_size: init.network.subnet_size,
        vxlan_port: init.network.vxlan_port,
    };
    Ok(vec![cluster.into(), first_node(init.node).into()])
}

/// Leaves `survivor` as the only manager. The others are lost; one that comes back is told that it is a worker.
pub fn without_other_managers(tx: &mut Transaction, survivor: &NodeId) {
    let is_lost = |node: &&Arc<Node>| {
        let manages = node.spec.desired_role == Role::Manager || node.role == Role::Manager;
        node.id != *survivor && manages
    };
    let lost: Vec<Node> = tx.nodes().filter(is_lost).map(|node| Node::clone(node)).collect();
    for mut node in lost {
        (node.spec.desired_role, node.role, node.manager) = (Role::Worker, Role::Worker, None);
        tx.update(node);
    }
}

/// Makes `first`, which is new, the only manager of a swarm that was restored.
pub fn take_over(tx: &mut Transaction, first: FirstNode) {
    without_other_managers(tx, &first.id);
    tx.create(first_node(first));
}

/// An identity for the manager `node` of the swarm of `view`, and the root that it is to trust.
///
/// # Errors
/// There is no swarm, or nobody signs for it: its key cannot be used, or its external CA does not sign.
pub async fn identity_in(
    view: &Tables,
    node: NodeId,
    signers: &Signers,
    now: SystemTime,
) -> Result<(NodeIdentity, RootCertificate), Error> {
    let missing = || Error::Precondition("there is no swarm".into());
    let cluster = view.cluster().ok_or_else(missing)?;
    let internal = |error: &dyn std::fmt::Display| Error::Internal(error.to_string());
    let key = PrivateKey::generate().map_err(|error| internal(&error))?;
    let csr = key.signing_request().map_err(|error| internal(&error))?;
    let subject = Subject { node, role: Role::Manager, cluster: cluster.id.clone() };
    let lifetime = cluster.spec.ca.node_cert_expiry;
    let chain = Signer::of(cluster)?.sign(signers, &csr, &subject, lifetime, now).await?;
    let certificate = NodeCertificate::from_pem(&chain).map_err(|error| internal(&error))?;
    let identity = NodeIdentity::new(certificate, key).map_err(|error| internal(&error))?;
    Ok((identity, signer::certificate(&cluster.root_ca.cert)?))
}

fn first_node(first: FirstNode) -> Node {
    Node {
        spec: NodeSpec {
            annotations: Default::default(),
            desired_role: Role::Manager,
            membership: Membership::Accepted,
            availability: first.availability,
        },
        meta: Default::default(),
        description: None,
        status: NodeStatus { state: NodeState::Unknown, message: String::new(), addr: host(&first.addr) },
        manager: Some(ManagerStatus {
            raft_id: first.raft_id,
            addr: first.addr,
            leader: false,
            reachability: Reachability::Unknown,
            lag: None,
        }),
        certificate: Certificate {
            role: Role::Manager,
            csr: Vec::new(),
            state: IssuanceState::Issued,
            error: String::new(),
            chain: first.certificate,
            cn: first.id.to_string(),
        },
        role: Role::Manager,
        id: first.id,
    }
}

/// Until its first session tells.
fn host(addr: &str) -> String {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut NetworkDefaults)) -> String {
        let mut network = NetworkDefaults::default();
        change(&mut network);
        network.check().unwrap_err().to_string()
    }

    #[test]
    fn pools_are_subnets_that_hold_some() {
        NetworkDefaults::default().check().unwrap();
        assert!(refusal(|n| n.pools = vec!["10.0.0.0/26".parse().unwrap()]).contains("24 bits does not fit"));
        assert!(refusal(|n| n.pools.push("10.1.0.0/16".parse().unwrap())).contains("overlaps 10.0.0.0/8"));
        assert!(
            refusal(|n| n.pools = vec!["10.0.0.1/8".parse().unwrap()]).contains("the subnet is 10.0.0.0/8")
        );
        let v6 = |pool: &str| NetworkDefaults::default().with_pools(vec![pool.parse().unwrap()]);
        assert_eq!(v6("fd00:1::/48").pools.len(), 2, "beside the default one of IPv4");
        v6("fd00:1::/48").check().unwrap();
        assert!(v6("fd00:1::/72").check().unwrap_err().to_string().contains("64 bits does not fit"));
        assert_eq!(v6("192.168.0.0/16").pools.len(), 1);
        assert!(refusal(|n| n.subnet_size = 31).contains("8 to 30"));
        assert!(refusal(|n| n.vxlan_port = 80).contains("1024 to 49151"));
    }

    #[test]
    fn a_swarm_begins_with_itself_and_a_manager() {
        let root_ca = RootCa::generate(SystemTime::now()).unwrap();
        let init = Init {
            cluster: "c1".into(),
            spec: ClusterSpec::default(),
            root_ca: &root_ca,
            unlock_key: None,
            network: NetworkDefaults::default(),
            node: FirstNode {
                id: "n1".into(),
                availability: Availability::Active,
                raft_id: 7,
                addr: "[fd00::1]:2377".into(),
                certificate: b"pem".to_vec(),
            },
        };
        let objects = create(init).unwrap();
        let (cluster, node) = (objects[0].as_cluster().unwrap(), objects[1].as_node().unwrap());
        assert_eq!(node.status.addr, "fd00::1");
        assert_eq!(node.manager.as_ref().map(|manager| manager.raft_id), Some(7));
        let worker: JoinToken = cluster.root_ca.join_tokens.worker.expose().parse().unwrap();
        assert_eq!(worker.root_digest(), root_ca.certificate().digest());
        assert!(!worker.matches_text(cluster.root_ca.join_tokens.manager.expose()));
    }
}
