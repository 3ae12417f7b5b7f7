//! Placeholders in a service's settings, such as `{{.Task.Slot}}`, filled in per task.
//!
//! Docker has the whole of Go's templates here; what people use are the fields, and these are what there is.
//! Anything else in double braces is refused, so that nothing runs with half of a template in its environment.

use proto::model::Task;

use crate::description::Facts;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "{field}: placeholder {{{{{placeholder}}}}} is not known; use .Service.ID, .Service.Name, \
             .Service.Labels, .Node.ID, .Node.Hostname, .Node.Platform.Architecture, .Node.Platform.OS, \
             .Task.ID, .Task.Name or .Task.Slot"
    )]
    Unknown { field: String, placeholder: String },
    #[error("{field}: {{{{ has no }}}} in {text:?}")]
    Open { field: String, text: String },
}

/// What placeholders may refer to.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub task: &'a Task,
    pub node: &'a Facts,
}

impl Context<'_> {
    /// Replaces the placeholders of `text`, which is the value of `field`.
    pub fn expand(&self, field: &str, text: &str) -> Result<String, Error> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let open = || Error::Open { field: field.into(), text: text.into() };
            let (placeholder, after) = after.split_once("}}").ok_or_else(open)?;
            let unknown = || Error::Unknown { field: field.into(), placeholder: placeholder.into() };
            expanded.push_str(before);
            expanded.push_str(&self.value(placeholder.trim()).ok_or_else(unknown)?);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn value(&self, placeholder: &str) -> Option<String> {
        let (task, node) = (self.task, self.node);
        let platform = &node.description.platform;
        Some(match placeholder {
            ".Service.ID" => task.service.to_string(),
            ".Service.Name" => task.service_annotations.name.clone(),
            ".Node.ID" => node.node_id.to_string(),
            ".Node.Hostname" => node.description.hostname.clone(),
            ".Node.Platform.Architecture" => platform.architecture.clone(),
            ".Node.Platform.OS" => platform.os.clone(),
            ".Task.ID" => task.id.to_string(),
            ".Task.Name" => task.annotations.name.clone(),
            // Tasks of global services have no slot; Docker puts the node there.
            ".Task.Slot" if task.slot.0 == 0 => node.node_id.to_string(),
            ".Task.Slot" => task.slot.0.to_string(),
            other => {
                let label = service_label(other)?;
                task.service_annotations.labels.get(label).cloned().unwrap_or_default()
            }
        })
    }
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
    use super::*;
    use crate::task::samples;

    #[test]
    fn fields_are_filled_in_and_the_rest_is_refused() {
        let assigned = samples::assigned("t1");
        let facts = samples::facts();
        let context = Context { task: &assigned.task, node: &facts };
        for (text, value) in [
            ("plain", "plain"),
            ("web-{{.Task.Slot}}.{{ .Node.Hostname }}", "web-2.h1"),
            ("{{.Service.Name}}/{{.Task.Name}}/{{.Task.ID}}", "web/web.2.t1/t1"),
            (r#"{{index .Service.Labels "tier"}}{{.Service.Labels.none}}"#, "front"),
        ] {
            assert_eq!(context.expand("env", text).unwrap(), value, "{text}");
        }
        for text in ["{{.Task.Slot", "{{if .Task}}x{{end}}", "{{.Nope}}"] {
            assert!(context.expand("env", text).unwrap_err().to_string().starts_with("env: "), "{text}");
        }
    }
}
