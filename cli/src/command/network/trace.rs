//! `network trace`.

use anyhow::{Result, anyhow};
use clap::Args;
use proto::network::trace_step::{Seen, State};
use proto::network::{TraceRequest, TraceResponse, TraceStep};
use serde_json::{Value, json};

use crate::client::{Answer as _, Client};
use crate::format::LinesFormat;

#[derive(Debug, Args)]
pub struct Trace {
    #[command(flatten)]
    format: LinesFormat,
    /// Task or service that sends; of a service, the first task that runs
    #[arg(value_name = "TASK|SERVICE")]
    source: String,
    /// Task, service, name or address that it sends to; with a port, TCP is tried as well
    #[arg(value_name = "TASK|SERVICE|NAME|ADDRESS[:PORT]")]
    destination: String,
}

impl Trace {
    pub async fn run(self, client: &Client) -> Result<()> {
        let request = TraceRequest { source: self.source, destination: self.destination };
        let traced = client.diagnosis().trace(request).await.answer()?;
        self.format.print(&lines(&traced), &object(&traced))?;
        match wrong(&traced) {
            Some(step) => Err(anyhow!("{}", verdict(step))),
            None => Ok(()),
        }
    }
}

fn wrong(traced: &TraceResponse) -> Option<&TraceStep> {
    traced.steps.iter().find(|step| step.state() == State::Wrong)
}

fn verdict(step: &TraceStep) -> String {
    let TraceStep { name, fault, remedy, .. } = step;
    if remedy.is_empty() {
        format!("{name}: {fault}")
    } else {
        format!("{name}: {fault}\nWhat to do: {remedy}")
    }
}

/// A line a step and node, aligned. What is wrong with the first that is, the error says.
fn lines(traced: &TraceResponse) -> Vec<String> {
    let nodes = traced.steps.iter().flat_map(|step| &step.seen).map(|seen| seen.node.chars().count());
    let node_width = nodes.max().unwrap_or_default();
    let name_width = traced.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or_default();
    let mut lines = vec![format!("{} → {}", traced.source, traced.destination), String::new()];
    for step in &traced.steps {
        let state = match step.state() {
            State::Ok => "ok",
            State::Wrong => "WRONG",
            State::Unknown => "?",
        };
        for (i, Seen { node, text }) in step.seen.iter().enumerate() {
            let (name, state) = if i == 0 { (step.name.as_str(), state) } else { ("", "") };
            lines.push(format!("{name:name_width$}  {state:5}  {node:node_width$}  {text}"));
        }
    }
    lines.push(String::new());
    lines.extend(wrong(traced).is_none().then(|| "All is well.".to_owned()));
    lines
}

fn object(traced: &TraceResponse) -> Value {
    let state = |step: &TraceStep| match step.state() {
        State::Ok => "ok",
        State::Wrong => "wrong",
        State::Unknown => "unknown",
    };
    let seen = |seen: &Seen| json!({ "Node": seen.node, "Text": seen.text });
    let steps = traced.steps.iter().map(|step| {
        json!({
            "Name": step.name,
            "State": state(step),
            "Seen": step.seen.iter().map(seen).collect::<Vec<_>>(),
            "Fault": step.fault,
            "Remedy": step.remedy,
        })
    });
    json!({
        "Source": traced.source,
        "Destination": traced.destination,
        "Steps": steps.collect::<Vec<_>>(),
        "Wrong": wrong(traced).map(|step| step.name.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, state: State, seen: &[(&str, &str)], fault: &str) -> TraceStep {
        let seen = seen.iter().map(|(node, text)| Seen { node: (*node).into(), text: (*text).into() });
        TraceStep {
            name: name.into(),
            state: state.into(),
            seen: seen.collect(),
            fault: fault.into(),
            remedy: if fault.is_empty() { String::new() } else { "Mend it".into() },
        }
    }

    #[test]
    fn steps_are_aligned_and_the_first_wrong_one_is_told() {
        let steps = vec![
            step("source", State::Ok, &[("", "a.1 on h1")], ""),
            step("neighbour", State::Wrong, &[("h1", "x"), ("host2", "y")], "Nobody knows it"),
            step("probe", State::Unknown, &[("", "nothing was sent")], ""),
            step("port", State::Wrong, &[("", "z")], "later"),
        ];
        let traced = TraceResponse { source: "a.1 on h1".into(), destination: "web".into(), steps };
        let expected = [
            "a.1 on h1 → web",
            "",
            "source     ok            a.1 on h1",
            "neighbour  WRONG  h1     x",
            "                  host2  y",
            "probe      ?             nothing was sent",
            "port       WRONG         z",
            "",
        ];
        assert_eq!(lines(&traced), expected);
        assert_eq!(verdict(wrong(&traced).unwrap()), "neighbour: Nobody knows it\nWhat to do: Mend it");
        assert_eq!(object(&traced)["Wrong"], "neighbour");
    }
}
