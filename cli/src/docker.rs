//! Objects as Docker's API shows them, so that scripts written for it can read ours.

pub mod network;
pub mod node;
pub mod service;
pub mod task;

use proto::model::{Annotations, Meta};
use serde_json::{Map, Value, json};

use crate::units;

/// `ready` → `Ready`.
pub fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

/// The members that every object begins with.
fn object(id: &str, meta: &Meta) -> Map<String, Value> {
    let members = json!({
        "ID": id,
        "Version": { "Index": meta.version },
        "CreatedAt": units::timestamp(meta.created_at),
        "UpdatedAt": units::timestamp(meta.updated_at),
    });
    match members {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn annotated(annotations: &Annotations, mut members: Value) -> Value {
    members["Name"] = annotations.name.clone().into();
    members["Labels"] = json!(annotations.labels);
    members
}

/// Nanoseconds, as Docker writes durations.
fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Leaves out members that say nothing, as Docker does.
fn without_empty(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let said =
        members.into_iter().map(|(name, value)| (name, without_empty(value))).filter(
            |(_, value)| match value {
                Value::Null => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(members) => !members.is_empty(),
                Value::Bool(flag) => *flag,
                Value::Number(number) => number.as_f64() != Some(0.0),
            },
        );
    Value::Object(said.collect())
}
