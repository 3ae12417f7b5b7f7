//! What a node must remember without a manager: its tasks, how they ended, where managers are, who else is on its
//! networks.
//!
//! Decides nothing; it is read once at the start and written as things change. Writes that come together share one
//! transaction, and each is on disk once its caller has been answered.
//!
//! Invariant: no registry credential is written, and no key; after a restart they come from a manager again.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use proto::model::{TaskId, TaskStatus};
use proto::wire;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const TASKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tasks");
const STATUSES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("statuses");
const NODE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("node");
const DIRECTORY: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("directory");

const MANAGERS: &str = "managers";
const UNDERLAY: &str = "underlay";

/// Most writes in one transaction.
const BATCH: usize = 512;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("local database of tasks")]
    Database(#[source] Arc<redb::Error>),
    #[error("record {key:?} of the local database is damaged: {reason}")]
    Damaged { key: String, reason: String },
    #[error("local database is closed")]
    Closed,
}

impl<E: Into<redb::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Database(Arc::new(error.into()))
    }
}

/// What was there at the start.
#[derive(Debug, Default)]
pub struct Remembered {
    pub tasks: Vec<(wire::Task, Option<wire::TaskStatus>)>,
    pub managers: Vec<wire::WeightedPeer>,
    /// Address and port, as text.
    pub underlay: Option<String>,
    /// As [`Change::Directory`] has put it.
    pub directory: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
pub enum Change {
    Task(Box<wire::Task>),
    Status(TaskId, Box<TaskStatus>),
    Remove(TaskId),
    Managers(Vec<wire::WeightedPeer>),
    Underlay(String),
    /// Keys with their values; without one it is removed.
    Directory(Vec<(String, Option<Vec<u8>>)>),
    /// Forgets everything.
    Clear,
}

impl Change {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Task(_) => "task",
            Self::Status(..) => "status",
            Self::Remove(_) => "removal",
            Self::Managers(_) => "managers",
            Self::Underlay(_) => "underlay",
            Self::Directory(_) => "directory",
            Self::Clear => "nothing",
        }
    }
}

struct Write {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// Speaks to the thread that owns the file.
#[derive(Debug, Clone)]
pub struct Database {
    writes: mpsc::UnboundedSender<Write>,
}

impl Database {
    /// Opens `<dir>/tasks.db`, made if absent, readable by its owner only. The handle ends once all clones of the
    /// database are gone and everything is written.
    pub fn open(dir: &Path) -> Result<(Self, Remembered, JoinHandle<()>), Error> {
        let path = dir.join("tasks.db");
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| Error::Io { action, path, source: Arc::new(source) }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("create", dir))?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        options.open(&path).map_err(io("create", &path))?;
        let file = redb::Database::create(&path)?;
        let remembered = read(&file)?;
        let (writes, received) = mpsc::unbounded_channel();
        let thread = tokio::task::spawn_blocking(move || write_all(&file, received));
        Ok((Self { writes }, remembered, thread))
    }

    pub async fn write(&self, changes: Vec<Change>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let (done, written) = oneshot::channel();
        self.writes.send(Write { changes, done }).map_err(|_| Error::Closed)?;
        written.await.map_err(|_| Error::Closed)?
    }
}

fn read(file: &redb::Database) -> Result<Remembered, Error> {
    let write = file.begin_write()?;
    // Opening makes the tables of a new file, so that reading never misses one.
    write.open_table(TASKS)?;
    write.open_table(STATUSES)?;
    write.open_table(NODE)?;
    write.open_table(DIRECTORY)?;
    write.commit()?;
    let read = file.begin_read()?;
    let (tasks, statuses, node) =
        (read.open_table(TASKS)?, read.open_table(STATUSES)?, read.open_table(NODE)?);
    let mut remembered = Remembered::default();
    for entry in tasks.iter()? {
        let (id, bytes) = entry?;
        let status = statuses.get(id.value())?;
        let status = status.map(|bytes| decode(id.value(), bytes.value())).transpose()?;
        remembered.tasks.push((decode(id.value(), bytes.value())?, status));
    }
    if let Some(bytes) = node.get(MANAGERS)? {
        remembered.managers = decode::<wire::SessionMessage>(MANAGERS, bytes.value())?.managers;
    }
    let underlay = node.get(UNDERLAY)?;
    remembered.underlay = underlay.map(|bytes| String::from_utf8_lossy(bytes.value()).into_owned());
    for entry in read.open_table(DIRECTORY)?.iter()? {
        let (key, value) = entry?;
        remembered.directory.push((key.value().to_owned(), value.value().to_vec()));
    }
    Ok(remembered)
}

fn decode<M: Message + Default>(key: &str, bytes: &[u8]) -> Result<M, Error> {
    M::decode(bytes).map_err(|error| Error::Damaged { key: key.into(), reason: error.to_string() })
}

fn write_all(file: &redb::Database, mut writes: mpsc::UnboundedReceiver<Write>) {
    let mut batch = Vec::new();
    while writes.blocking_recv_many(&mut batch, BATCH) > 0 {
        let written = commit(file, &batch);
        for write in batch.drain(..) {
            // Its caller may have been cancelled.
            let _ = write.done.send(written.clone());
        }
    }
}

fn commit(file: &redb::Database, batch: &[Write]) -> Result<(), Error> {
    let write = file.begin_write()?;
    {
        let mut tasks = write.open_table(TASKS)?;
        let mut statuses = write.open_table(STATUSES)?;
        let mut node = write.open_table(NODE)?;
        let mut directory = write.open_table(DIRECTORY)?;
        for change in batch.iter().flat_map(|write| &write.changes) {
            failpoint::reached(format_args!("database: write {}", change.kind()));
            match change {
                Change::Task(task) => {
                    tasks.insert(task.id.as_str(), without_credentials(task).encode_to_vec().as_slice())?;
                }
                Change::Status(id, status) => {
                    let bytes = wire::TaskStatus::from(status.as_ref()).encode_to_vec();
                    statuses.insert(id.as_str(), bytes.as_slice())?;
                }
                Change::Remove(id) => {
                    tasks.remove(id.as_str())?;
                    statuses.remove(id.as_str())?;
                }
                Change::Managers(managers) => {
                    let list = wire::SessionMessage { managers: managers.clone(), ..Default::default() };
                    node.insert(MANAGERS, list.encode_to_vec().as_slice())?;
                }
                Change::Underlay(text) => {
                    node.insert(UNDERLAY, text.as_bytes())?;
                }
                Change::Directory(writes) => {
                    for (key, value) in writes {
                        match value {
                            Some(value) => _ = directory.insert(key.as_str(), value.as_slice())?,
                            None => _ = directory.remove(key.as_str())?,
                        }
                    }
                }
                Change::Clear => {
                    directory.retain(|_, _| false)?;
                    tasks.retain(|_, _| false)?;
                    statuses.retain(|_, _| false)?;
                    node.retain(|_, _| false)?;
                }
            }
        }
    }
    write.commit()?;
    Ok(())
}

fn without_credentials(task: &wire::Task) -> wire::Task {
    let mut task = task.clone();
    let runtime = task.spec.as_mut().and_then(|spec| spec.runtime.as_mut());
    if let Some(wire::task_spec::Runtime::Container(container)) = runtime {
        container.pull_options = None;
    }
    task
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use proto::model::TaskState;

    use super::*;
    use crate::task::samples;

    fn with_credentials(id: &str) -> wire::Task {
        let mut task = samples::wire_task(id);
        let spec = task.spec.as_mut().unwrap();
        let Some(wire::task_spec::Runtime::Container(container)) = &mut spec.runtime else { panic!() };
        let registry_auth = "c2VjcmV0LXBhc3N3b3Jk".to_owned();
        container.pull_options = Some(wire::container_spec::PullOptions { registry_auth });
        task
    }

    #[tokio::test]
    async fn remembers_over_a_restart_but_no_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let (database, remembered, thread) = Database::open(dir.path()).unwrap();
        assert!(remembered.tasks.is_empty());
        let status = TaskStatus::new(TaskState::Starting, "starting", SystemTime::UNIX_EPOCH);
        let changes = vec![
            Change::Task(Box::new(with_credentials("t1"))),
            Change::Task(Box::new(with_credentials("t2"))),
            Change::Status("t2".into(), Box::new(status)),
            Change::Underlay("192.0.2.1 4789".into()),
            Change::Directory(vec![("a".into(), Some(vec![1])), ("b".into(), Some(vec![2]))]),
        ];
        database.write(changes).await.unwrap();
        let forget = Change::Directory(vec![("a".into(), None)]);
        database.write(vec![Change::Remove("t1".into()), forget]).await.unwrap();
        drop(database);
        thread.await.unwrap();

        let path = dir.path().join("tasks.db");
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(20).any(|window| window == b"c2VjcmV0LXBhc3N3b3Jk"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let (_database, remembered, _thread) = Database::open(dir.path()).unwrap();
        let [(task, Some(status))] = remembered.tasks.as_slice() else { panic!("{remembered:?}") };
        assert_eq!((task.id.as_str(), status.state()), ("t2", wire::TaskState::Starting));
        assert_eq!(remembered.underlay.as_deref(), Some("192.0.2.1 4789"));
        assert_eq!(remembered.directory, [("b".to_owned(), vec![2])]);
    }
}
