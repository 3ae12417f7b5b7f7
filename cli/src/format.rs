//! How answers are printed: tables for people, JSON or a template for programs.

use std::io::{self, Write};

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::Table;
use serde_json::Value;

/// Output options of every list.
#[derive(Debug, Args)]
pub struct ListFormat {
    /// table, json (an object a line) or a template such as "{{.ID}} {{.Name}}"
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
    /// Only print ids
    #[arg(short, long)]
    quiet: bool,
}

/// Output options of every inspection.
#[derive(Debug, Args)]
pub struct InspectFormat {
    /// json or a template such as "{{.Spec.Name}}"
    #[arg(short, long, default_value = "json", value_name = "FORMAT")]
    format: String,
}

/// Output options of what tells of one thing in lines.
#[derive(Debug, Args)]
pub struct LinesFormat {
    /// json, or a template such as "{{.Server.Version}}"; without it: lines for people
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// A column: its title in tables, its name in JSON.
pub type Column = (&'static str, &'static str);

impl ListFormat {
    /// For people, who want it short.
    pub fn is_table(&self) -> bool {
        self.format == "table" && !self.quiet
    }

    /// Prints `rows`, objects whose members are strings. `columns` are those of the table; the others are only seen
    /// in JSON. The first column is the id.
    pub fn print(&self, columns: &[Column], rows: &[Value]) -> Result<()> {
        let mut out = io::stdout().lock();
        match self.format.as_str() {
            _ if self.quiet => {
                let id = columns.first().map_or("ID", |(_, name)| name);
                rows.iter().try_for_each(|row| writeln!(out, "{}", text(&row[id])))?;
            }
            "table" => writeln!(out, "{}", table(columns, rows).trim_fmt())?,
            "json" => rows.iter().try_for_each(|row| writeln!(out, "{row}"))?,
            template => {
                for row in rows {
                    writeln!(out, "{}", render(template, row)?)?;
                }
            }
        }
        Ok(())
    }
}

impl LinesFormat {
    /// Prints `lines`, or `object` as JSON or through the template.
    pub fn print(&self, lines: &[String], object: &Value) -> Result<()> {
        let mut out = io::stdout().lock();
        match self.format.as_deref() {
            None => lines.iter().try_for_each(|line| writeln!(out, "{line}"))?,
            Some("json") => writeln!(out, "{object}")?,
            Some(template) => writeln!(out, "{}", render(template, object)?)?,
        }
        Ok(())
    }
}

impl InspectFormat {
    /// Prints `objects` as one JSON array, or each through the template.
    pub fn print(&self, objects: &[Value]) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.format == "json" {
            writeln!(out, "{}", serde_json::to_string_pretty(objects)?)?;
            return Ok(());
        }
        for object in objects {
            writeln!(out, "{}", render(&self.format, object)?)?;
        }
        Ok(())
    }
}

fn table(columns: &[Column], rows: &[Value]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(columns.iter().map(|(title, _)| *title));
    for row in rows {
        table.add_row(columns.iter().map(|(_, name)| text(&row[*name])));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Replaces `{{.A.B}}` and `{{json .A}}` by what `object` has there.
fn render(template: &str, object: &Value) -> Result<String> {
    let mut rendered = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((expression, after)) = after.split_once("}}") else {
            bail!("--format {template:?}: \"{{{{\" is not closed");
        };
        rendered.push_str(before);
        rendered.push_str(&evaluate(expression.trim(), object)?);
        rest = after;
    }
    rendered.push_str(rest);
    if rendered == template && !template.is_empty() {
        bail!("--format {template:?}: expected json, table or a template such as {{{{.ID}}}}");
    }
    Ok(rendered)
}

fn evaluate(expression: &str, object: &Value) -> Result<String> {
    let (json, path) = match expression.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, expression),
    };
    let Some(path) = path.strip_prefix('.') else {
        bail!("--format {{{{{expression}}}}}: expected a field such as {{{{.Name}}}}");
    };
    let mut value = object;
    for member in path.split('.').filter(|member| !member.is_empty()) {
        let Some(next) = value.get(member) else {
            bail!("--format {{{{{expression}}}}}: there is no field {member:?}");
        };
        value = next;
    }
    Ok(if json { value.to_string() } else { text(value) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_picks_fields() {
        let object = json!({"ID": "abc", "Spec": {"Name": "web", "Labels": {"a": "b"}}});
        assert_eq!(render("{{.ID}} {{ .Spec.Name }}!", &object).unwrap(), "abc web!");
        assert_eq!(render("{{json .Spec.Labels}}", &object).unwrap(), r#"{"a":"b"}"#);
        for wrong in ["{{.Nope}}", "{{.ID", "plain", "{{ID}}"] {
            assert!(render(wrong, &object).is_err(), "{wrong}");
        }
    }
}
