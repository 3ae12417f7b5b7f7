//! `service logs`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::SystemTime;

use anyhow::{Result, bail};
use clap::Args;
use proto::model::{Node, Service, Slot, Task};
use proto::wire::list_tasks_request::Filters;
use proto::wire::{LogMessage, LogSelector, LogStream, LogSubscriptionOptions, SubscribeLogsRequest};

use crate::client::{Answer as _, Client, explain};
use crate::resolve::{self, Named as _};
use crate::units;

#[derive(Debug, Args)]
pub struct Logs {
    /// Go on with new output
    #[arg(short, long)]
    follow: bool,
    /// Lines from the end of each task's output, or "all"
    #[arg(short = 'n', long, default_value = "all", value_name = "LINES", value_parser = tail)]
    tail: i64,
    /// Only output since then: RFC 3339, or a duration such as 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,
    /// Print the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Print the output alone, without the task's name
    #[arg(long)]
    raw: bool,
    /// Print ids instead of names
    #[arg(long)]
    no_resolve: bool,
    /// A service or a task
    #[arg(value_name = "SERVICE|TASK")]
    target: String,
}

/// Everything.
const ALL: i64 = -1;

fn tail(text: &str) -> Result<i64, String> {
    if text == "all" {
        return Ok(ALL);
    }
    let lines: u32 = text.parse().map_err(|_| format!("{text:?}: expected a number of lines or \"all\""))?;
    Ok(lines.into())
}

fn since(text: &str) -> Result<SystemTime, String> {
    let time = humantime::parse_rfc3339_weak(text).ok();
    let before_now = || SystemTime::now().checked_sub(units::duration(text).ok()?);
    time.or_else(before_now)
        .ok_or_else(|| format!("{text:?}: expected a time in RFC 3339 or a duration such as 10m"))
}

impl Logs {
    pub async fn run(self, client: &Client) -> Result<()> {
        let (selector, service_ids) = self.select(client).await?;
        let prefixes = if self.raw { None } else { Some(self.prefixes(client, service_ids).await?) };
        let options = LogSubscriptionOptions {
            streams: vec![],
            follow: self.follow,
            // The protocol counts from the end: -1 is one line, 0 is everything.
            tail: if self.tail == ALL { 0 } else { -self.tail - 1 },
            since: self.since.map(Into::into),
        };
        if self.tail == 0 && !self.follow {
            return Ok(());
        }
        let request = SubscribeLogsRequest { selector: Some(selector), options: Some(options) };
        let mut messages = client.logs().subscribe_logs(request).await.answer()?;
        while let Some(batch) = messages.message().await.map_err(explain)? {
            for message in &batch.messages {
                self.print(message, prefixes.as_ref())?;
            }
        }
        Ok(())
    }

    /// A service, or else a task.
    async fn select(&self, client: &Client) -> Result<(LogSelector, Vec<String>)> {
        let service: Result<Service> = resolve::find(client, &self.target).await;
        if let Ok(service) = service {
            let service_ids = vec![service.id.to_string()];
            return Ok((LogSelector { service_ids: service_ids.clone(), ..Default::default() }, service_ids));
        }
        let Ok(task) = resolve::find::<Task>(client, &self.target).await else {
            bail!("no such service or task: {}", self.target);
        };
        let selector = LogSelector { task_ids: vec![task.id.to_string()], ..Default::default() };
        Ok((selector, vec![task.service.to_string()]))
    }

    /// What stands before the lines of each task.
    async fn prefixes(&self, client: &Client, service_ids: Vec<String>) -> Result<BTreeMap<String, String>> {
        let nodes = Node::list(client, vec![], vec![]).await?;
        let hostname = |task: &Task| {
            let node = task.node.as_ref()?;
            nodes.iter().find(|known| &known.id == node).map(|known| known.hostname().to_owned())
        };
        let tasks = resolve::tasks(client, Filters { service_ids, ..Default::default() }).await?;
        let named = tasks.iter().map(|task| {
            let short = &task.id.as_str()[..task.id.as_str().len().min(12)];
            let name = match task.slot {
                Slot(0) => task.service_annotations.name.clone(),
                Slot(slot) => format!("{}.{slot}", task.service_annotations.name),
            };
            let node = hostname(task).unwrap_or_default();
            let prefix = if self.no_resolve { task.id.to_string() } else { format!("{name}.{short}@{node}") };
            (task.id.to_string(), prefix)
        });
        Ok(named.collect())
    }

    fn print(&self, message: &LogMessage, prefixes: Option<&BTreeMap<String, String>>) -> Result<()> {
        let mut line = String::new();
        if self.timestamps {
            let time = message.timestamp.and_then(|time| SystemTime::try_from(time).ok());
            line += &units::timestamp(time.unwrap_or(SystemTime::UNIX_EPOCH));
            line.push(' ');
        }
        if let Some(prefixes) = prefixes {
            let task = message.context.as_ref().map_or("", |context| &context.task_id);
            line += prefixes.get(task).map_or(task, String::as_str);
            line += "    | ";
        }
        let mut bytes = line.into_bytes();
        bytes.extend_from_slice(message.data.strip_suffix(b"\n").unwrap_or(&message.data));
        bytes.push(b'\n');
        match message.stream() {
            LogStream::Stderr => std::io::stderr().lock().write_all(&bytes)?,
            _ => std::io::stdout().lock().write_all(&bytes)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_tail_is_a_number_or_everything() {
        assert_eq!((tail("all"), tail("7")), (Ok(ALL), Ok(7)));
        assert!(tail("-7").is_err());
    }

    #[test]
    fn since_is_a_time_or_a_duration() {
        assert_eq!(since("1970-01-01T00:00:10Z"), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(10)));
        assert!(since("10m").unwrap() < SystemTime::now());
        assert!(since("yesterday").is_err());
    }
}
