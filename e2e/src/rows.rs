//! The rows that `swarmctl … ls --format json` prints, with Docker's field names.

use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeRow {
    #[serde(rename = "ID")]
    pub id: String,
    pub hostname: String,
    pub status: String,
    pub availability: String,
    pub manager_status: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceRow {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    pub mode: String,
    /// Such as `2/3`: running and wanted.
    pub replicas: String,
    pub image: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkRow {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    pub driver: String,
    pub scope: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskRow {
    #[serde(rename = "ID")]
    pub id: String,
    /// `<service>.<slot>`, or `<service>.<node id>` for a global service.
    pub name: String,
    pub image: String,
    /// Hostname of the node; empty until one is chosen.
    pub node: String,
    pub desired_state: String,
    /// Such as `Running 3 seconds ago`.
    pub current_state: String,
    pub error: String,
    #[serde(default, deserialize_with = "number")]
    pub slot: u64,
    #[serde(default, deserialize_with = "addresses")]
    pub addresses: Vec<Ipv4Addr>,
}

impl TaskRow {
    pub fn belongs_to(&self, service: &str) -> bool {
        self.name.split('.').next() == Some(service)
    }

    /// Runs, and is meant to.
    pub fn running(&self) -> bool {
        self.wanted() && self.current_state.starts_with("Running")
    }

    pub fn wanted(&self) -> bool {
        self.desired_state == "Running"
    }

    /// The first of its addresses in a network that begins with `prefix`, such as `10.0.9.`.
    #[track_caller]
    pub fn address(&self, prefix: &str) -> Ipv4Addr {
        let found = self.addresses.iter().find(|address| address.to_string().starts_with(prefix));
        *found.unwrap_or_else(|| panic!("{} has no address in {prefix}…: {self:?}", self.name))
    }
}

/// Docker prints numbers of its tables as text; either is understood.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    Ok(number.unwrap_or(0))
}

/// A list, or text with commas between; with or without the length of the prefix.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Ipv4Addr>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let texts: Vec<&str> = match &value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        Value::String(text) => text.split([',', ' ']).filter(|part| !part.is_empty()).collect(),
        _ => Vec::new(),
    };
    let bare = texts.into_iter().map(|text| text.split('/').next().unwrap_or(text));
    Ok(bare.filter_map(|text| text.parse().ok()).collect())
}
