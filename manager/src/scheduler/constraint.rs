//! Placement constraints: `node.labels.zone==east`, as users write them.
//!
//! Parsed here for the scheduler, which asks whether a node meets them, and for the API, which refuses those that
//! say nothing. Keys and labels are compared exactly, values without regard to case, as Docker does.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use proto::model::{Node, Role};

use super::platform;

const KEYS: &str = "node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, \
                    node.labels.<label>, engine.labels.<label>";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("constraint {0:?} has no operator: write key==value or key!=value")]
    NoOperator(String),
    #[error("constraint {constraint:?} has an unknown key {key:?}: allowed are {KEYS}")]
    UnknownKey { constraint: String, key: String },
    #[error(
        "constraint {constraint:?}: {value:?} is not a valid value: use letters, digits and -_.:/*()?+[]\\^$|"
    )]
    Value { constraint: String, value: String },
    #[error("constraint {constraint:?}: {value:?} is neither an IP address nor a subnet")]
    Address { constraint: String, value: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    key: Key,
    operator: Operator,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Id,
    Hostname,
    Ip,
    Role,
    Os,
    Architecture,
    Label(String),
    EngineLabel(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Is,
    IsNot,
}

/// Reads one constraint.
pub fn parse(text: &str) -> Result<Constraint, Error> {
    let (key, operator, value) = split(text).ok_or_else(|| Error::NoOperator(text.into()))?;
    let (name, value) = (key.trim(), value.trim().to_owned());
    let unknown = || Error::UnknownKey { constraint: text.into(), key: name.into() };
    let key = key_of(name).ok_or_else(unknown)?;
    if value.is_empty() || !value.chars().all(allowed) {
        return Err(Error::Value { constraint: text.into(), value });
    }
    if key == Key::Ip && value.parse::<IpAddr>().is_err() && value.parse::<IpNet>().is_err() {
        return Err(Error::Address { constraint: text.into(), value });
    }
    Ok(Constraint { key, operator, value })
}

fn split(text: &str) -> Option<(&str, Operator, &str)> {
    let at = |operator: &str| text.find(operator);
    match (at("=="), at("!=")) {
        (Some(is), not) if not.is_none_or(|not| is < not) => {
            Some((&text[..is], Operator::Is, &text[is + 2..]))
        }
        (_, Some(not)) => Some((&text[..not], Operator::IsNot, &text[not + 2..])),
        (_, None) => None,
    }
}

fn key_of(name: &str) -> Option<Key> {
    if let Some(label) = name.strip_prefix("node.labels.") {
        return (!label.is_empty()).then(|| Key::Label(label.into()));
    }
    if let Some(label) = name.strip_prefix("engine.labels.") {
        return (!label.is_empty()).then(|| Key::EngineLabel(label.into()));
    }
    Some(match name {
        "node.id" => Key::Id,
        "node.hostname" => Key::Hostname,
        "node.ip" => Key::Ip,
        "node.role" => Key::Role,
        "node.platform.os" => Key::Os,
        "node.platform.arch" => Key::Architecture,
        _ => return None,
    })
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == ' ' || "-_.:/*()?+[]\\^$|".contains(c)
}

impl Constraint {
    pub fn is_met_by(&self, node: &Node) -> bool {
        self.equals(node) == (self.operator == Operator::Is)
    }

    /// A label that the node does not have equals nothing.
    fn equals(&self, node: &Node) -> bool {
        let is = |actual: &str| actual.eq_ignore_ascii_case(&self.value);
        let description = node.description.as_ref();
        match &self.key {
            Key::Id => is(node.id.as_str()),
            Key::Hostname => description.is_some_and(|description| is(&description.hostname)),
            Key::Ip => self.is_address(&node.status.addr),
            Key::Role => is(if node.role == Role::Manager { "manager" } else { "worker" }),
            Key::Os => description.is_some_and(|description| is(&description.platform.os)),
            Key::Architecture => description.is_some_and(|description| {
                platform::canonical(&description.platform.architecture) == platform::canonical(&self.value)
            }),
            Key::Label(label) => node.spec.annotations.labels.get(label).is_some_and(|value| is(value)),
            Key::EngineLabel(label) => {
                description.and_then(|d| d.engine.labels.get(label)).is_some_and(|value| is(value))
            }
        }
    }

    fn is_address(&self, addr: &str) -> bool {
        let Ok(addr) = addr.parse::<IpAddr>() else { return false };
        let net = self.value.parse::<IpNet>();
        net.is_ok_and(|net| net.contains(&addr)) || self.value.parse() == Ok(addr)
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Key::Id => f.write_str("node.id"),
            Key::Hostname => f.write_str("node.hostname"),
            Key::Ip => f.write_str("node.ip"),
            Key::Role => f.write_str("node.role"),
            Key::Os => f.write_str("node.platform.os"),
            Key::Architecture => f.write_str("node.platform.arch"),
            Key::Label(label) => write!(f, "node.labels.{label}"),
            Key::EngineLabel(label) => write!(f, "engine.labels.{label}"),
        }?;
        let operator = if self.operator == Operator::Is { "==" } else { "!=" };
        write!(f, "{operator}{}", self.value)
    }
}

#[cfg(test)]
mod tests {
    use proto::model::{Certificate, Meta, NodeDescription, NodeId, NodeSpec, NodeStatus, Platform};

    use super::*;

    fn node() -> Node {
        let mut description = NodeDescription {
            hostname: "h1".into(),
            platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
            ..NodeDescription::default()
        };
        description.engine.labels.insert("disk".into(), "ssd".into());
        let mut spec = NodeSpec::default();
        spec.annotations.labels.insert("zone".into(), "East".into());
        Node {
            id: NodeId::from("n1"),
            meta: Meta::default(),
            spec,
            description: Some(description),
            status: NodeStatus { addr: "192.168.77.11".into(), ..NodeStatus::default() },
            manager: None,
            certificate: Certificate::default(),
            role: Role::Manager,
        }
    }

    #[test]
    fn a_node_meets_what_is_true_of_it() {
        for (text, expected) in [
            ("node.id==n1", true),
            ("node.id != n1", false),
            ("node.hostname == H1", true),
            ("node.role==manager", true),
            ("node.role!=manager", false),
            ("node.labels.zone==east", true),
            ("node.labels.zone!=west", true),
            ("node.labels.rack!=a", true),
            ("node.labels.rack==a", false),
            ("engine.labels.disk==ssd", true),
            ("node.platform.arch==amd64", true),
            ("node.platform.os==linux", true),
            ("node.ip==192.168.77.11", true),
            ("node.ip==192.168.77.0/24", true),
            ("node.ip!=192.168.78.0/24", true),
        ] {
            let constraint = parse(text).unwrap();
            assert_eq!(constraint.is_met_by(&node()), expected, "{constraint}");
        }
    }

    #[test]
    fn what_says_nothing_is_refused_by_name() {
        for (text, expected) in [
            ("node.id", "constraint \"node.id\" has no operator: write key==value or key!=value".to_owned()),
            (
                "node.id=n1",
                "constraint \"node.id=n1\" has no operator: write key==value or key!=value".to_owned(),
            ),
            (
                "zone==east",
                format!("constraint \"zone==east\" has an unknown key \"zone\": allowed are {KEYS}"),
            ),
            (
                "node.labels.==x",
                format!(
                    "constraint \"node.labels.==x\" has an unknown key \"node.labels.\": allowed are {KEYS}"
                ),
            ),
            (
                "node.ip==here",
                "constraint \"node.ip==here\": \"here\" is neither an IP address nor a subnet".to_owned(),
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected);
        }
        assert!(matches!(parse("node.id=="), Err(Error::Value { .. })));
        assert!(matches!(parse("node.id==a,b"), Err(Error::Value { .. })));
    }
}
