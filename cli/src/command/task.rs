//! `task …`, and the table of tasks that `service ps` and `node ps` print as well.

mod inspect;
mod ls;

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::Result;
use clap::{Args, Subcommand};
use proto::model::{Node, Service, Slot, Task};
use proto::wire::list_tasks_request::Filters;
use serde_json::{Value, json};

use crate::client::Client;
use crate::docker::capitalized;
use crate::format::{Column, ListFormat};
use crate::reading::Reading;
use crate::resolve::{self, Named as _};
use crate::units;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all tasks
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Show tasks in detail
    Inspect(inspect::Inspect),
}

impl Command {
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Ls(command) => command.run(client).await,
            Self::Inspect(command) => command.run(client).await,
        }
    }
}

/// Options and layout of a list of tasks.
#[derive(Debug, Args)]
pub struct TaskTable {
    #[command(flatten)]
    format: ListFormat,
    #[command(flatten)]
    reading: Reading,
    /// Print ids instead of names
    #[arg(long)]
    no_resolve: bool,
    /// Print ids and errors in full
    #[arg(long)]
    no_trunc: bool,
}

/// Docker's, in its order, and then ours.
const COLUMNS: [Column; 9] = [
    ("ID", "ID"),
    ("NAME", "Name"),
    ("IMAGE", "Image"),
    ("NODE", "Node"),
    ("DESIRED STATE", "DesiredState"),
    ("CURRENT STATE", "CurrentState"),
    ("ERROR", "Error"),
    ("PORTS", "Ports"),
    ("ADDRESSES", "Addresses"),
];

/// Digits of an id, and characters of an error, that are enough for a person.
const SHORT_ID: usize = 12;
const SHORT_ERROR: usize = 80;

impl TaskTable {
    /// The connection for what is shown.
    pub fn client(&self, client: &Client) -> Client {
        client.reading(self.reading)
    }

    pub async fn print(&self, client: &Client, filters: Filters) -> Result<()> {
        let mut tasks = resolve::tasks(client, filters).await?;
        let names = Names::read(client).await?;
        sort(&mut tasks, &names);
        let now = SystemTime::now();
        let rows: Vec<Value> = tasks.iter().map(|task| self.row(task, &names, now)).collect();
        self.format.print(&COLUMNS, &rows)
    }

    fn row(&self, task: &Task, names: &Names, now: SystemTime) -> Value {
        let node = task.node.as_ref().map_or("", |node| node.as_str());
        let addresses = task.attachments.iter().flat_map(|attachment| &attachment.addresses);
        let state = capitalized(task.status.state.name());
        json!({
            "ID": self.shortened(task.id.as_str(), SHORT_ID),
            "Name": if self.no_resolve { task.annotations.name.clone() } else { names.task(task) },
            "Image": task.spec.container.image,
            "Node": if self.no_resolve { node } else { names.node(node) },
            "DesiredState": capitalized(task.desired.name()),
            "CurrentState": format!("{state} {}", units::ago(task.status.timestamp, now).to_lowercase()),
            "Error": self.shortened(&task.status.err, SHORT_ERROR),
            "Addresses": addresses.map(ToString::to_string).collect::<Vec<_>>().join(", "),
            "Ports": "",
            "TaskID": task.id.as_str(),
            "ServiceID": task.service.as_str(),
            "NodeID": node,
            "Slot": task.slot.0,
            "State": task.status.state.name(),
            "Message": task.status.message,
        })
    }

    /// JSON and templates are for programs: nothing is cut there.
    fn shortened(&self, text: &str, length: usize) -> String {
        if self.no_trunc || !self.format.is_table() || text.chars().count() <= length {
            return text.into();
        }
        let cut: String = text.chars().take(length).collect();
        if length == SHORT_ID { cut } else { cut + "…" }
    }
}

/// What ids are called.
struct Names {
    nodes: BTreeMap<String, String>,
    services: BTreeMap<String, String>,
}

impl Names {
    async fn read(client: &Client) -> Result<Self> {
        let nodes = Node::list(client, vec![], vec![]).await?;
        let services = Service::list(client, vec![], vec![]).await?;
        Ok(Self {
            nodes: nodes.iter().map(|node| (node.id.to_string(), node.hostname().to_owned())).collect(),
            services: services
                .iter()
                .map(|service| (service.id.to_string(), service.name().to_owned()))
                .collect(),
        })
    }

    fn node<'a>(&'a self, id: &'a str) -> &'a str {
        self.nodes.get(id).map_or(id, String::as_str)
    }

    /// As it is called now; the tasks of one that was removed still know its name.
    fn service<'a>(&'a self, task: &'a Task) -> &'a str {
        self.services.get(task.service.as_str()).unwrap_or(&task.service_annotations.name)
    }

    /// `web.1`, or `web.<node>` for a global service.
    fn task(&self, task: &Task) -> String {
        let service = self.service(task);
        match (task.slot, &task.node) {
            (Slot(0), Some(node)) => format!("{service}.{node}"),
            (Slot(slot), _) => format!("{service}.{slot}"),
        }
    }
}

/// By service and slot, within a slot the newest first.
fn sort(tasks: &mut [Task], names: &Names) {
    tasks.sort_by_cached_key(|task| {
        let newest_first = std::cmp::Reverse(task.meta.created_at);
        (names.service(task).to_owned(), task.slot, newest_first, task.id.clone())
    });
}
