//! Services.

mod attachment;

use std::sync::Arc;

use proto::model::{Mode, Service, ServiceId, ServiceSpec, Task, TaskState, UpdateState, UpdateStatus};
use proto::wire::list_service_statuses_response::ServiceStatus;
use proto::wire::update_service_request::Rollback;
use proto::wire::{
    self, CreateServiceRequest, CreateServiceResponse, GetServiceRequest, GetServiceResponse,
    ListServiceStatusesRequest, ListServiceStatusesResponse, ListServicesRequest, ListServicesResponse,
    RemoveServiceRequest, RemoveServiceResponse, UpdateServiceRequest, UpdateServiceResponse,
};
use raft_store::{Tables, Transaction};
use tonic::Status;

use super::filter::{any, common};
use super::request::RequestId;
use super::{Control, limits, validate};
use crate::error::{Error, status};

/// The one kind of tasks that there is: filters may ask for it.
pub(super) const RUNTIME: &str = "container";

pub(super) async fn get(api: &Control, request: GetServiceRequest) -> Result<GetServiceResponse, Status> {
    let view = api.store.view();
    let service = find(&view, &request.service_id)?;
    Ok(GetServiceResponse { service: Some((&**service).into()) })
}

pub(super) async fn list(
    api: &Control,
    request: ListServicesRequest,
) -> Result<ListServicesResponse, Status> {
    let view = api.store.view();
    let filters = request.filters.unwrap_or_default();
    let services = view.services().filter(|service| {
        common!(filters).admit(service.id.as_str(), service.name(), &service.spec.annotations.labels)
            && any(&filters.runtimes, |runtime| runtime == RUNTIME)
    });
    Ok(ListServicesResponse { services: services.map(|service| (&**service).into()).collect() })
}

pub(super) async fn create(
    api: &Control,
    RequestId(once): RequestId,
    request: CreateServiceRequest,
) -> Result<CreateServiceResponse, Status> {
    let spec = validate::service(request.spec)?;
    let id = ServiceId::from_random(once);
    let created = api.store.update_once(once, |tx| {
        if tx.service(&id).is_some() {
            return Ok(());
        }
        if tx.service_by_name(&spec.annotations.name).is_some() {
            return Err(Error::Exists { kind: "service", name: spec.annotations.name.clone() });
        }
        let spec = attachment::resolve(tx, &id, &spec)?;
        tx.create(Service {
            id: id.clone(),
            meta: Default::default(),
            spec: Arc::new(spec),
            spec_version: 1,
            previous_spec: None,
            endpoint: Default::default(),
            update_status: None,
            pending_delete: false,
        });
        Ok(())
    });
    created.await.map_err(status)?;
    failpoint::reached("api: service created");
    Ok(CreateServiceResponse { service: written(api, &id)? })
}

pub(super) async fn update(
    api: &Control,
    request: UpdateServiceRequest,
) -> Result<UpdateServiceResponse, Status> {
    let rollback = Rollback::try_from(request.rollback)
        .map_err(|_| Error::invalid("rollback", request.rollback, "none or previous is needed"))?;
    let version = request.service_version.unwrap_or_default().index;
    let id = ServiceId::from(request.service_id);
    let spec = match rollback {
        Rollback::None => Some(validate::service(request.spec)?),
        Rollback::Previous => None,
    };
    let updated = api.store.update(|tx| {
        let current = find(tx, id.as_str())?;
        if current.meta.version != version {
            return Err(Error::OutOfSequence { kind: "service", id: id.to_string() });
        }
        let service = match &spec {
            Some(spec) => respecified(tx, current, spec)?,
            None => rolled_back(current, tx.now())?,
        };
        tx.update(service);
        Ok(())
    });
    updated.await.map_err(status)?;
    Ok(UpdateServiceResponse { service: written(api, &id)? })
}

/// The tasks outlive the service for as long as they need to stop; the loops see to them.
pub(super) async fn remove(
    api: &Control,
    request: RemoveServiceRequest,
) -> Result<RemoveServiceResponse, Status> {
    let removed = api.store.update(|tx| {
        let id = find(tx, &request.service_id)?.id.clone();
        tx.remove(id);
        Ok(())
    });
    removed.await.map_err(status)?;
    Ok(RemoveServiceResponse {})
}

pub(super) async fn statuses(
    api: &Control,
    request: ListServiceStatusesRequest,
) -> Result<ListServiceStatusesResponse, Status> {
    limits::count("services", request.services.len())?;
    let view = api.store.view();
    let statuses = request.services.into_iter().map(|id| service_status(&view, id));
    Ok(ListServiceStatusesResponse { statuses: statuses.collect() })
}

fn service_status(tables: &Tables, service_id: String) -> ServiceStatus {
    let id = ServiceId::from(service_id.as_str());
    let tasks = || tables.tasks_by_service(&id).filter(|task| task.desired == TaskState::Running);
    let desired = match tables.service(&id).map(|service| service.spec.mode) {
        Some(Mode::Replicated { replicas }) => replicas,
        Some(Mode::Global) => tasks().count() as u64,
        None => 0,
    };
    let running = tasks().filter(|task| task.status.state == TaskState::Running).count() as u64;
    ServiceStatus { service_id, desired_tasks: desired, running_tasks: running, completed_tasks: 0 }
}

fn find<'a>(tables: &'a Tables, id: &str) -> Result<&'a Arc<Service>, Error> {
    tables.service(&id.into()).ok_or_else(|| Error::not_found("service", id))
}

/// The service as this call left it, or as it has become since; none if it is gone already.
fn written(api: &Control, id: &ServiceId) -> Result<Option<wire::Service>, Status> {
    let view = api.store.view();
    Ok(view.service(id).map(|service| (&**service).into()))
}

fn respecified(tx: &Transaction, current: &Service, spec: &ServiceSpec) -> Result<Service, Error> {
    if spec.annotations.name != current.name() {
        let remedy = format!("a service keeps its name, which is {:?}", current.name());
        return Err(Error::invalid("spec.annotations.name", &spec.annotations.name, remedy));
    }
    if std::mem::discriminant(&spec.mode) != std::mem::discriminant(&current.spec.mode) {
        let (asked, kept) = (mode_name(spec.mode), mode_name(current.spec.mode));
        let remedy = format!("a service keeps its mode, which is {kept}: create another service");
        return Err(Error::invalid("spec.mode", asked, remedy));
    }
    let spec = attachment::resolve(tx, &current.id, spec)?;
    if spec == *current.spec {
        return Ok(current.clone());
    }
    Ok(Service {
        spec: Arc::new(spec),
        spec_version: current.spec_version + 1,
        previous_spec: Some(Arc::clone(&current.spec)),
        update_status: None,
        ..current.clone()
    })
}

fn rolled_back(current: &Service, now: std::time::SystemTime) -> Result<Service, Error> {
    let none =
        || Error::Precondition(format!("service {:?} has no previous spec to go back to", current.name()));
    let previous = current.previous_spec.clone().ok_or_else(none)?;
    Ok(Service {
        spec: previous,
        spec_version: current.spec_version + 1,
        previous_spec: Some(Arc::clone(&current.spec)),
        update_status: Some(UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: Some(now),
            completed_at: None,
            message: "manually requested rollback".into(),
        }),
        ..current.clone()
    })
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Replicated { .. } => "replicated",
        Mode::Global => "global",
    }
}

/// Whether a task was made from the spec that its service has now.
pub(super) fn is_up_to_date(tables: &Tables, task: &Task) -> bool {
    let service = tables.service(&task.service);
    service.is_some_and(|service| task.spec_version == service.spec_version || task.spec == service.spec.task)
}
