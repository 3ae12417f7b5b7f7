//! What containers there are, and in which state.

use std::collections::HashMap;

use containerd_client::services::v1::{
    Container, GetContainerRequest, GetRequest, ListContainersRequest, ListTasksRequest,
};
use containerd_client::types::v1::{Process, Status as TaskStatus};

use super::Containerd;
use super::record::Record;
use crate::runtime::client::{failed, or_absent};
use crate::runtime::{ContainerState, Error, Status};

const ACTION: &str = "list the containers";

impl Containerd {
    pub(super) async fn list_containers(&self) -> Result<Vec<ContainerState>, Error> {
        let tasks = self.client.tasks().list(ListTasksRequest::default()).await.map_err(failed(ACTION))?;
        let tasks = tasks.into_inner().tasks.into_iter().map(|task| (task.id.clone(), task));
        let mut tasks: HashMap<String, Process> = tasks.collect();
        let mut states = Vec::new();
        // A stream, because all specifications together may be too big for one message.
        let containers = self.client.containers().list_stream(ListContainersRequest::default()).await;
        let mut containers = containers.map_err(failed(ACTION))?.into_inner();
        while let Some(message) = containers.message().await.map_err(failed(ACTION))? {
            if let Some(container) = message.container {
                let task = tasks.remove(&container.id);
                states.push(self.state(container, task));
            }
        }
        Ok(states)
    }

    pub(super) async fn inspect_container(&self, id: &str) -> Result<Option<ContainerState>, Error> {
        let request = GetContainerRequest { id: id.to_owned() };
        let found = or_absent(self.client.containers().get(request).await).map_err(failed(ACTION))?;
        match found.and_then(|found| found.into_inner().container) {
            Some(container) => Ok(Some(self.state(container, self.task(id).await?))),
            None => Ok(None),
        }
    }

    /// `None` if the container has no task; else its status and the process id that it has or had.
    pub(super) async fn status(&self, id: &str) -> Result<Option<(Status, u32)>, Error> {
        let task = self.task(id).await?;
        Ok(task.map(|task| (self.status_of(id, &task), task.pid)))
    }

    async fn task(&self, id: &str) -> Result<Option<Process>, Error> {
        let request = GetRequest { container_id: id.to_owned(), ..GetRequest::default() };
        let found = or_absent(self.client.tasks().get(request).await).map_err(failed(ACTION))?;
        Ok(found.and_then(|found| found.into_inner().process))
    }

    fn state(&self, container: Container, task: Option<Process>) -> ContainerState {
        let record = Record::of(&container);
        let status = match (record.exit, task) {
            (Some(exit), _) => Status::Exited(exit.into()),
            (None, Some(task)) => self.status_of(&container.id, &task),
            (None, None) => Status::Created,
        };
        ContainerState { id: container.id, image: container.image, labels: record.labels, status }
    }

    fn status_of(&self, id: &str, task: &Process) -> Status {
        match TaskStatus::try_from(task.status) {
            Ok(TaskStatus::Created) => Status::Created,
            Ok(TaskStatus::Stopped) => Status::Exited(self.exit(id, task.exit_status, task.exited_at)),
            _ => Status::Running { pid: task.pid },
        }
    }
}
