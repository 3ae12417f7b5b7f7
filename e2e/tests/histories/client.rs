//! A client that does one thing after the other with the services of a few names, and records what it was told.
//!
//! It speaks to one manager, over its socket, with a deadline. What it was not told is recorded as not known:
//! refusals that can only mean that nothing was done are told apart by their code.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proto::consistency::ASKED;
use proto::wire::control_client::ControlClient;
use proto::wire::{
    Annotations, ContainerSpec, CreateServiceRequest, ListServicesRequest, RemoveServiceRequest,
    ReplicatedService, Service, ServiceSpec, TaskSpec, UpdateServiceRequest, list_services_request,
    service_spec, task_spec,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::checker::Call;
use crate::registers::{Operation, Value};

/// After that a client does something else. A write that has no answer by then may still be done.
const DEADLINE: Duration = Duration::from_secs(2);

/// Where a service keeps its value.
const LABEL: &str = "value";

/// What was done with each name.
pub type History = BTreeMap<String, Vec<Call<Operation>>>;

/// What clients share.
pub struct Shared {
    pub start: Instant,
    /// The next number of a write.
    pub writes: AtomicU32,
    /// How reads are asked for.
    pub consistency: &'static str,
}

pub struct Client<'a> {
    number: usize,
    shared: &'a Shared,
    control: ControlClient<Channel>,
    /// As it was seen last, of each name.
    known: BTreeMap<String, (Service, Value)>,
    pub history: History,
    /// The last write was not answered.
    pub lost: bool,
}

/// How a call ended.
enum End<T> {
    Done(T),
    Refused(Code),
    Unknown,
}

fn end<T>(answer: Result<tonic::Response<T>, Status>) -> End<T> {
    match answer {
        Ok(answer) => End::Done(answer.into_inner()),
        // By the manager, after it had looked: nothing was done.
        Err(status) if matches!(status.code(), Code::AlreadyExists | Code::NotFound | Code::Aborted) => {
            End::Refused(status.code())
        }
        Err(_) => End::Unknown,
    }
}

fn value(service: &Service) -> Option<Value> {
    let label = service.spec.as_ref()?.annotations.as_ref()?.labels.get(LABEL)?;
    let (born, write) = label.split_once('.')?;
    Some(Value { born: born.parse().ok()?, write: write.parse().ok()? })
}

fn spec(name: &str, value: Value) -> ServiceSpec {
    let labels = [(LABEL.to_owned(), format!("{}.{}", value.born, value.write))].into();
    let container = ContainerSpec { image: "none.invalid/nothing".into(), ..Default::default() };
    let runtime = Some(task_spec::Runtime::Container(container));
    ServiceSpec {
        annotations: Some(Annotations { name: name.into(), labels }),
        task: Some(TaskSpec { runtime, ..Default::default() }),
        mode: Some(service_spec::Mode::Replicated(ReplicatedService { replicas: 0 })),
        ..Default::default()
    }
}

impl<'a> Client<'a> {
    /// Of the daemon whose socket is at `unix://<path>`.
    pub fn new(number: usize, socket: &str, shared: &'a Shared) -> Self {
        let control = ControlClient::new(Endpoint::try_from(socket.to_owned()).unwrap().connect_lazy());
        Self { number, shared, control, known: BTreeMap::new(), history: History::new(), lost: false }
    }

    fn number_of_a_write(&self) -> u32 {
        self.shared.writes.fetch_add(1, Ordering::Relaxed)
    }

    /// Records what was done since `called`; a read without an answer is nothing.
    fn record(&mut self, name: &str, called: Duration, is_known: bool, operation: Operation) {
        self.lost = !is_known;
        let returned = is_known.then(|| self.shared.start.elapsed());
        let call = Call { client: self.number, called, returned, operation };
        self.history.entry(name.to_owned()).or_default().push(call);
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        request
    }

    /// Returns whether there was an answer.
    pub async fn read(&mut self, name: &str) -> bool {
        let filters = list_services_request::Filters { names: vec![name.to_owned()], ..Default::default() };
        let mut request = self.request(ListServicesRequest { filters: Some(filters) });
        if let Ok(asked) = self.shared.consistency.parse() {
            request.metadata_mut().insert(ASKED, asked);
        }
        let called = self.shared.start.elapsed();
        let answer = bounded(self.control.list_services(request)).await;
        let End::Done(list) = end(answer) else { return false };
        let found = list.services.into_iter().next().and_then(|service| Some((value(&service)?, service)));
        self.record(name, called, true, Operation::Read(found.as_ref().map(|(value, _)| *value)));
        match found {
            Some((value, service)) => drop(self.known.insert(name.to_owned(), (service, value))),
            None => drop(self.known.remove(name)),
        }
        true
    }

    pub async fn create(&mut self, name: &str) {
        let write = self.number_of_a_write();
        let spec = Some(spec(name, Value { born: write, write }));
        let request = self.request(CreateServiceRequest { spec });
        let called = self.shared.start.elapsed();
        let answer = bounded(Box::pin(self.control.create_service(request))).await;
        match end(answer) {
            End::Done(_) => self.record(name, called, true, Operation::Create(write)),
            End::Refused(_) => self.record(name, called, true, Operation::CreateRefused),
            End::Unknown => self.record(name, called, false, Operation::Create(write)),
        }
    }

    /// Of what it has seen last.
    pub async fn update(&mut self, name: &str) {
        let Some((service, from)) = self.known.get(name).cloned() else { return };
        let write = self.number_of_a_write();
        let request = self.request(UpdateServiceRequest {
            service_id: service.id,
            service_version: service.meta.and_then(|meta| meta.version),
            spec: Some(spec(name, Value { write, ..from })),
            ..Default::default()
        });
        let called = self.shared.start.elapsed();
        let answer = bounded(Box::pin(self.control.update_service(request))).await;
        let update = Operation::Update { from, write };
        match end(answer) {
            End::Done(_) => self.record(name, called, true, update),
            // Managers write into a service as well: another version need not be another value.
            End::Refused(Code::Aborted) => {}
            End::Refused(_) => self.record(name, called, true, Operation::UpdateRefused(from)),
            End::Unknown => self.record(name, called, false, update),
        }
    }

    pub async fn remove(&mut self, name: &str) {
        let Some((service, Value { born, .. })) = self.known.remove(name) else { return };
        let request = self.request(RemoveServiceRequest { service_id: service.id });
        let called = self.shared.start.elapsed();
        let answer = bounded(self.control.remove_service(request)).await;
        match end(answer) {
            End::Done(_) => self.record(name, called, true, Operation::Remove { born }),
            // After 32 conflicts in turn: nothing was done.
            End::Refused(Code::Aborted) => {}
            End::Refused(_) => self.record(name, called, true, Operation::RemoveRefused { born }),
            End::Unknown => self.record(name, called, false, Operation::Remove { born }),
        }
    }
}

/// A daemon that was stopped does not answer at all.
async fn bounded<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("no answer");
    tokio::time::timeout(DEADLINE, call).await.map_err(late)?
}
