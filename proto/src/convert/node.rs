//! Nodes.

use super::enums::enum_in;
use super::scalar::{amount, amount_out, annotations_in, annotations_out, id, meta_in, meta_out, required};
use super::{Error, Within};
use crate::model::{
    Certificate, EngineDescription, ManagerStatus, Node, NodeDescription, NodeSpec, NodeStatus, Platform,
    TlsInfo,
};
use crate::wire;

impl TryFrom<wire::Node> for Node {
    type Error = Error;

    fn try_from(node: wire::Node) -> Result<Self, Error> {
        Ok(Self {
            id: id("id", node.id)?,
            meta: meta_in(node.meta)?,
            spec: required("spec", node.spec)?.try_into().within("spec")?,
            description: node.description.map(NodeDescription::try_from).transpose().within("description")?,
            status: node.status.unwrap_or_default().try_into().within("status")?,
            manager: node.manager_status.map(ManagerStatus::try_from).transpose().within("manager_status")?,
            certificate: node.certificate.unwrap_or_default().try_into().within("certificate")?,
            role: enum_in::<wire::NodeRole, _>("role", node.role)?,
        })
    }
}

impl From<&Node> for wire::Node {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id.to_string(),
            meta: meta_out(&node.meta),
            spec: Some((&node.spec).into()),
            description: node.description.as_ref().map(Into::into),
            status: Some((&node.status).into()),
            manager_status: node.manager.as_ref().map(Into::into),
            certificate: Some((&node.certificate).into()),
            role: wire::NodeRole::from(node.role).into(),
            ..Default::default()
        }
    }
}

impl TryFrom<wire::NodeSpec> for NodeSpec {
    type Error = Error;

    fn try_from(spec: wire::NodeSpec) -> Result<Self, Error> {
        Ok(Self {
            annotations: annotations_in(spec.annotations),
            desired_role: enum_in::<wire::NodeRole, _>("desired_role", spec.desired_role)?,
            membership: enum_in::<wire::node_spec::Membership, _>("membership", spec.membership)?,
            availability: enum_in::<wire::node_spec::Availability, _>("availability", spec.availability)?,
        })
    }
}

impl From<&NodeSpec> for wire::NodeSpec {
    fn from(spec: &NodeSpec) -> Self {
        Self {
            annotations: annotations_out(&spec.annotations),
            desired_role: wire::NodeRole::from(spec.desired_role).into(),
            membership: wire::node_spec::Membership::from(spec.membership).into(),
            availability: wire::node_spec::Availability::from(spec.availability).into(),
        }
    }
}

impl TryFrom<wire::NodeDescription> for NodeDescription {
    type Error = Error;

    fn try_from(description: wire::NodeDescription) -> Result<Self, Error> {
        let resources = description.resources.unwrap_or_default();
        Ok(Self {
            hostname: description.hostname,
            platform: description.platform.unwrap_or_default().into(),
            nano_cpus: amount("resources.nano_cpus", resources.nano_cpus)?,
            memory_bytes: amount("resources.memory_bytes", resources.memory_bytes)?,
            engine: description.engine.unwrap_or_default().into(),
            tls: description.tls_info.map(Into::into),
        })
    }
}

impl From<&NodeDescription> for wire::NodeDescription {
    fn from(description: &NodeDescription) -> Self {
        Self {
            hostname: description.hostname.clone(),
            platform: Some((&description.platform).into()),
            resources: Some(wire::Resources {
                nano_cpus: amount_out(description.nano_cpus),
                memory_bytes: amount_out(description.memory_bytes),
                generic: Vec::new(),
            }),
            engine: Some((&description.engine).into()),
            tls_info: description.tls.as_ref().map(Into::into),
        }
    }
}

impl From<wire::NodeTlsInfo> for TlsInfo {
    fn from(info: wire::NodeTlsInfo) -> Self {
        Self {
            trust_root: info.trust_root,
            issuer_subject: info.cert_issuer_subject,
            issuer_public_key: info.cert_issuer_public_key,
        }
    }
}

impl From<&TlsInfo> for wire::NodeTlsInfo {
    fn from(info: &TlsInfo) -> Self {
        Self {
            trust_root: info.trust_root.clone(),
            cert_issuer_subject: info.issuer_subject.clone(),
            cert_issuer_public_key: info.issuer_public_key.clone(),
        }
    }
}

impl From<wire::Platform> for Platform {
    fn from(platform: wire::Platform) -> Self {
        Self { architecture: platform.architecture, os: platform.os }
    }
}

impl From<&Platform> for wire::Platform {
    fn from(platform: &Platform) -> Self {
        Self { architecture: platform.architecture.clone(), os: platform.os.clone() }
    }
}

impl From<wire::EngineDescription> for EngineDescription {
    fn from(engine: wire::EngineDescription) -> Self {
        let plugins = engine.plugins.into_iter().map(|plugin| (plugin.r#type, plugin.name));
        Self { version: engine.engine_version, labels: engine.labels, plugins: plugins.collect() }
    }
}

impl From<&EngineDescription> for wire::EngineDescription {
    fn from(engine: &EngineDescription) -> Self {
        let plugins = engine.plugins.iter().cloned();
        let plugins = plugins.map(|(r#type, name)| wire::PluginDescription { r#type, name });
        Self {
            engine_version: engine.version.clone(),
            labels: engine.labels.clone(),
            plugins: plugins.collect(),
        }
    }
}

impl TryFrom<wire::NodeStatus> for NodeStatus {
    type Error = Error;

    fn try_from(status: wire::NodeStatus) -> Result<Self, Error> {
        let state = enum_in::<wire::node_status::State, _>("state", status.state)?;
        Ok(Self { state, message: status.message, addr: status.addr })
    }
}

impl From<&NodeStatus> for wire::NodeStatus {
    fn from(status: &NodeStatus) -> Self {
        Self {
            state: wire::node_status::State::from(status.state).into(),
            message: status.message.clone(),
            addr: status.addr.clone(),
        }
    }
}

impl TryFrom<wire::ManagerStatus> for ManagerStatus {
    type Error = Error;

    fn try_from(status: wire::ManagerStatus) -> Result<Self, Error> {
        let reachability =
            enum_in::<wire::raft_member_status::Reachability, _>("reachability", status.reachability)?;
        let wire::ManagerStatus { raft_id, addr, leader, lag, .. } = status;
        Ok(Self { raft_id, addr, leader, reachability, lag })
    }
}

impl From<&ManagerStatus> for wire::ManagerStatus {
    fn from(status: &ManagerStatus) -> Self {
        Self {
            raft_id: status.raft_id,
            addr: status.addr.clone(),
            leader: status.leader,
            reachability: wire::raft_member_status::Reachability::from(status.reachability).into(),
            lag: status.lag,
        }
    }
}

impl TryFrom<wire::Certificate> for Certificate {
    type Error = Error;

    fn try_from(certificate: wire::Certificate) -> Result<Self, Error> {
        let status = certificate.status.unwrap_or_default();
        Ok(Self {
            role: enum_in::<wire::NodeRole, _>("role", certificate.role)?,
            csr: certificate.csr,
            state: enum_in::<wire::issuance_status::State, _>("status.state", status.state)?,
            error: status.err,
            chain: certificate.certificate,
            cn: certificate.cn,
        })
    }
}

impl From<&Certificate> for wire::Certificate {
    fn from(certificate: &Certificate) -> Self {
        Self {
            role: wire::NodeRole::from(certificate.role).into(),
            csr: certificate.csr.clone(),
            status: Some(wire::IssuanceStatus {
                state: wire::issuance_status::State::from(certificate.state).into(),
                err: certificate.error.clone(),
            }),
            certificate: certificate.chain.clone(),
            cn: certificate.cn.clone(),
        }
    }
}
