//! Placeholders in a service's settings, such as `{{.Task.Slot}}`, filled in per task.
//!
//! Docker has the whole of Go's templates here; what people use are the fields, and these are what there is.
//! Anything else in double braces is refused, so that nothing runs with half of a template in its environment.
//!
//! Here, because both sides fill them in: the node for its tasks, managers for the names by which others find those.

use super::{NodeDescription, NodeId, Task};

/// All but the labels of the service.
const FIELDS: [&str; 9] = [
    ".Service.ID",
    ".Service.Name",
    ".Node.ID",
    ".Node.Hostname",
    ".Node.Platform.Architecture",
    ".Node.Platform.OS",
    ".Task.ID",
    ".Task.Name",
    ".Task.Slot",
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{field}: {}", self.remedy())]
    Unknown { field: String, placeholder: String },
    #[error("{field}: {} in {text:?}", self.remedy())]
    Open { field: String, text: String },
}

impl Error {
    /// What is wrong, without the field.
    pub fn remedy(&self) -> String {
        match self {
            Self::Unknown { placeholder, .. } => format!(
                "placeholder {{{{{placeholder}}}}} is not known; use .Service.Labels, {}",
                FIELDS.join(", ")
            ),
            Self::Open { .. } => "{{ has no }}".to_owned(),
        }
    }
}

/// `text` with a letter for each placeholder: whether they are known, and what stands around them.
pub fn outline(field: &str, text: &str) -> Result<String, Error> {
    fill(field, text, |placeholder| {
        let known = FIELDS.contains(&placeholder) || service_label(placeholder).is_some();
        known.then(|| "x".to_owned())
    })
}

/// What placeholders may refer to.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub task: &'a Task,
    pub node: &'a NodeId,
    pub description: &'a NodeDescription,
}

impl Context<'_> {
    /// Replaces the placeholders of `text`, which is the value of `field`.
    pub fn expand(&self, field: &str, text: &str) -> Result<String, Error> {
        fill(field, text, |placeholder| self.value(placeholder))
    }

    fn value(&self, placeholder: &str) -> Option<String> {
        let (task, platform) = (self.task, &self.description.platform);
        Some(match placeholder {
            ".Service.ID" => task.service.to_string(),
            ".Service.Name" => task.service_annotations.name.clone(),
            ".Node.ID" => self.node.to_string(),
            ".Node.Hostname" => self.description.hostname.clone(),
            ".Node.Platform.Architecture" => platform.architecture.clone(),
            ".Node.Platform.OS" => platform.os.clone(),
            ".Task.ID" => task.id.to_string(),
            ".Task.Name" => task.annotations.name.clone(),
            // Tasks of global services have no slot; Docker puts the node there.
            ".Task.Slot" if task.slot.0 == 0 => self.node.to_string(),
            ".Task.Slot" => task.slot.0.to_string(),
            other => {
                let label = service_label(other)?;
                task.service_annotations.labels.get(label).cloned().unwrap_or_default()
            }
        })
    }
}

fn fill(field: &str, text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, Error> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let open = || Error::Open { field: field.into(), text: text.into() };
        let (placeholder, after) = after.split_once("}}").ok_or_else(open)?;
        let unknown = || Error::Unknown { field: field.into(), placeholder: placeholder.into() };
        filled.push_str(before);
        filled.push_str(&value(placeholder.trim()).ok_or_else(unknown)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The label's name in `.Service.Labels.name` or `index .Service.Labels "name"`.
fn service_label(placeholder: &str) -> Option<&str> {
    if let Some(name) = placeholder.strip_prefix(".Service.Labels.") {
        return Some(name);
    }
    let quoted = placeholder.strip_prefix("index")?.trim_start().strip_prefix(".Service.Labels")?;
    quoted.trim().strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire;

    fn task() -> Task {
        let labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
        let task = wire::Task {
            id: "t1".into(),
            service_id: "s1".into(),
            slot: 2,
            status: Some(wire::TaskStatus::default()),
            annotations: Some(wire::Annotations { name: "web.2.t1".into(), ..Default::default() }),
            service_annotations: Some(wire::Annotations { name: "web".into(), labels }),
            spec: Some(wire::TaskSpec {
                runtime: Some(wire::task_spec::Runtime::Container(Default::default())),
                ..Default::default()
            }),
            ..Default::default()
        };
        task.try_into().unwrap()
    }

    #[test]
    fn fields_are_filled_in_and_the_rest_is_refused() {
        let (task, node) = (task(), "n1".into());
        let description = NodeDescription { hostname: "h1".into(), ..NodeDescription::default() };
        let context = Context { task: &task, node: &node, description: &description };
        for (text, value) in [
            ("plain", "plain"),
            ("web-{{.Task.Slot}}.{{ .Node.Hostname }}", "web-2.h1"),
            ("{{.Service.Name}}/{{.Task.Name}}/{{.Task.ID}}", "web/web.2.t1/t1"),
            (r#"{{index .Service.Labels "tier"}}{{.Service.Labels.none}}"#, "front"),
        ] {
            assert_eq!(context.expand("env", text).unwrap(), value, "{text}");
        }
        for field in FIELDS {
            assert!(context.value(field).is_some(), "{field}");
        }
        assert_eq!(outline("env", "a-{{.Task.Slot}}.{{.Service.Labels.b}}").unwrap(), "a-x.x");
        for text in ["{{.Task.Slot", "{{if .Task}}x{{end}}", "{{.Nope}}"] {
            let error = context.expand("env", text).unwrap_err();
            assert!(error.to_string().starts_with("env: "), "{text}: {error}");
            assert_eq!(outline("env", text), Err(error));
        }
    }
}
